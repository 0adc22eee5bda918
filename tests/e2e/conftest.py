"""Real servers and pilots, each in a process of its own, ended by its pid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster import KINDS, site_of_kind
from tests.servers import RunningPilot, RunningSite


@pytest.fixture(params=KINDS)
def running_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningSite]:
    """A site whose grid starts nothing by itself."""
    with site_of_kind(request.param, tmp_path) as site:
        yield site


@pytest.fixture
def start_pilot(running_site: RunningSite, tmp_path: Path) -> Iterator[Callable[..., RunningPilot]]:
    """Start a pilot of `running_site` with the resources named: cpu, gpu, memory, disk, time."""
    with ExitStack() as stack:
        numbers = iter(range(1000))

        def start(**offer: float) -> RunningPilot:
            full = {"cpu": 1, "gpu": 0, "memory": 1, "disk": 1, "time": 1, **offer}
            pilot = RunningPilot(running_site, tmp_path / f"pilot-{next(numbers)}", full)
            return stack.enter_context(pilot)

        yield start
