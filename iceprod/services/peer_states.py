"""How other sites were last seen, by any process: kept in memory, told, and saved now and then.

A child lands on this process and on that, and each hears another part of what there is to know.
So every field of a state is as of an instant of its own, and the latest counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from iceprod.clock import Clock
from iceprod.model.federation import PeerRole, PeerState
from iceprod.model.resources import Offer
from iceprod.services.bulletin import Draft, Sighting
from iceprod.services.slots import SiteSlots
from iceprod.store.base import ValueRepository

_VALUE: Final = "peer-states"
_TRUSTED_S: Final = 3600.0
"""For how long it is believed what slots another site has."""
_decoder: Final = msgspec.json.Decoder(list[PeerState])
_FIELDS: Final = tuple(name for name in PeerState.__dataclass_fields__ if name not in ("role", "name"))

_Key = tuple[PeerRole, str]


class PeerStates:
    """The states of some dozens of sites, the same in every process within a second or so."""

    def __init__(self, values: ValueRepository, *, draft: Draft, clock: Clock) -> None:
        self._values = values
        self._draft = draft
        self._clock = clock
        self._states: dict[_Key, PeerState] = {}
        self._seen_at: defaultdict[_Key, dict[str, float]] = defaultdict(dict)
        self._untold: defaultdict[_Key, set[str]] = defaultdict(set)
        self._is_saved = True

    def of(self, role: PeerRole, name: str) -> PeerState:
        """How a site was last seen; nothing is known of one that never was."""
        return self._states.get((role, name)) or PeerState(role, name)

    def saw(self, role: PeerRole, name: str, *, at: float | None = None, **changes: Any) -> None:
        """This process has heard of a site: fields of `PeerState` as they are, or were ``at`` an instant."""
        news = self._take_in(
            (role, name), changes, dict.fromkeys(changes, self._clock() if at is None else at)
        )
        self._untold[role, name].update(news)

    def forget(self, role: PeerRole, name: str) -> None:
        """Begin anew: it is another site, or none, that has this name now."""
        blank = PeerState(role, name)
        self.saw(role, name, **{field: getattr(blank, field) for field in _FIELDS})

    def wanted(self, since: float) -> Counter[Offer]:
        """The slots for which children wait for tasks, if they were heard of since that instant."""
        found: Counter[Offer] = Counter()
        for state in self.waiting(since):
            found.update(dict(state.wants))
        return found

    def waiting(self, since: float) -> list[PeerState]:
        """The children that wait for tasks, at whatever process, if they were heard of since that instant."""
        return [
            state
            for state in self._states.values()
            if state.role is PeerRole.CHILD and state.wants and state.contact_at >= since
        ]

    def offering(self) -> tuple[SiteSlots, ...]:
        """What slots children have told of lately, by name."""
        since = self._clock() - _TRUSTED_S
        return tuple(
            SiteSlots(state.name, state.offers)
            for _, state in sorted(self._states.items())
            if state.role is PeerRole.CHILD and state.offered_at > since
        )

    async def tell(self) -> None:
        """Tell other processes what is different; a duty."""
        untold, self._untold = self._untold, defaultdict(set)
        if untold:
            self._draft.heard_of(
                Sighting(self._states[key], {field: self._seen_at[key][field] for field in fields})
                for key, fields in untold.items()
                if fields
            )

    def seen_elsewhere(self, sightings: Iterable[Sighting]) -> None:
        """Other processes have heard of sites."""
        for sighting in sightings:
            state = sighting.state
            changes = {field: getattr(state, field) for field in sighting.fields if field in _FIELDS}
            self._take_in((state.role, state.name), changes, sighting.fields)

    def _take_in(self, key: _Key, changes: Mapping[str, Any], instants: Mapping[str, float]) -> list[str]:
        """Believe what is not older than what is known; which fields that are."""
        seen_at = self._seen_at[key]
        news = [field for field in changes if instants[field] >= seen_at.get(field, 0.0)]
        self._states[key] = replace(self.of(*key), **{field: changes[field] for field in news})
        seen_at.update({field: instants[field] for field in news})
        self._is_saved &= not news
        return news

    async def load(self) -> None:
        """Take in what was saved, but nothing that is older than what is known."""
        text = await self._values.get(_VALUE)
        for state in _decoder.decode(text) if text else ():
            if state.contact_at > self.of(state.role, state.name).contact_at:
                # Whoever waited for tasks then has asked again since, or has gone.
                self._states[state.role, state.name] = replace(state, wants=())

    async def save(self, *, fence: int = 0) -> None:
        """Write down what has changed since the last time; a duty."""
        if self._is_saved:
            return
        self._is_saved = True
        try:
            text = msgspec.json.encode(list(self._states.values())).decode()
            await self._values.put(_VALUE, text, fence=fence)
        except BaseException:
            self._is_saved = False
            raise
