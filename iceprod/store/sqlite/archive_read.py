"""Rows as records for copying, a page at a time, each by the index of its key."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from iceprod.errors import ConflictError
from iceprod.model.file import OriginCredential, Quota
from iceprod.model.pilot import Pilot
from iceprod.model.resources import Requirements
from iceprod.model.task import Task
from iceprod.model.user import User
from iceprod.store.archive import (
    NAMES,
    OWN_VALUES,
    ConfigRecord,
    JobRecord,
    Key,
    Kind,
    LogRecord,
    OperationRecord,
    Record,
    ValueRecord,
    page,
)
from iceprod.store.base import AuditEntry, LogInfo, TaskClass
from iceprod.store.holdings import usage_of
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.accounts import read_token
from iceprod.store.sqlite.credentials import SEALED_COLUMNS
from iceprod.store.sqlite.federation import (
    ERRAND_COLUMNS,
    LETTER_COLUMNS,
    read_errand,
    read_operation,
    read_peer,
)
from iceprod.store.sqlite.files import FILE_COLUMNS, read_file
from iceprod.store.sqlite.keys import (
    JOB_BITS,
    JOB_MASK,
    NUMBER_BITS,
    TASK_BITS,
    TASK_MASK,
    job_key,
    task_key,
)
from iceprod.store.sqlite.usage import QUOTA_COLUMNS

Reading = Callable[[sqlite3.Connection, Key | None, int], list[Record]]

OWN = ", ".join(f"'{name}'" for name in sorted(OWN_VALUES))
_JOB_PLACE = (1 << JOB_BITS) - 1


def read(connection: sqlite3.Connection, kind: Kind, after: Key | None, limit: int) -> list[Record]:
    """See `Records.read`."""
    return _READINGS[kind](connection, after, limit)


def count(connection: sqlite3.Connection, kind: Kind) -> int:
    """See `Records.count`."""
    where = f" WHERE name NOT IN ({OWN})" if kind is Kind.VALUE else ""
    return int(connection.execute(f"SELECT count(*) FROM {NAMES[kind]}{where}").fetchone()[0])


class _Ids:
    """Ids of datasets by their numbers, remembered for one page."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[int, str] = {}

    def __getitem__(self, number: int) -> str:
        if number not in self._known:
            row = self._connection.execute(
                "SELECT dataset_id FROM datasets WHERE number = ?", (number,)
            ).fetchone()
            if row is None:
                raise ConflictError(f"something belongs to dataset {number}, which does not exist")
            self._known[number] = row[0]
        return self._known[number]

    def task(self, key: int) -> str:
        """The id of a task."""
        return f"{self[key >> NUMBER_BITS]}-{(key & JOB_MASK) >> TASK_BITS}-{key & TASK_MASK}"


