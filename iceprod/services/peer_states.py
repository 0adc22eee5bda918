"""How other sites were last seen, by any process: kept in memory, told, and saved now and then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec

from iceprod.model.federation import PeerRole, PeerState
from iceprod.model.resources import Offer
from iceprod.services.bulletin import Draft
from iceprod.store.base import ValueRepository

_VALUE: Final = "peer-states"
_decoder: Final = msgspec.json.Decoder(list[PeerState])


class PeerStates:
    """The states of some dozens of sites, the same in every process within a second or so."""

    def __init__(self, values: ValueRepository, *, draft: Draft) -> None:
        self._values = values
        self._draft = draft
        self._states: dict[tuple[PeerRole, str], PeerState] = {}
        self._untold: set[tuple[PeerRole, str]] = set()
        self._is_saved = True

    def of(self, role: PeerRole, name: str) -> PeerState:
        """How a site was last seen; nothing is known of one that never was."""
        return self._states.get((role, name)) or PeerState(role, name)

    def saw(self, role: PeerRole, name: str, **changes: Any) -> None:
        """This process has heard of a site: fields of `PeerState` that are different now."""
        self._states[role, name] = replace(self.of(role, name), **changes)
        self._untold.add((role, name))
        self._is_saved = False

    def forget(self, role: PeerRole, name: str) -> None:
        """Begin anew: it is another site, or none, that has this name now."""
        self._states[role, name] = PeerState(role, name)
        self._untold.add((role, name))
        self._is_saved = False

    def wanted(self, since: float) -> Counter[Offer]:
        """The slots for which children wait for tasks, if they were heard of since that instant."""
        found: Counter[Offer] = Counter()
        for state in self._states.values():
            if state.role is PeerRole.CHILD and state.contact_at >= since:
                found.update(dict(state.wants))
        return found

    async def tell(self) -> None:
        """Tell other processes what is different; a duty."""
        untold, self._untold = self._untold, set()
        if untold:
            self._draft.heard_of(self._states[key] for key in untold)

    def seen_elsewhere(self, states: Iterable[PeerState]) -> None:
        """Other processes have heard of sites."""
        for state in states:
            self._states[state.role, state.name] = state
            self._is_saved = False

    async def load(self) -> None:
        """Take in what was saved, but nothing that is older than what is known."""
        text = await self._values.get(_VALUE)
        for state in _decoder.decode(text) if text else ():
            if state.contact_at > self.of(state.role, state.name).contact_at:
                self._states[state.role, state.name] = state

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
