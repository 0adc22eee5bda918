"""The catalogue of files in SQLite."""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from iceprod.model.file import FileRecord, Replica, Stored
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.files import FileFilter, FileRepository
from iceprod.store.holdings import (
    LAST,
    Holder,
    Tally,
    checksums_of,
    merged,
    replicas_of,
    text_of,
    with_replicas,
    without_replica,
)
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

FILE_COLUMNS: Final = (
    'dataset_id, name, size_bytes, sha256, owner, "group", created_at, job_index, task_index, checksums,'
    " replicas, here"
)
PUT_FILE: Final = f"INSERT OR REPLACE INTO files ({FILE_COLUMNS}) VALUES ({', '.join('?' * 12)})"
_GET: Final = f"SELECT {FILE_COLUMNS} FROM files WHERE dataset_id = ? AND name = ?"
_DELETE: Final = "DELETE FROM files WHERE dataset_id = ? AND name = ?"
_ADD: Final = (
    "INSERT INTO stored VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET bytes = bytes + excluded.bytes, files = files + excluded.files"
)
_TIDY: Final = "DELETE FROM stored WHERE kind = ? AND holder = ? AND bytes = 0 AND files = 0"


class SqliteFiles(FileRepository):
    """Files by dataset and name; ``stored`` moves in the same transaction."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, files: Sequence[FileRecord]) -> list[bool]:
        """See the port."""
        files = tuple(files)

        def operation(transaction: SqliteTransaction) -> list[bool]:
            connection, tally = transaction.connection, Tally()
            found = []
            for record in files:
                former = _get(connection, record.dataset_id, record.name)
                kept = merged(record, former)
                connection.execute(PUT_FILE, file_row(kept))
                tally.change(former, kept)
                found.append(former is None)
            _apply(connection, tally)
            return found

        return await self._writer.run(operation)

    async def get(self, dataset_id: str, name: str) -> FileRecord | None:
        """See the port."""
        return self._reader.now(lambda connection: _get(connection, dataset_id, name))

    async def select(self, wanted: FileFilter, page: Page) -> Slice[FileRecord]:
        """See the port."""
        cursors.checked(page)
        after = None if page.cursor is None else cursors.decode(page.cursor, tuple[str, str])
        found = await self._reader.run(lambda connection: _select(connection, wanted, after, page.limit + 1))
        items = tuple(map(read_file, found[: page.limit]))
        more = len(found) > page.limit
        return Slice(items, cursors.encode(items[-1].name, items[-1].dataset_id) if more else None)

    async def add_replica(self, dataset_id: str, name: str, replica: Replica) -> bool:
        """See the port."""

        def operation(transaction: SqliteTransaction) -> bool:
            former = _get(transaction.connection, dataset_id, name)
            if former is None:
                return False
            _replace(transaction.connection, former, with_replicas(former.replicas, replica))
            return True

        return await self._writer.run(operation)

    async def drop_replica(self, dataset_id: str, name: str, url: str) -> bool:
        """See the port."""

        def operation(transaction: SqliteTransaction) -> bool:
            connection = transaction.connection
            former = _get(connection, dataset_id, name)
            if former is None:
                return False
            left = without_replica(former.replicas, url)
            if left == former.replicas:
                return False
            if left:
                _replace(connection, former, left)
            else:
                _forget(connection, [former])
            return True

        return await self._writer.run(operation)

    async def delete(self, dataset_id: str, names: Sequence[str]) -> int:
        """See the port."""
        names = tuple(dict.fromkeys(names))

        def operation(transaction: SqliteTransaction) -> int:
            found = [_get(transaction.connection, dataset_id, name) for name in names]
            return _forget(transaction.connection, [record for record in found if record is not None])

        return await self._writer.run(operation)

    async def stored(self, kind: str, holder: str) -> Stored:
        """See the port."""
        sql = "SELECT bytes, files FROM stored WHERE kind = ? AND holder = ?"
        row = self._reader.now(lambda connection: connection.execute(sql, (kind, holder)).fetchone())
        return Stored(kind, holder, *(row or (0, 0)))

    async def holders(self, kind: str, page: Page) -> Slice[Stored]:
        """See the port."""
        cursors.checked(page)
        (after,) = ("",) if page.cursor is None else cursors.decode(page.cursor, tuple[str])
        sql = (
            "SELECT kind, holder, bytes, files FROM stored WHERE kind = ? AND holder > ?"
            " ORDER BY holder LIMIT ?"
        )
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (kind, after, page.limit + 1)).fetchall()
        )
        items = tuple(Stored(*row) for row in found[: page.limit])
        return Slice(items, cursors.encode(items[-1].holder) if len(found) > page.limit else None)

    async def recount(self) -> int:
        """See the port.

        Counted by a reader, which hinders nobody who writes.  What is to be added holds
        whatever has been written since, because it is of one moment.
        """
        wrong = await self._reader.run(stored_drift)
        if wrong:
            tally = [
                (holder, counted[0] - kept[0], counted[1] - kept[1])
                for holder, (kept, counted) in wrong.items()
            ]
            await self._writer.run(lambda transaction: _apply(transaction.connection, tally))
        return len(wrong)


def _get(connection: sqlite3.Connection, dataset_id: str, name: str) -> FileRecord | None:
    row = connection.execute(_GET, (dataset_id, name)).fetchone()
    return None if row is None else read_file(row)


def _replace(connection: sqlite3.Connection, former: FileRecord, replicas: tuple[Replica, ...]) -> None:
    """Change where a file lies."""
    record, tally = replace(former, replicas=replicas), Tally()
    connection.execute(PUT_FILE, file_row(record))
    tally.change(former, record)
    _apply(connection, tally)


def _forget(connection: sqlite3.Connection, records: Sequence[FileRecord]) -> int:
    tally = Tally()
    for record in records:
        connection.execute(_DELETE, (record.dataset_id, record.name))
        tally.change(record, None)
    _apply(connection, tally)
    return len(records)


def _apply(connection: sqlite3.Connection, tally: Tally | Sequence[tuple[Holder, int, int]]) -> None:
    """Move what is stored."""
    for holder, size_bytes, files in tally:
        connection.execute(_ADD, (*holder, size_bytes, files))
        connection.execute(_TIDY, holder)


def _select(
    connection: sqlite3.Connection, wanted: FileFilter, after: tuple[str, str] | None, limit: int
) -> list[tuple[Any, ...]]:
    """One run of an index for each of ``wanted.runs()``, merged."""
    runs = [connection.execute(*selection(wanted, run, after, limit)) for run in wanted.runs()]
    every = heapq.merge(*runs, key=_place)
    return [next(same) for _, same in itertools.islice(itertools.groupby(every, key=_place), limit)]


def selection(
    wanted: FileFilter, run: Mapping[str, str | int], after: tuple[str, str] | None, limit: int
) -> tuple[str, list[str | int]]:
    """A statement and its values for one run."""
    # Of two lower bounds only one would be looked up, so the higher one is given alone.
    start, how = (wanted.prefix, ""), ">="
    if after is not None and after >= start:
        start, how = after, ">"
    where = [f'"{column}" = ?' for column in run] + [f"(name, dataset_id) {how} (?, ?)"]
    values = [*run.values(), *start]
    if wanted.prefix:
        where.append("name < ?")
        values.append(wanted.prefix + LAST)
    sql = f"SELECT {FILE_COLUMNS} FROM files WHERE {' AND '.join(where)} ORDER BY name, dataset_id LIMIT ?"
    return sql, [*values, limit]


def _place(row: Sequence[Any]) -> tuple[str, str]:
    return row[1], row[0]


def file_row(record: FileRecord) -> tuple[Any, ...]:
    """The ``FILE_COLUMNS`` of a file."""
    return (
        record.dataset_id,
        record.name,
        record.size_bytes,
        record.checksums["sha256"],
        record.owner,
        record.group,
        record.created_at,
        record.job_index,
        record.task_index,
        text_of(record.checksums),
        text_of(record.replicas),
        record.is_here,
    )


def read_file(row: Sequence[Any]) -> FileRecord:
    """A file from its ``FILE_COLUMNS``."""
    dataset_id, name, size_bytes, _, owner, group, created_at, job, task, checksums, replicas, _ = row
    return FileRecord(
        dataset_id,
        name,
        size_bytes,
        checksums_of(checksums),
        owner,
        group,
        created_at,
        job,
        task,
        replicas_of(replicas),
    )


def counted(connection: sqlite3.Connection) -> Tally:
    """What holders keep, counted from the catalogue."""
    tally = Tally()
    sql = (
        'SELECT owner, "group", dataset_id, sum(size_bytes), count(*) FROM files WHERE here'
        ' GROUP BY dataset_id, owner, "group"'
    )
    for owner, group, dataset_id, size_bytes, files in connection.execute(sql):
        tally.add(owner, group, dataset_id, size_bytes=size_bytes, files=files)
    return tally


def stored_drift(connection: sqlite3.Connection) -> dict[Holder, tuple[tuple[int, int], tuple[int, int]]]:
    """What is kept and what was counted, bytes and files, of holders where they differ; of one moment."""
    connection.execute("BEGIN")
    try:
        rows = connection.execute("SELECT kind, holder, bytes, files FROM stored").fetchall()
        found = counted(connection).sums()
    finally:
        connection.execute("ROLLBACK")
    kept = {(kind, holder): (size_bytes, files) for kind, holder, size_bytes, files in rows}
    none = (0, 0)
    return {
        holder: (kept.get(holder, none), found.get(holder, none))
        for holder in sorted(kept.keys() | found.keys())
        if kept.get(holder, none) != found.get(holder, none)
    }


def write_stored(connection: sqlite3.Connection) -> None:
    """Count anew; within a transaction in which nobody else writes."""
    connection.execute("DELETE FROM stored")
    _apply(connection, counted(connection))