def _datasets(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE number > ? ORDER BY number LIMIT ?"
    found = connection.execute(sql, (after[0] if after else 0, limit)).fetchall()
    return [Record((row[0],), rows.dataset(row)) for row in found]


def _configs(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    ids = _Ids(connection)
    sql = (
        "SELECT number, version, text FROM configs WHERE (number, version) > (?, ?)"
        " ORDER BY number, version LIMIT ?"
    )
    found = page(connection.execute(sql, (*(after or (0, 0)), limit)), lambda row: 1 + len(row[2]) // 256)
    return [
        Record((number, version), ConfigRecord(ids[number], version, text)) for number, version, text in found
    ]


def _classes(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    ids = _Ids(connection)
    sql = (
        "SELECT number, class_id, task_index, requirements FROM classes WHERE (number, class_id) > (?, ?)"
        " ORDER BY number, class_id LIMIT ?"
    )
    return [
        Record((number, class_id), TaskClass(class_id, ids[number], task_index, Requirements.from_json(text)))
        for number, class_id, task_index, text in connection.execute(
            sql, (*(after or (0, 0)), limit)
        ).fetchall()
    ]


def _jobs(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    ids = _Ids(connection)
    sql = f"SELECT {rows.JOB_COLUMNS}, tasks FROM jobs WHERE key > ? ORDER BY key LIMIT ?"
    start = job_key(int(after[0]), int(after[1])) if after else -1
    found = page(connection.execute(sql, (start, limit)), lambda row: 1 + int(row[3]))
    if not found:
        return []
    tasks = _tasks(connection, ids, found[0][0], found[-1][0])
    made = []
    for row in found:
        number, index = row[0] >> JOB_BITS, row[0] & _JOB_PLACE
        made.append(Record((number, index), JobRecord(rows.job(ids[number], row), tuple(tasks[row[0]]))))
    return made


def _tasks(
    connection: sqlite3.Connection, ids: _Ids, first_job: int, last_job: int
) -> defaultdict[int, list[Task]]:
    """The tasks of jobs that lie side by side, by the keys of the jobs."""
    made: defaultdict[int, list[Task]] = defaultdict(list)
    sql = f"SELECT {rows.TASK_COLUMNS} FROM tasks WHERE key BETWEEN ? AND ? ORDER BY key"
    for row in connection.execute(sql, (first_job << TASK_BITS, last_job << TASK_BITS | TASK_MASK)):
        made[row[0] >> TASK_BITS].append(rows.task(ids[row[0] >> NUMBER_BITS], row))
    return made


def _attempts(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    ids = _Ids(connection)
    sql = (
        f"SELECT {rows.ATTEMPT_COLUMNS} FROM attempts WHERE (key, attempt) > (?, ?)"
        " ORDER BY key, attempt LIMIT ?"
    )
    found = connection.execute(sql, (*_task_place(after), limit)).fetchall()
    return [Record((*_place(row[0]), row[1]), rows.attempt(ids.task(row[0]), row)) for row in found]


def _logs(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    ids = _Ids(connection)
    sql = (
        "SELECT key, attempt, name, size_bytes, uploaded_at, data FROM logs"
        " WHERE (key, attempt, name) > (?, ?, ?) ORDER BY key, attempt, name LIMIT ?"
    )
    start = (*_task_place(after), after[4] if after else "")
    found = page(connection.execute(sql, (*start, limit)), lambda row: 1 + len(row[5]) // 256)
    return [
        Record(
            (*_place(key), attempt, name),
            LogRecord(LogInfo(ids.task(key), attempt, name, size_bytes, uploaded_at), data),
        )
        for key, attempt, name, size_bytes, uploaded_at, data in found
    ]


def _place(key: int) -> tuple[int, int, int]:
    return key >> NUMBER_BITS, (key & JOB_MASK) >> TASK_BITS, key & TASK_MASK


def _task_place(after: Key | None) -> tuple[int, int]:
    """The key of a task, and an attempt."""
    if after is None:
        return -1, 0
    number, job, task, attempt = (int(part) for part in after[:4])
    return task_key(number, job, task), attempt


def _pilots(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = "SELECT pilot_id, body FROM pilots WHERE pilot_id > ? ORDER BY pilot_id LIMIT ?"
    return [
        Record((name,), msgspec.json.decode(body, type=Pilot))
        for name, body in _named(connection, sql, after, limit)
    ]


def _users(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = "SELECT name, body FROM users WHERE name > ? ORDER BY name LIMIT ?"
    return [
        Record((name,), msgspec.json.decode(body, type=User))
        for name, body in _named(connection, sql, after, limit)
    ]


def _tokens(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = (
        "SELECT digest, kind, subject, created_at, expires_at, label, session, certificate FROM tokens"
        " WHERE digest > ? ORDER BY digest LIMIT ?"
    )
    return [Record((row[0],), read_token(row)) for row in _named(connection, sql, after, limit)]


def _audit(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = "SELECT id, at, principal, action, target, detail FROM audit WHERE id > ? ORDER BY id LIMIT ?"
    found = connection.execute(sql, (after[0] if after else 0, limit)).fetchall()
    return [
        Record((place,), AuditEntry(at, principal, action, target, msgspec.json.decode(detail)))
        for place, at, principal, action, target, detail in found
    ]


def _values(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = f"SELECT name, text FROM vals WHERE name > ? AND name NOT IN ({OWN}) ORDER BY name LIMIT ?"
    return [Record((row[0],), ValueRecord(*row)) for row in _named(connection, sql, after, limit)]


def _files(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = (
        f"SELECT {FILE_COLUMNS} FROM files WHERE (dataset_id, name) > (?, ?)"
        " ORDER BY dataset_id, name LIMIT ?"
    )
    found = connection.execute(sql, (*(after or ("", "")), limit)).fetchall()
    return [Record(row[:2], read_file(row)) for row in found]


def _usage(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = "SELECT place, bytes, transfers FROM usage WHERE place > ? ORDER BY place LIMIT ?"
    return [Record((row[0],), usage_of(*row)) for row in _named(connection, sql, after, limit)]


def _quotas(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = f"SELECT {QUOTA_COLUMNS} FROM quotas WHERE (kind, holder) > (?, ?) ORDER BY kind, holder LIMIT ?"
    found = connection.execute(sql, (*(after or ("", "")), limit)).fetchall()
    return [Record(row[:2], Quota(*row)) for row in found]


def _credentials(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = (
        f"SELECT {SEALED_COLUMNS} FROM credentials WHERE (user, origin) > (?, ?)"
        " ORDER BY user, origin LIMIT ?"
    )
    found = connection.execute(sql, (*(after or ("", "")), limit)).fetchall()
    return [Record((row[1], row[0]), OriginCredential(*row)) for row in found]


def _peers(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = "SELECT role, name, body FROM peers WHERE (role, name) > (?, ?) ORDER BY role, name LIMIT ?"
    found = connection.execute(sql, (*(after or ("", "")), limit)).fetchall()
    return [Record((role, name), read_peer(body)) for role, name, body in found]


def _errands(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = f"SELECT {ERRAND_COLUMNS} FROM errands WHERE task_id > ? ORDER BY task_id LIMIT ?"
    return [Record((row[0],), read_errand(row)) for row in _named(connection, sql, after, limit)]


def _operations(connection: sqlite3.Connection, after: Key | None, limit: int) -> list[Record]:
    sql = f"SELECT {LETTER_COLUMNS} FROM outbox WHERE number > ? ORDER BY number LIMIT ?"
    found = connection.execute(sql, (after[0] if after else 0, limit))
    return [
        Record((row[0],), OperationRecord(row[0], read_operation(row[1:8]), *row[8:]))
        for row in page(found, lambda row: 1 + len(row[7]) // 256)
    ]


def _named(
    connection: sqlite3.Connection, sql: str, after: Key | None, limit: int
) -> Iterator[tuple[Any, ...]]:
    yield from connection.execute(sql, (after[0] if after else "", limit)).fetchall()


_READINGS: Mapping[Kind, Reading] = {
    Kind.DATASET: _datasets,
    Kind.CONFIG: _configs,
    Kind.CLASS: _classes,
    Kind.JOB: _jobs,
    Kind.ATTEMPT: _attempts,
    Kind.PILOT: _pilots,
    Kind.USER: _users,
    Kind.TOKEN: _tokens,
    Kind.LOG: _logs,
    Kind.AUDIT: _audit,
    Kind.VALUE: _values,
    Kind.FILE: _files,
    Kind.USAGE: _usage,
    Kind.QUOTA: _quotas,
    Kind.CREDENTIAL: _credentials,
    Kind.PEER: _peers,
    Kind.ERRAND: _errands,
    Kind.OPERATION: _operations,
}
