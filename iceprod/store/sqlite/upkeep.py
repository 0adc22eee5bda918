"""Looking for damage, copying the store while it is in use, and whether it is."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from iceprod.store.newfile import new_file
from iceprod.store.sqlite import schema
from iceprod.store.sqlite.files import stored_drift
from iceprod.store.sqlite.keys import JOB_BITS, NUMBER_BITS
from iceprod.store.sqlite.recount import drift
from iceprod.store.sqlite.writer import unavailable

_STEP_PAGES = 1024


_LAST_NUMBER = (1 << 23) - 1
_OWNED = (
    ("configs", "number", 0),
    ("classes", "number", 0),
    ("jobs", "key", JOB_BITS),
    ("tasks", "key", NUMBER_BITS),
    ("attempts", "key", NUMBER_BITS),
    ("logs", "key", NUMBER_BITS),
)
"""Table, column, and the bits of the column below the number of the dataset."""


def damage(connection: sqlite3.Connection) -> list[str]:
    """What the database finds wrong with its file, rows that belong to nothing, and wrong counters."""
    found = [line for (line,) in connection.execute("PRAGMA integrity_check(100)").fetchall() if line != "ok"]
    if found:
        return found  # counting in a damaged file would tell nothing more
    numbers = [number for (number,) in connection.execute("SELECT number FROM datasets ORDER BY number")]
    found += _orphans(connection, numbers)
    for number in numbers:
        found += [
            f"dataset {d.dataset_id}: {d.what} is {d.stored}, counted {d.counted}"
            for d in drift(connection, number)
        ]
    return found + [
        f"{kind} {holder}: stored is {kept[0]} bytes in {kept[1]} files, counted {counted[0]} in {counted[1]}"
        for (kind, holder), (kept, counted) in stored_drift(connection).items()
    ]


def _orphans(connection: sqlite3.Connection, numbers: list[int]) -> list[str]:
    """Rows of datasets that do not exist, and tasks of jobs that do not."""
    edges = zip([0, *numbers], [*numbers, _LAST_NUMBER + 1], strict=True)
    gaps = [(before + 1, after - 1) for before, after in edges if after - before > 1]
    found = [
        f"{table}: {number} of datasets {first} to {last}, which do not exist"
        for table, column, bits in _OWNED
        for first, last in gaps
        if (number := _between(connection, table, column, (first << bits, (last + 1 << bits) - 1)))
    ]
    (lost,) = connection.execute(
        "SELECT count(*) FROM tasks WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.key = tasks.key >> 12)"
    ).fetchone()
    return [*found, f"tasks: {lost} of jobs that do not exist"] if lost else found


def _between(connection: sqlite3.Connection, table: str, column: str, bounds: tuple[int, int]) -> int:
    sql = f"SELECT count(*) FROM {table} WHERE {column} BETWEEN ? AND ?"
    return int(connection.execute(sql, bounds).fetchone()[0])


def is_open(path: Path) -> bool:
    """Whether any process has the store open and has used it, be it idle now.

    Of another program's database nothing is asked: it will be refused when it is opened.

    Raises:
        StoreUnavailable: the file is no database, or cannot be written.
    """
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION_ID:
            return False
        # Only who is alone with a database may end its write-ahead log; the next to open the
        # store begins it again.
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return True
        raise unavailable(error) from error
    except sqlite3.Error as error:
        raise unavailable(error) from error
    finally:
        connection.close()
    return False


def version(path: Path) -> int:
    """The schema of a store that may be of an older or a newer release; 0 of an empty file."""
    connection = schema.connect_reader(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise unavailable(error) from error
    finally:
        connection.close()


def copy(source: Path, target: Path) -> int:
    """Copy the store as it is now to a new file; its size in bytes.

    The file gets its name when it is complete and on disk.
    """
    with new_file(target) as partial:
        _copy_pages(source, partial)
    return target.stat().st_size


def _copy_pages(source: Path, partial: Path) -> None:
    reader = schema.connect_reader(source)
    writer = sqlite3.connect(partial, isolation_level=None)
    try:
        # A read transaction pins the snapshot: otherwise every commit of the running server
        # would make the copy start again.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        reader.backup(writer, pages=_STEP_PAGES, sleep=0)
        reader.execute("ROLLBACK")
        writer.execute("PRAGMA journal_mode=DELETE")  # one file, with no companions
    finally:
        writer.close()
        reader.close()
