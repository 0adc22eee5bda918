"""What pilots are seen to do, kept in memory and written down now and then.

A pilot may talk to any process that shares the store.  Each writes down only what it has
seen itself (`PilotPatch`), so that none undoes what another has written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from iceprod.clock import Clock
from iceprod.model.pilot import Pilot, PilotPatch, PilotStatus
from iceprod.model.resources import Offer, Resources
from iceprod.services.bulletin import Draft
from iceprod.services.slots import Slots
from iceprod.store.base import PilotRepository

FRESH_S = 1.0
"""How exactly it is kept when a pilot was last heard of."""


@dataclass(slots=True)
class _Tally:
    """Attempts that have ended since the pilot was last saved, and bad ones in a row."""

    finished: int = 0
    failed: int = 0
    bad_luck: int = 0


class Sightings:
    """What this process has seen of pilots and not saved, or not told, yet."""

    def __init__(self, pilots: PilotRepository, *, clock: Clock, slots: Slots, draft: Draft) -> None:
        self._pilots = pilots
        self._clock = clock
        self._slots = slots
        self._draft = draft
        self._tallies: dict[str, _Tally] = {}
        self._unsaved: set[str] = set()
        self._untold: set[str] = set()
        self._told: dict[str, tuple[PilotStatus, Resources]] = {}

    def touch(
        self,
        pilot_id: str,
        *,
        hostname: str = "",
        offer: Offer | None = None,
        claimed: Resources | None = None,
    ) -> None:
        """Note in memory that a pilot was heard of; a claim proves that it runs."""
        pilot = self._slots.pilots.get(pilot_id)
        if pilot is None:
            return
        now = self._clock()
        is_new = pilot.status is PilotStatus.QUEUED
        says_nothing_new = not (is_new or hostname or (claimed and claimed != pilot.claimed))
        if says_nothing_new and 0 <= now - pilot.seen_at < FRESH_S:
            return
        pilot = replace(
            pilot,
            seen_at=now,
            status=PilotStatus.RUNNING if is_new else pilot.status,
            hostname=hostname or pilot.hostname,
            offer=offer if is_new and offer else pilot.offer,
            claimed=claimed or pilot.claimed,
        )
        self._slots.put(pilot)
        self._unsaved.add(pilot_id)
        self._untold.add(pilot_id)

    def count(self, pilot_id: str, *, ok: bool, is_bad_luck: bool) -> int:
        """An attempt has ended; how many were bad luck in a row, as far as this process knows."""
        tally = self._tallies.setdefault(pilot_id, _Tally())
        if ok:
            tally.finished += 1
        else:
            tally.failed += 1
        tally.bad_luck = tally.bad_luck + 1 if is_bad_luck else 0
        return tally.bad_luck

    def last_words(self, patch: PilotPatch) -> PilotPatch:
        """A pilot's last patch, with what was counted and is not saved yet."""
        tally = self._tallies.pop(patch.pilot_id, _Tally())
        self._told.pop(patch.pilot_id, None)
        return replace(patch, finished=tally.finished, failed=tally.failed)

    async def save(self) -> list[Pilot]:
        """Write it down; how those pilots are now, with what other processes wrote."""
        unsaved, self._unsaved = self._unsaved, set()
        unsaved |= {name for name, tally in self._tallies.items() if tally.finished or tally.failed}
        patches = [self._patch(pilot_id) for pilot_id in unsaved if pilot_id in self._slots.pilots]
        if not patches:
            return []
        try:
            found = await self._pilots.update(patches)
        except BaseException:
            self._unsaved |= unsaved
            self._take_back(patches)
            raise
        for pilot_id in self._tallies.keys() - self._slots.pilots.keys():
            del self._tallies[pilot_id]
        return [self._slots.refresh(pilot) for pilot in found if pilot is not None]

    def tell(self) -> None:
        """Tell other processes what pilots have in use, where that is different now."""
        untold, self._untold = self._untold, set()
        for pilot_id in untold:
            pilot = self._slots.pilots.get(pilot_id)
            if pilot is None or self._told.get(pilot_id) == (pilot.status, pilot.claimed):
                continue
            self._told[pilot_id] = pilot.status, pilot.claimed
            self._draft.sighted(
                PilotPatch(pilot_id, status=pilot.status, seen_at=pilot.seen_at, claimed=pilot.claimed)
            )
        for pilot_id in self._told.keys() - self._slots.pilots.keys():
            del self._told[pilot_id]

    def _patch(self, pilot_id: str) -> PilotPatch:
        pilot = self._slots.pilots[pilot_id]
        tally = self._tallies.get(pilot_id, _Tally())
        finished, failed = tally.finished, tally.failed
        tally.finished = tally.failed = 0
        return PilotPatch(
            pilot_id,
            status=pilot.status,
            seen_at=pilot.seen_at,
            hostname=pilot.hostname,
            offer=pilot.offer,
            claimed=pilot.claimed,
            finished=finished,
            failed=failed,
        )

    def _take_back(self, patches: Iterable[PilotPatch]) -> None:
        """What could not be saved is to be counted the next time."""
        for patch in patches:
            tally = self._tallies.setdefault(patch.pilot_id, _Tally())
            tally.finished += patch.finished
            tally.failed += patch.failed
