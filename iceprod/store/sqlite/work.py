"""The moves of one transaction, and all that follows from each.

All moves that queued at the same time share one `Work`.  Later moves see what earlier
ones did, so of two callers who want the same move one gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from iceprod.model.lifecycle import MOVES, JobStatus, TaskEvent, TaskStatus
from iceprod.model.task import Ended, Move, Moved, Outcome, Task
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.changes import COMPLETE, FAILED, SUSPENDED, Changes, Row
from iceprod.store.sqlite.keys import JOB_MASK, TASK_BITS, TASK_MASK, kind_key
from iceprod.store.sqlite.states import State

_CODE = rows.TASK_CODE
IDLE, WAITING, PROCESSING = _CODE[TaskStatus.IDLE], _CODE[TaskStatus.WAITING], _CODE[TaskStatus.PROCESSING]

_STEPS = {
    event: {_CODE[before]: _CODE[after] for (before, happened), after in MOVES.items() if happened is event}
    for event in TaskEvent
}
_ERRORS = frozenset({TaskEvent.RETRIED, TaskEvent.DEFERRED, TaskEvent.FAILED})
_RESETS = frozenset({TaskEvent.RESET, TaskEvent.HARD_RESET})
_CUT_SHORT = _RESETS | {TaskEvent.SUSPENDED}
_COUNTED_BY_JOB = frozenset({COMPLETE, FAILED, SUSPENDED})
_STATUS_ALONE = frozenset({TaskEvent.FINISHED, TaskEvent.QUEUED, TaskEvent.RELEASED, TaskEvent.SUSPENDED})
_json = msgspec.json.Encoder().encode
_STOPPED = Ended(Outcome.STOPPED)
_FEW = 8  # needs that are looked at one by one each time

Classed = list[tuple[str, int]]  # task ids with their classes


class Work(Changes):
    """Moves of tasks: guards, dependencies, roll-up."""

    def move(self, key: int, move: Move, *, now: float) -> Moved | None:
        """Carry out one move if its guard holds."""
        row = self.row(key)
        if row is None:
            return None
        before, event = row.status, move.event
        after = _STEPS[event].get(before)
        if after is None:
            return None
        if move.lease_id is not None and (before != PROCESSING or row.lease_id != move.lease_id):
            return None
        if move.holder is not None and row.pilot_id != move.holder:
            return None
        state = self.state(key)
        if event is TaskEvent.RELEASED and not self._may_release(row, state, now=now):
            return None
        if before == PROCESSING:
            self._end(row, move, now=now)
        if _take_over(row, move):
            self.change(row)
        if after in (IDLE, WAITING) and event is not TaskEvent.RELEASED:
            after = self._landing(row, state, after, now=now)
        self.place(row, after, now=now)
        return self._consequences(_task(move.task_id, row, state), row, state, before, now=now)

    def renew(self, key: int, lease_id: str, *, until: float) -> bool:
        """Extend a lease if the task is held by it."""
        row = self.row(key)
        if row is None or row.status != PROCESSING or row.lease_id != lease_id:
            return False
        row.lease_until = until
        self.change_lease(row)
        return True

    def needs_met(self, key: int, state: State) -> bool:
        """Whether everything that a task needs is complete."""
        job_bits = key & JOB_MASK
        needs = state.needs[key & TASK_MASK]
        if len(needs) > _FEW:
            return self._many_met(key, needs, state)
        return all(self._is_complete(need | job_bits) for need in needs)

    def _many_met(self, key: int, needs: Sequence[int], state: State) -> bool:
        """As `needs_met`, beginning with the need that was found wanting when last asked.

        Otherwise a task that needs a thousand others would cost a million looks, as all
        that are complete are looked at each time that one more is.
        """
        job_bits, first = key & JOB_MASK, state.wanting.get(key, 0)
        for place in (*range(first, len(needs)), *range(first)):
            if not self._is_complete(needs[place] | job_bits):
                state.remember_wanting(key, place)
                return False
        return True

    def _is_complete(self, key: int) -> bool:
        row = self.row(key)
        return row is not None and row.status == COMPLETE

    def settle(self, keys: Iterable[int], *, now: float) -> tuple[Classed, Classed]:
        """Put idle and waiting tasks where their needs say; those released and those held."""
        released: Classed = []
        held: Classed = []
        for key in keys:
            row = self.row(key)
            if row is None or row.status not in (IDLE, WAITING):
                continue
            state = self.state(key)
            after = self._landing(row, state, row.status, now=now)
            if after != row.status:
                self.place(row, after, now=now)
                (released if after == WAITING else held).append((_task_id(key, state), row.class_id))
        return released, held

    def _may_release(self, row: Row, state: State, *, now: float) -> bool:
        """Whether an idle task may be released; ends a back-off that is over in any case.

        A task whose dependencies were reset during its back-off would otherwise stay due
        for ever.
        """
        if row.release_at is not None:
            if row.release_at > now:
                return False
            row.release_at = None
            self.change(row)
        return self.needs_met(row.key, state)

    def _landing(self, row: Row, state: State, after: int, *, now: float) -> int:
        """Idle or waiting, whichever a task that goes to one of them belongs to."""
        if row.release_at is not None:
            if row.release_at > now:
                return IDLE
            row.release_at = None
            self.change(row)
        return WAITING if self.needs_met(row.key, state) else IDLE

    def _end(self, row: Row, move: Move, *, now: float) -> None:
        """Record the attempt that a move ends or cuts short."""
        ended = move.ended or (_STOPPED if move.event in _CUT_SHORT else None)
        if ended is None:
            return
        self.record(
            (
                row.key,
                row.attempt,
                row.lease_id,
                row.pilot_id,
                ended.hostname,
                row.status_changed_at,
                now,
                ended.outcome,
                ended.failure_class,
                ended.summary,
                ended.walltime_s,
                _json(ended.usage).decode(),
                _json(ended.stats).decode(),
                kind_key(row.key),
            )
        )

    def _consequences(self, task: Task, row: Row, state: State, before: int, *, now: float) -> Moved:
        """Move what depends on a task that was moved, roll up, and tell it all."""
        after, key = row.status, row.key
        released: Classed = []
        held: Classed = []
        job = dataset = None
        if after == WAITING:
            released.append((task.task_id, row.class_id))
        if before != after and (after in _COUNTED_BY_JOB or before in _COUNTED_BY_JOB):
            if COMPLETE in (before, after) and state.dependents[key & TASK_MASK]:
                found = self.settle(_dependents(key, state), now=now)
                released += found[0]
                held += found[1]
            job, dataset = self._roll_up(key, state, (before, after), now=now)
        return Moved(task, rows.TASK_STATUSES[before], tuple(released), tuple(held), job, dataset)

    def _roll_up(
        self, key: int, state: State, change: tuple[int, int], *, now: float
    ) -> tuple[JobStatus | None, JobStatus | None]:
        """Count the change in the job; the new status of job and of dataset where it changed."""
        job = self.job(key >> TASK_BITS)
        before, after = change
        job.count(before, -1)
        job.count(after, +1)
        status = job.rolled_up()
        if status == job.status:
            return None, None
        dataset = state.move_job(job.status, status, now=now)
        self.change_state(state)
        job.status, job.status_changed_at = status, now
        return rows.JOB_STATUSES[status], dataset


def _take_over(row: Row, move: Move) -> bool:
    """Change the fields that an event changes, still without the status; whether there are any."""
    event, gives_none = move.event, move.lease is None and move.class_id is None and move.release_at is None
    if event in _STATUS_ALONE and gives_none:
        return False
    if event is TaskEvent.CLAIMED:
        row.attempt += 1
    elif event in _ERRORS:
        row.failures += 1
    elif event is TaskEvent.EVICTED:
        row.evictions += row.status == PROCESSING
    elif event in _RESETS:
        row.failures = row.evictions = 0
        row.release_at = None
    if move.lease is not None:
        row.lease_id, row.pilot_id, row.lease_until = (
            move.lease.lease_id,
            move.lease.pilot_id,
            move.lease.until,
        )
    if move.class_id is not None:
        row.class_id = move.class_id
    if move.release_at is not None:
        row.release_at = move.release_at
    return True


def _dependents(key: int, state: State) -> list[int]:
    job_bits = key & JOB_MASK
    return [dependent | job_bits for dependent in state.dependents[key & TASK_MASK]]


def _task_id(key: int, state: State) -> str:
    return f"{state.dataset.dataset_id}-{(key & JOB_MASK) >> TASK_BITS}-{key & TASK_MASK}"


def _task(task_id: str, row: Row, state: State) -> Task:
    return Task(
        task_id,
        state.dataset.dataset_id,
        (row.key & JOB_MASK) >> TASK_BITS,
        row.key & TASK_MASK,
        rows.TASK_STATUSES[row.status],
        row.status_changed_at,
        row.class_id,
        row.attempt,
        row.failures,
        row.evictions,
        row.lease_id,
        row.lease_until,
        row.pilot_id,
        row.release_at,
    )
