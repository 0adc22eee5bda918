"""The tasks that are run for other sites: what is told about them, and when they are dropped.

`Errands` is what services know of other sites (`iceprod.services.foreign.Foreign`).  An errand
is *open* while its lease is the parent's last word; of others only late logs are told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from iceprod.clock import Clock
from iceprod.model.failures import Failure
from iceprod.model.federation import Errand, ErrandStatus, Operation, OperationKind, Original
from iceprod.model.task import Task
from iceprod.services.reporting import Report
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.store.base import Store

_OVER: Final = frozenset({ErrandStatus.ENDED, ErrandStatus.LOST})


class Errands:
    """Speaks to parents about their tasks, by the outbox."""

    def __init__(self, store: Store, *, clock: Clock, outbox: Outbox) -> None:
        self._store = store
        self._clock = clock
        self.outbox = outbox

    async def originals(self, task_ids: Sequence[str]) -> Mapping[str, Original]:
        """What tasks are called where their datasets were made; those that nobody wants are left out."""
        found = await self._store.errands.of_tasks(task_ids)
        return {task_id: errand.original for task_id, errand in found.items() if _is_open(errand)}

    async def started(self, task: Task, hostname: str) -> None:
        """A pilot has begun with a task."""
        await self._say(task.task_id, OperationKind.STARTED, {"hostname": hostname}, mark=str(task.attempt))

    async def finished(self, task: Task, report: Report) -> None:
        """A task is about to be complete."""
        await self._say(task.task_id, OperationKind.FINISHED, {"stats": stats(report)})

    async def failed(self, task: Task, failure: Failure, report: Report) -> None:
        """An attempt has failed; the parent decides what that means."""
        await self._say(task.task_id, OperationKind.FAILED, {"error": failed(failure, report)})

    async def logged(self, task_id: str, attempt: int, name: str) -> None:
        """A log of an attempt was kept; it is read when it is sent.

        It may come behind the end of its attempt, even when that was told already.
        """
        body = {"local": task_id, "attempt": attempt, "name": name}
        mark = f"{attempt}/{name}"
        await self._say(task_id, OperationKind.LOG, body, mark=mark, unless={ErrandStatus.LOST})

    async def returned(self, task_ids: Sequence[str], reason: str) -> None:
        """Tasks are not run here, or no longer."""
        now, found = self._clock(), await self._store.errands.of_tasks(task_ids)
        await self.outbox.add(
            *(
                operation(errand, OperationKind.RETURNED, {"reason": reason}, at=now)
                for errand in found.values()
                if _is_open(errand)
            )
        )

    async def _say(
        self,
        task_id: str,
        kind: OperationKind,
        body: dict[str, Any],
        *,
        mark: str = "",
        unless: Collection[ErrandStatus] = _OVER,
    ) -> None:
        errand = (await self._store.errands.of_tasks([task_id])).get(task_id)
        if errand is not None and errand.status not in unless:
            await self.outbox.add(operation(errand, kind, body, at=self._clock(), mark=mark))


def operation(
    errand: Errand, kind: OperationKind, body: Mapping[str, Any], *, at: float, mark: str = ""
) -> Operation:
    """A statement about an errand; ``mark`` tells statements of one kind apart."""
    return Operation(
        operation_id="/".join(part for part in (errand.lease_id, kind, mark) if part),
        peer=errand.parent,
        kind=kind,
        task_id=errand.parent_task_id,
        lease_id=errand.lease_id,
        at=at,
        body=body,
    )


def failed(failure: Failure, report: Report) -> dict[str, Any]:
    """A failure as the ``error`` of `pilot.fail`."""
    given = {
        "kind": str(failure.kind),
        "summary": failure.summary,
        "exit_code": failure.exit_code,
        "signal": failure.signal,
        "resource": failure.resource,
        "stderr_tail": failure.stderr_tail,
    }
    return {name: value for name, value in given.items() if value not in (None, "")} | stats(report)


def stats(report: Report) -> dict[str, Any]:
    """What an attempt took, as the ``stats`` of `pilot.finish`."""
    return {
        "hostname": report.hostname,
        "time_used": report.walltime_s,
        "resources": dict(report.usage),
        "task_stats": dict(report.stats),
    }


def _is_open(errand: Errand) -> bool:
    return errand.status is ErrandStatus.OPEN
