"""Rows of one transaction: each is read once, changed in memory, and written once.

Many moves share a counter, a job or a dataset; here it is written once for all of them.  And what
becomes of many rows alike is written by one statement, since each has a price of its own: the
interpreter is let go and taken back, and SQLite notes how to undo it.
"""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from iceprod.model.lifecycle import TaskStatus, roll_up_job
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.keys import NUMBER_BITS, kind_key
from iceprod.store.sqlite.states import State, States

COMPLETE, FAILED, SUSPENDED = (
    rows.TASK_CODE[status] for status in (TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.SUSPENDED)
)

_IN = "key IN (SELECT value FROM json_each(?))"
_SELECT = f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE key = ?"
_SELECT_MANY = f"SELECT {rows.TASK_COLUMNS} FROM {rows.each_of('tasks')}"
_JOB_COLUMNS = "key, status, status_changed_at, tasks, complete, failed, suspended"
_SELECT_JOB = f"SELECT {_JOB_COLUMNS} FROM jobs WHERE key = ?"
_SELECT_JOBS = f"SELECT {_JOB_COLUMNS} FROM {rows.each_of('jobs')}"
_UPDATE = (
    "UPDATE tasks SET status = ?, status_changed_at = ?, class_id = ?, attempt = ?, failures = ?,"
    " evictions = ?, lease_id = ?, lease_until = ?, pilot_id = ?, release_at = ? WHERE key = ?"
)
_UPDATE_LEASE = "UPDATE tasks SET lease_until = ? WHERE key = ?"
_UPDATE_STATUS = f"UPDATE tasks SET status = ?, status_changed_at = ? WHERE {_IN}"
_UPDATE_JOBS = (
    f"UPDATE jobs SET status = ?, status_changed_at = ?, complete = ?, failed = ?, suspended = ? WHERE {_IN}"
)
_UPDATE_COUNTS = (
    "UPDATE task_counts SET idle = idle + ?, waiting = waiting + ?, queued = queued + ?,"
    " processing = processing + ?, complete = complete + ?, failed = failed + ?,"
    " suspended = suspended + ? WHERE kind = ?"
)
_ATTEMPT = f"({', '.join('?' * 14)})"
_INSERT_ATTEMPT = f"INSERT INTO attempts ({rows.ATTEMPT_COLUMNS}, kind) VALUES {_ATTEMPT}"
_AT_ONCE = 25
_INSERT_ATTEMPTS = _INSERT_ATTEMPT + f", {_ATTEMPT}" * (_AT_ONCE - 1)


@dataclass(slots=True)
class Row:
    """A task as the writer changes it; the names are those of the columns."""

    key: int
    status: int
    status_changed_at: float
    class_id: int
    attempt: int
    failures: int
    evictions: int
    lease_id: str
    lease_until: float
    pilot_id: str
    release_at: float | None


@dataclass(slots=True)
class JobRow:
    """A job as the writer changes it, with the number of its tasks in the statuses that matter."""

    key: int
    status: int
    status_changed_at: float
    tasks: int
    complete: int
    failed: int
    suspended: int

    def count(self, status: int, by: int) -> None:
        """Count a task that enters or leaves a status."""
        if status == COMPLETE:
            self.complete += by
        elif status == FAILED:
            self.failed += by
        elif status == SUSPENDED:
            self.suspended += by

    def rolled_up(self) -> int:
        """The status that follows from the counts."""
        return _rolled_up(self.tasks, self.complete, self.failed, self.suspended)


@functools.lru_cache(maxsize=4096)
def _rolled_up(tasks: int, complete: int, failed: int, suspended: int) -> int:
    counts = {
        TaskStatus.COMPLETE: complete,
        TaskStatus.FAILED: failed,
        TaskStatus.SUSPENDED: suspended,
        TaskStatus.PROCESSING: tasks - complete - failed - suspended,
    }
    return rows.JOB_CODE[roll_up_job(counts)]


