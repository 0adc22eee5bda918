"""Tasks: what becomes of them at the hands of pilots and of people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from iceprod.clock import Clock
from iceprod.errors import LeaseLost, NotFoundError
from iceprod.model.failures import Failure, FailureRule
from iceprod.model.lifecycle import SOURCES, TaskEvent, TaskStatus
from iceprod.model.paging import Page, Slice
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Attempt, Ended, Move, Moved, Outcome, Task, parse_task_id
from iceprod.services.authorization import check_object
from iceprod.services.catalogue import Catalogue
from iceprod.services.foreign import Foreign, check_own
from iceprod.services.judging import Judge
from iceprod.services.reporting import Ending, Report
from iceprod.services.scheduling import Claimed, Scheduler, Transitions
from iceprod.services.slots import Slots
from iceprod.store.base import Store, TaskFilter

BULK = 1000
"""Tasks moved in one transaction when many are."""


class TaskService:
    """Everything that is done to tasks once they exist."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        scheduler: Scheduler,
        transitions: Transitions,
        slots: Slots,
        rules: Sequence[FailureRule],
        foreign: Foreign,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._transitions = transitions
        self._slots = slots
        self._judge = Judge(store, scheduler=scheduler, slots=slots, rules=rules)
        self._foreign = foreign

    async def get(self, principal: Principal, task_id: str) -> Task:
        """One task.

        Raises:
            NotFoundError: there is none, or the caller may not see it.
        """
        return await self.check_seen(principal, "task.get", task_id)

    async def attempts(self, principal: Principal, task_id: str) -> list[Attempt]:
        """The ended attempts of a task, first to last."""
        await self.check_seen(principal, "task.get", task_id)
        return await self._store.tasks.attempts(task_id)

    async def select(
        self, principal: Principal, dataset_id: str, wanted: TaskFilter, page: Page
    ) -> Slice[Task]:
        """Tasks of a dataset in order of job and task index."""
        dataset = await self._catalogue.get(dataset_id)
        check_object(
            principal,
            "task.list",
            identifier=dataset_id,
            owner=dataset.owner,
            group=dataset.group,
            public=dataset.public,
        )
        return await self._store.tasks.select(dataset_id, wanted, page)

    async def change(self, principal: Principal, event: TaskEvent, task_ids: Sequence[str]) -> int:
        """Suspend, resume, reset or hard reset tasks; how many of them that changed.

        Tasks whose status does not allow it are left alone.

        Raises:
            ConflictError: some are tasks of another site, which may only be suspended here.
        """
        wanted = list(dict.fromkeys(task_ids))
        action = f"task.{ACTIONS[event]}"
        for start in range(0, len(wanted), BULK):
            await self._check_all(principal, action, wanted[start : start + BULK])
        if event is not TaskEvent.SUSPENDED:
            for dataset_id in {task_id.partition("-")[0] for task_id in wanted}:
                check_own(await self._catalogue.get(dataset_id))
        return await self.steer(event, wanted)

    async def steer(self, event: TaskEvent, task_ids: Sequence[str]) -> int:
        """As `change_all`, because somebody wants it: what another site has lent is handed back so."""
        if event is TaskEvent.SUSPENDED:
            foreign = [task_id for task_id in task_ids if await self._is_foreign(task_id)]
            for start in range(0, len(foreign), BULK):
                await self._foreign.returned(foreign[start : start + BULK], "suspended by an administrator")
        return await self.change_all(event, task_ids)

    async def change_all(self, event: TaskEvent, task_ids: Sequence[str]) -> int:
        """As `change`, for a caller whose right has been checked."""
        changed = 0
        for start in range(0, len(task_ids), BULK):
            moves = [Move(task_id, event) for task_id in task_ids[start : start + BULK]]
            changed += sum(moved is not None for moved in await self._transitions.apply(moves))
        return changed

    async def change_dataset(self, event: TaskEvent, dataset_id: str) -> int:
        """As `change`, for every task of a dataset, in its own chunks."""
        changed, after = 0, None
        while True:
            found = await self._store.tasks.ids(dataset_id, SOURCES[event], after, BULK)
            if not found:
                return changed
            changed += await self.change_all(event, found)
            after = found[-1]

    async def is_wanted(self, principal: Principal, task_id: str) -> bool:
        """Whether the caller's attempt of the task should still run."""
        task = await self._store.tasks.get(task_id)
        return task is not None and task.status is TaskStatus.PROCESSING and _holds(principal, task)

    async def processing(self, principal: Principal, task_id: str, lease_id: str | None) -> None:
        """The pilot says that it has begun; a claim has made the task processing already.

        Raises:
            LeaseLost: the task is somebody else's by now.
        """
        task = await self._held(principal, "pilot.processing", task_id, lease_id)
        if task.status is not TaskStatus.PROCESSING:
            raise _lost(task)
        pilot = self._slots.pilots.get(task.pilot_id)
        await self.began(task, pilot.hostname if pilot else "")

    async def began(self, task: Task, hostname: str) -> None:
        """Who holds a task has begun with it: another site may want to know."""
        if await self._is_foreign(task.task_id):
            await self._foreign.started(task, hostname)

    async def wanted(self, claimed: Sequence[Claimed]) -> list[Claimed]:
        """Of tasks that were just claimed those that are to be run.

        Another site may have dropped some without that this one could note it in time.
        """
        foreign = [one.task for one in claimed if one.dataset.is_mirror]
        if not foreign:
            return list(claimed)
        known = await self._foreign.originals([task.task_id for task in foreign])
        dropped = {task.task_id: task for task in foreign if task.task_id not in known}
        if dropped:
            await self._transitions.apply(
                [Move(t.task_id, TaskEvent.SUSPENDED, lease_id=t.lease_id) for t in dropped.values()]
            )
        return [one for one in claimed if one.task.task_id not in dropped]

    async def finish(self, principal: Principal, task_id: str, lease_id: str | None, report: Report) -> None:
        """The attempt succeeded; saying so again changes nothing.

        Raises:
            LeaseLost: the task is somebody else's by now, or was stopped.
        """
        lease_id, task = await self._lease(principal, "pilot.finish", task_id, lease_id)
        if await self._is_foreign(task_id):
            task = task or await self._existing(task_id)
            if not _is_run(task, lease_id):
                await self._repeat_or_lost(task_id, lease_id, Outcome.FINISHED)
                return
            await self._foreign.finished(task, report)
        ended = report.ended(Outcome.FINISHED)
        move = Move(task_id, TaskEvent.FINISHED, lease_id=lease_id, ended=ended)
        if (await self._transitions.apply([move]))[0] is None:
            await self._repeat_or_lost(task_id, lease_id, Outcome.FINISHED)

    async def fail(
        self, principal: Principal, task_id: str, lease_id: str | None, failure: Failure, report: Report
    ) -> tuple[Task, float | None]:
        """The attempt failed: try again, later, with more, or not at all, as the rules say.

        Returns the task afterwards and, if it has to wait, until when.

        Raises:
            LeaseLost: the task is somebody else's by now, or was stopped.
        """
        lease_id, task = await self._lease(principal, "pilot.fail", task_id, lease_id)
        task = task or await self._existing(task_id)
        if not _is_run(task, lease_id):
            # Nothing is learned, and no requirement grows, from whoever does not hold the task.
            await self._repeat_or_lost(task_id, lease_id, Outcome.FAILED)
            return task, None
        moved, release_at = await self.attempt_failed(task, failure, report)
        if moved is None:
            await self._repeat_or_lost(task_id, lease_id, Outcome.FAILED)
            return await self._existing(task_id), None
        return moved.task, release_at

    async def attempt_failed(
        self, task: Task, failure: Failure, report: Report
    ) -> tuple[Moved | None, float | None]:
        """The attempt that runs ``task`` failed, as somebody said who holds it; see `fail`.

        None if it was over by then.
        """
        dataset = await self._catalogue.get(task.dataset_id)
        if dataset.is_mirror:
            await self._foreign.failed(task, failure, report)
        decision = await self._judge.decide(task, dataset, failure)
        release_at = self._clock() + decision.backoff_s if decision.backoff_s else None
        ended = report.ended(Outcome.FAILED, failure_class=decision.failure_class, summary=failure.summary)
        move = Move(
            task.task_id,
            decision.event,
            lease_id=task.lease_id,
            class_id=await self._judge.grown(task, dataset, failure, report),
            release_at=release_at,
            ended=ended,
        )
        return (await self._transitions.apply([move]))[0], release_at

    async def attempts_ended(self, endings: Sequence[Ending]) -> list[bool]:
        """As `finish` and `release`, all at once; False for each task that is not, or no longer, run so."""
        await self._tell_owners([ending for ending in endings if ending.report is not None])
        moved = await self._transitions.apply([ending.to_move() for ending in endings])
        return [one is not None for one in moved]

    async def _tell_owners(self, endings: Sequence[Ending]) -> None:
        """Tell the sites whose tasks have been run to their ends."""
        datasets = {ending.task_id.partition("-")[0]: ending.task_id for ending in endings}
        foreign = {dataset_id for dataset_id, task_id in datasets.items() if await self._is_foreign(task_id)}
        if not foreign:
            return
        theirs = [ending for ending in endings if ending.task_id.partition("-")[0] in foreign]
        tasks = await self._store.tasks.among([ending.task_id for ending in theirs])
        told = [
            self._foreign.finished(task, ending.report)
            for ending in theirs
            if ending.report and (task := tasks.get(ending.task_id)) and ending.is_of(task)
        ]
        await asyncio.gather(*told)

    async def release(self, principal: Principal, task_id: str, lease_id: str | None, reason: str) -> None:
        """The pilot hands the task back unfinished; that does not count as a failure.

        Raises:
            LeaseLost: the task is somebody else's by now, or was stopped.
        """
        lease_id, _task = await self._lease(principal, "pilot.release", task_id, lease_id)
        if not await self.evict([(task_id, lease_id)], reason):
            await self._repeat_or_lost(task_id, lease_id, Outcome.EVICTED)

    async def evict(self, leases: Sequence[tuple[str, str]], reason: str) -> int:
        """Take tasks from pilots that have gone; how many were still theirs."""
        ended = Ended(Outcome.EVICTED, summary=reason)
        moves = [Move(t, TaskEvent.EVICTED, lease_id=lease, ended=ended) for t, lease in leases]
        return sum(moved is not None for moved in await self._transitions.apply(moves))

    async def release_due(self) -> int:
        """Let tasks whose back-off is over be claimed; a duty."""
        due = await self._store.tasks.due(self._clock(), BULK)
        moves = [Move(task.task_id, TaskEvent.RELEASED) for task in due]
        return sum(moved is not None for moved in await self._transitions.apply(moves)) if moves else 0

    async def attempt_of(self, principal: Principal, action: str, task_id: str, lease_id: str | None) -> int:
        """The number of the caller's attempt, running or just ended: what a log belongs to.

        Raises:
            LeaseLost: the task is somebody else's by now.
        """
        return (await self._held(principal, action, task_id, lease_id)).attempt

    async def log_kept(self, task_id: str, attempt: int, name: str) -> None:
        """A log of an attempt was kept: another site may want it, too."""
        if await self._is_foreign(task_id):
            await self._foreign.logged(task_id, attempt, name)

    async def _is_foreign(self, task_id: str) -> bool:
        """Whether a task is another site's; nearly always known without asking the store."""
        dataset_id = task_id.partition("-")[0]
        dataset = self._catalogue.at_hand(dataset_id)
        if dataset is None:
            try:
                dataset = await self._catalogue.get(dataset_id)
            except NotFoundError:  # and so there is no such task, as whoever asks will find out
                return False
        return dataset.is_mirror

    async def check_seen(self, principal: Principal, action: str, task_id: str) -> Task:
        """A task to which the caller may do ``action``.

        Raises:
            NotFoundError: there is none, or the caller may not see it.
            AccessDenied: the caller may see it, but not do this to it.
            LeaseLost: the caller is an attempt of it that is over.
        """
        task = await self._existing(task_id)
        dataset = await self._catalogue.get(task.dataset_id)
        if principal.kind is PrincipalKind.TASK and principal.id == task_id:
            check_running(principal, task)
        check_object(
            principal,
            action,
            kind="task",
            identifier=task_id,
            owner=dataset.owner,
            group=dataset.group,
            public=dataset.public,
            task_id=task_id,
        )
        return task

    async def _check_all(self, principal: Principal, action: str, task_ids: Sequence[str]) -> None:
        """As `check_seen`, for many tasks at once."""
        if principal.kind is PrincipalKind.TASK:
            for task_id in task_ids:
                await self.check_seen(principal, action, task_id)
            return
        jobs = dict.fromkeys(task_id.rpartition("-")[0] for task_id in task_ids)
        existing = set(await self._store.tasks.ids_of_jobs(list(jobs)))
        for task_id in task_ids:
            if task_id not in existing:
                raise NotFoundError("task", task_id)
            dataset = await self._catalogue.get(parse_task_id(task_id)[0])
            check_object(
                principal,
                action,
                kind="task",
                identifier=task_id,
                owner=dataset.owner,
                group=dataset.group,
                public=dataset.public,
                task_id=task_id,
            )

    async def check_attempt(self, principal: Principal) -> None:
        """Refuse a task whose attempt is over.

        Raises:
            LeaseLost: the task is somebody else's by now, or was stopped.
        """
        if principal.kind is PrincipalKind.TASK:
            check_running(principal, await self._existing(principal.id))

    async def _lease(
        self, principal: Principal, action: str, task_id: str, lease_id: str | None
    ) -> tuple[str, Task | None]:
        """The lease that a call is about, named by it or by who calls; and the task, if it was read.

        A pilot that shows a lease has proved with it that the task is its own: the store
        compares it in the same step that changes the task.
        """
        if lease_id is not None and principal.kind is PrincipalKind.PILOT:
            return lease_id, None
        task = await self._held(principal, action, task_id, lease_id)
        return task.lease_id, task

    async def _held(self, principal: Principal, action: str, task_id: str, lease_id: str | None) -> Task:
        task = await self._existing(task_id)
        if not _holds(principal, task) and await self._held_before(principal, task_id):
            raise _lost(task)
        check_object(
            principal, action, kind="task", identifier=task_id, pilot_id=task.pilot_id, task_id=task_id
        )
        if not _holds(principal, task) or (lease_id is not None and lease_id != task.lease_id):
            raise _lost(task)
        return task

    async def _held_before(self, principal: Principal, task_id: str) -> bool:
        """Whether the caller ran an earlier attempt, so that it may know that there is another."""
        if principal.kind is not PrincipalKind.PILOT:
            return False
        return any(a.pilot_id == principal.id for a in await self._store.tasks.attempts(task_id))

    async def _existing(self, task_id: str) -> Task:
        task = await self._store.tasks.get(task_id)
        if task is None:
            raise NotFoundError("task", task_id)
        return task

    async def _repeat_or_lost(self, task_id: str, lease_id: str, outcome: Outcome) -> None:
        """A guarded move matched nothing: fine if the same report had arrived before."""
        task = await self._existing(task_id)
        attempts = await self._store.tasks.attempts(task_id)
        if any(a.lease_id == lease_id and a.outcome is outcome for a in attempts):
            return
        raise _lost(task)


ACTIONS = {
    TaskEvent.SUSPENDED: "suspend",
    TaskEvent.RESUMED: "resume",
    TaskEvent.RESET: "reset",
    TaskEvent.HARD_RESET: "hard_reset",
}
"""What a person's action is called in the authorization table, by what it does to a task."""


def _holds(principal: Principal, task: Task) -> bool:
    """Whether the caller runs, or ran last, this very attempt."""
    if principal.kind is PrincipalKind.TASK:
        return principal.lease_id == task.lease_id
    return bool(task.pilot_id) and principal.holder == task.pilot_id


def check_running(principal: Principal, task: Task) -> None:
    """Refuse an attempt of ``task`` that is over: its token is worth nothing any more.

    Raises:
        LeaseLost: as it says.
    """
    if not _is_run(task, principal.lease_id):
        raise _lost(task)


def _is_run(task: Task, lease_id: str) -> bool:
    return task.status is TaskStatus.PROCESSING and task.lease_id == lease_id


def _lost(task: Task) -> LeaseLost:
    return LeaseLost(
        f"task {task.task_id} is {task.status} and no longer held by this lease; drop it",
        task_id=task.task_id,
        status=str(task.status),
    )
