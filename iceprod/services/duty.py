"""Who has the duties: of all processes that share a store, the one that holds their lease.

The holder lets the lease's beat grow every third of ``ttl_s``.  A contender takes over when
it has seen the same beat for ``ttl_s``, and the holder stops by itself when its last beat
that was answered is two thirds of ``ttl_s`` old; each measures on its own steady clock, so
no clocks are compared.  Between the two lies a third of ``ttl_s``, in which what the former
holder had begun is cancelled.  What comes even later, from a process that was stopped in
the midst of it, is refused by the store: see `DutyHolder.fence`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import structlog

from iceprod.clock import Clock
from iceprod.errors import IceProdError
from iceprod.store.base import Hold, Sharing

NAME = "duties"
TTL_S = 3.0

logger = structlog.get_logger(__name__)

Change = Callable[[], Awaitable[None]]


class DutyHolder:
    """The lease on the duties as one process sees it.

    With a store that nobody else can use (``sharing`` is None) it always has them.
    """

    def __init__(
        self, sharing: Sharing | None, *, process_id: str, monotonic: Clock, ttl_s: float = TTL_S
    ) -> None:
        self._sharing = sharing
        self._process_id = process_id
        self._monotonic = monotonic
        self._ttl_s = ttl_s
        self._held: Hold | None = None
        self._until = float("-inf")
        self._watched: tuple[Hold, float] | None = None
        self._told = False

    def is_holding(self) -> bool:
        """Whether the duties are this process's, as far as it can know."""
        return self._sharing is None or (self._held is not None and self._monotonic() < self._until)

    @property
    def fence(self) -> int:
        """The number under which a holder writes; the store refuses lower ones after it."""
        return self._held.fence if self._held is not None else 0

    async def step(self) -> None:
        """Beat, or look whether the duties are to be had."""
        if self._sharing is None:
            return
        if self._held is not None:
            await self._beat(self._sharing, self._held)
        else:
            await self._contend(self._sharing)

    async def release(self) -> None:
        """Give the duties up: the next contender takes them at once."""
        held, self._held = self._held, None
        if held is not None and self._sharing is not None:
            await self._sharing.release(held)

    async def run(self, *, gained: Change, lost: Change) -> None:
        """Hold or contend until cancelled; ``gained`` and ``lost`` are called as it changes."""
        while True:
            await self._step_in_time()
            if self.is_holding() and not self._told:
                logger.info("duties taken", fence=self.fence, worker=os.getpid())
                await gained()
                self._told = True
            elif self._told and not self.is_holding():
                self._held = None
                logger.warning("duties lost")
                await lost()
                self._told = False
            await asyncio.sleep(self._ttl_s / 6)

    async def _step_in_time(self) -> None:
        """A step that does not outlast what is left of the lease."""
        left_s = self._until - self._monotonic() if self._held is not None else self._ttl_s
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self.step()
        except (IceProdError, TimeoutError) as exc:
            logger.debug("no word about the duties", reason=str(exc))

    async def _beat(self, sharing: Sharing, held: Hold) -> None:
        began = self._monotonic()
        beaten = await sharing.beat(held)
        self._held = beaten
        if beaten is not None:
            self._until = began + self._ttl_s * 2 / 3

    async def _contend(self, sharing: Sharing) -> None:
        began = self._monotonic()
        seen = await sharing.hold(NAME)
        if seen is not None and self._is_alive(seen):
            return
        self._held = await sharing.take(NAME, self._process_id, expected=seen)
        if self._held is not None:
            self._until = began + self._ttl_s * 2 / 3
            self._watched = None

    def _is_alive(self, seen: Hold) -> bool:
        """Whether the holder may live still: it gave the duties up, or did not beat for long."""
        if seen.holder in ("", self._process_id):
            return False
        if self._watched is None or self._watched[0] != seen:
            self._watched = seen, self._monotonic()
        return self._monotonic() - self._watched[1] < self._ttl_s
