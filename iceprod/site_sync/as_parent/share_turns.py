"""Turns at something scarce, in proportion to shares.

What each had is divided by its share, and whoever has least goes next (start-time fair queueing:
Goyal, Vin and Cheng 1996).  Who was away does not get later what it did not ask for then.

Those who ask another process take part as *rivals*: what they had is told, and while it is the
turn of one of them it is left the time to make use of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

YIELD_S: Final = 0.5
"""How long a rival may take to be served where it asks, and the word of it to arrive."""
PASSED_OVER_S: Final = 5.0
"""For how long nothing is left to a rival who has made no use of that: there it can't be served."""
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

    async def had(self, amount: float, share: float) -> bool:
        """One had so much; False if it is the turn of a rival now, who may take long.

        Of those who wait here another one may have had its turn meanwhile.
        """
        if self._turns.charge(self._name, _weighed(amount, share)):
            self.end()
            await self.begin()
        return not self._turns.ahead_of(self._name)

    def end(self) -> None:
        """Pass the turn on."""
        if self._is_mine:
            self._is_mine = False
            self._turns.leave()


class ShareTurns:
    """One at a time; of those who wait the one that had least for its share.

    ``rivals`` tells who waits elsewhere for what there is now.
    """

    def __init__(self, rivals: Callable[[], Collection[str]] = frozenset) -> None:
        self._rivals = rivals
        self._had: dict[str, float] = {}
        self._served = 0.0  # what the one that was served last had before that
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._is_taken = False
        self._left_until: dict[str, float] = {}  # to rivals whose turn it is
        self._passed_until: dict[str, float] = {}

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
        self._had[name] = self._standing(name)
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
                self._call_next()
            raise

    def charge(self, name: str, amount: float) -> bool:
        """Note what one had; whether it is another's turn now."""
        self._served = max(self._served, self._had[name])
        self._had[name] += amount
        return any(self._had[other] < self._had[name] for other, _ in self._waiting)

    def charge_elsewhere(self, name: str, amount: float, share: float) -> None:
        """Note what one had of another process."""
        before = self._standing(name)
        self._had[name] = before + _weighed(amount, share)
        self._served = max(self._served, min([before, *(self._had[other] for other, _ in self._waiting)]))
        self._left_until.pop(name, None)
        self._passed_until.pop(name, None)
        self._call_next()

    def leave(self) -> None:
        """The turn is over."""
        self._is_taken = False
        self._call_next()

    def ahead_of(self, name: str) -> list[str]:
        """The rivals who had less, but for those who have made no use of their turn lately."""
        now, had = asyncio.get_running_loop().time(), self._had[name]
        here = {waiting for waiting, _ in self._waiting} | {name}
        return [
            rival
            for rival in self._rivals()
            if rival not in here and self._standing(rival) < had and self._passed_until.get(rival, now) <= now
        ]

    def _standing(self, name: str) -> float:
        return max(self._had.get(name, 0.0), self._served)

    def _call_next(self) -> None:
        if not self._waiting:
            self._left_until.clear()
        while self._waiting and not self._is_taken:
            place = min(range(len(self._waiting)), key=lambda i: self._had[self._waiting[i][0]])
            name, future = self._waiting[place]
            if not future.done() and self._leaves_to_rivals(name):
                return
            del self._waiting[place]
            if not future.done():
                self._left_until.clear()
                self._is_taken = True
                future.set_result(None)

    def _leaves_to_rivals(self, name: str) -> bool:
        """Whether it is the turn of a rival, who has not had the time for it yet."""
        loop = asyncio.get_running_loop()
        now, left = loop.time(), 0.0
        for rival in self.ahead_of(name):
            until = self._left_until.setdefault(rival, now + YIELD_S)
            if until <= now:
                del self._left_until[rival]
                self._passed_until[rival] = now + PASSED_OVER_S
            left = max(left, until - now)
        if left > 0:
            loop.call_later(left, self._call_next)
        return left > 0


def _weighed(amount: float, share: float) -> float:
    return amount / max(share, _LEAST_SHARE)
