"""Datasets in SQLite: what was submitted, its counters and its classes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from iceprod.model.dataset import Dataset, Progress
from iceprod.model.paging import Page, Slice
from iceprod.model.resources import Requirements
from iceprod.store import cursors
from iceprod.store.base import (
    DatasetConfig,
    DatasetFilter,
    DatasetPatch,
    DatasetRepository,
    Drift,
    Materialised,
    TaskClass,
)
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.changes import write_state
from iceprod.store.sqlite.keys import LAST_KEY, TASK_MASK, Numbers, kind_keys
from iceprod.store.sqlite.materialise import materialise
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.recount import correct, drift
from iceprod.store.sqlite.removal import remove, remove_jobs
from iceprod.store.sqlite.states import read_dataset
from iceprod.store.sqlite.submit import add, set_config
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

_SELECT = f"SELECT {rows.DATASET_COLUMNS} FROM datasets"
_FEW = 64  # counters that the loop may read itself
# A job with a failed task is in errors even while others of its tasks are still to run.
_ACTIVE = (
    "SELECT {columns} FROM datasets WHERE status IN (0, 3) UNION ALL SELECT {columns} FROM datasets"
    " WHERE status = 2 AND EXISTS (SELECT 1 FROM task_counts"
    " WHERE kind BETWEEN number << 12 AND number << 12 | 4095 AND idle + waiting + queued + processing > 0)"
)


class SqliteDatasets(DatasetRepository):
    """Datasets; what changes several tables at once is in the modules that it calls."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction], numbers: Numbers) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = numbers

    def _number(self, dataset_id: str) -> int | None:
        return self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))

    async def add(self, dataset: Dataset, config: str) -> Dataset:
        """See the port."""
        return await self._writer.run(lambda transaction: add(transaction, dataset, config))

    async def get(self, dataset_id: str) -> Dataset | None:
        """See the port."""
        row = self._reader.now(
            lambda connection: connection.execute(f"{_SELECT} WHERE dataset_id = ?", (dataset_id,)).fetchone()
        )
        return None if row is None else rows.dataset(row)

    async def find(self, number: int) -> Dataset | None:
        """See the port."""
        if not 0 < number <= LAST_KEY:
            return None
        return self._reader.now(lambda connection: read_dataset(connection, number))

    async def select(self, wanted: DatasetFilter, page: Page) -> Slice[Dataset]:
        """See the port."""
        cursors.checked(page)
        before = cursors.number_of(page, LAST_KEY)
        sql, values = _listing(wanted)
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (before, *values, page.limit + 1)).fetchall()
        )
        items = tuple(rows.dataset(row) for row in found[: page.limit])
        return Slice(items, cursors.encode(items[-1].number) if len(found) > page.limit else None)

    async def active(self) -> list[Dataset]:
        """See the port."""
        sql = _ACTIVE.format(columns=rows.DATASET_COLUMNS)
        found = await self._reader.run(lambda connection: connection.execute(sql).fetchall())
        return sorted((rows.dataset(row) for row in found), key=lambda dataset: dataset.number)

    async def config(self, dataset_id: str, version: int) -> str | None:
        """See the port."""
        number = self._number(dataset_id)
        row = self._reader.now(
            lambda connection: connection.execute(
                "SELECT text FROM configs WHERE number = ? AND version = ?", (number, version)
            ).fetchone()
        )
        return None if row is None else row[0]

    async def update(self, dataset_id: str, patch: DatasetPatch, *, now: float) -> Dataset | None:
        """See the port."""
        number = self._number(dataset_id)
        if number is None:
            return None
        return await self._writer.run(lambda transaction: _update(transaction, number, patch, now=now))

    async def set_config(
        self, dataset_id: str, config: DatasetConfig, *, expected_version: int, now: float
    ) -> Dataset | None:
        """See the port."""
        number = self._number(dataset_id)
        if number is None:
            return None
        return await self._writer.run(
            lambda transaction: set_config(
                transaction, number, config, expected_version=expected_version, now=now
            )
        )

    async def materialise(
        self, dataset_id: str, first_job: int, class_ids: Sequence[Sequence[int]], *, now: float
    ) -> Materialised | None:
        """See the port."""
        number = self._number(dataset_id)
        if number is None:
            return None
        return await self._writer.run(
            lambda transaction: materialise(transaction, number, first_job, class_ids, now=now)
        )

    async def remove_jobs(self, dataset_id: str, jobs: Sequence[int], *, now: float) -> int:
        """See the port."""
        number = self._number(dataset_id)
        if number is None or not jobs:
            return 0
        return await self._writer.run(lambda transaction: remove_jobs(transaction, number, jobs, now=now))

    async def remove(self, dataset_id: str) -> bool:
        """See the port."""
        number = self._number(dataset_id)
        if number is None or not await self._writer.run(lambda transaction: remove(transaction, number)):
            return False
        self._numbers.forget(dataset_id)
        return True

    async def progress(self, dataset_id: str) -> Progress:
        """See the port."""
        number = self._number(dataset_id)
        if number is None:
            return Progress()
        # The loop itself reads the few counters that nearly every dataset has.
        found = self._reader.now(lambda connection: _counters(connection, number, _FEW + 1))
        if len(found[1]) > _FEW:
            found = await self._reader.run(lambda connection: _counters(connection, number, TASK_MASK + 1))
        return _progress(*found)

    async def add_classes(self, classes: Sequence[TaskClass]) -> None:
        """See the port."""
        values = [
            (c.class_id, self._number(c.dataset_id), c.task_index, c.requirements.to_json()) for c in classes
        ]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany("INSERT OR IGNORE INTO classes VALUES (?, ?, ?, ?)", values)

        await self._writer.run(operation)

    async def classes(self, dataset_id: str | None = None) -> list[TaskClass]:
        """See the port."""
        number = None if dataset_id is None else self._number(dataset_id)
        if dataset_id is not None and number is None:
            return []

        def query(connection: sqlite3.Connection) -> list[TaskClass]:
            if number is None:
                numbers = [n for (n,) in connection.execute(_ACTIVE.format(columns="number")).fetchall()]
            else:
                numbers = [number]
            return [found for n in sorted(numbers) for found in self._classes_of(connection, n)]

        return await self._reader.run(query)

    def _classes_of(self, connection: sqlite3.Connection, number: int) -> list[TaskClass]:
        dataset_id = self._numbers.dataset_id(connection, number)
        found = connection.execute(
            "SELECT class_id, task_index, requirements FROM classes WHERE number = ? ORDER BY class_id",
            (number,),
        ).fetchall()
        return [
            TaskClass(class_id, dataset_id, task_index, Requirements.from_json(text))
            for class_id, task_index, text in found
        ]

    async def recount(self, dataset_id: str) -> list[Drift]:
        """See the port.

        Counted beside the writer, in one snapshot; only if that finds something is it
        repeated, and corrected, by the writer.
        """
        number = self._number(dataset_id)
        if number is None or not await self._reader.run(lambda connection: drift(connection, number)):
            return []
        return await self._writer.run(lambda transaction: correct(transaction, number))


