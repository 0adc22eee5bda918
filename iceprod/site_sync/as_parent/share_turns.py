"""Turns at something scarce, in proportion to shares.

What each had is divided by its share, and whoever has least goes next (start-time fair queueing:
Goyal, Vin and Cheng 1996).  Who was away does not get later what it did not ask for then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_LEAST_SHARE: Final = 1e-3


class Turn:
    """The turn of one who takes part, for as long as it has not passed it on."""

    def __init__(self, turns: ShareTurns, name: str) -> None:
        self._turns = turns
        self._name = name
        self._is_mine = False

    async def begin(self) -> None:
        """Wait until it is one's turn."""
        await self._turns.enter(self._name)
        self._is_mine = True

    async def had(self, amount: float, share: float) -> None:
        """One had so much: go on, unless somebody waits whose turn it is now."""
        if self._turns.charge(self._name, amount / max(share, _LEAST_SHARE)):
            self.end()
            await self.begin()

    def end(self) -> None:
        """Pass the turn on."""
        if self._is_mine:
            self._is_mine = False
            self._turns.leave()


class ShareTurns:
    """One at a time; of those who wait the one that had least for its share."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._served = 0.0  # what the one whose turn it is had before its last portion
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._is_taken = False

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Turn]:
        """One's turn, once it has come."""
        turn = Turn(self, name)
        await turn.begin()
        try:
            yield turn
        finally:
            turn.end()

    async def enter(self, name: str) -> None:
        """Wait for the turn; who calls has to `leave`, unless this raises."""
        loop = asyncio.get_running_loop()
        self._had[name] = max(self._had.get(name, 0.0), self._served)
        place: asyncio.Future[None] = loop.create_future()
        self._waiting.append((name, place))
        # Not at once: others may have heard the same news, and are about to ask, too.
        loop.call_soon(self._call_next)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()  # it was given at that very moment
            else:
                self._waiting = [waiting for waiting in self._waiting if waiting[1] is not place]
            raise

    def charge(self, name: str, amount: float) -> bool:
        """Note what one had; whether it is another's turn now."""
        self._had[name] += amount
        if any(self._had[other] < self._had[name] for other, _ in self._waiting):
            return True
        self._served = self._had[name]
        return False

    def leave(self) -> None:
        """The turn is over."""
        self._is_taken = False
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and not self._is_taken:
            place = min(range(len(self._waiting)), key=lambda i: self._had[self._waiting[i][0]])
            name, future = self._waiting.pop(place)
            if not future.done():
                self._is_taken, self._served = True, self._had[name]
                future.set_result(None)
