"""Every store that the contract is checked on, opened afresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mongo_queries import Recorder
from store_samples import OpenStore

from iceprod.store.base import Store
from iceprod.store.mongo import MongoStore
from iceprod.store.sqlite import SqliteStore
from tests.store import mongo_server


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[Store]:
    store = SqliteStore(folder / "store.db", synchronous="OFF")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_mongo(folder: Path) -> AsyncIterator[Store]:
    del folder  # the server keeps its own
    with mongo_server.database() as url:
        recorder = Recorder()
        store = MongoStore(url, listeners=[recorder])
        await store.open()
        try:
            yield store
        finally:
            await store.close()
        assert recorder.scans() == [], "these queries read the whole collection"


STORES: dict[str, OpenStore] = {
    "sqlite": open_sqlite,
    "mongo": open_mongo,
}
MARKS = {
    "mongo": (
        pytest.mark.mongo,
        pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
    )
}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in STORES])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """How to open an empty store of each kind."""
    return STORES[request.param]


@pytest.fixture
async def store(open_store: OpenStore, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    async with open_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def mongo_url() -> Iterator[str]:
    """The URL of a new database; skips the test where there is no server."""
    if not mongo_server.is_there():
        pytest.skip(mongo_server.ABSENT)
    with mongo_server.database() as url:
        yield url
