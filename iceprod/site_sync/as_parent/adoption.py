"""Taking children at their word about what they were lent that this site remembers nothing of.

A site that was restored from a backup does not know what it has lent since.  Its children name the
leases that they hold, and those whose ends were taken in; a task that stands as if it
had not been lent is claimed for the child by that very lease.  So the lease is what it was,
and all that is said of it is dealt with as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Peer, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.principal import Principal
from iceprod.model.task import Task, parse_task_id
from iceprod.services.authorization import check
from iceprod.services.catalogue import Catalogue
from iceprod.services.scheduling import Scheduler
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_parent.recovery import Recovery
from iceprod.site_sync.messages import Reclaim, Reclaimed
from iceprod.site_sync.registry import Registry
from iceprod.store.base import Store
from iceprod.store.federation import PeerPatch

_PART: Final = 500
_PATIENCE: Final = 0.1
"""The part of the longest time of a recovery for which a child tries what can't be adopted yet."""
_UNDECIDED: Final = frozenset({TaskStatus.IDLE, TaskStatus.WAITING, TaskStatus.PROCESSING})

Leases = Sequence[tuple[str, str]]  # task id, lease id


class Adoption:
    """Hears what children hold, when this site does not know."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        scheduler: Scheduler,
        tasks: TaskService,
        registry: Registry,
        recovery: Recovery,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._tasks = tasks
        self._registry = registry
        self._recovery = recovery

    async def reclaim(self, principal: Principal, message: Reclaim) -> Reclaimed:
        """Tell a child which leases it holds, adopting those that are unknown and may be true.

        Raises:
            AccessDenied: it is no child, or no longer.
            ConflictError: it speaks in another term.
        """
        check(principal, "site.reclaim")
        peer = await self._registry.child(principal, term=message.term)
        self._registry.touch(peer.name)
        held, later = list[str](), list[str]()
        for start in range(0, len(message.leases), _PART):
            part = message.leases[start : start + _PART]
            found = await self._store.tasks.among([task_id for task_id, _ in part])
            known = [lease for lease in part if _is_held(found.get(lease[0]), peer, lease[1])]
            held += await self._extend(peer, known)
            if peer.term < self._registry.term:  # once it has said everything, nothing can be unknown
                adopted, undecided = await self._look(peer, part, found)
                held += adopted
                later += undecided
        if message.is_last and peer.term < self._registry.term:
            await self._registry.change(peer, PeerPatch(term=self._registry.term))
            await self._recovery.look()
        is_on = self._recovery.state.is_on
        return Reclaimed(held, later if is_on else [], self._recovery.longest_s * _PATIENCE)

    async def _extend(self, peer: Peer, leases: Leases) -> list[str]:
        until = self._clock() + peer.lease_s
        kept = await self._store.tasks.renew(leases, until=until) if leases else []
        return [lease_id for (_, lease_id), is_kept in zip(leases, kept, strict=True) if is_kept]

    async def _look(
        self, peer: Peer, leases: Leases, found: Mapping[str, Task]
    ) -> tuple[list[str], list[str]]:
        """Of leases that do not hold their tasks: those that do now, and those that may do later."""
        free: list[tuple[str, str]] = []
        later: list[str] = []
        datasets = await self._datasets(leases)
        for task_id, lease_id in leases:
            dataset, task = datasets[task_id.partition("-")[0]], found.get(task_id)
            if dataset is None or not dataset.may_run_at(peer.name) or _is_over(task, lease_id):
                continue
            if task is not None and _is_for(peer, task) and not dataset.suspended:
                free.append((task_id, lease_id))
            elif task is not None or _may_be_made(dataset, task_id):
                later.append(lease_id)
        free = await self._unknown(free, found)
        await self._take_back([found[task_id] for task_id, _ in free])
        claimed = await self._scheduler.adopt(peer.name, free, lease_s=peer.lease_s)
        adopted = [lease_id for (_, lease_id), is_ours in zip(free, claimed, strict=True) if is_ours]
        if adopted:
            await self._registry.audit(holder_of(peer.name), "site.reclaim", peer.name, adopted=len(adopted))
        return adopted, later

    async def _take_back(self, tasks: Sequence[Task]) -> None:
        """End what a child has forgotten: it has got the same task again since, so that had ended."""
        held = [(task.task_id, task.lease_id) for task in tasks if task.status is TaskStatus.PROCESSING]
        if held:
            await self._tasks.evict(held, "it was lent once more before this site was restored")

    async def _datasets(self, leases: Leases) -> dict[str, Dataset | None]:
        found: dict[str, Dataset | None] = {}
        for dataset_id in {task_id.partition("-")[0] for task_id, _ in leases}:
            try:
                found[dataset_id] = await self._catalogue.get(dataset_id)
            except NotFoundError:
                found[dataset_id] = None
        return found

    async def _unknown(self, leases: Leases, found: Mapping[str, Task]) -> list[tuple[str, str]]:
        """Those leases of which no attempt is known: one that has ended stays so."""
        tried = [lease for lease in leases if found[lease[0]].attempt]
        records = await asyncio.gather(*(self._store.tasks.attempts(task_id) for task_id, _ in tried))
        over = {
            lease
            for lease, attempts in zip(tried, records, strict=True)
            if any(attempt.lease_id == lease[1] for attempt in attempts)
        }
        return [lease for lease in leases if lease not in over]


def _is_held(task: Task | None, peer: Peer, lease_id: str) -> bool:
    holder = holder_of(peer.name)
    return task is not None and (task.status, task.pilot_id, task.lease_id) == (
        TaskStatus.PROCESSING,
        holder,
        lease_id,
    )


def _is_for(peer: Peer, task: Task) -> bool:
    """Whether a child may have a task by a lease that is not known: nobody else has it."""
    return task.status is TaskStatus.WAITING or (
        task.status is TaskStatus.PROCESSING and task.pilot_id == holder_of(peer.name)
    )


def _is_over(task: Task | None, lease_id: str) -> bool:
    """Whether nothing will come of that lease any more; also of one that holds its task already."""
    return task is not None and (task.lease_id == lease_id or task.status not in _UNDECIDED)


def _may_be_made(dataset: Dataset, task_id: str) -> bool:
    """Whether a task that does not exist is one of those that the dataset will have."""
    try:
        _, job, index = parse_task_id(task_id)
    except NotFoundError:
        return False
    is_to_come = job < dataset.jobs_wanted and not (dataset.is_mirror or dataset.truncated)
    return is_to_come and index < len(dataset.task_names)