class Changes:
    """Tasks, jobs, datasets and counters as they stand within the transaction, until `flush`."""

    def __init__(self, connection: sqlite3.Connection, states: States) -> None:
        self._connection = connection
        self._states = states
        self._rows: dict[int, Row | None] = {}
        self._jobs: dict[int, JobRow] = {}
        self._placed: dict[int, Row] = {}
        self._changed_rows: dict[int, Row] = {}
        self._changed_jobs: dict[int, JobRow] = {}
        self._changed_states: dict[int, State] = {}
        self._leases: dict[int, Row] = {}
        self._counts: dict[int, list[int]] = {}
        self._attempts: list[tuple[Any, ...]] = []

    def load(self, keys: Iterable[int]) -> None:
        """Read tasks that are about to be asked for, in one query."""
        for values in self._connection.execute(_SELECT_MANY, (_text(keys),)).fetchall():
            self._rows.setdefault(values[0], Row(*values))

    def load_jobs(self, keys: Iterable[int]) -> None:
        """Read jobs whose counters are about to change, in one query."""
        for values in self._connection.execute(_SELECT_JOBS, (_text(keys),)).fetchall():
            self._jobs.setdefault(values[0], JobRow(*values))

    def row(self, key: int) -> Row | None:
        """A task as it stands now."""
        try:
            return self._rows[key]
        except KeyError:
            values = self._connection.execute(_SELECT, (key,)).fetchone()
            row = self._rows[key] = None if values is None else Row(*values)
            return row

    def job(self, key: int) -> JobRow:
        """The job of an existing task, about to be changed."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = JobRow(*self._connection.execute(_SELECT_JOB, (key,)).fetchone())
        self._changed_jobs[key] = job
        return job

    def state(self, key: int) -> State:
        """The dataset of a task."""
        return self._states.get(self._connection, key >> NUMBER_BITS)

    def change(self, row: Row) -> None:
        """A task's fields have changed, not its status alone."""
        self._changed_rows[row.key] = row

    def change_lease(self, row: Row) -> None:
        """A task's lease was extended, and nothing else."""
        self._leases[row.key] = row

    def change_state(self, state: State) -> None:
        """A dataset's status or job counters have changed."""
        self._changed_states[state.dataset.number] = state

    def place(self, row: Row, status: int, *, now: float) -> None:
        """Put a task into a status and count it there."""
        kind = kind_key(row.key)
        counts = self._counts.get(kind)
        if counts is None:
            counts = self._counts[kind] = [0] * len(rows.TASK_STATUSES)
        counts[row.status] -= 1
        counts[status] += 1
        row.status = status
        row.status_changed_at = now
        self._placed[row.key] = row

    def record(self, attempt: tuple[Any, ...]) -> None:
        """Add an ended attempt: its ``ATTEMPT_COLUMNS`` and its kind."""
        self._attempts.append(attempt)

    def flush(self) -> None:
        """Write all that has changed; afterwards everything is read afresh."""
        changed = self._changed_rows
        self._write(_UPDATE, [_task_values(row) for row in changed.values()])
        leases = [(row.lease_until, key) for key, row in self._leases.items() if key not in changed]
        self._write(_UPDATE_LEASE, leases)
        placed = (row for key, row in self._placed.items() if key not in changed)
        self._write_alike(_UPDATE_STATUS, ((row.key, (row.status, row.status_changed_at)) for row in placed))
        self._write(_UPDATE_COUNTS, [(*n, kind) for kind, n in self._counts.items() if any(n)])
        self._write_alike(_UPDATE_JOBS, ((key, _job_values(job)) for key, job in self._changed_jobs.items()))
        self._write_attempts()
        for state in self._changed_states.values():
            write_state(self._connection, state)
        self._clear()

    def _write(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        if values:
            self._connection.executemany(sql, values)

    def _write_alike(self, sql: str, changed: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        """Write what has changed of rows, given by their keys: once for all that get the same values."""
        alike: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for key, values in changed:
            alike[values].append(key)
        for values, keys in alike.items():
            self._connection.execute(sql, (*values, _text(keys)))

    def _write_attempts(self) -> None:
        attempts = self._attempts
        rest = len(attempts) % _AT_ONCE
        for start in range(rest, len(attempts), _AT_ONCE):
            values = itertools.chain.from_iterable(attempts[start : start + _AT_ONCE])
            self._connection.execute(_INSERT_ATTEMPTS, tuple(values))
        self._write(_INSERT_ATTEMPT, attempts[:rest])

    def _clear(self) -> None:
        self._rows.clear()
        self._jobs.clear()
        self._placed.clear()
        self._changed_rows.clear()
        self._changed_jobs.clear()
        self._changed_states.clear()
        self._leases.clear()
        self._counts.clear()
        self._attempts.clear()


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Write a dataset's status and job counters."""
    dataset = state.dataset
    status = rows.JOB_CODE[dataset.status]
    connection.execute(
        "UPDATE job_counts SET processing = ?, complete = ?, errors = ?, suspended = ? WHERE number = ?",
        (*state.jobs, dataset.number),
    )
    connection.execute(
        "UPDATE datasets SET status = ?, status_changed_at = ? WHERE number = ? AND status <> ?",
        (status, dataset.status_changed_at, dataset.number, status),
    )


def _task_values(row: Row) -> tuple[Any, ...]:
    return (
        row.status,
        row.status_changed_at,
        row.class_id,
        row.attempt,
        row.failures,
        row.evictions,
        row.lease_id,
        row.lease_until,
        row.pilot_id,
        row.release_at,
        row.key,
    )


def _job_values(job: JobRow) -> tuple[Any, ...]:
    return job.status, job.status_changed_at, job.complete, job.failed, job.suspended


def _text(keys: Iterable[int]) -> str:
    return msgspec.json.encode(list(keys)).decode()
