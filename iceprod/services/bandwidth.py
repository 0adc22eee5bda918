"""Limits of speed, shared fairly by those who move bytes under the same limit.

A limit hands out time slots: who moves bytes takes the next slot, as long as those bytes last at
the limit's speed, and waits until it has begun.  Everybody takes slots of the same few bytes in
turn, so that of n connections each gets an n-th, whatever the size of its pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from iceprod.clock import Clock

SLOT_S: Final = 0.02
"""How long a slot lasts at most; shorter ones are fairer and cost more."""
_BURST_S: Final = 0.2
"""How much of the time in which nobody moved anything may be made up for."""
_LEAST_SLOT: Final = 4096

Sleep = Callable[[float], Awaitable[object]]


class Limit:
    """So many bytes per second for all who share it."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at = float("-inf")

    @property
    def slot_bytes(self) -> int:
        """How many bytes are taken at a time."""
        return max(_LEAST_SLOT, int(self.bytes_per_s * SLOT_S))

    def take(self, size_bytes: int, *, now: float) -> float:
        """Take the next slot for so many bytes; in how many seconds it begins."""
        begins_at = max(self._free_at, now - _BURST_S)
        self._free_at = begins_at + size_bytes / self.bytes_per_s
        return max(0.0, begins_at - now)


class Lane:
    """The limits that one transfer is under, all of which it keeps."""

    def __init__(self, limits: tuple[Limit, ...], *, clock: Clock, sleep: Sleep = asyncio.sleep) -> None:
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._prepaid = 0  # of the slots taken, what has not passed

    @property
    def bytes_per_s(self) -> float | None:
        """The speed of the slowest limit; None without any."""
        return min((limit.bytes_per_s for limit in self._limits), default=None)

    async def passed(self, size_bytes: int) -> None:
        """Wait until so many bytes may pass; at once without limits."""
        if not self._limits:
            return
        slot = min(limit.slot_bytes for limit in self._limits)
        while self._prepaid < size_bytes:
            now = self._clock()
            wait_s = max(limit.take(slot, now=now) for limit in self._limits)
            self._prepaid += slot
            if wait_s > 0:
                await self._sleep(wait_s)
        self._prepaid -= size_bytes
