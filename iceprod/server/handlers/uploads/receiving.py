"""Taking the body of an upload as it comes, no faster than the disk takes it."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler, stream_request_body

from iceprod.errors import IceProdError
from iceprod.model.principal import Principal
from iceprod.server import client_certificate, security
from iceprod.server.handlers.base import session_principal
from iceprod.server.handlers.files import FileAccess
from iceprod.services.uploads.writing import Writing

STALL_S: Final = 120.0
"""After how long without a byte a connection is given up, so that its sender may try another."""
_UPLOAD_S: Final = 7 * 24 * 3600.0
_THROWN_AWAY: Final = 8 * 1024 * 1024
"""How much of a body that is not wanted any more is read, so that its sender hears why."""


class UploadAccess(FileAccess):
    """Callers of all kinds; pages may send files too, if they prove that they are ours."""

    def check_xsrf_cookie(self) -> None:
        """Ask for the proof where a session cookie counts, and nothing that other sites can't send."""
        if self.credential() is None and self.get_cookie(security.SESSION_COOKIE):
            RequestHandler.check_xsrf_cookie(self)

    async def _identify(self) -> Principal:
        if self.credential() is None:
            return await session_principal(self) or await client_certificate.principal_of(self)
        return await super()._identify()


class Sink(Protocol):
    """Whatever takes a body piece by piece."""

    async def write(self, data: bytes) -> None:
        """Take ``data``; returns when more may follow."""
        ...


S = TypeVar("S", bound=Sink)


@stream_request_body
class BodyHandler(UploadAccess, Generic[S]):
    """Passes its body on to a sink, which `prepare` of a subclass begins by `receive`."""

    _writing: S | None = None
    _failure: IceProdError | None = None
    _thrown_away = 0
    _watch: asyncio.TimerHandle | None = None

    async def give_up(self, writing: S, reason: str) -> None:
        """Bring what was begun to an end, because no more comes."""
        raise NotImplementedError

    def receive(self, writing: S) -> None:
        """Let the body go there."""
        self._writing = writing
        connection = cast(HTTP1Connection, self.request.connection)
        # What is too much is told by the upload itself.
        connection.set_max_body_size(self.context.settings.files.max_bytes + _THROWN_AWAY)
        connection.set_body_timeout(_UPLOAD_S)
        self._expect_more()

    async def data_received(self, chunk: bytes) -> None:
        """Take a piece; the next one is read when this one is stored."""
        self._expect_no_more()
        if self._failure is not None:
            self._throw_away(chunk)
        elif self._writing is not None:
            try:
                await self._writing.write(chunk)
            except IceProdError as exc:
                # Told at the end of the body, when the client listens.
                self._failure = exc
                await self._break_off(exc.message)
            self._expect_more()

    def _throw_away(self, chunk: bytes) -> None:
        self._thrown_away += len(chunk)
        if self._thrown_away > _THROWN_AWAY and not self._finished:
            self.send_error(exc_info=(type(self._failure), self._failure, None))

    def received(self) -> S | None:
        """Where the whole body went; None if there was none to take.

        Raises:
            IceProdError: it could not be taken.
        """
        self._expect_no_more()
        if self._failure is not None:
            raise self._failure
        writing, self._writing = self._writing, None
        return writing

    def on_connection_close(self) -> None:
        """The client went away in the middle: what came may count."""
        super().on_connection_close()
        self._leave()

    def on_finish(self) -> None:
        """Hold nothing after an answer that was given too early."""
        self._leave()

    def _leave(self) -> None:
        self._expect_no_more()
        if self._writing is not None:
            self.context.supervisor.spawn("break off an upload", self._break_off("the client has gone"))

    async def _break_off(self, reason: str) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await self.give_up(writing, reason)
            except IceProdError as exc:  # what came since it was last kept is lost
                self.log_exception(type(exc), exc, None)

    def _expect_more(self) -> None:
        if self._writing is not None:
            self._watch = asyncio.get_running_loop().call_later(STALL_S, self._give_up)

    def _expect_no_more(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _give_up(self) -> None:
        cast(Any, self.request.connection).close()


class ReceivingHandler(BodyHandler[Writing]):
    """Writes its body to an upload."""

    async def give_up(self, writing: Writing, reason: str) -> None:
        """Keep what can be kept."""
        await self.services.uploads.service.break_off(writing, reason)
