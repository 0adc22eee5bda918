"""A client of HTTP/1.1 without TLS, on plain sockets that can be handed on.

Our own, since no library gives its socket away: a body of known length then goes from socket to
socket by splice(2), without passing through this process (docs/adr/0020-movers.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from iceprod.movers.base import Access, AddressPolicy
from iceprod.movers.dialing import Resolve, dial, system_addresses
from iceprod.movers.http_client import Request, Response
from iceprod.movers.http_connection import Connection, body_of
from iceprod.movers.http_wire import Broken, Head, ascii_target, framing_of, request_head

_KEPT_S: Final = 4.0
_MOST_KEPT: Final = 8
_REPEATABLE: Final = frozenset({"GET", "HEAD"})

_Key = tuple[str, int, AddressPolicy]


class PlainClient:
    """Sends requests by plain connections, and keeps a few of them for the next ones."""

    def __init__(self, *, resolve: Resolve = system_addresses) -> None:
        self._resolve = resolve
        self._kept: dict[_Key, deque[Connection]] = {}

    async def close(self) -> None:
        """End connections that are kept."""
        kept, self._kept = self._kept, {}
        for connection in (each for several in kept.values() for each in several):
            connection.close()

    @asynccontextmanager
    async def exchange(self, request: Request, access: Access) -> AsyncIterator[Response]:
        """As `http_client.Client` says."""
        raw = request_head(request.method, ascii_target(request.location.target), _fields(request))
        connection, head = await self._answered(request, raw, access)
        try:
            body = body_of(connection, framing_of(head, request.method))
            yield Response(head.status, head.headers, body)
            may_stay = body.is_finished and head.keeps_open and connection.is_quiet
        except BaseException:
            connection.close()
            raise
        if may_stay:
            self._keep((request.location.host, request.location.port, access.policy), connection)
        else:
            connection.close()

    async def _answered(self, request: Request, raw: bytes, access: Access) -> tuple[Connection, Head]:
        """A connection by which the head of an answer has come."""
        if request.method in _REPEATABLE:
            kept = self._take((request.location.host, request.location.port, access.policy))
            if kept is not None:
                try:
                    return kept, await kept.ask(raw, None, stall_s=access.stall_timeout_s)
                except Broken:
                    # It was being closed while it lay here; a new one will tell.
                    kept.close()
                except BaseException:
                    kept.close()
                    raise
        sock = await dial(request.location.host, request.location.port, access, resolve=self._resolve)
        connection = Connection(sock, stall_s=access.stall_timeout_s)
        try:
            return connection, await connection.ask(raw, request.upload, stall_s=access.stall_timeout_s)
        except BaseException:
            connection.close()
            raise

    def _take(self, key: _Key) -> Connection | None:
        several = self._kept.get(key, deque())
        while several:
            connection = several.pop()
            if connection.is_quiet:
                return connection
            connection.close()
        return None

    def _keep(self, key: _Key, connection: Connection) -> None:
        several = self._kept.setdefault(key, deque())
        if len(several) >= _MOST_KEPT:
            connection.close()
            return
        several.append(connection)
        asyncio.get_running_loop().call_later(_KEPT_S, self._drop, key, connection)

    def _drop(self, key: _Key, connection: Connection) -> None:
        """End a connection that nobody has taken since."""
        several = self._kept.get(key)
        if several is not None and connection in several:
            several.remove(connection)
            connection.close()
            if not several:
                del self._kept[key]


def _fields(request: Request) -> list[tuple[str, str]]:
    fields = [("Host", request.location.authority), *request.headers]
    if request.upload is not None:
        fields.append(("Content-Length", str(request.upload.size_bytes)))
        if request.upload.ask_first:
            fields.append(("Expect", "100-continue"))
    return fields
