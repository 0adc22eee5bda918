"""Places at a table with few seats: who waits gets one in turn, user by user."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairTurns:
    """At most ``most`` at a time; of those who wait, each user has one let in, then the next user.

    So somebody who asks for a thousand files at once holds up nobody who asks for one.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(queue) for queue in self._waiting.values())

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """A place for ``user``, for as long as the context lasts."""
        await self._enter(user)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, user: str) -> None:
        if self._free:  # then nobody waits: who leaves gives the place to whoever does
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # it was given at that very moment, and is another's now
            else:
                self._forget(user, place)
            raise

    def _leave(self) -> None:
        while self._waiting:
            user, queue = self._waiting.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._waiting[user] = queue  # behind all others
            # Who was cancelled at this moment has yet to be told, and takes no place any more.
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _forget(self, user: str, place: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._waiting[user]
