"""The door to the copies: one fetch however many want a file, and no copy older than it may be."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import AccessDenied, IceProdError, InputError, NotFoundError, TransferFailed, Unavailable
from iceprod.movers.base import Facts
from iceprod.services.cache import entry
from iceprod.services.cache.cleaning import clean
from iceprod.services.cache.contents import Contents, Reading
from iceprod.services.cache.fetching import Fetch, Restart, Source, Tools, Wanted
from iceprod.services.cache.shelf import Kept, Opened, Room, Shelf
from iceprod.services.origins import Origins
from iceprod.services.transfers import Transfers

logger = structlog.get_logger(__name__)

_THREADS: Final = 8
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Room and times of the copies; the fields are those of `CacheSettings`.

    ``patience_s`` is how long a fetch goes on that nobody reads.
    """

    path: Path
    max_bytes: int
    max_file_bytes: int
    keep_free_bytes: int
    fresh_s: float
    patience_s: float = 5.0


@dataclass(slots=True)
class _Held:
    """A complete copy that is open in this process."""

    contents: Contents
    checked_at: float


@dataclass(slots=True)
class _Look:
    """A look for a copy, and how many wait for what it finds."""

    task: asyncio.Task[Contents | None]
    waiting: int = 0

    def let_go(self) -> None:
        """Let go of what was found when everybody who waited has hold of it."""
        if self.waiting or not self.task.done() or self.task.cancelled() or self.task.exception():
            return
        contents = self.task.result()
        if contents is not None and contents.found is not None:
            contents.found.close()


