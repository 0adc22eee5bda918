"""That reading a SQLite store for a copy needs no sorting and no scan for each page."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from store_filled import fill

from iceprod.store.archive import Kind
from iceprod.store.sqlite import SqliteStore, archive_read


@pytest.mark.parametrize("kind", Kind)
async def test_a_page_is_found_by_its_key(kind: Kind, tmp_path: Path):
    path = tmp_path / "store.db"
    store = SqliteStore(path, synchronous="OFF")
    await store.open()
    await fill(store)
    await store.close()
    connection = sqlite3.connect(path)
    statements: list[str] = []
    last = archive_read.read(connection, kind, None, 1000)[-1].key
    connection.set_trace_callback(statements.append)

    archive_read.read(connection, kind, last, 10)
    connection.set_trace_callback(None)

    assert statements
    for statement in statements:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "SEARCH" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan
    connection.close()
