"""Files in blocks over several connections that the server opens, put in order again.

Each connection is read only while what comes on it is near what is wanted next, so memory is
bounded whoever is slow.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from iceprod.errors import InputError, TransferFailed
from iceprod.model.location import Location
from iceprod.movers.base import Facts, Incoming, Span
from iceprod.movers.gridftp import data, mode_e
from iceprod.movers.gridftp.downloads import extent
from iceprod.movers.gridftp.faults import ProtocolFault, Refused, in_words
from iceprod.movers.gridftp.session import Session
from iceprod.movers.gridftp.wire import Stream, Wire

_VERB: Final = "RETR"
WINDOW_BYTES: Final = 32 << 20
"""How far ahead of what is wanted next a block may be to be read."""
_PART_BYTES: Final = 256 * 1024
_MAX_CONNECTIONS: Final = 256
_MAX_PARTS: Final = 100_000
"""Most parts that are held: of a byte each they would take a hundred times as much memory."""


class Window:
    """Parts of ``length`` bytes, some of which came before those in front of them. No I/O."""

    def __init__(self, length: int) -> None:
        self.next = 0
        self._end = length
        self._parts: dict[int, bytes] = {}
        self._held = mode_e.Ranges()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not self._parts

    def has_room(self, offset: int) -> bool:
        """Whether what is at ``offset`` may be taken now."""
        return offset < self.next + WINDOW_BYTES

    def check(self, offset: int, count: int) -> None:
        """Refuse what can be no part of what is still to come.

        Raises:
            BlockError: it is outside of what was asked for, came before, or too many are held.
        """
        if count and (offset < self.next or offset + count > self._end):
            raise mode_e.BlockError("a block outside of what was asked for")

    def put(self, offset: int, part: bytes) -> None:
        """Keep a part.

        Raises:
            BlockError: it is outside of what was asked for, came before, or too many are held.
        """
        end = offset + len(part)
        self.check(offset, len(part))
        if self._held.add(offset, end) != len(part):
            raise mode_e.BlockError("blocks that overlap")
        if len(self._parts) >= _MAX_PARTS:
            raise mode_e.BlockError("blocks that are too small")
        self._parts[offset] = part

    def take(self) -> bytes:
        """The part that is next; empty where it has not come."""
        part = self._parts.pop(self.next, b"")
        if part:
            self.next += len(part)
            self._held.forget(self.next)
        return part


class ParallelDownload(Incoming):
    """A file, or a part of it, in order.  The last piece is given when the server said that all went well."""

    def __init__(self, session: Session, location: Location, facts: Facts, span: Span) -> None:
        self.facts = facts
        self.offset = span.offset
        if (length := extent(facts, span)) is None:
            raise InputError("the server does not tell the size, without which there are no parallel streams")
        self.length = length
        self._session = session
        self._location = location
        self._window = Window(length)
        self._end = length
        self._tasks: set[asyncio.Task[None]] = set()
        self._news, self._moved = asyncio.Event(), asyncio.Event()
        self._expected: int | None = None
        self._finished = self._given = 0
        self._failure: BaseException | None = None
        self._listener: data.Listener | None = None
        self._has_ended = False
        self._ended = self.length == 0

    async def begin(self) -> None:
        """Ask for it.

        Raises:
            Refused: the server does not send it.
            OSError, ProtocolFault: it went wrong.
        """
        session, streams, path = self._session, self._session.options.streams, self._location.path
        if self._ended:
            return
        await session.set_mode("E")
        await session.control.command("OPTS", f"RETR Parallelism={streams},{streams},{streams};")
        self._listener = data.Listener(session)
        try:
            await self._listener.announce()
            self._start(self._accept(self._listener))
            # Of a part, blocks tell their place in the part, not in the file.
            verb, argument = _VERB, path
            if self.length != self.facts.size_bytes:
                verb, argument = "ERET", f"P {self.offset} {self.length} {path}"
            await data.start(session, verb, argument, [])
            self._start(self._end_well(verb))
        except BaseException:
            await self.abort()
            raise

    async def _end_well(self, verb: str) -> None:
        await data.ended(self._session, verb, within_s=data.FOREVER_S)
        self._has_ended = True

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
        self._news.set()

    async def _accept(self, listener: data.Listener) -> None:
        for _ in range(_MAX_CONNECTIONS):
            self._start(self._pump(await listener.accept()))

    async def _pump(self, wire: Wire) -> None:
        """Bring in what comes on one connection, to its end."""
        try:
            await self._bring(await data.secured(self._session, wire, accepts=True))
        finally:
            wire.close()

    async def _bring(self, stream: Stream) -> None:
        parser, last = mode_e.BlockParser(), False
        while not (last and parser.is_between_blocks):
            while parser.left and not self._window.has_room(parser.offset):
                self._moved.clear()
                await self._moved.wait()
            came = await stream.receive(min(parser.wanted, _PART_BYTES))
            if not came:
                raise ConnectionResetError("a data connection ended too early")
            match parser.feed(came):
                case mode_e.Header() as header:
                    self._window.check(header.offset, header.count)
                    last = last or header.ends_connection
                    self._expected = header.connections or self._expected
                case (offset, part):
                    self._window.put(offset, part)
                    self._news.set()
        self._finished += 1
        self._news.set()

    @property
    def _is_all_here(self) -> bool:
        return self._expected is not None and self._finished >= self._expected

    async def read(self) -> bytes:
        """The next piece."""
        if self._ended:
            return b""
        try:
            return await self._next()
        except TimeoutError:
            raise self._failed("nothing came for too long") from None
        except Refused as refused:
            raise self._failed(f"{refused}: {in_words(refused.reply.text)}") from None
        except (OSError, ProtocolFault) as error:
            raise self._failed(in_words(str(error))) from None

    async def _next(self) -> bytes:
        while not (piece := self._window.take()):
            if self._is_all_here:
                await self._finish()
                return b""
            await self._some_news()
        self._moved.set()
        if self._window.next == self._end:
            await self._finish()
        self._given += len(piece)
        return piece

    async def _some_news(self) -> None:
        if self._failure is not None:
            await self._reason()
            raise self._failure
        if not self._tasks:
            raise ProtocolFault("the server sent no end of the file")
        self._news.clear()
        async with asyncio.timeout(self._session.access.stall_timeout_s):
            await self._news.wait()

    async def _reason(self) -> None:
        """Prefer what the server says, if it says it soon, to what was seen of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(data.GRACE_S):
                while self._session.busy and not isinstance(self._failure, Refused) and self._tasks:
                    if isinstance(self._failure, ProtocolFault):
                        return
                    self._news.clear()
                    await self._news.wait()

    async def _finish(self) -> None:
        """Wait for the ends of all connections and for the server's word."""
        while self._failure is not None or not (self._is_all_here and self._has_ended):
            await self._some_news()
        if not self._window.is_empty or self._window.next != self._end:
            raise ProtocolFault("blocks are missing")
        self._ended = True

    def _failed(self, why: str) -> TransferFailed:
        self._ended = True
        said, source = f"{self._location.authority}: {why}", str(self._location)
        return TransferFailed(said, source=source, done_bytes=self._given)

    async def finish(self) -> None:
        """Leave it; nothing is open when all was read."""

    async def abort(self) -> None:
        """End all connections."""
        self._ended = True
        if self._listener is not None:
            self._listener.close()
        await data.give_up(*self._tasks)


async def begin(session: Session, location: Location, span: Span) -> ParallelDownload:
    """Ask for a file or a part of it.

    Raises:
        InputError: the span is outside of the file, or it is a directory.
        Refused: there is no such file.
    """
    facts = await session.facts(location.path)
    if facts.is_directory:
        raise InputError(f"{location} is a directory")
    body = ParallelDownload(session, location, facts, span)
    await body.begin()
    return body
