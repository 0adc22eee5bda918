"""Whether the wall clock can be believed about how long somebody has been silent.

Leases and the last words of pilots are kept in wall time, so that every process and a
restarted one can judge them.  A wall clock that jumps ahead would end them all at once, and
after a stop of the site everybody has been silent through no fault of theirs.
"""

from __future__ import annotations

import structlog

from iceprod.clock import Clock

JUMP_S = 5.0
"""How far the wall clock may drift from the steady one between two looks."""

logger = structlog.get_logger(__name__)


class ClockWatch:
    """Says to wait for ``quiet_s`` after a start, an outage of the store and each jump of the clock."""

    def __init__(self, clock: Clock, monotonic: Clock, *, quiet_s: float) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._quiet_s = quiet_s
        self._offset = clock() - monotonic()
        self._quiet_until = monotonic() + quiet_s

    def unsettle(self) -> None:
        """Everybody has been silent through no fault of theirs: nobody could be heard."""
        self._quiet_until = self._monotonic() + self._quiet_s

    def is_settled(self) -> bool:
        """Whether all who live have had time to be heard of since the last start or jump."""
        steady = self._monotonic()
        offset = self._clock() - steady
        if abs(offset - self._offset) > JUMP_S:
            logger.warning("the clock jumped, leases are extended", jump_s=round(offset - self._offset, 3))
            self._quiet_until = steady + self._quiet_s
        self._offset = offset
        return steady >= self._quiet_until
