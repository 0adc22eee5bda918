"""``POST /jsonrpc`` on the general port, for browsers and single-port deployments.

The answers are the dispatcher's, as on the fast lane.  A browser shows who it is by its
session cookie, and then proves with a header that one of our own pages made the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, cast

from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError, RequestHandler, stream_request_body

from iceprod.errors import NotAuthenticated
from iceprod.model.principal import ANONYMOUS, Principal
from iceprod.rpc.dispatch import Dispatcher, Pending
from iceprod.rpc.packing import unpack
from iceprod.server import security
from iceprod.server.errors import phrase
from iceprod.server.handlers.base import request_id_of

_JSON_TYPES: Final = frozenset({"", "application/json", "application/json-rpc", "application/jsonrequest"})

_DISCARDED_BYTES: Final = 4 * 1024**3
"""How much of a message that is too long is read and thrown away, so that its sender hears so."""

SessionLookup = Callable[[RequestHandler], "Awaitable[Principal | None]"]
"""The caller whom the session cookie of this request names, or none without a cookie."""


@stream_request_body
class RpcHandler(RequestHandler):
    """JSON-RPC over Tornado.

    A message beyond the dispatcher's limit is answered like any other wrong one, because
    clients of IceProd 2.3 take any other status for a broken line and send it all again;
    no more of it is held than the limit.

    ``dispatcher`` is given by the route.  The application's setting
    ``authenticate_session``, a `SessionLookup`, may be absent: then only bearer tokens and
    passkeys are taken.  So may ``authenticate_certificate``, by which a client certificate
    tells who calls where no other credential does.
    """

    def initialize(self, *, dispatcher: Dispatcher) -> None:
        """Take what the route passes on."""
        self._dispatcher = dispatcher
        self._running: asyncio.Future[bytes | None] | None = None
        self._is_left = False
        self._body = bytearray()

    def prepare(self) -> None:
        """Take any length, before the message is read."""
        cast(HTTP1Connection, self.request.connection).set_max_body_size(_DISCARDED_BYTES)

    def data_received(self, chunk: bytes) -> None:
        """Keep what the dispatcher may take, and one byte more by which it sees that there is more."""
        room = self._dispatcher.limits.body_bytes + 1 - len(self._body)
        if room > 0:
            self._body += chunk[:room]

    def set_default_headers(self) -> None:
        """Send the security headers here too, above all with what is refused before it is a call."""
        for name, value in security.HEADERS.items():
            self.set_header(name, value)

    def check_xsrf_cookie(self) -> None:
        """Do nothing here: `_session` asks for the header where a cookie is what counts."""

    async def post(self) -> None:
        """Answer one message; 204 where nothing is to be sent."""
        self._check_type()
        bearer = self._bearer()
        principal = None if bearer is not None else await self._session()
        is_known = bearer is not None or principal is not None
        answer = self._dispatcher.begin(
            self._message(),
            bearer=bearer,
            principal=principal,
            otherwise=ANONYMOUS if is_known else await self._by_certificate(),
            remote=self.request.remote_ip or "",
            request_id=request_id_of(self),
        )
        self._send(await self._wait(answer) if isinstance(answer, Pending) else answer)

    def on_connection_close(self) -> None:
        """End a long poll whose caller has gone."""
        self._is_left = True
        if self._running is not None:
            self._running.cancel()

    async def _wait(self, pending: Pending) -> bytes | None:
        task = asyncio.ensure_future(pending.run())
        if pending.cancellable:
            self._running = task
            try:
                return await task
            except asyncio.CancelledError:
                if not self._is_left:
                    raise
                return None  # and nobody reads it
        # What was begun is finished even if this handler is cancelled.
        return await asyncio.shield(task)

    def _send(self, answer: bytes | None) -> None:
        if answer is None:
            self.set_status(HTTPStatus.NO_CONTENT)
            return
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.write(answer)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in plain words why this is not even looked at."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{phrase(error, status_code)}\n")

    def _check_type(self) -> None:
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in _JSON_TYPES:
            raise HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")

    def _message(self) -> bytes:
        coding = self.request.headers.get("Content-Encoding", "")
        return unpack(bytes(self._body), coding, limit=self._dispatcher.limits.body_bytes)

    def _bearer(self) -> str | None:
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    async def _by_certificate(self) -> Principal:
        """The holder of the client certificate; raises 401 for one that does not count."""
        lookup: Any = self.application.settings.get("authenticate_certificate")
        try:
            return ANONYMOUS if lookup is None else cast(Principal, await lookup(self))
        except NotAuthenticated as exc:
            raise HTTPError(HTTPStatus.UNAUTHORIZED, exc.message) from None

    async def _session(self) -> Principal | None:
        """Who the session cookie says is calling; raises 403 without the header against forgery."""
        lookup: Any = self.application.settings.get("authenticate_session")
        principal: Principal | None = await lookup(self) if lookup is not None else None
        if principal is not None:
            super().check_xsrf_cookie()
        return principal
