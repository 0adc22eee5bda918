"""Tasks in SQLite."""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page, Slice
from iceprod.model.task import Attempt, Move, Moved, Outcome, Task
from iceprod.store import cursors
from iceprod.store.base import TaskFilter, TaskRepository
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.keys import (
    LAST_KEY,
    NUMBER_BITS,
    TASK_BITS,
    TASK_MASK,
    Numbers,
    kind_key,
    task_key,
    task_keys,
)
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import Needs, SqliteTransaction
from iceprod.store.sqlite.writer import Writer

# Where a partial index is meant it is named: the planner, which keeps no statistics here, would
# rather take all tasks of the status.
_SELECT = f"SELECT {rows.TASK_COLUMNS} FROM tasks"
_OF_JOBS = frozenset(TaskEvent) - {TaskEvent.CLAIMED, TaskEvent.QUEUED, TaskEvent.EVICTED, TaskEvent.RETRIED}
_FEW = 100  # rows of an index that the loop may read itself


class SqliteTasks(TaskRepository):
    """Moves go through `work.Work`; the rest are reads that each have their index."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction], numbers: Numbers) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = numbers

    def _key(self, task_id: str) -> int | None:
        return self._reader.now(lambda connection: self._numbers.task(connection, task_id))

    async def get(self, task_id: str) -> Task | None:
        """See the port."""
        key = self._key(task_id)
        if key is None:
            return None
        row = self._reader.now(
            lambda connection: connection.execute(f"{_SELECT} WHERE key = ?", (key,)).fetchone()
        )
        return None if row is None else self._task(self._reader.direct, row)

    async def among(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """See the port."""
        keys = self._reader.now(
            lambda reading: [self._numbers.task(reading, task_id) for task_id in task_ids]
        )
        wanted = msgspec.json.encode([key for key in keys if key is not None]).decode()
        found = await self._reader.run(
            lambda connection: self._tasks(
                connection, f"SELECT {rows.TASK_COLUMNS} FROM {rows.each_of('tasks')}", (wanted,)
            )
        )
        return {task.task_id: task for task in found}

    async def select(self, dataset_id: str, wanted: TaskFilter, page: Page) -> Slice[Task]:
        """See the port."""
        cursors.checked(page)
        number = self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))
        if number is None:
            return Slice(())
        first, last = task_keys(number)
        after = cursors.number_of(page, first - 1)
        first = max(first, after + 1)
        if wanted.job_index is not None:
            job = task_key(number, wanted.job_index, 0)
            first, last = max(first, job), min(last, job | TASK_MASK)
        found = await self._reader.run(
            lambda connection: _select(connection, wanted, (first, last), page.limit + 1)
        )
        items = tuple(rows.task(dataset_id, row) for row in found[: page.limit])
        following = cursors.encode(found[page.limit - 1][0]) if len(found) > page.limit else None
        return Slice(items, following)

    async def move(self, moves: Sequence[Move], *, now: float) -> list[Moved | None]:
        """See the port."""
        numbers = self._numbers
        keys = self._reader.now(lambda reading: [numbers.task(reading, move.task_id) for move in moves])

        def operation(transaction: SqliteTransaction) -> list[Moved | None]:
            work = transaction.work
            return [
                None if key is None else work.move(key, move, now=now)
                for key, move in zip(keys, moves, strict=True)
            ]

        return await self._writer.run(operation, _needs(keys, moves))

    async def renew(self, leases: Sequence[tuple[str, str]], *, until: float) -> list[bool]:
        """See the port."""
        wanted = [(self._key(task_id), lease_id) for task_id, lease_id in leases]

        def operation(transaction: SqliteTransaction) -> list[bool]:
            work = transaction.work
            return [key is not None and work.renew(key, lease_id, until=until) for key, lease_id in wanted]

        return await self._writer.run(operation, Needs([key for key, _ in wanted if key is not None]))

    async def held_by(self, pilot_id: str) -> list[Task]:
        """See the port."""
        return self._reader.now(
            lambda connection: self._tasks(
                connection,
                f"{_SELECT} INDEXED BY tasks_held WHERE pilot_id = ? AND status = 3 ORDER BY key",
                (pilot_id,),
            )
        )

    async def held_after(self, holder: str, after: str | None, limit: int) -> list[Task]:
        """See the port."""
        start = -1 if after is None else self._key(after)
        if start is None:
            return []
        return await self._reader.run(
            lambda connection: self._tasks(
                connection,
                f"{_SELECT} INDEXED BY tasks_held"
                " WHERE pilot_id = ? AND status = 3 AND key > ? ORDER BY key LIMIT ?",
                (holder, start, limit),
            )
        )

    async def count_held(self, holder: str, dataset_id: str | None = None) -> int:
        """See the port."""
        bounds = 0, LAST_KEY
        if dataset_id is not None:
            number = self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))
            if number is None:
                return 0
            bounds = task_keys(number)
        sql = (
            "SELECT count(*) FROM tasks INDEXED BY tasks_held"
            " WHERE pilot_id = ? AND status = 3 AND key BETWEEN ? AND ?"
        )
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (holder, *bounds)).fetchone()
        )
        return int(found[0])

    async def ended_at_sites(self, dataset_id: str) -> dict[str, dict[Outcome, int]]:
        """See the port."""
        number = self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))
        sql = "SELECT site, outcome, attempts FROM ended_at_sites WHERE number = ? ORDER BY site, outcome"
        found: dict[str, dict[Outcome, int]] = {}
        for site, outcome, attempts in self._reader.now(
            lambda connection: connection.execute(sql, (number,)).fetchall()
        ):
            found.setdefault(site, {})[Outcome(outcome)] = attempts
        return found

    async def held_of(self, holder: str, dataset_ids: Sequence[str]) -> set[str]:
        """See the port."""
        sql = (
            "SELECT 1 FROM tasks INDEXED BY tasks_held"
            " WHERE pilot_id = ? AND status = 3 AND key BETWEEN ? AND ? LIMIT 1"
        )

        def query(connection: sqlite3.Connection) -> set[str]:
            numbers = {each: self._numbers.number(connection, each) for each in dataset_ids}
            return {
                dataset_id
                for dataset_id, number in numbers.items()
                if number is not None and connection.execute(sql, (holder, *task_keys(number))).fetchone()
            }

        return await self._reader.run(query)

    async def expired(self, before: float, limit: int) -> list[Task]:
        """See the port."""
        return await self._reader.run(
            lambda connection: self._tasks(
                connection,
                f"{_SELECT} INDEXED BY tasks_leased"
                " WHERE status = 3 AND lease_until < ? ORDER BY lease_until LIMIT ?",
                (before, limit),
            )
        )

    async def due(self, now: float, limit: int) -> list[Task]:
        """See the port."""
        return await self._reader.run(
            lambda connection: self._tasks(
                connection,
                f"{_SELECT} INDEXED BY tasks_due"
                " WHERE status = 0 AND release_at <= ? ORDER BY release_at LIMIT ?",
                (now, limit),
            )
        )

    async def ready_counts(self) -> dict[int, int]:
        """See the port."""
        return await self._reader.run(_ready_counts)

    async def ready(self, class_id: int, after: str | None, limit: int) -> list[str]:
        """See the port."""
        start = -1 if after is None else self._key(after)
        if start is None:
            return []

        def query(connection: sqlite3.Connection) -> list[str]:
            found = connection.execute(
                "SELECT key FROM tasks INDEXED BY tasks_ready"
                " WHERE status = 1 AND class_id = ? AND key > ? ORDER BY key LIMIT ?",
                (class_id, start, limit),
            ).fetchall()
            return [self._numbers.task_id(connection, key) for (key,) in found]

        return self._reader.now(query) if limit <= _FEW else await self._reader.run(query)

    async def ids(
        self, dataset_id: str, statuses: frozenset[TaskStatus], after: str | None, limit: int
    ) -> list[str]:
        """See the port."""
        number = self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))
        if number is None:
            return []
        first, last = task_keys(number)
        start = first - 1 if after is None else self._key(after)
        if start is None:
            return []

        def query(connection: sqlite3.Connection) -> list[str]:
            runs = [
                _keys_in(connection, rows.TASK_CODE[status], (start + 1, last), limit) for status in statuses
            ]
            return [
                self._numbers.task_id(connection, key) for key in itertools.islice(heapq.merge(*runs), limit)
            ]

        return await self._reader.run(query)

    async def ids_of_jobs(self, job_ids: Sequence[str]) -> list[str]:
        """See the port."""
        keys = self._reader.now(lambda reading: [self._numbers.job(reading, job_id) for job_id in job_ids])
        wanted = msgspec.json.encode([key for key in keys if key is not None]).decode()
        sql = f"SELECT key, tasks FROM {rows.each_of('jobs')}"
        tasks = dict(await self._reader.run(lambda reading: reading.execute(sql, (wanted,)).fetchall()))
        return [
            f"{job_id}-{index}"
            for job_id, key in zip(job_ids, keys, strict=True)
            for index in range(tasks.get(key, 0))
        ]

    async def attempts(self, task_id: str) -> list[Attempt]:
        """See the port."""
        key = self._key(task_id)
        if key is None:
            return []
        sql = f"SELECT {rows.ATTEMPT_COLUMNS} FROM attempts WHERE key = ? ORDER BY attempt"
        found = self._reader.now(lambda connection: connection.execute(sql, (key,)).fetchall())
        return [rows.attempt(task_id, row) for row in found]

    async def recent_attempts(self, dataset_id: str, task_index: int, limit: int) -> list[Attempt]:
        """See the port."""
        number = self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))
        if number is None:
            return []
        kind = kind_key(task_key(number, 0, task_index))
        sql = (
            f"SELECT {rows.ATTEMPT_COLUMNS} FROM attempts WHERE kind = ?"
            " ORDER BY ended_at DESC, key DESC, attempt DESC LIMIT ?"
        )

        def query(connection: sqlite3.Connection) -> list[Attempt]:
            found = connection.execute(sql, (kind, limit)).fetchall()
            return [rows.attempt(self._numbers.task_id(connection, row[0]), row) for row in found]

        return await self._reader.run(query)

    def _task(self, connection: sqlite3.Connection, row: Sequence[Any]) -> Task:
        return rows.task(self._numbers.dataset_id(connection, row[0] >> NUMBER_BITS), row)

    def _tasks(self, connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[Task]:
        return [self._task(connection, row) for row in connection.execute(sql, values).fetchall()]


def _needs(keys: Sequence[int | None], moves: Sequence[Move]) -> Needs:
    """What the moves will ask for: a claim leaves the job as it is."""
    known = [(key, move) for key, move in zip(keys, moves, strict=True) if key is not None]
    jobs = [key >> TASK_BITS for key, move in known if move.event in _OF_JOBS]
    return Needs([key for key, _ in known], jobs)


def _select(
    connection: sqlite3.Connection, wanted: TaskFilter, bounds: tuple[int, int], limit: int
) -> list[tuple[Any, ...]]:
    """Rows with keys in ``bounds``, by the index that leaves the fewest to look at."""
    first, last = bounds
    if wanted.task_index is not None and wanted.status is None:
        return _of_kind(connection, wanted.task_index, bounds, limit)
    clauses, values = ["key BETWEEN ? AND ?"], [first, last]
    if wanted.status is not None:
        clauses.append("status = ?" if wanted.job_index is None else "+status = ?")
        values.append(rows.TASK_CODE[wanted.status])
    if wanted.task_index is not None:
        clauses.append("key & 4095 = ?")
        values.append(wanted.task_index)
    sql = f"{_SELECT} WHERE {' AND '.join(clauses)} ORDER BY key LIMIT ?"
    return connection.execute(sql, (*values, limit)).fetchall()


def _of_kind(
    connection: sqlite3.Connection, task_index: int, bounds: tuple[int, int], limit: int
) -> list[tuple[Any, ...]]:
    """The tasks of one kind, whose keys are known without looking: one per job."""
    first, last = bounds
    start = first & ~TASK_MASK | task_index
    if start < first:
        start += 1 << TASK_BITS
    found: list[tuple[Any, ...]] = []
    for key in itertools.islice(range(start, min(last, LAST_KEY) + 1, 1 << TASK_BITS), limit):
        row = connection.execute(f"{_SELECT} WHERE key = ?", (key,)).fetchone()
        if row is None:
            break  # jobs are made in order, so there are none beyond
        found.append(row)
    return found


def _keys_in(
    connection: sqlite3.Connection, status: int, bounds: tuple[int, int], limit: int
) -> Iterable[int]:
    found = connection.execute(
        "SELECT key FROM tasks WHERE status = ? AND key BETWEEN ? AND ? ORDER BY key LIMIT ?",
        (status, *bounds, limit),
    ).fetchall()
    return [key for (key,) in found]


def _ready_counts(connection: sqlite3.Connection) -> dict[int, int]:
    suspended = {
        n for (n,) in connection.execute("SELECT number FROM datasets WHERE suspended = 1").fetchall()
    }
    found = connection.execute(
        "SELECT class_id, count(*), min(key) FROM tasks INDEXED BY tasks_ready"
        " WHERE status = 1 GROUP BY class_id"
    ).fetchall()
    return {class_id: count for class_id, count, key in found if key >> NUMBER_BITS not in suspended}
