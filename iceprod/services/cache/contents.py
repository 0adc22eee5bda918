"""The bytes of a copy as readers see them: all there, or still coming."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from iceprod.errors import IceProdError, TransferFailed
from iceprod.services.cache.entry import Copy, Told

_NO_WAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class Contents:
    """A file that many read; closed when the last has let go, and nobody writes it.

    ``copy`` is what is known of a complete one; ``found`` holds it until those who looked for it
    have hold of it themselves.  ``on_unused`` is called when nobody reads any
    more what is still coming.
    """

    def __init__(
        self,
        told: Told,
        descriptor: int,
        *,
        copy: Copy | None = None,
        on_unused: Callable[[], None] = lambda: None,
    ) -> None:
        self.told = told
        self.copy = copy
        self.descriptor = descriptor
        self.readers = 0
        self.found: Reading | None = None
        self._is_held = copy is None  # by who writes it
        self._is_withheld = False
        self._is_complete = copy is not None
        self._done = 0 if copy is None else told.size_bytes
        self._error: IceProdError | None = None
        self._on_unused = on_unused
        self._news = asyncio.Event()

    @property
    def visible(self) -> int:
        """How many bytes may be read by now."""
        return max(0, min(self._done, self.told.size_bytes - 1)) if self._is_withheld else self._done

    @property
    def has_all(self) -> bool:
        """Whether every byte has come, right or not."""
        return self._done >= self.told.size_bytes

    @property
    def error(self) -> IceProdError | None:
        """Why no more bytes come."""
        return self._error

    def withhold_the_end(self) -> None:
        """Keep the last byte back until the checksum was found to be right."""
        self._is_withheld = True

    def grown(self, done: int) -> None:
        """Let readers have what is there by now."""
        if done > self._done:
            self._done = done
            self._tell()

    def completed(self, copy: Copy | None) -> None:
        """All is there, and right."""
        self.copy = copy
        self._is_complete = True
        self._is_withheld = False
        self._done = self.told.size_bytes
        self._tell()

    def failed(self, error: IceProdError) -> None:
        """No more comes."""
        self._error = error
        self._tell()

    def written(self) -> None:
        """Nobody writes it any more."""
        self._is_held = False
        self._close_if_unused()

    def reading(self) -> Reading:
        """One more who reads it."""
        self.readers += 1
        return Reading(self)

    def left(self) -> None:
        """One fewer."""
        self.readers -= 1
        if not self.readers and self._is_held:
            self._on_unused()
        self._close_if_unused()

    async def more_than(self, offset: int) -> int:
        """How many bytes may be read, once that is more than ``offset``, or all there are.

        Raises:
            TransferFailed: the rest does not come.
        """
        while self.visible <= offset < self.told.size_bytes:
            if self._error is not None:
                raise self._again(self._error)
            await self._news.wait()
        return self.visible

    async def arrived(self, offset: int) -> int:
        """As `more_than`, also of what readers do not get yet."""
        while self._done <= offset and self._error is None:
            await self._news.wait()
        return self._done

    async def complete(self) -> None:
        """Wait until all is there, and right.

        Raises:
            TransferFailed: that never comes.
        """
        while not self._is_complete:
            if self._error is not None:
                raise self._again(self._error)
            await self._news.wait()

    def _again(self, error: IceProdError) -> IceProdError:
        """The same error for one more reader: raised twice, an exception grows a longer traceback."""
        again = type(error).__new__(type(error), *error.args)
        IceProdError.__init__(again, error.message, **error.detail)
        return again

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _close_if_unused(self) -> None:
        if not self.readers and not self._is_held and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Reading:
    """One reader's hold of a copy, which is not evicted meanwhile; close it."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._is_open = True

    @property
    def told(self) -> Told:
        """What the origin told of the file."""
        return self._contents.told

    @property
    def copy(self) -> Copy | None:
        """What is known of the copy once it is complete."""
        return self._contents.copy

    @property
    def descriptor(self) -> int:
        """The open file, to be read as far as `more_than` says."""
        return self._contents.descriptor

    async def more_than(self, offset: int) -> int:
        """How many bytes there are, once that is more than ``offset``, or all.

        Raises:
            TransferFailed: the rest does not come.
        """
        return await self._contents.more_than(offset)

    async def read(self, offset: int, size: int) -> bytes:
        """1 to ``size`` bytes from ``offset``; empty at the end.

        Raises:
            TransferFailed: they do not come.
        """
        there = await self.more_than(offset)
        size = min(size, there - offset)
        if size <= 0:
            return b""
        data = await read_at(self.descriptor, offset, size)
        if not data:
            raise TransferFailed("a copy on the disk has become shorter", done_bytes=offset)
        return data

    async def whole(self) -> Copy | None:
        """What is known of the copy, once it is complete.

        Raises:
            TransferFailed: it never is.
        """
        await self._contents.complete()
        return self.copy

    def close(self) -> None:
        """Let go; may be called again."""
        if self._is_open:
            self._is_open = False
            self._contents.left()


async def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Bytes of a file, at once where they are in memory, else by a thread."""
    buffer = bytearray(size)
    if _NO_WAIT:
        try:
            count = os.preadv(descriptor, [buffer], offset, _NO_WAIT)
        except OSError:  # not in memory, or the file system can't tell
            count = 0
        if count:
            return bytes(memoryview(buffer)[:count])
    duplicate = os.dup(descriptor)  # who waits may be cancelled, and the file closed meanwhile
    return await asyncio.to_thread(_read_and_close, duplicate, offset, size)


def _read_and_close(descriptor: int, offset: int, size: int) -> bytes:
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
