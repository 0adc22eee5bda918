"""The one way in which tasks change their status.

Every service that moves tasks does it here, so that the ready index, the fair share, the
pilots that wait, other processes and everybody who listens hear of it, whoever asked for
the move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import StoreUnavailable
from iceprod.model.federation import site_of
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.shares import Leaf
from iceprod.model.task import Move, Moved
from iceprod.services.bulletin import Draft
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.scheduling.order import FairShare
from iceprod.services.scheduling.ready import ReadyIndex
from iceprod.services.scheduling.turns import Results, Turns
from iceprod.services.scheduling.waiting import Waiters
from iceprod.store.base import Store, TaskClass

_TAKEN: Final = frozenset({TaskEvent.SUSPENDED, TaskEvent.RESET, TaskEvent.HARD_RESET})
"""What happens to a running task without its holder; one that is evicted was given up, or not heard of."""


class Transitions:
    """Moves tasks and tells everybody whom it concerns."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        ready: ReadyIndex,
        waiters: Waiters,
        share: FairShare,
        catalogue: Catalogue,
        events: Events,
        draft: Draft,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ready = ready
        self._waiters = waiters
        self._share = share
        self._catalogue = catalogue
        self._events = events
        self._draft = draft
        self._turns = Turns(self._carry_out)

    async def apply(self, moves: Sequence[Move]) -> Results:
        """Carry out moves as `TaskRepository.move` does, and spread the news."""
        return await self._turns.apply(moves)

    async def _carry_out(self, moves: Sequence[Move]) -> Results:
        try:
            results = await self._store.tasks.move(moves, now=self._clock())
        except StoreUnavailable:
            self._ready.is_stale = True  # some may have been made all the same, and nobody is told
            raise
        done = [(move, moved) for move, moved in zip(moves, results, strict=True) if moved is not None]
        released: Counter[int] = Counter()
        for move, moved in done:
            self._note(move, moved, released)
        self._charge(done)
        self._draft.moved(results)
        self.wake(released)
        datasets = dict.fromkeys((moved.task.dataset_id for _, moved in done), False)
        self._tell(datasets | {moved.task.dataset_id: True for _, moved in done if moved.dataset is not None})
        return results

    def materialised(self, released: Sequence[tuple[str, int]], dataset_id: str) -> None:
        """New tasks have come into being, and these of them may be claimed."""
        counts: Counter[int] = Counter()
        for task_id, class_id in released:
            self._ready.add(task_id, class_id)
            counts[class_id] += 1
        self._draft.released(released)
        self.wake(counts)
        self._tell({dataset_id: True})

    def moved_elsewhere(
        self, *, gone: Mapping[int, Sequence[str]], ready: Mapping[int, Sequence[str]]
    ) -> None:
        """Other processes moved tasks: these wait no more, and those do now, each by its class."""
        for class_id, task_ids in gone.items():
            for task_id in task_ids:
                self._ready.remove(task_id, class_id)
        for class_id, task_ids in ready.items():
            for task_id in task_ids:
                self._ready.add(task_id, class_id)
        self.wake(Counter({class_id: len(task_ids) for class_id, task_ids in ready.items()}))

    def dataset_changed(self, dataset_id: str) -> None:
        """Tell everybody that something about a dataset is different."""
        self._events.publish(Event(EventKind.DATASET_CHANGED, dataset_id))

    def _note(self, move: Move, moved: Moved, released: Counter[int]) -> None:
        if moved.before is TaskStatus.WAITING and move.event is not TaskEvent.CLAIMED:
            self._ready.remove(moved.task.task_id, moved.task.class_id)
        for task_id, class_id in moved.held:
            self._ready.remove(task_id, class_id)
        for task_id, class_id in moved.released:
            self._ready.add(task_id, class_id)
            released[class_id] += 1
        if moved.before is TaskStatus.PROCESSING and move.event in _TAKEN and site_of(moved.task.pilot_id):
            self._events.publish(Event(EventKind.LEASES_TAKEN, moved.task.pilot_id))

    def _charge(self, done: Sequence[tuple[Move, Moved]]) -> None:
        """Charge whose tasks began and ceased to run, once for all of a class."""
        began: Counter[tuple[str, int]] = Counter()
        ended: dict[tuple[str, int], list[float]] = {}
        for move, moved in done:
            kind = moved.task.dataset_id, moved.task.class_id
            if move.event is TaskEvent.CLAIMED:
                began[kind] += 1
            elif moved.before is TaskStatus.PROCESSING:
                ended.setdefault(kind, []).append(move.ended.walltime_s if move.ended else 0.0)
        for kind, tasks in began.items():
            if (charged := self._charged(*kind)) is not None:
                leaf, cores = charged
                self._share.started(leaf, cores * tasks)
        for kind, seconds in ended.items():
            if (charged := self._charged(*kind)) is not None:
                leaf, cores = charged
                self._share.ended(leaf, cores * len(seconds), cores * sum(seconds) / 3600)

    def _charged(self, dataset_id: str, class_id: int) -> tuple[Leaf, float] | None:
        """Who is charged for a task of a class, and for how many cores; None if that is not known."""
        dataset, task_class = self._catalogue.at_hand(dataset_id), self._ready.known(class_id)
        if dataset is None or task_class is None:
            return None
        return (dataset.group, dataset.owner), task_class.requirements.resources.cpu

    def wake(self, released: Counter[int]) -> None:
        """Tell pilots that wait: so many tasks of these classes may be claimed now."""
        for class_id, number in released.items():
            task_class: TaskClass | None = self._ready.known(class_id)
            if task_class is not None and self._may_run_here(task_class.dataset_id):
                self._waiters.wake(task_class.requirements, number)
        if released:
            self._events.publish(Event(EventKind.WORK_READY))

    def _may_run_here(self, dataset_id: str) -> bool:
        dataset = self._catalogue.at_hand(dataset_id)
        return dataset is None or dataset.may_run_at("")

    def _tell(self, datasets: dict[str, bool]) -> None:
        for dataset_id, has_changed in datasets.items():
            if has_changed:
                self._catalogue.forget(dataset_id)
            kind = EventKind.DATASET_CHANGED if has_changed else EventKind.TASKS_MOVED
            self._events.publish(Event(kind, dataset_id))