class Cache:
    """Copies of files of origins; one per process, on a directory that several may share."""

    def __init__(self, limits: CacheLimits, origins: Origins, transfers: Transfers, *, clock: Clock) -> None:
        self._limits = limits
        self._shelf = Shelf(limits.path, Room(limits.max_bytes, limits.keep_free_bytes))
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="cache")
        self._tools = Tools(self._shelf, origins, transfers, executor, clock, limits.patience_s)
        self._executor = executor
        self._fetches: dict[str, Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[str, _Held] = {}
        self._looking: dict[str, _Look] = {}

    async def open(self) -> None:
        """Make the directories, and clean up after processes that died."""
        await self._tools.run(self._shelf.open)
        await self.clean()

    async def close(self) -> None:
        """Give up what is coming."""
        tasks = [*self._tasks, *(look.task for look in self._looking.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def folder(self) -> Path:
        """Where the bytes of complete copies lie."""
        return self._shelf.copies

    @property
    def max_bytes(self) -> int:
        """Most that the copies may take."""
        return self._limits.max_bytes

    async def read(self, wanted: Wanted) -> Reading | None:
        """A copy of a file; close what you get.

        None where no copy is made of it: it is too large, its size is unknown, or there is no
        room.

        Raises:
            NotFoundError, AccessDenied, TransferFailed, Unavailable: what the origin says.
        """
        key = wanted.key
        contents = self._at_hand(key)
        return contents.reading() if contents is not None else await self._look(key, wanted)

    def accel_name(self, wanted: Wanted, reading: Reading) -> str | None:
        """Where below `folder` a complete copy lies, for the web server in front to send."""
        copy = reading.copy
        return None if copy is None else self._shelf.accel_name(wanted.key, copy)

    async def known(self, key: str) -> entry.Copy | None:
        """What is known of a copy, without asking whether it is still right."""
        return await self._tools.run(lambda: self._shelf.known(key))

    async def copies(self) -> list[Kept]:
        """All copies, those read last first."""
        found = await self._tools.run(lambda: list(self._shelf.all()))
        return sorted(found, key=lambda each: each.read_at, reverse=True)

    async def used_bytes(self) -> int:
        """How much they take."""
        return await self._tools.run(self._shelf.used_bytes)

    async def pin(self, key: str, *, on: bool = True) -> None:
        """Let a copy stay, or no more."""
        await self._tools.run(lambda: self._shelf.pin(key, on=on))

    async def evict(self, key: str) -> bool:
        """Remove a copy; who reads it reads on.  Whether there was one."""
        self._held.pop(key, None)
        return await self._tools.run(lambda: self._shelf.evict(key, by_force=True))

    async def clean(self) -> int:
        """Remove what processes left that died, and count anew; how much that was."""
        return await self._tools.run(lambda: clean(self._shelf))

    # Looking

    def _at_hand(self, key: str) -> Contents | None:
        """What this process has open, or is fetching."""
        fetch = self._fetches.get(key)
        if fetch is not None and fetch.readable is not None:
            return fetch.readable
        held = self._held.get(key)
        if held is None or held.contents.descriptor < 0 or not self._is_fresh(held.checked_at):
            return None
        return held.contents if os.fstat(held.contents.descriptor).st_nlink else None

    def _is_fresh(self, checked_at: float) -> bool:
        return 0 <= self._tools.clock() - checked_at < self._limits.fresh_s

    async def _look(self, key: str, wanted: Wanted) -> Reading | None:
        """What a look for the copy finds, one look for all who want it at the same time."""
        for _ in range(_TRIES):
            look = self._looking.get(key)
            if look is None:
                look = self._looking[key] = _Look(asyncio.create_task(self._found(key, wanted)))
                look.task.add_done_callback(partial(self._looked, key, look))
            look.waiting += 1
            try:
                contents = await asyncio.shield(look.task)
                return contents.reading() if contents is not None else None
            except Restart:
                continue
            finally:
                look.waiting -= 1
                look.let_go()
        raise TransferFailed("the copy was given up again and again", retry_after_s=1)

    def _looked(self, key: str, look: _Look, task: asyncio.Task[Contents | None]) -> None:
        del self._looking[key]
        if not task.cancelled():
            task.exception()  # told to those who waited, if anybody still did
        look.let_go()

    async def _found(self, key: str, wanted: Wanted) -> Contents | None:
        shelf, run = self._shelf, self._tools.run
        opened = await run(lambda: shelf.find(key))
        if opened is not None:
            if self._is_fresh(opened.checked_at) or await self._is_still_right(key, opened, wanted):
                return await self._hold(key, opened)
            os.close(opened.descriptor)
        facts, source = await self._ask(wanted)
        is_kept = facts.size_bytes is not None and facts.size_bytes <= self._limits.max_file_bytes
        if not is_kept or facts.is_directory:
            return None
        return await self._begin(key, Fetch(self._tools, wanted, first=source, facts=facts))

    async def _is_still_right(self, key: str, opened: Opened, wanted: Wanted) -> bool:
        """Whether the origin still has what was copied; a copy counts while no origin answers."""
        try:
            facts, source = await self._ask(wanted)
        except (TransferFailed, Unavailable) as exc:
            logger.warning("a copy is served unchecked", url=opened.copy.url, error=exc.message)
            return True
        except BaseException:
            os.close(opened.descriptor)
            raise
        told = opened.copy.told
        is_same = facts.is_same(told.facts())
        if source.shown != opened.copy.url:  # another place has other dates and tags
            is_same = facts.size_bytes == told.size_bytes
        if not is_same:
            return False
        opened.checked_at = self._tools.clock()
        await self._tools.run(lambda: self._shelf.note_checked(key, opened.checked_at))
        return True

    async def _hold(self, key: str, opened: Opened) -> Contents:
        now = self._tools.clock()
        await self._tools.run(lambda: self._shelf.touch(key, opened.copy, now))
        contents = Contents(opened.copy.told, opened.descriptor, copy=opened.copy)
        self._forget_closed()
        self._held[key] = _Held(contents, opened.checked_at)
        contents.found = contents.reading()
        return contents

    async def _ask(self, wanted: Wanted) -> tuple[Facts, Source]:
        """What the first place that answers tells, and which that is."""
        error: IceProdError | None = None
        for source in wanted.sources:
            try:
                return await stat(source, self._tools.origins), source
            except (TransferFailed, Unavailable, NotFoundError, AccessDenied, InputError) as exc:
                error = error if error is not None and error.retryable else exc
        assert error is not None  # noqa: S101 - there is at least one place
        raise error

    async def _begin(self, key: str, fetch: Fetch) -> Contents | None:
        self._fetches[key] = fetch
        task = fetch.start()
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._fetched(key, fetch, done))
        try:
            contents = await fetch.begun()
        except Unavailable as exc:
            if exc.detail.get("reason") != "storage_full":
                raise
            logger.warning("no room for a copy", error=exc.message)
            return None
        contents.found = contents.reading()
        return contents

    def _fetched(self, key: str, fetch: Fetch, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._fetches.get(key) is fetch:
            del self._fetches[key]
        contents = fetch.contents
        if contents is not None and contents.copy is not None and contents.descriptor >= 0:
            self._held[key] = _Held(contents, fetch.checked_at)
        self._forget_closed()

    def _forget_closed(self) -> None:
        for key in [key for key, held in self._held.items() if held.contents.descriptor < 0]:
            del self._held[key]


async def stat(source: Source, origins: Origins) -> Facts:
    """What an origin tells of a file."""
    async with origins.turn(source.origin):
        return await source.origin.mover.stat(source.location, source.origin.access)
