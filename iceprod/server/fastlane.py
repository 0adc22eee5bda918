"""A listener for ``POST /jsonrpc`` alone, several times faster than the general one.

One asyncio Protocol per connection and httptools for the grammar of HTTP; the answers are
those of the same dispatcher that Tornado's handler uses.  `iceprod.server.fastlane_request`
says what is refused.  Requests of one connection are answered in the order they came; no
more is read while as many run as may, or while the client does not take its answers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from itertools import count
from typing import Final

from iceprod import ids
from iceprod.model.principal import Principal
from iceprod.rpc.dispatch import Dispatcher, Pending
from iceprod.rpc.packing import unpack
from iceprod.server.fastlane_connection import Arrived, Connection
from iceprod.server.fastlane_request import FastLaneLimits, KnownHeads

logger = logging.getLogger("iceprod.server.fastlane")

_TICK_S: Final = 1.0
_BACKLOG: Final = 4096

Holder = Callable[[str, str], "Principal | Awaitable[Principal]"]
"""Whose client certificate is of this subject and issuer; anonymous if nobody's."""


class FastLane:
    """The listener: ``start``, and later ``drain``.

    With ``is_proxied`` only a proxy can connect, and it names the clients in X-Real-IP or
    X-Forwarded-For; whose their certificates are is what ``holder`` tells.  ``requests``
    counts the requests that reached the dispatcher.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        limits: FastLaneLimits | None = None,
        is_proxied: bool = False,
        holder: Holder | None = None,
    ) -> None:
        self.limits = limits or FastLaneLimits()
        self.is_proxied = is_proxied
        self.heads = KnownHeads(is_proxied=is_proxied)
        self.held = 0
        self.requests = 0
        self.now = 0.0
        self.is_draining = False
        self.keeps_idle = True
        self._dispatcher = dispatcher
        self._holder = holder if is_proxied else None
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[bytes | None]] = set()
        self._begun = 0  # tasks, in this turn of the loop
        self._delayed: dict[Connection, None] = {}  # in the order in which they came
        self._left = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = count(1)
        self._boot = ids.new_lease_id()[:6]
        self._head = b""

    @property
    def clients(self) -> set[Connection]:
        """The connections that are open now."""
        return set(self._connections)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        bound: socket.socket | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> int:
        """Listen on ``host``, or on a socket that is bound; the port, which the system chooses for 0."""
        loop = asyncio.get_running_loop()
        self._tick(loop)
        where = {"host": host, "port": port} if bound is None else {"sock": bound}
        self._server = await loop.create_server(
            lambda: Connection(self), ssl=ssl_context, backlog=_BACKLOG, **where
        )
        return int(self._server.sockets[0].getsockname()[1])

    def stop_accepting(self) -> None:
        """Leave new connections to others; each answer from here on is the last of its connection."""
        self.is_draining = True
        if self._server is not None:
            self._server.close()

    async def drain(self, *, timeout_s: float = 30.0) -> None:
        """Take no more connections, close idle ones, let what runs finish.

        What still runs after ``timeout_s`` is cut off.
        """
        self.stop_accepting()
        self.keeps_idle = False
        for connection in self.clients:
            connection.close_if_idle()
        if not await self.emptied(timeout_s):
            await self._cut_off()
        if self._timer is not None:
            self._timer.cancel()

    async def emptied(self, timeout_s: float, *, of: set[Connection] | None = None) -> bool:
        """Wait until certain clients have gone, or all and what runs; False if some are still there."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._has_any(of):
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return False
        return True

    def _has_any(self, clients: set[Connection] | None) -> bool:
        if clients is None:
            return bool(self._connections or self._tasks)
        return not self._connections.isdisjoint(clients)

    async def _cut_off(self) -> None:
        logger.warning("requests cut off", extra={"connections": len(self._connections)})
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Once per second: the time, the Date header, and who is overdue."""
        self.now = loop.time()
        self._head = (
            f"HTTP/1.1 200 OK\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: application/json\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: "
        ).encode()
        for connection in [each for each in self._connections if each.deadline < self.now]:
            connection.expire()
        self._timer = loop.call_later(_TICK_S, self._tick, loop)

    # Called by connections

    def enter(self, connection: Connection) -> bool:
        """Take ``connection`` in, unless there are too many or the end is near."""
        if not self.keeps_idle or len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget ``connection``, which is closed."""
        self._connections.discard(connection)
        self._delayed.pop(connection, None)
        self._left.set()

    def has_turn(self, connection: Connection) -> bool:
        """Whether a request may be begun now; if not, ``connection`` is pumped when one may."""
        if self._begun < self.limits.per_turn:
            return True
        self._delayed[connection] = None
        return False

    def _next_turn(self) -> None:
        self._begun = 0
        while self._delayed and self._begun < self.limits.per_turn:
            connection = next(iter(self._delayed))
            del self._delayed[connection]
            connection.pump()

    def begin(self, item: Arrived) -> bytes | Pending | None:
        """Hand ``item`` to the dispatcher."""
        self.requests += 1
        request_id = item.request_id or f"{self._boot}-{next(self._numbers):x}"
        body = item.body
        if item.coding:
            body = unpack(body, item.coding, limit=self._dispatcher.limits.body_bytes)
        if item.certificate is not None and self._holder is not None:
            holder = self._holder(*item.certificate)
            return self._dispatcher.begin(body, remote=item.remote, otherwise=holder, request_id=request_id)
        return self._dispatcher.begin(body, bearer=item.bearer, remote=item.remote, request_id=request_id)

    def run(self, pending: Pending) -> asyncio.Task[bytes | None]:
        """A task for ``pending`` that lives on when its connection does not; see `ran`."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next_turn)
        self._begun += 1
        task = loop.create_task(pending.run())
        self._tasks.add(task)
        return task

    def ran(self, task: asyncio.Task[bytes | None]) -> None:
        """What `run` began is done: told by the connection, for a callback of its own costs a turn."""
        self._tasks.discard(task)
        self._left.set()
        if not task.cancelled() and task.exception() is not None:
            logger.error("a request ended in an error", exc_info=task.exception())

    def response(self, answer: bytes | None, *, last: bool) -> bytes:
        """``answer`` as an HTTP response; ``last`` announces the end of the connection."""
        end = b"\r\nConnection: close\r\n\r\n" if last else b"\r\n\r\n"
        if answer is None:
            return b"HTTP/1.1 204 No Content" + end
        return b"".join((self._head, str(len(answer)).encode(), end, answer))
