"""Making one copy: by asking the origin, or by watching another process do so.

The first process that wants a file locks its part and writes it.  Another one that wants the
same looks some forty times a second how long the part has become, and whether it is still
locked: that costs two system calls, needs no channel between the processes, and what a process
that was killed leaves behind is what the next one goes on with.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import structlog

from iceprod.clock import Clock
from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TransferFailed,
    Unavailable,
)
from iceprod.model.file import Direction
from iceprod.model.location import Location
from iceprod.movers.base import Facts, Incoming, Span
from iceprod.services.cache import entry
from iceprod.services.cache.contents import Contents
from iceprod.services.cache.entry import Coming, Copy, Told
from iceprod.services.cache.hashing import Hashes, mismatch
from iceprod.services.cache.part import Part
from iceprod.services.cache.shelf import Shelf
from iceprod.services.origins import Origin, Origins
from iceprod.services.transfers import Transfers

logger = structlog.get_logger(__name__)

T = TypeVar("T")
LOOK_S: Final = 0.025
"""How often a process looks how far another one is."""
TRIES: Final = 4
_PAUSE_S: Final = 0.5
_HASH_STEP: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One place of a file, and the origin that it was found at."""

    location: Location
    origin: Origin

    @property
    def shown(self) -> str:
        """The address without its query, which may be a secret."""
        return str(replace(self.location, query=""))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file by its places, which are all said to hold the same; the first that answers counts."""

    sources: tuple[Source, ...]

    @property
    def reader(self) -> str:
        """The one user who may see it, where any place is opened by a credential of that user."""
        return next((source.origin.reader for source in self.sources if source.origin.reader), "")

    @property
    def key(self) -> str:
        """The name of its copy."""
        return entry.key_of([source.location for source in self.sources], self.reader)

    def beginning_with(self, first: Source) -> tuple[Source, ...]:
        """The places, that one first."""
        return (first, *(source for source in self.sources if source is not first))


@dataclass(frozen=True, slots=True)
class Tools:
    """What every fetch works with."""

    shelf: Shelf
    origins: Origins
    transfers: Transfers
    executor: Executor
    clock: Clock
    patience_s: float = 5.0  # with a copy that nobody reads for the moment
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def run(self, work: Callable[[], T]) -> T:
        """Do blocking ``work`` on a thread; it has ended when this has, also if that is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self.executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # It uses files that whoever is cancelled is about to close.
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            raise


class Restart(Exception):
    """Whoever made the copy has given it up before anything of it was seen; begin anew."""


