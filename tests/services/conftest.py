"""Every service over a real SQLite store in a temporary folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from process_harness import sites_in_memory, sites_of, two
from site_harness import Site, open_site

__all__ = ["site", "site_with", "sites_in_memory", "sites_of", "two"]


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
