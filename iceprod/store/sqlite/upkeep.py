"""Looking for damage, and copying the store while it is in use."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from iceprod.store.newfile import new_file
from iceprod.store.sqlite import schema
from iceprod.store.sqlite.recount import drift

_STEP_PAGES = 1024


def damage(connection: sqlite3.Connection) -> list[str]:
    """What the database finds wrong with its file, and counters that differ from what they count."""
    found = [line for (line,) in connection.execute("PRAGMA integrity_check(100)").fetchall() if line != "ok"]
    if found:
        return found  # counting in a damaged file would tell nothing more
    for (number,) in connection.execute("SELECT number FROM datasets ORDER BY number").fetchall():
        found += [
            f"dataset {d.dataset_id}: {d.what} is {d.stored}, counted {d.counted}"
            for d in drift(connection, number)
        ]
    return found


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
