"""Telling once that a parent cannot be called, and once that it can be again, however a link flaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from iceprod.clock import Clock

CALM_S: Final = 60.0
"""For how long every call has to be answered until an outage is believed to be over."""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Outage:
    began_at: float
    failed_at: float
    failures: int = 1


class Outages:
    """The parents that cannot be called, or could not until a moment ago, by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, _Outage] = {}

    def failed(self, parent: str, reason: str) -> None:
        """A call was not answered."""
        now, outage = self._clock(), self._open.get(parent)
        if outage is None:
            self._open[parent] = _Outage(now, now)
            logger.warning("a parent cannot be called", parent=parent, reason=reason)
        else:
            outage.failed_at = now
            outage.failures += 1

    def answered(self, parent: str) -> None:
        """A call was answered."""
        outage = self._open.get(parent)
        if outage is not None and self._clock() - outage.failed_at >= CALM_S:
            del self._open[parent]
            logger.info(
                "a parent answers again",
                parent=parent,
                failures=outage.failures,
                for_s=round(outage.failed_at - outage.began_at),
            )
