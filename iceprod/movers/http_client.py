"""What `movers.http` asks of a client of HTTP: one request, one answer, nothing followed or retried.

There are two: `movers.http_plain` of our own for plain connections, which can be handed on as
sockets, and `movers.http_curl` for TLS and HTTP/2.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from iceprod.model.location import Location
from iceprod.movers.base import Access, PlainBody
from iceprod.movers.bodies import Upload
from iceprod.movers.http_wire import Headers


@dataclass(frozen=True, slots=True)
class Request:
    """A request; ``headers`` are those beside ``Host`` and what frames the body."""

    method: str
    location: Location
    headers: tuple[tuple[str, str], ...] = ()
    upload: Upload | None = None


class Body(Protocol):
    """The body of an answer; ``length`` is None where it is not told before its end."""

    length: int | None

    async def read(self) -> bytes:
        """The next piece, at most 1 MiB; empty at the end.

        Raises:
            Broken: it ended too early.
        """
        ...

    def plain(self) -> PlainBody | None:
        """The connection that it comes by, where that is a plain one."""
        ...


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, its body still to come."""

    status: int
    headers: Headers
    body: Body


class Client(Protocol):
    """Whoever can send requests of one scheme."""

    def exchange(self, request: Request, access: Access) -> AbstractAsyncContextManager[Response]:
        """Send a request; the context ends what is left of the answer.

        Only 2xx answers to requests with a body mean that all of it was sent.

        Raises:
            AccessDenied: the address is not allowed.
            TransferFailed: there is no connection.
            Broken: there is no answer, or none that keeps to the protocol.
        """
        ...

    async def close(self) -> None:
        """End connections that are kept."""
        ...
