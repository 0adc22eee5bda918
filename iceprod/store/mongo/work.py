"""The moves of the tasks of one job, worked out in memory.

The rules are those of `TaskRepository.move`.  Nothing here talks to the database: a job's
document comes in, and what to write comes out, to be written if nobody else has meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from iceprod.model.lifecycle import MOVES, JobStatus, TaskEvent, TaskStatus, roll_up_job
from iceprod.model.task import Attempt, Ended, Move, Moved, Outcome, Task, parse_job_id
from iceprod.store.mongo.client import Document
from iceprod.store.mongo.documents import (
    COMPLETE,
    IDLE,
    PROCESSING,
    WAITING,
    attempt_document,
    merge,
    rederived,
    task_key,
    task_of,
)
from iceprod.store.mongo.owed import Owed
from iceprod.store.mongo.states import State

_ERRORS: Final = frozenset({TaskEvent.RETRIED, TaskEvent.DEFERRED, TaskEvent.FAILED})
_RESETS: Final = frozenset({TaskEvent.RESET, TaskEvent.HARD_RESET})
_CUT_SHORT: Final = _RESETS | {TaskEvent.SUSPENDED}
_STOPPED: Final = Ended(Outcome.STOPPED)

Classed = list[tuple[str, int]]  # task ids with their classes


@dataclass(slots=True)
class JobWork:
    """A job's document while its tasks move; ``others`` are the jobs of other datasets that it needs."""

    document: Document
    state: State
    others: Mapping[str, Document] = field(default_factory=dict)
    is_touched: bool = False  # must be written even if nothing has changed
    job_changes: dict[int, tuple[JobStatus, JobStatus]] = field(default_factory=dict)
    last_flip: int | None = None  # the place of the move that last made a task complete, or not so any more
    results: dict[int, Moved | None] = field(default_factory=dict)
    released: Classed = field(default_factory=list)
    held: Classed = field(default_factory=list)
    job_index: int = 0
    _before: dict[int, Document] = field(default_factory=dict)
    _changed: set[int] = field(default_factory=set)
    _attempts: list[Document] = field(default_factory=list)
    _status_before: str = ""
    _counts: Counter[TaskStatus] = field(default_factory=Counter)
    _graph_before: int = 0
    _at: float = 0.0

    def __post_init__(self) -> None:
        _, self.job_index = parse_job_id(self.job_id)
        self._status_before = self.document["status"]
        self._graph_before = self.document["graph"]

    @property
    def job_id(self) -> str:
        """The job's id."""
        return str(self.document["_id"])

    @property
    def is_changed(self) -> bool:
        """Whether there is something to write."""
        return bool(self._changed) or self.is_touched or self.document["graph"] != self._graph_before

    def move(self, place: int, task_index: int, move: Move, *, now: float) -> None:
        """Carry out one move if its guard holds; the result is kept under ``place``."""
        self.results[place] = self._move(place, task_index, move, now=now)

    def settle(self, task_indices: Iterable[int], *, now: float) -> None:
        """Put idle and waiting tasks where their needs say."""
        self._settle(task_indices, self.released, self.held, now=now)

    def settle_all(self, graph_version: int, *, now: float) -> None:
        """Bring every task in line with a graph, and remember that."""
        self.settle(range(len(self.document["tasks"])), now=now)
        self.document["graph"] = graph_version

    def renew(self, task_index: int, lease_id: str, *, until: float) -> bool:
        """Extend a lease if the task is held by it."""
        task = self._task(task_index)
        if task is None or task["status"] != PROCESSING or task["lease_id"] != lease_id:
            return False
        task["lease_until"] = until
        self._changed.add(task_index)
        return True

    def owed(self) -> Owed:
        """What must follow from all that was changed."""
        counts: Counter[tuple[int, str]] = Counter()
        ready: Counter[int] = Counter()
        flips = []
        for index, before in self._before.items():
            status, class_id = before["status"], int(before["class_id"])
            task = self.document["tasks"][index]
            counts[index, status] -= 1
            counts[index, task["status"]] += 1
            ready[class_id] -= status == WAITING
            ready[task["class_id"]] += task["status"] == WAITING
            if (status == COMPLETE) != (task["status"] == COMPLETE):
                flips.append(index)
        status = self.document["status"]
        return Owed(
            self.state.epoch,
            self._at,
            tasks=[(index, status, n) for (index, status), n in counts.items() if n],
            ready=[(class_id, n) for class_id, n in ready.items() if n],
            job=None if status == self._status_before else (self._status_before, status),
            attempts=self._attempts,
            flips=flips,
        )

    def update(self, batch: str, owed: Owed) -> Document:
        """What to write into the document as it was read: what has changed, however many tasks it has."""
        document = self.document
        changed = {
            f"tasks.{index}.{name}": value
            for index in sorted(self._changed)
            for name, value in document["tasks"][index].items()
            if value != self._before[index][name]
        }
        sets = {
            **changed,
            "status": document["status"],
            "status_changed_at": document["status_changed_at"],
            "graph": document["graph"],
            "version": document["version"] + 1,
            "stamp": batch,
        }
        change: Document = {"$set": sets}
        if not owed.is_empty:
            sets[f"owed.{batch}"] = owed.text()
            change["$push"] = {"owing": batch}
        merge(change, rederived(self._tasks_before(), document["tasks"]))
        return change

    def _tasks_before(self) -> list[Document]:
        """The tasks as they were read."""
        tasks = list(self.document["tasks"])
        for index, task in self._before.items():
            tasks[index] = task
        return tasks

    def _move(self, place: int, task_index: int, move: Move, *, now: float) -> Moved | None:
        task = self._task(task_index)
        if task is None:
            return None
        before, event = TaskStatus(task["status"]), move.event
        after = MOVES.get((before, event))
        if after is None:
            return None
        is_held = before is TaskStatus.PROCESSING
        if move.lease_id is not None and not (is_held and task["lease_id"] == move.lease_id):
            return None
        if move.holder is not None and task["pilot_id"] != move.holder:
            return None
        if event is TaskEvent.RELEASED and not self._may_release(task, now=now):
            return None
        if is_held:
            self._end(task, move, now=now)
        _take_over(task, move)
        if after in (TaskStatus.IDLE, TaskStatus.WAITING) and event is not TaskEvent.RELEASED:
            after = self._landing(task, now=now)
        self._place(task, after, now=now)
        return self._consequences(place, task, before, now=now)

    def _consequences(self, place: int, task: Document, before: TaskStatus, *, now: float) -> Moved:
        """Move what depends on a task that was moved, roll up, and tell it all."""
        after, released, held = task["status"], Classed(), Classed()
        value = self._value(task)
        if after == WAITING:
            released.append((value.task_id, value.class_id))
        if before != after and COMPLETE in (before, after):
            index, self.last_flip = task["index"], place
            dependents = self.state.dependents[index] if index < len(self.state.dependents) else ()
            self._settle(dependents, released, held, now=now)
        job = self._roll_up(place, now=now)
        return Moved(value, before, tuple(released), tuple(held), job)

    def _settle(self, indices: Iterable[int], released: Classed, held: Classed, *, now: float) -> None:
        for index in indices:
            task = self._task(index)
            if task is None or task["status"] not in (IDLE, WAITING):
                continue
            before, after = task["status"], self._landing(task, now=now)
            if after != before:
                self._place(task, after, now=now)
                value = self._value(task)
                (released if after == WAITING else held).append((value.task_id, value.class_id))

    def _task(self, index: int) -> Document | None:
        """A task that is about to be changed."""
        tasks = self.document["tasks"]
        if index >= len(tasks):
            return None
        task: Document = tasks[index]
        if index not in self._before:
            self._before[index] = dict(task)
        return task

    def _place(self, task: Document, status: TaskStatus, *, now: float) -> None:
        if self._counts:
            self._counts[TaskStatus(task["status"])] -= 1
            self._counts[status] += 1
        task["status"] = status.value
        task["status_changed_at"] = self._at = now
        self._changed.add(task["index"])

    def _may_release(self, task: Document, *, now: float) -> bool:
        """Whether an idle task may be released; ends a back-off that is over in any case.

        A task whose dependencies were reset during its back-off would otherwise stay due
        for ever.
        """
        return self._is_rested(task, now=now) and self._is_free(task["index"])

    def _landing(self, task: Document, *, now: float) -> TaskStatus:
        """Idle or waiting, whichever a task that goes to one of them belongs to."""
        is_free = self._is_rested(task, now=now) and self._is_free(task["index"])
        return TaskStatus.WAITING if is_free else TaskStatus.IDLE

    def _is_rested(self, task: Document, *, now: float) -> bool:
        """Whether no back-off holds a task; one that is over is forgotten."""
        if task["release_at"] is not None:
            if task["release_at"] > now:
                return False
            task["release_at"] = None
            self._changed.add(task["index"])
        return True

    def _is_free(self, index: int) -> bool:
        """Whether everything that a task needs is complete."""
        state, tasks = self.state, self.document["tasks"]
        if index >= len(state.depends):
            return True  # a later graph, which has fewer tasks, knows of no need
        if not all(_is_complete(tasks, needed) for needed in state.depends[index]):
            return False
        for other, needed in state.external[index]:
            document = self.others.get(f"{other}-{self.job_index}")
            if document is None or not _is_complete(document["tasks"], needed):
                return False
        return True

    def _end(self, task: Document, move: Move, *, now: float) -> None:
        """Record the attempt that a move ends or cuts short."""
        ended = move.ended or (_STOPPED if move.event in _CUT_SHORT else None)
        if ended is None:
            return
        value = self._value(task)
        attempt = Attempt(
            value.task_id,
            value.attempt,
            value.lease_id,
            value.pilot_id,
            ended.hostname,
            value.status_changed_at,
            now,
            ended.outcome,
            ended.failure_class,
            ended.summary,
            ended.walltime_s,
            ended.usage,
            ended.stats,
        )
        key = task_key(self.state.number, self.job_index, value.task_index)
        self._attempts.append(attempt_document(attempt, key))

    def _roll_up(self, place: int, *, now: float) -> JobStatus | None:
        """Bring the job's status up to its tasks; the new one if it changed."""
        if not self._counts:
            self._counts.update(TaskStatus(task["status"]) for task in self.document["tasks"])
        status, before = roll_up_job(self._counts), JobStatus(self.document["status"])
        if status is before:
            return None
        self.document["status"], self.document["status_changed_at"] = status.value, now
        self.job_changes[place] = before, status
        return status

    def _value(self, task: Document) -> Task:
        return task_of(self.state.dataset_id, self.job_index, task)


def _is_complete(tasks: list[Mapping[str, Any]], index: int) -> bool:
    return index < len(tasks) and bool(tasks[index]["status"] == COMPLETE)


def _take_over(task: Document, move: Move) -> None:
    """Change the fields that an event changes, still without the status."""
    event = move.event
    if event is TaskEvent.CLAIMED:
        task["attempt"] += 1
    elif event in _ERRORS:
        task["failures"] += 1
    elif event is TaskEvent.EVICTED:
        task["evictions"] += task["status"] == PROCESSING
    elif event in _RESETS:
        task["failures"] = task["evictions"] = 0
        task["release_at"] = None
    if move.lease is not None:
        task["lease_id"] = move.lease.lease_id
        task["pilot_id"] = move.lease.pilot_id
        task["lease_until"] = move.lease.until
    if move.class_id is not None:
        task["class_id"] = move.class_id
    if move.release_at is not None:
        task["release_at"] = move.release_at
