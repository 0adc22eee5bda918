"""Every service over a real SQLite store in a temporary folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from memory_sharing import MemorySharing
from site_harness import Site, open_site, open_sites

from iceprod.store.sqlite import SqliteStore


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with the settings as they come."""
    async with open_site(tmp_path) as made:
        yield made


@pytest.fixture
async def site_with(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    """Makes a site with settings of the test's own."""
    async with AsyncExitStack() as stack:

        async def make(**sections: Any) -> Site:
            return await stack.enter_async_context(open_site(tmp_path, **sections))

        yield make


@asynccontextmanager
async def _sites_in_memory(folder: Path, number: int) -> AsyncIterator[list[Site]]:
    store = SqliteStore(folder / "iceprod.db", synchronous="OFF")
    store.sharing = MemorySharing()
    await store.open()
    try:
        async with open_sites([store] * number, folder) as sites:
            yield sites
    finally:
        await store.close()


@pytest.fixture
async def sites_of(tmp_path: Path) -> AsyncIterator[Callable[[int], Awaitable[list[Site]]]]:
    """Makes so many processes that share one store."""
    async with AsyncExitStack() as stack:

        async def make(number: int) -> list[Site]:
            return await stack.enter_async_context(_sites_in_memory(tmp_path, number))

        yield make


@pytest.fixture
async def two(sites_of: Callable[[int], Awaitable[list[Site]]]) -> AsyncIterator[list[Site]]:
    """Two processes that share one store, and never miss any news of each other."""
    sites = await sites_of(2)
    yield sites
    assert [site.services.news.looks for site in sites] == [0, 0]
