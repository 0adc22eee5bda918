"""Records as rows, and what SQLite keeps beside them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, Peer
from iceprod.model.file import FileRecord, OriginCredential, Quota, Usage
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.pilot import Pilot
from iceprod.model.task import Attempt, Task
from iceprod.model.user import Token, User
from iceprod.store.archive import (
    NAMES,
    ConfigRecord,
    JobRecord,
    Kind,
    LogRecord,
    OperationRecord,
    Record,
    ValueRecord,
)
from iceprod.store.base import AuditEntry, TaskClass
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.accounts import token_row
from iceprod.store.sqlite.archive_read import OWN
from iceprod.store.sqlite.credentials import PUT_SEALED, sealed_row
from iceprod.store.sqlite.federation import (
    ERRAND_COLUMNS,
    LETTER_COLUMNS,
    PUT_PEER,
    errand_row,
    operation_row,
    peer_row,
)
from iceprod.store.sqlite.files import PUT_FILE, file_row, write_stored
from iceprod.store.sqlite.keys import NUMBER_BITS, TASK_BITS, TASK_MASK, job_key, kind_key, task_key
from iceprod.store.sqlite.recount import write_counts
from iceprod.store.sqlite.states import read_dataset
from iceprod.store.sqlite.usage import QUOTA_COLUMNS, USAGE_COLUMNS, quota_row, usage_row

Row = tuple[Any, ...]

_DERIVED = ("externals", "tasks", "task_counts", "job_counts", "ended_at_sites", "stored")


def write(connection: sqlite3.Connection, kind: Kind, records: Sequence[Record]) -> None:
    """See `Archive.write`; within a transaction."""
    if kind is Kind.JOB:
        _write_jobs(connection, records)
        return
    sql, form = _WRITINGS[kind]
    connection.executemany(sql, [form(record) for record in records])


def finish(connection: sqlite3.Connection) -> None:
    """See `Archive.finish`; within a transaction."""
    for table in ("externals", "task_counts", "job_counts"):
        connection.execute(f"DELETE FROM {table}")
    for (number,) in connection.execute("SELECT number FROM datasets ORDER BY number").fetchall():
        dataset = read_dataset(connection, number)
        if dataset is not None:
            _keep_graph(connection, dataset)
            write_counts(connection, number)
    _count_at_sites(connection)
    write_stored(connection)


def clear(connection: sqlite3.Connection) -> None:
    """See `Archive.clear`; within a transaction."""
    for table in (*_DERIVED, *NAMES.values()):
        own = f" WHERE name NOT IN ({OWN})" if table == NAMES[Kind.VALUE] else ""
        connection.execute(f"DELETE FROM {table}{own}")
    # So that numbers are given from 1 on, as in a new store.
    connection.execute("DELETE FROM sqlite_sequence")


def _count_at_sites(connection: sqlite3.Connection) -> None:
    """Count anew what a trigger counts, because pages may have been written twice."""
    connection.execute("DELETE FROM ended_at_sites")
    connection.execute(
        "INSERT INTO ended_at_sites (number, site, outcome, attempts)"
        f" SELECT key >> {NUMBER_BITS}, substr(pilot_id, 6), outcome, count(*) FROM attempts"
        " WHERE pilot_id >= 'site:' AND pilot_id < 'site;' GROUP BY 1, 2, 3"
    )


def _keep_graph(connection: sqlite3.Connection, dataset: Dataset) -> None:
    connection.executemany(
        "INSERT INTO task_counts (kind) VALUES (?)",
        ((dataset.number << TASK_BITS | index,) for index in range(len(dataset.task_names))),
    )
    needed = {needed_id for needs in dataset.external for needed_id, _ in needs}
    connection.executemany(
        "INSERT INTO externals VALUES (?, ?)", ((needed_id, dataset.number) for needed_id in needed)
    )


def _write_jobs(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    jobs, tasks, places = [], [], []
    for record in records:
        number, index = cast(tuple[int, int], record.key)
        value = cast(JobRecord, record.value)
        key = job_key(number, index)
        places.append((key << TASK_BITS, key << TASK_BITS | TASK_MASK))
        jobs.append(_job_row(key, value))
        tasks += [_task_row(number, task) for task in value.tasks]
    connection.executemany("DELETE FROM tasks WHERE key BETWEEN ? AND ?", places)
    connection.executemany(f"INSERT OR REPLACE INTO jobs VALUES ({_marks(7)})", jobs)
    connection.executemany(f"INSERT INTO tasks ({rows.TASK_COLUMNS}) VALUES ({_marks(11)})", tasks)


def _job_row(key: int, value: JobRecord) -> Row:
    counts = [
        sum(task.status is status for task in value.tasks)
        for status in (TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.SUSPENDED)
    ]
    job = value.job
    return key, rows.JOB_CODE[job.status], job.status_changed_at, len(value.tasks), *counts


def _task_row(number: int, task: Task) -> Row:
    return (
        task_key(number, task.job_index, task.task_index),
        rows.TASK_CODE[task.status],
        task.status_changed_at,
        task.class_id,
        task.attempt,
        task.failures,
        task.evictions,
        task.lease_id,
        task.lease_until,
        task.pilot_id,
        task.release_at,
    )


def _dataset(record: Record) -> Row:
    return record.key[0], *rows.dataset_row(cast(Dataset, record.value))


def _config(record: Record) -> Row:
    return *record.key, cast(ConfigRecord, record.value).text


def _class(record: Record) -> Row:
    value = cast(TaskClass, record.value)
    return value.class_id, record.key[0], value.task_index, value.requirements.to_json()


def _attempt(record: Record) -> Row:
    value, key = cast(Attempt, record.value), _task_key(record)
    return (
        key,
        value.attempt,
        value.lease_id,
        value.pilot_id,
        value.hostname,
        value.started_at,
        value.ended_at,
        value.outcome,
        value.failure_class,
        value.summary,
        value.walltime_s,
        _text(value.usage),
        _text(value.stats),
        kind_key(key),
    )


def _pilot(record: Record) -> Row:
    value = cast(Pilot, record.value)
    return value.pilot_id, value.status, value.created_at, _text(value)


def _user(record: Record) -> Row:
    value = cast(User, record.value)
    return value.name, msgspec.json.encode(value, order="deterministic").decode()


def _token(record: Record) -> Row:
    return token_row(cast(Token, record.value))


def _log(record: Record) -> Row:
    value = cast(LogRecord, record.value)
    info = value.info
    return _task_key(record), info.attempt, info.name, info.size_bytes, info.uploaded_at, value.data


def _audit(record: Record) -> Row:
    value = cast(AuditEntry, record.value)
    return record.key[0], value.at, value.principal, value.action, value.target, _text(value.detail)


def _value(record: Record) -> Row:
    value = cast(ValueRecord, record.value)
    return value.name, value.text


def _file(record: Record) -> Row:
    return file_row(cast(FileRecord, record.value))


def _usage(record: Record) -> Row:
    return usage_row(cast(Usage, record.value))


def _quota(record: Record) -> Row:
    return quota_row(cast(Quota, record.value))


def _credential(record: Record) -> Row:
    return sealed_row(cast(OriginCredential, record.value))


def _peer(record: Record) -> Row:
    return peer_row(cast(Peer, record.value))


def _errand(record: Record) -> Row:
    return errand_row(cast(Errand, record.value))


def _operation(record: Record) -> Row:
    value = cast(OperationRecord, record.value)
    return value.number, *operation_row(value.operation), value.reason, value.buried_at


def _task_key(record: Record) -> int:
    number, job, task = cast(tuple[int, int, int], record.key[:3])
    return task_key(number, job, task)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _marks(number: int) -> str:
    return ", ".join("?" * number)


def _into(columns: str, number: int) -> str:
    return f"INSERT OR REPLACE INTO {columns} VALUES ({_marks(number)})"


_WRITINGS: Mapping[Kind, tuple[str, Callable[[Record], Row]]] = {
    Kind.DATASET: (_into(f"datasets ({rows.DATASET_COLUMNS})", 23), _dataset),
    Kind.CONFIG: (_into("configs (number, version, text)", 3), _config),
    Kind.CLASS: (_into("classes (class_id, number, task_index, requirements)", 4), _class),
    Kind.ATTEMPT: (_into(f"attempts ({rows.ATTEMPT_COLUMNS}, kind)", 14), _attempt),
    Kind.PILOT: (_into("pilots (pilot_id, status, created_at, body)", 4), _pilot),
    Kind.USER: (_into("users (name, body)", 2), _user),
    Kind.TOKEN: (
        _into("tokens (digest, kind, subject, created_at, expires_at, label, session, certificate)", 8),
        _token,
    ),
    Kind.LOG: (_into("logs (key, attempt, name, size_bytes, uploaded_at, data)", 6), _log),
    Kind.AUDIT: (_into("audit (id, at, principal, action, target, detail)", 6), _audit),
    Kind.VALUE: (_into("vals (name, text)", 2), _value),
    Kind.FILE: (PUT_FILE, _file),
    Kind.USAGE: (_into(f"usage ({USAGE_COLUMNS})", 5), _usage),
    Kind.QUOTA: (_into(f"quotas ({QUOTA_COLUMNS})", 4), _quota),
    Kind.CREDENTIAL: (PUT_SEALED, _credential),
    Kind.PEER: (PUT_PEER, _peer),
    Kind.ERRAND: (_into(f"errands ({ERRAND_COLUMNS})", 9), _errand),
    Kind.OPERATION: (_into(f"outbox ({LETTER_COLUMNS})", 10), _operation),
}
