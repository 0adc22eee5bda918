"""What every test gets: a log in which nothing may be wrong unless the test says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hypothesis
import pytest
import structlog

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("iceprod", deadline=None)
hypothesis.settings.load_profile("iceprod")

# Marks of tests that take long, those that take longest first.
_LONG: Final = (("e2e",), ("nginx", "mongo", "browser", "slow"))


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker by which a test says that it provokes warnings."""
    config.addinivalue_line("markers", "expects_logs: provokes log records of level warning or worse")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that in the end no worker is alone with one of them."""
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(ranks.get(item.path, len(_LONG)), _rank(item))
    items.sort(key=lambda item: ranks[item.path])


def _rank(item: pytest.Item) -> int:
    """How far from the beginning a test belongs."""
    found = (place for place, names in enumerate(_LONG) if any(map(item.get_closest_marker, names)))
    return next(found, len(_LONG))


class _Gather(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.name} {record.levelname}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def _nothing_unexpected_is_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test during which a warning or worse is logged.

    Tests that provoke one are marked ``expects_logs``, or look at the log by ``caplog``.
    """
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    root = logging.getLogger()
    former, level = root.handlers[:], root.level
    gather = _Gather()
    root.addHandler(gather)
    yield
    root.handlers[:] = former
    root.setLevel(level)
    expected = request.node.get_closest_marker("expects_logs") or "caplog" in request.fixturenames
    if gather.records and not expected:
        pytest.fail("logged unexpectedly:\n" + "\n".join(gather.records))
