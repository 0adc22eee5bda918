"""What could run a task now: the live pilots, the largest slots of the grids, and other sites.

The answer to "why is this task not running?" and the cap of growing requirements both
look here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.resources import DIMENSIONS, Offer, Resources


@dataclass(frozen=True, slots=True)
class GridSlot:
    """The largest slot that a grid can give, under the grid's name."""

    grid: str
    offer: Offer


@dataclass(frozen=True, slots=True)
class SiteSlots:
    """The kinds of slots that another site has told of."""

    site: str
    offers: tuple[Offer, ...]


class Slots:
    """Live pilots by id, grids, and, as ``sites`` tells, other sites that ask for work."""

    def __init__(self, sites: Callable[[], Sequence[SiteSlots]] = tuple) -> None:
        self.pilots: dict[str, Pilot] = {}
        self.grids: tuple[GridSlot, ...] = ()
        self.sites = sites

    def load(self, pilots: Iterable[Pilot]) -> None:
        """Take over the pilots that an earlier process knew."""
        for pilot in pilots:
            self.put(pilot)

    def put(self, pilot: Pilot) -> None:
        """Take note of a pilot as it is now; one that has ended is dropped."""
        if pilot.status is PilotStatus.ENDED:
            self.pilots.pop(pilot.pilot_id, None)
        else:
            self.pilots[pilot.pilot_id] = pilot

    def refresh(self, stored: Pilot) -> Pilot:
        """Take note of a pilot as the store has it, where that is not older than what is known."""
        known = self.pilots.get(stored.pilot_id)
        if known is not None and known.seen_at > stored.seen_at:
            stored = replace(stored, seen_at=known.seen_at, claimed=known.claimed)
        self.put(stored)
        return stored

    def set_grids(self, grids: Sequence[GridSlot]) -> None:
        """Take note of what the grids offer."""
        self.grids = tuple(grids)

    def running(self) -> list[Pilot]:
        """The pilots that have been heard of and still take tasks."""
        return [pilot for pilot in self.pilots.values() if pilot.status is PilotStatus.RUNNING]

    def largest(self) -> Resources | None:
        """The most of each resource that any slot has, or None if there is no slot."""
        offers = [p.offer.resources for p in self.pilots.values()] + [g.offer.resources for g in self.grids]
        offers += [offer.resources for site in self.sites() for offer in site.offers]
        if not offers:
            return None
        return Resources(**{name: max(getattr(offer, name) for offer in offers) for name in DIMENSIONS})
