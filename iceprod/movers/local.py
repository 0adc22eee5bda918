"""Files of directories on this machine, below the origin's own (``Access.root``).

Paths are walked one name at a time without following links, so nothing outside is ever
reached; pipes, devices and links are no files here.  A file that is put appears complete or
not at all.  Everything that blocks is done on a few threads.  There are no options, and
credentials and the address policy mean nothing: what may be read is what this process may.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from itertools import islice
from typing import ClassVar, Final, TypeVar

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Access, Entry, Facts, Incoming, Mover, Outgoing, Span
from iceprod.movers.bodies import PIECE_BYTES, new_digest, verified
from iceprod.movers.local_tree import Draft, delete, facts_at, open_regular, scan

_THREADS: Final = 8
_BATCH: Final = 256
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_IN_THE_WAY: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_BAD_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})

_T = TypeVar("_T")


class LocalMover(Mover):
    """Moves files from and to directories."""

    schemes: ClassVar[frozenset[str]] = frozenset({"file"})

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="local-files")

    async def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stat(self, location: Location, access: Access) -> Facts:
        """What the file system tells."""
        return await self._run(location, partial(facts_at, access.root, _names(location, access)))

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        """By positioned reads; a file that is replaced meanwhile stays what it was."""
        opened = partial(open_regular, access.root, _file_names(location, access))
        descriptor, facts = await self._run(location, opened, undo=lambda found: os.close(found[0]))
        try:
            yield _LocalIncoming(partial(self._run, location), location, descriptor, facts, span)
        finally:
            os.close(descriptor)

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """Beside its place, synced, then renamed."""
        begun = partial(Draft, access.root, _file_names(location, access))
        draft = await self._run(location, begun, undo=lambda made: made.close())
        try:
            async with aclosing(verified(body)) as pieces:
                async for piece in pieces:
                    await self._run(location, partial(draft.write, piece))
            await self._run(location, draft.commit)
        finally:
            await self._run(location, draft.close)

    async def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """Files and directories; links and the like are left out."""
        found = scan(access.root, _names(location, access))
        left = limit
        try:
            while batch := await self._run(location, lambda: list(islice(found, _BATCH))):
                for entry in batch:
                    left -= 1
                    if left < 0:
                        raise TooLarge(f"the directory has more than {limit} names")
                    yield entry
        finally:
            found.close()

    async def delete(self, location: Location, access: Access) -> None:
        """Delete the file."""
        await self._run(location, partial(delete, access.root, _file_names(location, access)))

    async def checksum(self, location: Location, access: Access, algorithm: str) -> str | None:
        """What the file's checksum is now; it is read for that."""
        digest = new_digest(algorithm)
        async with self.fetch(location, access) as incoming:
            while piece := await incoming.read():
                await self._run(location, partial(digest.update, piece))
        return digest.hexdigest()

    async def _run(
        self, location: Location, job: Callable[[], _T], *, undo: Callable[[_T], object] = lambda _: None
    ) -> _T:
        """Do ``job`` on a thread; who is cancelled still waits for its end, and has it undone."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, job)
        try:
            return await asyncio.shield(future)
        except OSError as exc:
            raise _told(exc, location) from None
        except asyncio.CancelledError:
            await _ended(future)
            if not future.cancelled() and future.exception() is None:
                undo(future.result())
            raise


class _LocalIncoming(Incoming):
    """A body that is read when it is asked for."""

    def __init__(
        self,
        run: Callable[[Callable[[], bytes]], Awaitable[bytes]],
        location: Location,
        descriptor: int,
        facts: Facts,
        span: Span,
    ) -> None:
        size = facts.size_bytes or 0
        if span.offset < 0 or (span.length is not None and span.length < 0):
            raise InputError("a span has no negative numbers")
        if span.offset > size:
            raise InputError(f"the part begins behind the end of {location}")
        rest = size - span.offset
        self.facts = facts
        self.offset = span.offset
        self.length: int = rest if span.length is None else min(rest, span.length)
        self._run = run
        self._location = location
        self._descriptor = descriptor
        self._done = 0

    async def read(self) -> bytes:
        """The next piece; a file that became shorter meanwhile raises."""
        size = min(PIECE_BYTES, self.length - self._done)
        if not size:
            return b""
        data = await self._run(partial(os.pread, self._descriptor, size, self.offset + self._done))
        if not data:
            said = "the file became shorter while it was read"
            raise TransferFailed(said, source=str(self._location), done_bytes=self._done)
        self._done += len(data)
        return data


async def _ended(future: asyncio.Future[_T]) -> None:
    """Wait for the end, however often it is asked to give up: the descriptors are in use till then."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future})


def _names(location: Location, access: Access) -> tuple[str, ...]:
    """The names from the root down to the place."""
    root = access.root.rstrip("/")
    if location.path != root and not location.path.startswith(f"{root}/"):
        raise AccessDenied(f"{location} is not below the origin's directory")
    rest = location.path[len(root) :].removeprefix("/").removesuffix("/")
    names = tuple(rest.split("/")) if rest else ()
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        raise InputError("a path has no empty names, and none of dots")
    return names


def _file_names(location: Location, access: Access) -> tuple[str, ...]:
    names = _names(location, access)
    if not names or location.path.endswith("/"):
        raise InputError(f"{location} is a directory")
    return names


def _told(exc: OSError, location: Location) -> IceProdError:
    """What the system said, as an error of ours."""
    if exc.errno == errno.ENOENT:
        return NotFoundError("file", location)
    if exc.errno in _FULL:
        return Unavailable("the disk is full", reason="storage_full")
    if exc.errno in _REFUSED:
        return AccessDenied(f"this server may not use {location}")
    if exc.errno in _IN_THE_WAY:
        return ConflictError(f"something else is in the way at {location}")
    if exc.errno in _BAD_NAME:
        return InputError(f"{location} can't be a name of a file here")
    return TransferFailed(f"the disk does not work: {exc.strerror}", source=str(location), done_bytes=0)
