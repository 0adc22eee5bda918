"""How children keep the tasks that they were lent, and hear of what changes about them."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from iceprod.clock import Clock
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Peer, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.principal import Principal
from iceprod.model.task import Task
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Event, EventKind
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_parent.notices import Notices
from iceprod.site_sync.as_parent.polls import Polls
from iceprod.site_sync.messages import Heard, Listen, Renew, Renewed, Told
from iceprod.site_sync.registry import Registry
from iceprod.store.base import Store

GRACE_S: Final = 120.0
"""For how long after it was lent a task is not missed by its site: the answer may be on its way."""
_PART: Final = 1000
_GATHER_S: Final = 0.2
"""What comes up in so short a time is told together: one suspended dataset takes many tasks."""
_SLACK: Final = 0.25
"""The part of a lease that may be over before it is extended, so that few writes keep many tasks."""
_MOST_TOLD: Final = 5_000
"""Datasets of which it is kept who was told what; of others all that changes is news."""

_HEARD_OF: Final = frozenset({EventKind.LEASES_TAKEN, EventKind.DATASET_CHANGED})

Leases = Sequence[tuple[str, str]]  # task id, lease id


class Keeping:
    """Renews leases, and tells of what was taken and changed."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        tasks: TaskService,
        registry: Registry,
        polls: Polls,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._tasks = tasks
        self._registry = registry
        self._polls = polls
        self._notices = Notices()
        self._told: OrderedDict[str, dict[str, Told]] = OrderedDict()  # by dataset and site

    def on_event(self, event: Event) -> None:
        """Listen to `iceprod.services.events`."""
        if event.kind in _HEARD_OF:
            self._notices.note(event)
        if event.kind is EventKind.DATASET_CHANGED and event.subject in self._told:
            self._forget_told(event.subject)

    def _forget_told(self, dataset_id: str) -> None:
        """Of a dataset that is another now a site may learn elsewhere, before it is again what it was."""
        dataset = self._catalogue.at_hand(dataset_id)
        if dataset is not None:
            told, now = self._told[dataset_id], told_of(dataset)
            self._told[dataset_id] = {site: before for site, before in told.items() if before == now}

    def has_told(self, site: str, told: Told) -> None:
        """Note what a site knows of a dataset, so that only other things are news to it."""
        self._told.setdefault(told.dataset_id, {})[site] = told
        self._told.move_to_end(told.dataset_id)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)

    async def renew(self, principal: Principal, message: Renew) -> Renewed:
        """Extend leases of a child, and tell which are its own no longer.

        If it has named all, tasks that it was lent and does not know of are taken back: the answer
        that told of them was lost, or the child has forgotten them.  So long as an answer may be on
        its way, those that were lent only now are left to it.

        Raises:
            AccessDenied: it is no child, or no longer.
        """
        peer = await self._registry.child(principal, term=message.term)
        self._registry.touch(peer.name)
        if message.is_all:
            grace_s = -math.inf if message.is_settled else GRACE_S
            lost = await self._keep_all(peer, message.leases, missed_before=self._clock() - grace_s)
        else:
            lost = await self._keep_some(peer, message.leases)
        if lost:
            await self._note_foreign(peer, lost)
        return Renewed([lease_id for _, lease_id in lost])

    async def _keep_some(self, peer: Peer, leases: Leases) -> Leases:
        """Extend some leases; those that are lost."""
        lost: list[tuple[str, str]] = []
        for start in range(0, len(leases), _PART):
            part = leases[start : start + _PART]
            found = await self._store.tasks.among([task_id for task_id, _ in part])
            held = {lease: task for lease in part if _is_held(task := found.get(lease[0]), peer, lease[1])}
            lost += [lease for lease in part if lease not in held]
            lost += await self._extend(peer, [task for task in held.values() if task is not None])
        return lost

    async def _keep_all(self, peer: Peer, leases: Leases, *, missed_before: float) -> Leases:
        """Extend the leases that are named, take back those lent before that instant; those that are lost."""
        holder = holder_of(peer.name)
        named, seen = set(leases), set[tuple[str, str]]()
        lost: list[tuple[str, str]] = []
        after = None
        while held := await self._store.tasks.held_after(holder, after, _PART):
            known = [task for task in held if _lease(task) in named]
            seen.update(map(_lease, known))
            lost += await self._extend(peer, known)
            missed = [
                _lease(t) for t in held if _lease(t) not in named and t.status_changed_at < missed_before
            ]
            if missed:
                await self._tasks.evict(missed, f"the site {peer.name} does not know of it")
            after = held[-1].task_id
        return lost + [lease for lease in leases if lease not in seen]

    async def _extend(self, peer: Peer, tasks: Sequence[Task]) -> Leases:
        """Extend leases that are held, where it is time to; those that were lost meanwhile."""
        until = self._clock() + peer.lease_s
        due = [_lease(task) for task in tasks if task.lease_until < until - _SLACK * peer.lease_s]
        kept = await self._store.tasks.renew(due, until=until) if due else []
        return [lease for lease, is_kept in zip(due, kept, strict=True) if not is_kept]

    async def _note_foreign(self, peer: Peer, lost: Leases) -> None:
        """Keep in the audit trail that a site has shown leases that are another's."""
        holder, foreign = holder_of(peer.name), 0
        for start in range(0, len(lost), _PART):
            part = lost[start : start + _PART]
            found = await self._store.tasks.among([task_id for task_id, _ in part])
            foreign += sum(
                task.pilot_id != holder
                for task_id, lease_id in part
                if (task := found.get(task_id)) is not None and task.lease_id == lease_id
            )
        if foreign:
            await self._registry.audit(holder, "site.renew", peer.name, leases_of_others=foreign)

    async def listen(self, principal: Principal, message: Listen) -> Heard:
        """Wait until something concerns the tasks that a child holds.

        The first answer of a process tells of all of them: what came before, it does not know.

        Raises:
            AccessDenied: it is no child, or no longer.
        """
        peer = await self._registry.child(principal, term=message.term)
        self._registry.touch(peer.name)
        until = asyncio.get_running_loop().time() + message.wait_s
        with self._notices.watch() as noted:
            while True:
                noted.clear()
                heard = await self._heard(peer.name)
                if heard is not None:
                    return heard
                if not await self._polls.wait(noted, until):
                    return Heard(taken=False, datasets=[])
                await asyncio.sleep(_GATHER_S)

    async def _heard(self, site: str) -> Heard | None:
        """What a site has not heard of yet, or None."""
        holder, events = holder_of(site), self._notices.take(site)
        try:
            if events is None:
                return Heard(taken=True, datasets=sorted(await self._all_held(holder)))
            taken = any(e.kind is EventKind.LEASES_TAKEN and e.subject in (holder, "") for e in events)
            changed = [e.subject for e in events if e.kind is EventKind.DATASET_CHANGED]
            held = await self._store.tasks.held_of(holder, changed) if changed else set()
            datasets = sorted([name for name in held if await self._is_news(site, name)])
        except BaseException:
            self._notices.put_back(site)
            raise
        return Heard(taken, datasets) if taken or datasets else None

    async def _all_held(self, holder: str) -> set[str]:
        datasets, after = set[str](), None
        while held := await self._store.tasks.held_after(holder, after, _PART):
            datasets.update(task.dataset_id for task in held)
            after = held[-1].task_id
        return datasets

    async def _is_news(self, site: str, dataset_id: str) -> bool:
        """Whether a dataset is any different from what the site was told."""
        told = self._told.get(dataset_id, {}).get(site)
        return told != told_of(await self._catalogue.get(dataset_id))


def told_of(dataset: Dataset) -> Told:
    """What children are told of a dataset, but for its configuration."""
    return Told(
        dataset_id=dataset.dataset_id,
        owner=dataset.owner,
        group=dataset.group,
        config_version=dataset.config_version,
        description=dataset.description,
        priority=dataset.priority,
        debug=dataset.debug,
    )


def _lease(task: Task) -> tuple[str, str]:
    return task.task_id, task.lease_id


def _is_held(task: Task | None, peer: Peer, lease_id: str) -> bool:
    if task is None or task.status is not TaskStatus.PROCESSING:
        return False
    return (task.pilot_id, task.lease_id) == (holder_of(peer.name), lease_id)
