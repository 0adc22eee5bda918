"""Telling a parent that was restored what this site holds of it, as the parent does not remember it.

Named are all errands that are open, and those that were completed here and taken in by the
parent: it may have forgotten that.  Of the latter the parent tells which it did forget; their
ends are queued again, made anew from what is known of the tasks here, and then they are open
again until the parent has taken them in once more.

Whatever breaks this off, all of it is done again: none of it does harm twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from iceprod import clock as clocks
from iceprod.clock import Clock
from iceprod.model.federation import Errand, ErrandStatus, OperationKind
from iceprod.model.lifecycle import TaskStatus
from iceprod.services.reporting import Report
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.errands import operation, stats
from iceprod.site_sync.as_child.sender import Sender
from iceprod.site_sync.messages import Reclaim, Reclaimed
from iceprod.store.base import Store

GAP_S: Final = 1.0
"""The least time until what could not be decided is asked again."""
_PAGE: Final = 500
_MOST: Final = 5000
"""Leases of one message."""

logger = structlog.get_logger(__name__)


class Reclaiming:
    """Reclaims what is run for ``parent``; what the parent needs first, ``sender`` tells meanwhile."""

    def __init__(
        self,
        parent: str,
        *,
        store: Store,
        link: Calls,
        sender: Sender,
        clock: Clock,
        steady: Clock = clocks.monotonic,
    ) -> None:
        self._parent = parent
        self._store = store
        self._link = link
        self._sender = sender
        self._clock = clock
        self._steady = steady

    async def run(self) -> None:
        """Name everything, and again what depends on other things, until that is over.

        Raises:
            IceProdError: it was not heard to the end.
        """
        errands = await self._all()
        ended = {errand.lease_id: errand for errand in errands if errand.status is ErrandStatus.ENDED}
        undecided, changed_at = math.inf, self._steady()
        while True:
            held, later, patience_s = await self._name(errands)
            await self._tell_again([errand for lease_id in held if (errand := ended.pop(lease_id, None))])
            if len(later) < undecided:
                undecided, changed_at = len(later), self._steady()
            if not later or self._steady() - changed_at > patience_s:
                break
            # What others wait for may be what was done here.
            await self._sender.step(only=held)
            await asyncio.sleep(GAP_S)
            errands = [errand async for errand in self._open()] + [
                ended[each] for each in later if each in ended
            ]
        await self._link.call("site.reclaim", Reclaim([], 0, is_last=True), Reclaimed)
        logger.info("said what is held", parent=self._parent, held=len(held), lost=len(later))

    async def _name(self, errands: Sequence[Errand]) -> tuple[set[str], set[str], float]:
        """What the parent says of errands: the leases that are held, and those that may be later."""
        held, later, patience_s = set[str](), set[str](), 0.0
        for start in range(0, len(errands), _MOST):
            leases = [(each.parent_task_id, each.lease_id) for each in errands[start : start + _MOST]]
            answer = await self._link.call("site.reclaim", Reclaim(leases, 0), Reclaimed)
            held.update(answer.held)
            later.update(answer.later)
            patience_s = answer.patience_s
        return held, later, patience_s

    async def _all(self) -> list[Errand]:
        """All errands that are open, and those that were completed."""
        found = [errand async for errand in self._open()]
        after = None
        while part := await self._store.errands.ended(self._parent, after, _PAGE):
            after = part[-1].task_id
            tasks = await self._store.tasks.among([errand.task_id for errand in part])
            complete = {task_id for task_id, task in tasks.items() if task.status is TaskStatus.COMPLETE}
            found += [errand for errand in part if errand.task_id in complete]
        return found

    async def _open(self) -> AsyncIterator[Errand]:
        after = None
        while part := await self._store.errands.open(self._parent, after, _PAGE):
            for errand in part:
                yield errand
            after = part[-1].task_id

    async def _tell_again(self, errands: Sequence[Errand]) -> None:
        """Queue the ends of errands that the parent has forgotten, before they are open again."""
        for start in range(0, len(errands), _PAGE):
            some = errands[start : start + _PAGE]
            reports = await asyncio.gather(*map(self._report, some))
            now = self._clock()
            await self._store.outbox.add(
                [
                    operation(errand, OperationKind.FINISHED, {"stats": stats(report)}, at=now)
                    for errand, report in zip(some, reports, strict=True)
                ]
            )
            await self._store.errands.reopen([errand.task_id for errand in some])

    async def _report(self, errand: Errand) -> Report:
        """What the attempt took by which the task became complete."""
        last = (await self._store.tasks.attempts(errand.task_id))[-1]
        return Report(last.hostname, last.walltime_s, dict(last.usage), dict(last.stats))
