"""A whole parent, without a process around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from process_harness import sites_of, two
from site_harness import Site, open_site

__all__ = ["site", "sites_of", "two"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with the settings as they come."""
    async with open_site(tmp_path) as made:
        yield made
