"""Files in a stream: one data connection, whose end is the end of the file."""

from __future__ import annotations

from typing import Final

from iceprod.errors import InputError, TransferFailed
from iceprod.model.location import Location
from iceprod.movers.base import Facts, Incoming, PlainBody, Span
from iceprod.movers.gridftp import data
from iceprod.movers.gridftp.faults import ProtocolFault, Refused, in_words
from iceprod.movers.gridftp.session import Session
from iceprod.movers.gridftp.wire import PIECE_BYTES, Stream, Wire

_VERB: Final = "RETR"


def extent(facts: Facts, span: Span) -> int | None:
    """How many bytes of the file are wanted; None where its size is unknown.

    Raises:
        InputError: the span begins behind the end, or before the beginning.
    """
    if span.offset < 0 or (span.length is not None and span.length < 0):
        raise InputError("a span has neither a negative offset nor a negative length")
    if facts.size_bytes is None:
        return span.length
    left = facts.size_bytes - span.offset
    if left < 0:
        raise InputError(f"the file has {facts.size_bytes} bytes, so nothing is at {span.offset}")
    return left if span.length is None else min(left, span.length)


class Download(Incoming):
    """A file, or a part of it, as it comes.

    ``cut`` says that the server would send more than is wanted.  The last piece is given only when
    the server has said that the transfer went well.
    """

    def __init__(self, session: Session, location: Location, facts: Facts, span: Span) -> None:
        self.facts = facts
        self.offset = span.offset
        self.length = extent(facts, span)
        self._session = session
        self._location = location
        self._stream: Stream | None = None
        self._done = 0
        self._cut = False
        self._ended = False
        self._handed = False

    async def begin(self, span: Span) -> None:
        """Ask for it.

        Raises:
            Refused: the server does not send it.
            OSError, ProtocolFault: it went wrong.
        """
        session, path = self._session, self._location.path
        if self.length == 0:
            self._ended = True
            return
        await session.set_mode("S")
        wire = await data.connect(session, await data.passive(session))
        try:
            verb, argument = _VERB, path
            if span.length is not None and session.offers("ERET"):
                verb, argument = "ERET", f"P {self.offset} {self.length} {path}"
            elif self.offset:
                await session.control.command("REST", str(self.offset))
            self._cut = verb == _VERB and self._ends_early()
            (self._stream,) = await data.start(session, verb, argument, [data.secured(session, wire)])
        except BaseException:
            wire.close()
            raise

    def _ends_early(self) -> bool:
        size, length = self.facts.size_bytes, self.length
        return length is not None and (size is None or self.offset + length < size)

    async def read(self) -> bytes:
        """The next piece."""
        if self._ended or self._stream is None:
            return b""
        try:
            return await self._next(self._stream)
        except Refused as refused:
            raise self._failed(f"{refused}: {in_words(refused.reply.text)}") from None
        except TimeoutError:
            raise self._failed("nothing came for too long") from None
        except (OSError, ProtocolFault) as error:
            raise await self._explained(error) from None

    async def _next(self, stream: Stream) -> bytes:
        limit = PIECE_BYTES if self.length is None else min(PIECE_BYTES, self.length - self._done)
        piece = await stream.receive(limit)
        if not piece and self.length is not None and self._done < self.length:
            raise ConnectionResetError("the body ended too early")
        if not piece or self._done + len(piece) == self.length:
            await self._end(stream)
        self._done += len(piece)
        return piece

    async def _end(self, stream: Stream) -> None:
        self._ended = True
        if not self._cut:
            if self.length is not None and await stream.receive(1):
                raise ProtocolFault("more came than the file has")
            await data.ended(self._session, _VERB)
        stream.close()

    async def _explained(self, error: Exception) -> TransferFailed:
        """The error, in the server's words where it has some."""
        self._ended = True
        if self._stream is not None:
            self._stream.close()
        refused = await data.reason(self._session, _VERB) if self._session.busy else None
        if refused is None:
            return self._failed(in_words(str(error)))
        return self._failed(f"{refused}: {in_words(refused.reply.text)}")

    def _failed(self, why: str) -> TransferFailed:
        self._ended = True
        source = str(self._location)
        return TransferFailed(f"{self._location.authority}: {why}", source=source, done_bytes=self._done)

    def plain(self) -> PlainBody | None:
        """The data connection, where it carries the body as it is and nothing else."""
        stream, length = self._stream, self.length
        if not isinstance(stream, Wire) or length is None or self._cut or self._ended:
            return None
        self._handed = True
        head = stream.take_head()
        return PlainBody(stream.sock, head, length - self._done - len(head))

    async def finish(self) -> None:
        """Leave it: where the connection was given away, hear that all went well.

        Raises:
            TransferFailed: it did not.
        """
        if not (self._handed and isinstance(self._stream, Wire)) or self._ended:
            return
        try:
            # If something comes, what is left was not wanted.
            if not await self._stream.receive(1):
                await data.ended(self._session, _VERB)
        except Refused as refused:
            raise self._failed(f"{refused}: {in_words(refused.reply.text)}") from None
        except (OSError, ProtocolFault) as error:
            raise self._failed(in_words(str(error)) or "nothing came for too long") from None

    async def abort(self) -> None:
        """End the data connection."""
        self._ended = True
        if self._stream is not None:
            self._stream.close()


async def begin(session: Session, location: Location, span: Span) -> Download:
    """Ask for a file or a part of it.

    Raises:
        InputError: the span is outside of the file, or it is a directory.
        Refused: there is no such file.
    """
    facts = await session.facts(location.path)
    if facts.is_directory:
        raise InputError(f"{location} is a directory")
    body = Download(session, location, facts, span)
    await body.begin(span)
    return body
