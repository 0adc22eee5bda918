"""Files of ssh servers.

Credentials: ``ssh`` (user and private key) and ``password``.  Options: ``host_key_sha256``, the
fingerprint of one of the server's keys as ``ssh-keygen -l`` prints it, or ``known_hosts``, a file
like OpenSSH's.  A server whose key neither of them tells is refused.

Keys never touch the disk.  Files are put beside their place under another name and then renamed:
over a former file in one step where the server has OpenSSH's extension for it; elsewhere the
former file is deleted in the instant before.
Source: draft-ietf-secsh-filexfer-02, OpenSSH's PROTOCOL.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from iceprod.errors import (
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
)
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Access, Entry, Facts, Incoming, Mover, Outgoing, Span
from iceprod.movers.bodies import verified
from iceprod.movers.curl import sharing

if TYPE_CHECKING:
    from iceprod.movers.ssh_link import File, Link

DRAFT: Final = ".iceprod-draft-"
"""How names of files begin that are not complete."""

_AHEAD_BYTES: Final = 2 * 1024 * 1024
_CLEAN_UP_S: Final = 10.0
_KEPT_S: Final = 30.0
_MOST_KEPT: Final = 4


class SftpMover(Mover):
    """Moves files from and to ssh servers."""

    schemes: ClassVar[frozenset[str]] = frozenset({"sftp"})

    def __init__(self) -> None:
        self._links = _Links()

    async def close(self) -> None:
        """End connections that are kept."""
        await self._links.close()

    async def stat(self, location: Location, access: Access) -> Facts:
        """Size and time, and whether it is a directory."""
        async with self._links.taken(location, access) as link:
            return await link.stat()

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        """Open the file and read it or a part."""
        async with self._links.taken(location, access) as link:
            incoming = _SftpIncoming(link, await link.open("rb"), location)
            try:
                await incoming.begin(span)
                yield incoming
            finally:
                await incoming.give_up()

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """Write it under another name, then give it its own."""
        draft = replace(location, path=f"{location.path.rpartition('/')[0]}/{DRAFT}{secrets.token_hex(8)}")
        async with self._links.taken(draft, access) as link:
            try:
                await _write(link, body)
                await link.rename(location)
            except BaseException:
                link.abort()
                await self._forget(draft, access)
                raise

    async def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """Names with sizes and times; links are told without either."""
        left = limit
        async with self._links.taken(location, access) as link, aclosing(link.entries()) as entries:
            async for entry in entries:
                left -= 1
                if left < 0:
                    raise TooLarge(f"the directory has more than {limit} names")
                yield entry

    async def delete(self, location: Location, access: Access) -> None:
        """Delete the file."""
        async with self._links.taken(location, access) as link:
            await link.remove()

    async def _forget(self, draft: Location, access: Access) -> None:
        """Delete what was written in vain, if the server can still be reached."""
        with suppress(IceProdError, TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S):
                await self.delete(draft, access)


class _Links:
    """Connections, which are kept for a while for those who might have opened them."""

    def __init__(self) -> None:
        self._kept: dict[object, list[Link]] = {}
        self._is_closed = False

    async def close(self) -> None:
        """End those that are kept; those that are in use end after it."""
        self._is_closed = True
        kept, self._kept = self._kept, {}
        for link in (each for several in kept.values() for each in several):
            link.abort()
            await link.wait_closed()

    @asynccontextmanager
    async def taken(self, location: Location, access: Access) -> AsyncIterator[Link]:
        """One to the server of that file, for an operation; what it leaves undone ends the connection."""
        if location.query or location.path == "/~" or location.path.startswith("/~/"):
            raise InputError("a path of sftp begins at the root, and has no query")
        key = location.host, location.port, sharing(access)
        link = self._found(key) or await _opened(location, access)
        link.begin(location, access)
        try:
            yield link
        finally:
            self._let_go(key, link)

    def _found(self, key: object) -> Link | None:
        several = self._kept.get(key, [])
        while several:
            link = several.pop()
            if link.is_good:
                return link
            link.abort()
        return None

    def _let_go(self, key: object, link: Link) -> None:
        several = self._kept.get(key, [])
        if not link.is_good or len(several) >= _MOST_KEPT or self._is_closed:
            link.abort()
            return
        self._kept[key] = several
        several.append(link)
        asyncio.get_running_loop().call_later(_KEPT_S, self._drop, key, link)

    def _drop(self, key: object, link: Link) -> None:
        several = self._kept.get(key, [])
        if link in several:
            several.remove(link)
            link.abort()
        if not several:
            self._kept.pop(key, None)


async def _opened(location: Location, access: Access) -> Link:
    """A new connection; what makes them is a large import, and not needed by most sites."""
    module: Any = await asyncio.to_thread(import_module, "iceprod.movers.ssh_link")
    link: Link = await module.open_link(location, access)
    return link


class _Block(NamedTuple):
    """A part of a file that was asked for."""

    span: Span
    sent: asyncio.Task[bytes]


class _SftpIncoming(Incoming):
    """A body that is read ahead of its reader, by so many bytes and no more."""

    def __init__(self, link: Link, file: File, location: Location) -> None:
        self._link = link
        self._file = file
        self._location = location
        self._ahead: deque[_Block] = deque()
        self._is_over = False

    async def begin(self, span: Span) -> None:
        """Look what there is to be read."""
        self.facts = await self._link.stat_open(self._file)
        if self.facts.is_directory:
            raise InputError(f"{self._location} is a directory")
        part = _part(span, self.facts, self._location)
        self.offset, self.length = part.offset, part.length
        self._next = part.offset

    async def read(self) -> bytes:
        """The next piece; a body that is cut raises."""
        self._read_ahead()
        if not self._ahead:
            await self._end()
            return b""
        span, sent = self._ahead.popleft()
        data = await self._link.answer(sent)
        if not data:
            return await self._no_more()
        self._link.done_bytes += len(data)
        rest = Span(span.offset + len(data), (span.length or 0) - len(data))
        if rest.length:
            # Servers may give less than was asked for.
            self._ahead.appendleft(self._asked(rest))
        return data

    async def give_up(self) -> None:
        """End what is left of it; nobody shall wait for a file's being closed that was not read."""
        await _dropped(block.sent for block in self._ahead)
        if not self._is_over:
            self._link.abort()

    def _read_ahead(self) -> None:
        size = self._link.block_bytes
        most = _AHEAD_BYTES // size if self.length is not None else 1
        end = self.offset + self.length if self.length is not None else None
        while not self._is_over and len(self._ahead) < most and (end is None or self._next < end):
            length = size if end is None else min(size, end - self._next)
            self._ahead.append(self._asked(Span(self._next, length)))
            self._next += length

    def _asked(self, span: Span) -> _Block:
        return _Block(span, self._link.send(partial(self._read_block, span)))

    async def _read_block(self, span: Span) -> bytes:
        length = span.length or 0
        data: bytes = await self._file.read(length, span.offset)
        if len(data) > length:
            raise self._link.failure("the server gave more than it was asked for")
        return data

    async def _no_more(self) -> bytes:
        if self.length is not None:
            raise self._link.failure("the file ended before its length")
        await self._end()
        return b""

    async def _end(self) -> None:
        if self._is_over:
            return
        after = await self._link.stat_open(self._file)
        await self._link.ask(self._file.close)
        self._is_over = True
        if not after.is_same(self.facts):
            raise ConflictError(f"{self._location} was changed while it was read")