class Fetch:
    """One copy being made; `run` does it, and ends when it is complete or has failed.

    ``facts`` are those of the place that is asked ``first``.  ``contents`` is known after `begun`.
    """

    def __init__(self, tools: Tools, wanted: Wanted, *, first: Source, facts: Facts) -> None:
        self._tools = tools
        self._key = wanted.key
        self._reader = wanted.reader
        self._sources = wanted.beginning_with(first)
        self._facts = facts
        self._told = Told.of(facts)
        self._part: Part | None = None
        self._done = 0
        self.checked_at = tools.clock()
        self._began: asyncio.Future[Contents] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self.contents: Contents | None = None
        self.is_given_up = False

    def start(self) -> asyncio.Task[None]:
        """Begin to work."""
        self._task = asyncio.create_task(self._run(), name=f"copy {self._sources[0].shown}")
        return self._task

    @property
    def readable(self) -> Contents | None:
        """The contents, if there is any hope in waiting for them."""
        contents = self.contents
        if contents is None or contents.error is not None or self.is_given_up:
            return None
        return contents if contents.descriptor >= 0 else None  # complete and closed a moment ago

    async def begun(self) -> Contents:
        """The contents, once their room is promised and their first byte may be waited for.

        Raises:
            Restart: nothing came of it; look for a copy again.
            Unavailable: there is no room for a copy.
        """
        return await asyncio.shield(self._began)

    async def _run(self) -> None:
        try:
            await self._make()
        except IceProdError as exc:
            self._fail(exc)
        except asyncio.CancelledError:
            self._fail(TransferFailed("nobody waited for the copy any more", retry_after_s=1))
            raise
        except Restart:
            self._began.set_exception(Restart())
        except OSError as exc:
            await self._clear()
            self._fail(_told_of_disk(exc))
        except Exception:
            logger.exception("a copy failed", url=self._sources[0].shown)
            self._fail(TransferFailed("the copy failed by a fault of this server"))
        finally:
            self._let_go()

    def _fail(self, error: IceProdError) -> None:
        if self.contents is not None:
            self.contents.failed(error)
        elif not self._began.done():
            self._began.set_exception(error)
            self._began.exception()  # there may be nobody who asks

    async def _clear(self) -> None:
        """Give back what a part takes on a disk that is full."""
        part = self._part
        if part is not None and part.leads:
            await self._tools.run(lambda: self._tools.shelf.discard(part))

    def _let_go(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        if self.contents is None:
            part.close()
        else:
            if part.leads:
                part.let_go()
            self.contents.written()  # which closes the file when nobody reads it

    async def _make(self) -> None:
        part = await self._tools.run(self._begin_part)
        if not part.leads:
            await self._watch(part)
            if not part.leads:
                return
        else:
            await self._prepare(part)
        await self._lead(part)

    def _begin_part(self) -> Part:
        """Noted on the thread: who is cancelled meanwhile must let go of it, too."""
        self._part = self._tools.shelf.begin(self._key)
        return self._part

    # Watching

    async def _watch(self, part: Part) -> None:
        """Let readers have what another process writes; in the end maybe take its place."""
        coming = await self._announced(part)
        self._told = coming.told
        self._facts = coming.told.facts()
        contents = self._publish(part)
        while True:
            has_leader = part.has_leader()
            contents.grown(min(part.size_bytes, self._told.size_bytes))
            if not has_leader:
                break
            await self._tools.sleep(LOOK_S)
        if part.is_sealed:
            contents.completed(await self._tools.run(lambda: self._tools.shelf.known(self._key)))
        elif not part.take_over():
            raise TransferFailed("the transfer broke off in another process", retry_after_s=1)
        else:
            self._done = part.size_bytes

    async def _announced(self, part: Part) -> Coming:
        while True:
            coming = await self._tools.run(lambda: self._tools.shelf.coming(part))
            if coming is not None:
                return coming
            if not part.has_leader():
                raise Restart
            await self._tools.sleep(LOOK_S)

    # Leading

    async def _prepare(self, part: Part) -> None:
        """Begin a part, or go on with one that somebody has left."""
        shelf, run = self._tools.shelf, self._tools.run
        known = await run(lambda: shelf.known(self._key))
        if known is not None and known.told.facts().is_same(self._facts):  # completed while we came here
            await run(lambda: shelf.discard(part))
            raise Restart
        if part.size_bytes:
            left = await run(lambda: shelf.can_go_on(part))
            is_same = left is not None and left.told.facts().is_same(self._facts)
            if not is_same or not entry.can_be_told_apart(self._facts):
                await run(lambda: shelf.discard(part))
                raise Restart
            self._done = part.size_bytes
            self._publish(part)
            return
        source = self._sources[0]
        coming = Coming(source.shown, self._reader, source.origin.name, self._told, 0, "")
        try:
            await run(lambda: shelf.announce(part, coming))
        except BaseException:
            await run(lambda: shelf.discard(part))
            raise
        self._publish(part)

    def _publish(self, part: Part) -> Contents:
        contents = Contents(self._told, part.descriptor, on_unused=self._unused)
        if self._told.checksums:
            contents.withhold_the_end()
        contents.grown(min(part.size_bytes, self._told.size_bytes))
        self.contents = contents
        if not self._began.done():
            self._began.set_result(contents)
        return contents

    def _unused(self) -> None:
        """Nobody reads it at the moment; who reads in pieces soon comes back."""
        asyncio.get_running_loop().call_later(self._tools.patience_s, self._give_up)

    def _give_up(self) -> None:
        """If still nobody reads it, end: what is there already stays for the next who does."""
        contents = self.contents
        if self._task is not None and contents is not None and not contents.readers and not contents.has_all:
            self.is_given_up = True
            self._task.cancel()

    async def _lead(self, part: Part) -> None:
        shelf, run = self._tools.shelf, self._tools.run
        contents = self.contents
        assert contents is not None  # noqa: S101 - it was published
        hashing = asyncio.create_task(self._hash(contents))
        try:
            source = await self._pull_from_any(part, contents)
            checksums = await hashing
            wrong = mismatch(checksums, self._told.checksums)
            if wrong:
                await run(lambda: shelf.discard(part))
                raise TransferFailed(
                    f"the {wrong} is not what the origin says it is",
                    source=source.shown,
                    done_bytes=self._done,
                )
            copy = Copy(
                url=self._sources[0].shown,
                reader=self._reader,
                origin=source.origin.name,
                told=self._told,
                checksums=checksums,
                fetched_at=self._tools.clock(),
                data="",
            )
            copy = await run(lambda: shelf.complete(part, copy, at=self.checked_at))
            part.leads = False  # the lock is a reader's by now
            contents.completed(copy)
        finally:
            hashing.cancel()
            await asyncio.gather(hashing, return_exceptions=True)

    async def _hash(self, contents: Contents) -> dict[str, str]:
        """Checksums of what comes, computed behind it."""
        hashes, part = Hashes(), self._part
        assert part is not None  # noqa: S101 - it is what is being made
        while hashes.size_bytes < self._told.size_bytes:
            there = await contents.arrived(hashes.size_bytes)
            upto = min(there, hashes.size_bytes + _HASH_STEP)
            await self._tools.run(partial(hashes.read, part.descriptor, upto))
            if contents.error is not None:
                break
        return hashes.found()

    async def _pull_from_any(self, part: Part, contents: Contents) -> Source:
        """Get the bytes from the first place that has them, trying again as long as that helps."""
        source, failures = self._sources[0], 0
        error: IceProdError | None = None
        while self._done < self._told.size_bytes:
            before, can_help = self._done, False
            for source in self._sources:
                if not self._may_use(source):
                    continue
                try:
                    await self._pull(source, part, contents)
                    break
                except ConflictError:
                    if source is self._sources[0]:
                        raise await self._changed(part) from None
                except (TransferFailed, Unavailable) as exc:
                    error, can_help = exc, True
                except (NotFoundError, AccessDenied, InputError) as exc:
                    error = error or exc
                logger.info("an origin failed", url=source.shown, error=str(error), done=self._done)
            else:
                failures = 0 if self._done > before else failures + 1
                if not can_help or failures >= TRIES:
                    raise self._given_up(error)
                await self._tools.sleep(_PAUSE_S * 2**failures)
        return source

    def _may_use(self, source: Source) -> bool:
        """Whether what comes from there may follow what is there already.

        Two places say of each other's files nothing but by checksums.
        """
        return source is self._sources[0] or not self._done or bool(self._told.checksums)

    async def _pull(self, source: Source, part: Part, contents: Contents) -> None:
        origin, tools = source.origin, self._tools
        flow = origin.flow(Direction.IN, "cache")
        async with tools.origins.turn(origin):
            with tools.transfers.begin(
                flow, label=source.shown, size_bytes=self._told.size_bytes - self._done
            ) as transfer:
                fetch = origin.mover.fetch(source.location, origin.access, span=Span(self._done))
                async with fetch as incoming:
                    self._check(source, incoming)
                    while piece := await incoming.read():
                        if self._done + len(piece) > self._told.size_bytes:
                            raise ConflictError("the file has become longer")
                        await tools.run(partial(part.write, piece))
                        self._done += len(piece)
                        contents.grown(self._done)
                        await transfer.moved(len(piece))
        if self._done < self._told.size_bytes:
            raise TransferFailed("the origin sent too little", done_bytes=self._done)

    def _check(self, source: Source, incoming: Incoming) -> None:
        """Refuse what is no part of the same file."""
        if source is self._sources[0]:
            is_same = incoming.facts.is_same(self._facts)
        else:
            is_same = incoming.facts.size_bytes == self._told.size_bytes
        if not is_same:
            raise ConflictError("the file has changed")
        if incoming.offset != self._done:
            raise InputError("the origin does not send parts of files")

    async def _changed(self, part: Part) -> TransferFailed:
        await self._tools.run(lambda: self._tools.shelf.discard(part))
        return TransferFailed(
            "the file changed at its origin meanwhile",
            source=self._sources[0].shown,
            done_bytes=self._done,
            retry_after_s=1,
        )

    def _given_up(self, error: IceProdError | None) -> IceProdError:
        if error is not None and not self._done and not isinstance(error, TransferFailed):
            return error
        reason = error.message if error else "no place of the file can be used"
        return TransferFailed(reason, source=self._sources[0].shown, done_bytes=self._done)


def _told_of_disk(exc: OSError) -> Unavailable:
    reason = "storage_full" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "disk"
    return Unavailable(f"the disk of the copies does not work: {exc.strerror}", reason=reason)