def _listing(wanted: DatasetFilter) -> tuple[str, list[Any]]:
    """The SQL of a list and its values but the first (the number to start below) and the last."""
    clauses: list[str] = ["number < ?"]
    values: list[Any] = []
    if wanted.status is not None:
        clauses.append("status = ?")
        values.append(rows.JOB_CODE[wanted.status])
    if wanted.owner is not None:
        clauses.append("owner = ?")
        values.append(wanted.owner)
    if wanted.group is not None:
        clauses.append('"group" = ?')
        values.append(wanted.group)
    if wanted.visible_to is not None:
        user, groups = wanted.visible_to
        marks = ", ".join("?" * len(groups))
        clauses.append(f'(public = 1 OR +owner = ? OR +"group" IN ({marks}))')
        values += [user, *sorted(groups)]
    return f"{_SELECT} WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?", values


def _update(
    transaction: SqliteTransaction, number: int, patch: DatasetPatch, *, now: float
) -> Dataset | None:
    connection = transaction.settled()
    changes = {name: value for name, value in asdict(patch).items() if value is not None}
    if patch.sites is not None:
        changes["sites"] = rows.sites_text(patch.sites)
    if changes:
        settings = ", ".join(f"{name} = ?" for name in changes)
        connection.execute(f"UPDATE datasets SET {settings} WHERE number = ?", (*changes.values(), number))
        transaction.states.forget(number)
    state = transaction.states.get(connection, number)
    state.roll_up(now=now)
    write_state(connection, state)
    return state.dataset


def _counters(
    connection: sqlite3.Connection, number: int, limit: int
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    jobs = connection.execute(
        "SELECT processing, complete, errors, suspended FROM job_counts WHERE number = ?", (number,)
    ).fetchone()
    tasks = connection.execute(
        "SELECT idle, waiting, queued, processing, complete, failed, suspended FROM task_counts"
        " WHERE kind BETWEEN ? AND ? ORDER BY kind LIMIT ?",
        (*kind_keys(number), limit),
    ).fetchall()
    return jobs, tasks


def _progress(jobs: tuple[int, ...], tasks: list[tuple[int, ...]]) -> Progress:
    """Statuses that nothing is in are left out."""
    return Progress(
        jobs={status: n for status, n in zip(rows.JOB_STATUSES, jobs, strict=True) if n},
        tasks=tuple({s: n for s, n in zip(rows.TASK_STATUSES, counts, strict=True) if n} for counts in tasks),
    )
