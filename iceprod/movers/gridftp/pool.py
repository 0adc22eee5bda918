"""Logins that are kept for a while: one that delegates costs the server a new key, up to a second."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from iceprod.model.location import Location
from iceprod.movers.base import Access
from iceprod.movers.gridftp.session import Session

MOST: Final = 64
"""Most logins kept, all servers together."""
KEPT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Kept:
    place: tuple[str, str, int]
    session: Session
    until: float


class Pool:
    """Sessions that nobody uses; each is used again under the very same access only."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def close(self) -> None:
        """Close all that are kept, and keep none any more."""
        self._is_closed = True
        while self._kept:
            self._kept.pop().session.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @asynccontextmanager
    async def session(self, location: Location, access: Access) -> AsyncIterator[Session]:
        """A session at that server, kept afterwards where its state is known."""
        session = self._take(location, access) or await Session.open(location, access)
        try:
            yield session
        finally:
            self._give(location, session)

    def _take(self, location: Location, access: Access) -> Session | None:
        for index, kept in enumerate(self._kept):
            if kept.place == _place(location) and kept.session.access == access:
                del self._kept[index]
                if kept.until > asyncio.get_running_loop().time() and _is_quiet(kept.session.control.sock):
                    return kept.session
                kept.session.close()
                return self._take(location, access)
        return None

    def _give(self, location: Location, session: Session) -> None:
        if self._is_closed or session.busy or not session.control.is_sound:
            session.close()
            return
        loop = asyncio.get_running_loop()
        self._kept.append(_Kept(_place(location), session, loop.time() + KEPT_S))
        if len(self._kept) > MOST:
            self._kept.pop(0).session.close()
        if self._timer is None:
            self._timer = loop.call_later(KEPT_S, self._expire)

    def _expire(self) -> None:
        """Close those kept long enough; they lie in the order of their ends."""
        loop = asyncio.get_running_loop()
        while self._kept and self._kept[0].until <= loop.time():
            self._kept.pop(0).session.close()
        self._timer = loop.call_later(KEPT_S, self._expire) if self._kept else None


def _place(location: Location) -> tuple[str, str, int]:
    return location.scheme, location.host, location.port


def _is_quiet(sock: socket.socket) -> bool:
    """Whether the server has neither ended the connection nor said anything unasked."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
