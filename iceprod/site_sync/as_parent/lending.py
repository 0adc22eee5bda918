"""What a parent lends to its children.

A task that is lent is *processing*, and its lease's holder is the site: whatever becomes of it
then is decided by that lease, as it is for pilots.  How children keep what they hold is told in
`iceprod.site_sync.as_parent.keeping`, what they report in `iceprod.site_sync.as_parent.inbox`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from iceprod.clock import Clock
from iceprod.errors import AccessDenied, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Original, Peer, PeerStatus, holder_of
from iceprod.model.lifecycle import JobStatus
from iceprod.model.principal import Principal
from iceprod.model.resources import Offer, Requirements, Resources, fits
from iceprod.services.accounts import Accounts
from iceprod.services.authorization import check
from iceprod.services.bulletin import Loan
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Events
from iceprod.services.foreign import Foreign
from iceprod.services.loans import Loans
from iceprod.services.materialise import dataset_number
from iceprod.services.scheduling import Claimed, Near, Room, Scheduler
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_parent.keeping import Keeping, told_of
from iceprod.site_sync.as_parent.polls import Polls
from iceprod.site_sync.as_parent.share_turns import ShareTurns, Turn
from iceprod.site_sync.messages import (
    MOST_TASKS,
    About,
    Heard,
    Lent,
    Listen,
    Pull,
    Pulled,
    Renew,
    Renewed,
    Shape,
    Told,
)
from iceprod.site_sync.registry import Registry
from iceprod.store.base import Store

_PACE_S: Final = 0.5
"""How often at most a site that waits is looked after, however often work comes up."""
_FULL_S: Final = 2.0
"""When it is looked again at a site that held all it may: of what it reports nobody is woken."""
_COUNTED_S: Final = 10.0
"""For how long a count of what a site holds is believed, unless little room is left."""
_WAITING_S: Final = 90.0
"""For how long it is believed that a site waits at another process: longer than any wait lasts."""
_ASK_AGAIN_S: Final = 20.0
"""When a site that got nothing and does not want to wait had better ask again."""


@dataclass(slots=True)
class _Holding:
    """How many tasks a site holds: those counted at an instant, and those lent since."""

    number: int
    counted_at: float
    is_full: bool = False


class Lending:
    """Hands tasks to children, and keeps them up to date about those.

    ``lent`` counts tasks, by site and by whether it had files of their jobs already.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        accounts: Accounts,
        catalogue: Catalogue,
        scheduler: Scheduler,
        tasks: TaskService,
        foreign: Foreign,
        events: Events,
        registry: Registry,
        loans: Loans,
    ) -> None:
        self._store = store
        self._clock = clock
        self._accounts = accounts
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._tasks = tasks
        self._foreign = foreign
        self._events = events
        self._registry = registry
        self._loans = loans
        self._turns = ShareTurns(self._rivals)
        self._asking: Counter[str] = Counter()  # pulls that wait here, by site
        self._polls = Polls()
        self._holdings: dict[str, _Holding] = {}
        self.lent: Counter[tuple[str, bool]] = Counter()
        self._keeping = Keeping(
            store, clock=clock, catalogue=catalogue, tasks=tasks, registry=registry, polls=self._polls
        )
        events.listen(self._keeping.on_event)
        loans.listen(self._lent_elsewhere)

    def close(self) -> None:
        """Answer everybody who waits, and let nobody wait any more: the server is stopping."""
        self._polls.close()

    async def pull(self, principal: Principal, message: Pull) -> Pulled:
        """Lend a child tasks that it has room for, waiting for some to come up.

        Raises:
            AccessDenied: it is no child, or no longer.
        """
        check(principal, "site.pull")
        peer = await self._registry.child(principal, term=message.term)
        rooms = [Room(_offer(shape, peer.name), shape.tasks) for shape in message.shapes]
        began_at = self._clock()
        self._note_rooms(peer.name, rooms, began_at)
        self._asking[peer.name] += 1
        try:
            claimed = await self._wait_for_work(principal, rooms, Near(message.near), message.wait_s)
        finally:
            self._asking -= Counter([peer.name])
            # It may have asked again meanwhile, another process than this one.
            self._registry.touch(peer.name, at=began_at, wants=())
        lent = await self._lent(claimed)
        return Pulled(lent, peer.lease_s, 0.0 if lent or message.wait_s else _ASK_AGAIN_S)

    def _note_rooms(self, site: str, rooms: Sequence[Room], now: float) -> None:
        self._registry.touch(site, at=now, wants=tuple((room.offer, room.tasks) for room in rooms))
        if rooms:
            offers = tuple(room.offer for room in rooms)
            self._registry.touch(site, at=now, offers=offers, offered_at=now)

    async def renew(self, principal: Principal, message: Renew) -> Renewed:
        """Extend the leases of a child; see `Keeping.renew`."""
        check(principal, "site.renew")
        return await self._keeping.renew(principal, message)

    async def listen(self, principal: Principal, message: Listen) -> Heard:
        """Tell a child what concerns its tasks; see `Keeping.listen`."""
        check(principal, "site.listen")
        return await self._keeping.listen(principal, message)

    async def about(self, principal: Principal, message: About) -> Told:
        """Tell a child of a dataset, and of one version of its configuration.

        It may know of those of which it holds tasks, and of those of which it might be lent some at
        any moment: it could as well ask for these.

        Raises:
            AccessDenied: it is no child, or no longer.
            NotFoundError: there is no such dataset, or it is none of the child's business.
        """
        check(principal, "site.dataset")
        peer = await self._registry.child(principal, term=message.term)
        dataset = await self._catalogue.get(message.dataset_id)
        if not await self._may_know(peer, dataset):
            error = NotFoundError("dataset", message.dataset_id)
            raise self._registry.refused(principal, "site.dataset", error)
        told, version = told_of(dataset), message.config_version
        self._keeping.has_told(peer.name, told)
        if version is None:
            return told
        config = await self._store.datasets.config(dataset.dataset_id, version)
        if config is None:
            raise NotFoundError("configuration", f"{dataset.dataset_id} version {version}")
        return msgspec.structs.replace(told, config=config)

    async def _may_know(self, peer: Peer, dataset: Dataset) -> bool:
        if dataset.status is not JobStatus.COMPLETE and dataset.may_run_at(peer.name):
            return True
        return bool(await self._store.tasks.held_of(holder_of(peer.name), [dataset.dataset_id]))

    async def _wait_for_work(
        self, principal: Principal, rooms: Sequence[Room], near: Near, wait_s: float
    ) -> list[Claimed]:
        """Claim what fits as soon as there is something; nothing when the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        # Sites do not wait among the pilots, of whom only as many are woken as there is work.
        with self._events.watch("", principal.id) as changed:
            while True:
                changed.clear()
                looked_at = loop.time()
                if self._scheduler.has_for(principal.id, rooms):
                    claimed = await self._claim(principal, rooms, near)
                    if claimed:
                        return claimed
                is_full = self._is_full(principal.id)
                soon = min(until, looked_at + _FULL_S) if is_full else until
                if not await self._polls.wait(changed, soon) and (soon == until or self._polls.is_closed):
                    return []
                await asyncio.sleep(max(0.0, looked_at + _PACE_S - loop.time()))

    async def _claim(self, principal: Principal, rooms: Sequence[Room], near: Near) -> list[Claimed]:
        """Claim what a child has room for and may hold, in turn with others that ask now."""
        try:
            async with self._turns.turn(principal.id) as turn:
                return await self._claim_in_turn(principal, rooms, near, turn)
        except AccessDenied:
            await self._registry.take_back()  # what it was lent in the very moment in which it was revoked
            raise

    async def _claim_in_turn(
        self, principal: Principal, rooms: Sequence[Room], near: Near, turn: Turn
    ) -> list[Claimed]:
        claimed: list[Claimed] = []
        while True:
            peer = await self._registry.child(principal)  # it may be another by now
            most = min(await self._room(peer), MOST_TASKS - len(claimed))
            if most <= 0:
                return claimed
            more = await self._scheduler.lend(peer.name, rooms, most=most, lease_s=peer.lease_s, near=near)
            if not more:
                return claimed
            claimed += more
            self.lent.update((peer.name, near.has(one.task)) for one in more)
            rooms = _left(rooms, more)
            self._holdings[peer.name].number += len(more)
            self._loans.lent((peer.name, len(more), peer.share))
            if not await turn.had(len(more), peer.share):
                return claimed

    def _lent_elsewhere(self, loan: Loan) -> None:
        """Another process has lent something."""
        site, tasks, share = loan
        if site in self._holdings:
            self._holdings[site].number += tasks
        self._turns.charge_elsewhere(site, tasks, share)

    def _rivals(self) -> list[str]:
        """The children that wait at another process for something of what there is."""
        waiting = self._registry.states.waiting(self._clock() - _WAITING_S)
        return [
            state.name
            for state in waiting
            if state.name not in self._asking
            and self._scheduler.has_for(state.name, [Room(offer, tasks) for offer, tasks in state.wants])
        ]

    def _is_full(self, site: str) -> bool:
        """Whether a child held as much as it may when that was last looked at."""
        holding = self._holdings.get(site)
        return holding is not None and holding.is_full

    async def _room(self, peer: Peer) -> int:
        """How many tasks more a child may hold."""
        if peer.status is not PeerStatus.JOINED:
            return 0
        now, holding = self._clock(), self._holdings.get(peer.name)
        if (
            holding is None
            # What other processes lend is told a moment later, and no more than a message at once.
            or holding.number > peer.most_tasks - MOST_TASKS
            or not 0 <= now - holding.counted_at < _COUNTED_S
        ):
            holding = _Holding(await self._store.tasks.count_held(holder_of(peer.name)), now)
            self._holdings[peer.name] = holding
        holding.is_full = holding.number >= peer.most_tasks
        return peer.most_tasks - holding.number

    async def _lent(self, claimed: Sequence[Claimed]) -> list[Lent]:
        """What a child is told of the tasks that were claimed for it."""
        if not claimed:
            return []
        wanted = await self._tasks.wanted(claimed)
        mirrored = [one.task.task_id for one in wanted if one.dataset.is_mirror]
        originals = await self._foreign.originals(mirrored) if mirrored else {}
        return [
            self._told(one, original)
            for one in wanted
            if (original := await self._original(one, originals)) is not None
        ]

    async def _original(self, claimed: Claimed, originals: Mapping[str, Original]) -> Original | None:
        """What a task is called where its dataset was made; None if nobody wants it any more."""
        task, dataset = claimed.task, claimed.dataset
        if dataset.is_mirror:
            return originals.get(task.task_id)
        config = await self._catalogue.config(dataset.dataset_id, dataset.config_version)
        return Original(
            dataset_id=dataset.dataset_id,
            dataset=dataset_number(dataset, config),
            task_id=task.task_id,
            job=task.job_index,
            task_index=task.task_index,
            name=dataset.task_names[task.task_index],
            jobs_submitted=dataset.jobs_wanted,
        )

    def _told(self, claimed: Claimed, original: Original) -> Lent:
        task, dataset, wanted = claimed.task, claimed.dataset, claimed.requirements
        return Lent(
            task_id=task.task_id,
            lease_id=task.lease_id,
            token=self._accounts.make_task_token(task.task_id, task.lease_id),
            dataset_id=dataset.dataset_id,
            config_version=dataset.config_version,
            original_dataset_id=original.dataset_id,
            original_dataset=original.dataset,
            original_task_id=original.task_id,
            job=original.job,
            task_index=original.task_index,
            name=original.name,
            jobs_submitted=original.jobs_submitted,
            requirements=_shape(wanted),
            site=wanted.site,
            os=list(wanted.os),
            debug=dataset.debug,
        )


def _offer(shape: Shape, site: str) -> Offer:
    """What a child offers, under the name that it has here."""
    resources = Resources(shape.cpu, shape.gpu, shape.memory, shape.disk, shape.time)
    return Offer(resources, os=shape.os, site=site)


def _shape(wanted: Requirements) -> Shape:
    need = wanted.resources
    return Shape(cpu=need.cpu, gpu=need.gpu, memory=need.memory, disk=need.disk, time=need.time_h)


def _left(rooms: Sequence[Room], claimed: Sequence[Claimed]) -> list[Room]:
    """The room that is left; tasks are in the order in which the rooms were filled."""
    free = [room.tasks for room in rooms]
    for one in claimed:
        for place, room in enumerate(rooms):
            if free[place] and fits(one.requirements, room.offer):
                free[place] -= 1
                break
    return [Room(room.offer, tasks) for room, tasks in zip(rooms, free, strict=True)]
