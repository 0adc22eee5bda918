"""A pilot: our process on a worker node that asks for tasks."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from iceprod.model.resources import NO_OFFER, NOTHING, Offer, Resources
from iceprod.model.values import value


class PilotStatus(StrEnum):
    """Where a pilot stands."""

    QUEUED = "queued"  # submitted to its grid, not heard of yet
    RUNNING = "running"
    DRAINING = "draining"  # gets no more tasks
    ENDED = "ended"


@value
class Pilot:
    """One pilot; ``offer`` is all it has, ``claimed`` what its tasks take of that."""

    pilot_id: str
    status: PilotStatus
    created_at: float
    seen_at: float
    grid: str = ""
    grid_job_id: str = ""
    hostname: str = ""
    version: str = ""
    offer: Offer = NO_OFFER
    claimed: Resources = NOTHING
    finished: int = 0
    failed: int = 0
    reason: str = ""  # why it drains or has ended


_ORDER = tuple(PilotStatus)


@value
class PilotPatch:
    """What one process has heard of a pilot that others hear of as well.

    None, 0 and an empty text leave a field as it is.  A patch may arrive late, after others
    that tell newer things: a status only goes forward, from queued over running and draining
    to ended, nobody is seen earlier than before, and a reason once given stays.
    ``finished`` and ``failed`` are added.  With ``unless_seen_after`` nothing happens to a
    pilot that was seen after that instant.
    """

    pilot_id: str
    status: PilotStatus | None = None
    seen_at: float | None = None
    grid: str = ""
    grid_job_id: str = ""
    hostname: str = ""
    version: str = ""
    offer: Offer | None = None
    claimed: Resources | None = None
    finished: int = 0
    failed: int = 0
    reason: str = ""
    unless_seen_after: float | None = None

    def applied_to(self, pilot: Pilot) -> Pilot:
        """The pilot afterwards; the same object if nothing changes."""
        if self.unless_seen_after is not None and pilot.seen_at > self.unless_seen_after:
            return pilot
        counted = replace(pilot, finished=pilot.finished + self.finished, failed=pilot.failed + self.failed)
        if pilot.status is PilotStatus.ENDED:
            return counted if self.finished or self.failed else pilot
        is_late = self.seen_at is not None and self.seen_at < pilot.seen_at
        return replace(
            counted,
            status=max(pilot.status, self.status or pilot.status, key=_ORDER.index),
            seen_at=max(pilot.seen_at, self.seen_at or 0.0),
            grid=self.grid or pilot.grid,
            grid_job_id=self.grid_job_id or pilot.grid_job_id,
            hostname=self.hostname or pilot.hostname,
            version=self.version or pilot.version,
            offer=self.offer or pilot.offer,
            claimed=pilot.claimed if is_late else self.claimed or pilot.claimed,
            reason=pilot.reason or self.reason,
        )
