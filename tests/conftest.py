"""What every test gets: a log in which nothing may be wrong unless the test says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("iceprod", deadline=None)
hypothesis.settings.load_profile("iceprod")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker by which a test says that it provokes warnings."""
    config.addinivalue_line("markers", "expects_logs: provokes log records of level warning or worse")


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
