"""The way to the server: how many calls are under way, and what becomes of them when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from pymongo.errors import ConnectionFailure, DocumentTooLarge, InvalidOperation, PyMongoError

from iceprod import clock
from iceprod.errors import StoreUnavailable
from iceprod.store.mongo.failures import away, is_refused, translated

logger = structlog.get_logger(__name__)

_PATIENCE_S: Final = 2.0
_POLL_S: Final = 0.05
_T = TypeVar("_T")


class Link:
    """Bounds what is under way, and fails quickly while the server is away.

    The driver has few threads.  A call that waited in one of them for a server that is away
    would keep it from the calls of others, so calls wait here; and after `_PATIENCE_S`
    without a server that takes writes (``is_there``) no call waits any more.
    """

    __slots__ = ("_away_at", "_is_there", "_is_told", "_turns", "_where", "is_closed")

    def __init__(self, is_there: Callable[[], bool], *, where: str, at_once: int) -> None:
        self._is_there = is_there
        self._turns = asyncio.Semaphore(at_once)
        self._away_at: float | None = None
        self._is_told = False
        self._where = where
        self.is_closed = False

    async def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of a call of the driver, or the error that it stands for."""
        await self._wait()
        async with self._turns:
            await self._wait()
            try:
                return await call()
            except (PyMongoError, DocumentTooLarge) as error:
                told = translated(error)
                self._log(error, told)
                raise told from error

    async def _wait(self) -> None:
        """Wait for a server that takes writes, but not for long after it went away."""
        if self._away_at is None and self._is_there():
            return
        while not self._is_there():
            if self.is_closed:
                raise StoreUnavailable("the store is not open")
            if self._away_at is None:
                self._away_at = clock.monotonic()
            if clock.monotonic() - self._away_at > _PATIENCE_S:
                self._tell_away("no server takes writes")
                raise away()
            await asyncio.sleep(_POLL_S)
        self._away_at = None
        if self._is_told:
            self._is_told = False
            logger.info("the store is back", server=self._where)

    def _log(self, error: Exception, told: Exception) -> None:
        """Say what the caller is not told, of what is no fault of the caller."""
        if is_refused(error):
            self._tell_away("it refuses the name or password of store.url, or lacks a right")
        elif isinstance(told, StoreUnavailable) and not isinstance(
            error, ConnectionFailure | InvalidOperation
        ):
            logger.warning("the store cannot do this now", server=self._where, reason=str(error)[:500])

    def _tell_away(self, reason: str) -> None:
        """Log it once, not once for each call."""
        if not self._is_told:
            self._is_told = True
            logger.warning("the store is away", server=self._where, reason=reason)
