"""Claims: an offer is compared with classes of tasks, and the oldest of the best are taken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from iceprod import ids
from iceprod.clock import Clock
from iceprod.model.dataset import Dataset
from iceprod.model.federation import holder_of
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.resources import Offer, Requirements
from iceprod.model.task import Lease, Move, Task
from iceprod.model.values import value
from iceprod.services.bulletin import Charge, Draft
from iceprod.services.catalogue import Catalogue
from iceprod.services.recovering import NEVER, Recovering
from iceprod.services.scheduling.near import NOWHERE, Near
from iceprod.services.scheduling.order import ClassOrder, FairShare, Ranked
from iceprod.services.scheduling.ready import ReadyClass, ReadyIndex
from iceprod.services.scheduling.transitions import Transitions
from iceprod.store.base import Store, TaskClass

IDLE_CLASS_S = 600.0
"""A class that has had nothing to claim for so long is dropped from the index."""
PREFETCH = 100
"""Tasks left in a class when the window of the next class is read."""
LENT_AT_ONCE = 100
"""Tasks that a site gets in one transaction, before it is looked anew at whose turn it is."""
_USAGE = "fair_share.usage"


@value
class Claimed:
    """A task that was claimed, with what its pilot must be told about it."""

    task: Task
    dataset: Dataset
    requirements: Requirements


@value
class Room:
    """Room at a site for so many tasks, each in a slot of its own."""

    offer: Offer
    tasks: int


@dataclass(frozen=True, slots=True)
class Demand:
    """How many tasks of some kind wait for a slot."""

    requirements: Requirements
    waiting: int


@value
class _Pick:
    task_id: str
    ready: ReadyClass
    dataset: Dataset


_Picked = tuple[list[_Pick], ReadyClass | None]


class Scheduler:
    """Hands tasks to pilots, and to other sites."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        ready: ReadyIndex,
        order: ClassOrder,
        share: FairShare,
        catalogue: Catalogue,
        transitions: Transitions,
        draft: Draft,
        lease_s: float,
        recovering: Recovering = NEVER,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ready = ready
        self._order = order
        self._share = share
        self._catalogue = catalogue
        self._transitions = transitions
        self._draft = draft
        self.recovering = recovering
        self.lease_s = lease_s

    async def load(self) -> None:
        """Take over from the store what an earlier process left; called once at start."""
        for dataset in await self._store.datasets.active():
            self._catalogue.put(dataset)
        self._ready.learn(await self._store.datasets.classes())
        self._ready.load(await self._store.tasks.ready_counts())
        await self._load_usage()

    async def reload(self) -> None:
        """Take everything from the store again, because something was missed."""
        for dataset in await self._store.datasets.active():
            self._catalogue.put(dataset)
        self._ready.learn(await self._store.datasets.classes())
        self._ready.reload(await self._store.tasks.ready_counts())
        self._order.invalidate()
        self._transitions.wake(self._counts())

    async def _load_usage(self) -> None:
        saved = await self._store.values.get(_USAGE)
        if saved is not None:
            document = json.loads(saved)
            usage = {(group, user): hours for group, user, hours in document["usage"]}
            self._share.restore(usage, document["as_of"])

    async def save_usage(self, *, fence: int = 0) -> None:
        """Keep the decayed usage for the next process; a duty."""
        rows = [[*leaf, hours] for leaf, hours in self._share.usage().items()]
        document = json.dumps({"as_of": self._clock(), "usage": rows})
        await self._store.values.put(_USAGE, document, fence=fence)

    def usage(self) -> list[Charge]:
        """Of every owner the cores that run now, and the decayed core hours."""
        usage, running = self._share.usage(), self._share.running()
        return [
            (*leaf, running.get(leaf, 0.0), usage.get(leaf, 0.0)) for leaf in usage.keys() | running.keys()
        ]

    def restore_usage(self, charges: Sequence[Charge], as_of: float) -> None:
        """Take over what `usage` gave elsewhere at that instant."""
        usage = {(group, owner): hours for group, owner, _, hours in charges}
        running = {(group, owner): cores for group, owner, cores, _ in charges}
        self._share.restore(usage, as_of, running=running)

    def charged_elsewhere(self, charges: Sequence[Charge]) -> None:
        """Attempts began and ended under other processes."""
        for group, owner, cores, hours in charges:
            self._share.charged_elsewhere((group, owner), cores, hours)

    async def reconcile(self) -> None:
        """Compare the index with the store's counts; a duty against whatever has drifted."""
        before = self._counts()
        was_stale, self._ready.is_stale = self._ready.is_stale, False
        try:
            counts = await self._store.tasks.ready_counts()
        except BaseException:
            self._ready.is_stale |= was_stale
            raise
        self._ready.load(counts)
        self._transitions.wake(self._counts() - before)
        self._ready.forget_idle(self._clock() - IDLE_CLASS_S)

    def doubt(self) -> None:
        """Tasks may have begun to wait of which nothing was heard here: count soon."""
        self._ready.is_stale = True

    async def recheck(self) -> None:
        """Ask the store about classes that seem empty and may not be; a duty.

        A task that one process takes and gives back through another may be told of in the
        wrong order, for there is none among the news of different processes.  And a call that
        the store did not answer may have been carried out all the same.
        """
        if self._ready.is_stale:
            await self.reconcile()
        before = self._counts()
        for ready in self._ready.doubtful():
            await self._ready.start_refill(ready)
        self._transitions.wake(self._counts() - before)

    def learn(self, classes: Sequence[TaskClass]) -> None:
        """New classes are about to get tasks."""
        self._transitions.wake(self._ready.learn(classes))
        self._draft.learnt(classes)

    def knows(self, class_id: int) -> bool:
        """Whether a class was heard of, so that the store has it."""
        return self._ready.known(class_id) is not None

    async def find_classes(self, tasks: Mapping[int, Sequence[str]]) -> None:
        """Get to know the classes of these tasks, which other processes may have made."""
        unknown = {
            task_ids[0].partition("-")[0]
            for class_id, task_ids in tasks.items()
            if task_ids and self._ready.known(class_id) is None
        }
        for dataset_id in unknown:
            self._transitions.wake(self._ready.learn(await self._store.datasets.classes(dataset_id)))

    async def requirements_of(self, task: Task) -> Requirements:
        """What a task asks for."""
        await self.find_classes({task.class_id: [task.task_id]})
        known = self._ready.known(task.class_id)
        return known.requirements if known else Requirements()

    def share(self, rank: int, of: int) -> None:
        """This process is the ``rank``-th of so many that hand out tasks now."""
        self._ready.share(rank, of)

    def dataset_changed(self, dataset: Dataset) -> None:
        """The priority or owner of a dataset may be another now, or it may run where it could not."""
        former = self._catalogue.at_hand(dataset.dataset_id)
        self._catalogue.put(dataset)
        self._order.invalidate()
        self._transitions.dataset_changed(dataset.dataset_id)
        if former is None or dataset.suspended:
            return
        if former.suspended or former.sites != dataset.sites:
            self._transitions.wake(self._counts(dataset.dataset_id))

    def demand(self) -> list[Demand]:
        """What waits, by class; for whoever starts pilots."""
        return [
            Demand(ready.requirements, ready.count)
            for ready, dataset in self._ranked()
            if ready.count and dataset.may_run_at("")
        ]

    def ranking(self) -> list[Ranked]:
        """The classes that have work, whose turn is first in front."""
        return [ranked for ranked in self._order.ranking(self._ranked) if ranked[0].count]

    async def claim(self, pilot_id: str, offer: Offer, *, max_tasks: int) -> list[Claimed]:
        """Claim up to ``max_tasks`` tasks that fit together into ``offer``; maybe none."""
        return await self._claim(pilot_id, self.lease_s, lambda: self._pick(offer, max_tasks))

    async def lend(
        self, site: str, rooms: Sequence[Room], *, most: int, lease_s: float, near: Near = NOWHERE
    ) -> list[Claimed]:
        """Claim for a site up to ``most`` tasks that it has room for; `LENT_AT_ONCE` or fewer, maybe none.

        Of those whose turn it is alike, it gets the ones first that it would run ``near`` their data.
        """
        most = min(most, LENT_AT_ONCE)
        claimed = await self._claim(
            holder_of(site), lease_s, lambda: self._pick_apart(site, rooms, most, near)
        )
        if len(claimed) == LENT_AT_ONCE:
            self._order.invalidate()  # after so many of one owner it may be another's turn
        return claimed

    async def adopt(self, site: str, leases: Sequence[tuple[str, str]], *, lease_s: float) -> list[bool]:
        """Claim just these tasks for a site, by leases that it has already; whether each could be."""
        until, holder = self._clock() + lease_s, holder_of(site)
        moves = [
            Move(task_id, TaskEvent.CLAIMED, lease=Lease(lease_id, holder, until))
            for task_id, lease_id in leases
        ]
        found = await self._transitions.apply(moves) if moves else []
        for moved in found:
            if moved is not None:
                self._ready.remove(moved.task.task_id, moved.task.class_id)
        return [moved is not None for moved in found]

    def go_on(self) -> None:
        """Tasks are given out again: tell everybody who waits for some."""
        self._transitions.wake(self._counts())

    def has_for(self, site: str, rooms: Sequence[Room]) -> bool:
        """Whether something seems to wait that a site has room for."""
        return not self.recovering.is_on and any(
            ready.count
            for room in rooms
            if room.tasks
            for ready, _ in self._order.candidates(room.offer, self._ranked, site=site)
        )

    async def _claim(self, holder: str, lease_s: float, pick: Callable[[], _Picked]) -> list[Claimed]:
        while not self.recovering.is_on:
            picks, to_refill = pick()
            if picks:
                claimed = await self._carry_out(holder, picks, lease_s)
                if claimed:
                    return claimed
            elif to_refill is not None:
                await self._ready.start_refill(to_refill)
            else:
                break
        return []

    def _pick(self, offer: Offer, max_tasks: int) -> _Picked:
        """The tasks whose turn it is, and the first class whose window must be read before."""
        picks: list[_Pick] = []
        while len(picks) < max_tasks:
            candidates = self._order.candidates(offer, self._ranked)
            ranked = next((ranked for ranked in candidates if ranked[0].count), None)
            if ranked is None:
                break
            pick = self._take(ranked, candidates)
            if pick is None:
                return picks, ranked[0]
            picks.append(pick)
            if len(picks) < max_tasks:
                offer = _less(offer, ranked[0].requirements)
        return picks, None

    def _pick_apart(self, site: str, rooms: Sequence[Room], most: int, near: Near) -> _Picked:
        """As `_pick`, for slots that share nothing.

        Whose turn it is, is told by the order of the classes alone: what is near goes first only
        among the tasks of one of them.
        """
        picks: list[_Pick] = []
        for room in rooms:
            full = min(most, len(picks) + room.tasks)
            candidates = self._order.candidates(room.offer, self._ranked, site=site)
            for ranked in candidates:
                preferred = near.tasks(ranked[0].task_class)
                while len(picks) < full and ranked[0].count:
                    pick = self._take(ranked, candidates, preferred)
                    if pick is None:
                        return picks, ranked[0]
                    picks.append(pick)
                if len(picks) == full:
                    break
        return picks, None

    def _take(
        self, ranked: Ranked, candidates: list[Ranked], preferred: Iterator[str] | None = None
    ) -> _Pick | None:
        """The next task of a class that has some, or None if its window must be read before."""
        ready, dataset = ranked
        task_id = (preferred and ready.take_one(preferred)) or ready.take()
        if task_id is None:
            return None
        if ready.wants_refill:
            self._ready.start_refill(ready)
        elif ready.count == PREFETCH:
            self._prefetch_next(candidates, ready)
        return _Pick(task_id, ready, dataset)

    def _prefetch_next(self, candidates: list[Ranked], current: ReadyClass) -> None:
        """A class is nearly used up: have the window of the next one ready in time."""
        for ready, _ in candidates:
            if ready is not current and ready.count:
                if ready.wants_refill:
                    self._ready.start_refill(ready)
                return

    async def _carry_out(self, holder: str, picks: list[_Pick], lease_s: float) -> list[Claimed]:
        now = self._clock()
        until = now + lease_s
        moves = [
            Move(pick.task_id, TaskEvent.CLAIMED, lease=Lease(ids.new_lease_id(), holder, until))
            for pick in picks
        ]
        try:
            results = await self._transitions.apply(moves)
        except BaseException:
            # Cancelled or not, what was not claimed is still waiting; what was claimed
            # all the same is found gone by the guard when somebody else tries it.
            for pick in reversed(picks):
                pick.ready.give_back(pick.task_id)
            raise
        claimed = []
        for pick, moved in zip(picks, results, strict=True):
            pick.ready.settle(pick.task_id)
            if moved is not None:
                pick.ready.served_at = now
                claimed.append(Claimed(moved.task, pick.dataset, pick.ready.requirements))
        return claimed

    def _counts(self, dataset_id: str | None = None) -> Counter[int]:
        """How many tasks may be claimed, by class; of one dataset or of all."""
        return Counter(
            {
                class_id: ready.count
                for class_id, ready in self._ready.classes.items()
                if ready.count and dataset_id in (None, ready.task_class.dataset_id)
            }
        )

    def _ranked(self) -> list[Ranked]:
        found = []
        for ready in self._ready.classes.values():
            dataset = self._catalogue.at_hand(ready.task_class.dataset_id)
            if dataset is not None and not dataset.suspended:
                found.append((ready, dataset))
        return found


def _less(offer: Offer, taken: Requirements) -> Offer:
    return Offer(resources=offer.resources.minus(taken.resources), os=offer.os, site=offer.site)
