"""Counting afresh what counters say, and correcting them.

Counters move in the transaction of what they count, so they drift only by a fault of the
program or of the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from iceprod.model.lifecycle import JobStatus
from iceprod.store.base import Drift
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.keys import JOB_BITS, TASK_BITS, TASK_MASK, job_key, kind_keys, task_keys
from iceprod.store.sqlite.states import read_dataset
from iceprod.store.sqlite.transaction import SqliteTransaction

# What a job's row must say, from its tasks: three numbers of at most 4096 in one whole number.
_COUNTED = (
    "(SELECT sum(status = 4) + (sum(status = 5) << 16) + (sum(status = 6) << 32) FROM tasks"
    " WHERE tasks.key BETWEEN jobs.key << 12 AND jobs.key << 12 | 4095)"
)
_STORED = "complete + (failed << 16) + (suspended << 32)"
_ROLLED_UP = "CASE WHEN complete = tasks THEN 1 WHEN failed > 0 THEN 2 WHEN suspended > 0 THEN 3 ELSE 0 END"
_WRONG_JOBS = (
    f"SELECT key, {_STORED}, {_COUNTED}, status, {_ROLLED_UP} FROM jobs WHERE key BETWEEN ? AND ?"
    f" AND ({_STORED} <> {_COUNTED} OR status <> {_ROLLED_UP})"
)
_CORRECT_JOB = "UPDATE jobs SET complete = ?, failed = ?, suspended = ? WHERE key = ?"
_CORRECT_STATUS = f"UPDATE jobs SET status = {_ROLLED_UP} WHERE key = ?"


def drift(connection: sqlite3.Connection, number: int) -> list[Drift]:
    """Every counter of a dataset that differs from what it counts, in one snapshot."""
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN")
    try:
        dataset_id, stored_status, made, removed = _heading(connection, number)
        found = _jobs_drift(connection, dataset_id, number)
        found += _tasks_drift(connection, dataset_id, number)
        found += _job_counts_drift(connection, dataset_id, number)
        jobs = _jobs_counted(connection, number)
        if made != sum(jobs) + removed:
            found.append(Drift(dataset_id, "jobs_made", made, sum(jobs) + removed))
        status = rows.JOB_CODE[_rolled_up(connection, number, jobs)]
        if status != stored_status:
            found.append(Drift(dataset_id, "status", stored_status, status))
    finally:
        if own:
            connection.execute("ROLLBACK")
    return found


def correct(transaction: SqliteTransaction, number: int) -> list[Drift]:
    """Correct what `drift` finds; the drift there was."""
    connection = transaction.settled()
    found = drift(connection, number)
    if not found:
        return []
    for key, _, counted, _, _ in connection.execute(_WRONG_JOBS, _job_bounds(number)).fetchall():
        connection.execute(_CORRECT_JOB, (counted & 0xFFFF, counted >> 16 & 0xFFFF, counted >> 32, key))
        connection.execute(_CORRECT_STATUS, (key,))
    jobs = write_counts(connection, number)
    connection.execute(
        "UPDATE datasets SET jobs_made = jobs_removed + ? WHERE number = ?", (sum(jobs), number)
    )
    connection.execute(
        "UPDATE datasets SET status = ? WHERE number = ?",
        (rows.JOB_CODE[_rolled_up(connection, number, jobs)], number),
    )
    transaction.states.forget(number)
    return found


def write_counts(connection: sqlite3.Connection, number: int) -> list[int]:
    """Count the tasks and jobs of a dataset into its counters; how many jobs are in each status."""
    for kind, counts in _tasks_counted(connection, number).items():
        connection.execute(
            "INSERT OR REPLACE INTO task_counts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (kind, *counts)
        )
    jobs = _jobs_counted(connection, number)
    connection.execute("INSERT OR REPLACE INTO job_counts VALUES (?, ?, ?, ?, ?)", (number, *jobs))
    return jobs


def _heading(connection: sqlite3.Connection, number: int) -> tuple[str, int, int, int]:
    row = connection.execute(
        "SELECT dataset_id, status, jobs_made, jobs_removed FROM datasets WHERE number = ?", (number,)
    ).fetchone()
    return row[0], row[1], row[2], row[3]


def _rolled_up(connection: sqlite3.Connection, number: int, jobs: Sequence[int]) -> JobStatus:
    dataset = read_dataset(connection, number)
    if dataset is None:
        raise LookupError(f"dataset {number} has gone")
    return dataset.rolled_up(dict(zip(rows.JOB_STATUSES, jobs, strict=True)))


def _job_bounds(number: int) -> tuple[int, int]:
    return job_key(number, 0), job_key(number + 1, 0) - 1


def _jobs_drift(connection: sqlite3.Connection, dataset_id: str, number: int) -> list[Drift]:
    found = []
    last = (1 << JOB_BITS) - 1
    for key, stored, counted, was, status in connection.execute(_WRONG_JOBS, _job_bounds(number)).fetchall():
        name = f"jobs/{key & last}"
        if stored != counted:
            for shift, what in ((0, "complete"), (16, "failed"), (32, "suspended")):
                pair = stored >> shift & 0xFFFF, counted >> shift & 0xFFFF
                if pair[0] != pair[1]:
                    found.append(Drift(dataset_id, f"{name}/{what}", *pair))
        elif was != status:
            found.append(Drift(dataset_id, f"{name}/status", was, status))
    return found


def _tasks_counted(connection: sqlite3.Connection, number: int) -> dict[int, list[int]]:
    """For each kind of task, how many are in each status."""
    first, last = kind_keys(number)
    known = connection.execute("SELECT kind FROM task_counts WHERE kind BETWEEN ? AND ?", (first, last))
    counted = {kind: [0] * len(rows.TASK_STATUSES) for (kind,) in known.fetchall()}
    for index, status, count in connection.execute(
        "SELECT key & 4095, status, count(*) FROM tasks WHERE key BETWEEN ? AND ? GROUP BY 1, 2",
        task_keys(number),
    ).fetchall():
        counted.setdefault(number << TASK_BITS | index, [0] * len(rows.TASK_STATUSES))[status] = count
    return counted


def _tasks_drift(connection: sqlite3.Connection, dataset_id: str, number: int) -> list[Drift]:
    counted = _tasks_counted(connection, number)
    stored = {
        kind: counts
        for kind, *counts in connection.execute(
            "SELECT * FROM task_counts WHERE kind BETWEEN ? AND ?", kind_keys(number)
        ).fetchall()
    }
    return [
        Drift(dataset_id, f"tasks/{kind & TASK_MASK}/{status}", was, now)
        for kind in sorted(counted)
        for status, was, now in zip(
            rows.TASK_STATUSES, stored.get(kind, [0] * len(rows.TASK_STATUSES)), counted[kind], strict=True
        )
        if was != now
    ]


def _jobs_counted(connection: sqlite3.Connection, number: int) -> list[int]:
    """How many jobs of a dataset are in each status."""
    counts = [0] * len(rows.JOB_STATUSES)
    for status in range(len(counts)):
        (counts[status],) = connection.execute(
            "SELECT count(*) FROM jobs WHERE status = ? AND key BETWEEN ? AND ?",
            (status, *_job_bounds(number)),
        ).fetchone()
    return counts


def _job_counts_drift(connection: sqlite3.Connection, dataset_id: str, number: int) -> list[Drift]:
    stored = connection.execute(
        "SELECT processing, complete, errors, suspended FROM job_counts WHERE number = ?", (number,)
    ).fetchone()
    return [
        Drift(dataset_id, f"jobs/{status}", was, now)
        for status, was, now in zip(rows.JOB_STATUSES, stored, _jobs_counted(connection, number), strict=True)
        if was != now
    ]
