"""Forgetting jobs that have come to their end, and datasets of which no jobs are left."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from iceprod.model.lifecycle import UNFINISHED
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.changes import write_state
from iceprod.store.sqlite.keys import TASK_BITS, TASK_MASK, job_key, kind_keys
from iceprod.store.sqlite.states import State
from iceprod.store.sqlite.transaction import SqliteTransaction

_ALIVE: Final = frozenset(rows.TASK_CODE[status] for status in UNFINISHED)
_JOB: Final = "SELECT status FROM jobs WHERE key = ?"
_TASKS: Final = "SELECT key & 4095, status FROM tasks WHERE key BETWEEN ? AND ?"
_COLUMNS: Final = tuple(str(status) for status in rows.TASK_STATUSES)

Ended = dict[int, list[tuple[int, int]]]
"""Jobs by key: the index and the status of each task."""


def remove_jobs(transaction: SqliteTransaction, number: int, jobs: Sequence[int], *, now: float) -> int:
    """Delete those of some jobs of which no task may run, and count them no more."""
    connection = transaction.settled()
    state = transaction.states.get(connection, number)
    ended: Ended = {}
    for key in {job_key(number, index) for index in jobs}:
        job = connection.execute(_JOB, (key,)).fetchone()
        tasks = connection.execute(_TASKS, _tasks_of(key)).fetchall()
        if job is not None and not any(status in _ALIVE for _, status in tasks):
            ended[key] = tasks
            state.jobs[job[0]] -= 1
    if ended:
        _delete(connection, ended)
        _count(connection, number, (task for tasks in ended.values() for task in tasks))
        _count_jobs(connection, state, len(ended), now=now)
    return len(ended)


def remove(transaction: SqliteTransaction, number: int) -> bool:
    """Delete a dataset without jobs."""
    connection = transaction.settled()
    sql = "SELECT 1 FROM datasets WHERE number = ? AND jobs_made = jobs_removed"
    if connection.execute(sql, (number,)).fetchone() is None:
        return False
    for table in ("configs", "classes", "externals", "job_counts", "ended_at_sites", "datasets"):
        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
    connection.execute("DELETE FROM task_counts WHERE kind BETWEEN ? AND ?", kind_keys(number))
    transaction.states.forget(number)
    return True


def _delete(connection: sqlite3.Connection, ended: Ended) -> None:
    for table in ("logs", "attempts", "tasks"):
        connection.executemany(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", map(_tasks_of, ended))
    connection.executemany("DELETE FROM jobs WHERE key = ?", ((key,) for key in ended))


def _count(connection: sqlite3.Connection, number: int, gone: Iterable[tuple[int, int]]) -> None:
    for (index, status), tasks in Counter(gone).items():
        column = _COLUMNS[status]
        connection.execute(
            f"UPDATE task_counts SET {column} = {column} - ? WHERE kind = ?",
            (tasks, number << TASK_BITS | index),
        )


def _count_jobs(connection: sqlite3.Connection, state: State, gone: int, *, now: float) -> None:
    state.dataset = replace(state.dataset, jobs_removed=state.dataset.jobs_removed + gone)
    state.roll_up(now=now)
    connection.execute(
        "UPDATE datasets SET jobs_removed = ? WHERE number = ?",
        (state.dataset.jobs_removed, state.dataset.number),
    )
    write_state(connection, state)


def _tasks_of(job: int) -> tuple[int, int]:
    return job << TASK_BITS, job << TASK_BITS | TASK_MASK
