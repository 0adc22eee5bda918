"""Jobs in SQLite."""

from __future__ import annotations

import sqlite3
from typing import Any

from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.base import JobRepository
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.keys import JOB_BITS, Numbers, job_key
from iceprod.store.sqlite.reader import Reader

_SELECT = f"SELECT {rows.JOB_COLUMNS} FROM jobs"


class SqliteJobs(JobRepository):
    """Reads only: jobs are written with their tasks."""

    def __init__(self, reader: Reader, numbers: Numbers) -> None:
        self._reader = reader
        self._numbers = numbers

    async def get(self, job_id: str) -> Job | None:
        """See the port."""

        def query(connection: sqlite3.Connection) -> Job | None:
            key = self._numbers.job(connection, job_id)
            if key is None:
                return None
            row = connection.execute(f"{_SELECT} WHERE key = ?", (key,)).fetchone()
            return (
                None if row is None else rows.job(self._numbers.dataset_id(connection, key >> JOB_BITS), row)
            )

        return self._reader.now(query)

    async def select(self, dataset_id: str, status: JobStatus | None, page: Page) -> Slice[Job]:
        """See the port."""
        cursors.checked(page)
        number = self._reader.now(lambda connection: self._numbers.number(connection, dataset_id))
        if number is None:
            return Slice(())
        first = max(job_key(number, 0), cursors.number_of(page, -1) + 1)
        last = job_key(number + 1, 0) - 1
        found = await self._reader.run(
            lambda connection: _select(connection, status, (first, last), page.limit + 1)
        )
        items = tuple(rows.job(dataset_id, row) for row in found[: page.limit])
        return Slice(items, cursors.encode(found[page.limit - 1][0]) if len(found) > page.limit else None)


def _select(
    connection: sqlite3.Connection, status: JobStatus | None, bounds: tuple[int, int], limit: int
) -> list[tuple[Any, ...]]:
    if status is None:
        sql = f"{_SELECT} WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
        return connection.execute(sql, (*bounds, limit)).fetchall()
    sql = f"{_SELECT} WHERE status = ? AND key BETWEEN ? AND ? ORDER BY key LIMIT ?"
    return connection.execute(sql, (rows.JOB_CODE[status], *bounds, limit)).fetchall()