async def _write(link: Link, body: Outgoing) -> None:
    """Make the file, which must not be there, of the body."""
    try:
        file = await _created(link)
        async with aclosing(verified(body)) as pieces:
            await _send(link, file, pieces)
        await link.ask(file.close)
    except TransferFailed as exc:
        raise await link.explained(exc, body.size_bytes) from None


async def _created(link: Link) -> File:
    try:
        return await link.open("xb")
    except NotFoundError:
        await link.make_folder()
        return await link.open("xb")


async def _send(link: Link, file: File, pieces: AsyncIterator[bytes]) -> None:
    """Write the pieces, with so many bytes on their way and no more."""
    size, offset = link.block_bytes, 0
    ahead: deque[asyncio.Task[int]] = deque()
    try:
        async for piece in pieces:
            for start in range(0, len(piece), size):
                block = piece[start : start + size]
                if len(ahead) >= _AHEAD_BYTES // size:
                    await link.answer(ahead.popleft())
                ahead.append(link.send(partial(file.write, block, offset)))
                offset += len(block)
        while ahead:
            await link.answer(ahead.popleft())
    finally:
        await _dropped(ahead)


async def _dropped(requests: Iterable[asyncio.Task[Any]]) -> None:
    """Forget requests whose answers nobody waits for."""
    left = list(requests)
    for request in left:
        request.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _part(span: Span, facts: Facts, location: Location) -> Span:
    """The span as far as the file reaches.

    Raises:
        InputError: it begins behind the end.
    """
    size = facts.size_bytes
    if span == WHOLE:
        return Span(0, size)
    if size is None:
        raise InputError(f"{location} has no size, and so no parts")
    if span.offset < 0 or span.offset > size or (span.length is not None and span.length < 0):
        raise InputError(f"the part begins behind the end of {location}")
    rest = size - span.offset
    return Span(span.offset, rest if span.length is None else min(rest, span.length))
