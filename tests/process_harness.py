"""Several processes of one site, without processes around them: fixtures for whoever names them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from memory_sharing import MemorySharing
from site_harness import Site, open_sites

from iceprod.store.base import Store
from iceprod.store.mongo import MongoStore
from iceprod.store.sqlite import SqliteStore
from tests.store import mongo_server


@asynccontextmanager
async def _one_store(folder: Path, number: int) -> AsyncIterator[list[Store]]:
    """One store that all processes have in common, with what they share in memory."""
    store = SqliteStore(folder / "iceprod.db", synchronous="OFF")
    store.sharing = MemorySharing()
    await store.open()
    try:
        yield [store] * number
    finally:
        await store.close()


@asynccontextmanager
async def _stores_of_a_server(number: int) -> AsyncIterator[list[Store]]:
    """A store for each process, all on one database."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(mongo_server.database())
        stores: list[Store] = [MongoStore(url) for _ in range(number)]
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        yield stores


_NO_SERVER = pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT)
MakeSites = Callable[[int], Awaitable[list[Site]]]


@asynccontextmanager
async def _site_maker(folder: Path, *, in_memory: bool) -> AsyncIterator[MakeSites]:
    async with AsyncExitStack() as stack:

        async def make(number: int) -> list[Site]:
            opening = _one_store(folder, number) if in_memory else _stores_of_a_server(number)
            stores = await stack.enter_async_context(opening)
            return await stack.enter_async_context(open_sites(stores, folder))

        yield make


@pytest.fixture(params=["memory", pytest.param("mongo", marks=[pytest.mark.mongo, _NO_SERVER])])
async def sites_of(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeSites]:
    """Makes so many processes that share one store."""
    async with _site_maker(tmp_path, in_memory=request.param == "memory") as make:
        yield make


@pytest.fixture
async def sites_in_memory(tmp_path: Path) -> AsyncIterator[MakeSites]:
    """The same, where what they share lies in memory and can be tampered with."""
    async with _site_maker(tmp_path, in_memory=True) as make:
        yield make


@pytest.fixture
async def two(sites_of: MakeSites) -> AsyncIterator[list[Site]]:
    """Two processes that share one store, and never miss any news of each other."""
    sites = await sites_of(2)
    yield sites
    assert [site.services.news.looks for site in sites] == [0, 0]


@asynccontextmanager
async def talking(sites: list[Site]) -> AsyncIterator[None]:
    """Let processes tell and hear by themselves, as they do in earnest."""

    async def tell_of_sites(site: Site) -> None:
        while True:
            await site.services.hearing.peers.tell()
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(loop)
            for site in sites
            for loop in (
                site.services.news.keep_telling(),
                site.services.news.keep_hearing(),
                tell_of_sites(site),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
