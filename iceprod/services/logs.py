"""What tasks print: taken from pilots, shown to people."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import zlib
from dataclasses import dataclass

from iceprod.clock import Clock
from iceprod.errors import InputError, NotFoundError, TooLarge
from iceprod.model.principal import Principal
from iceprod.services.tasks import TaskService
from iceprod.store.base import LogInfo, Store

MAX_TEXT = 64 * 1024 * 1024
"""Longest log, in bytes of text; pilots keep the head and the tail of longer ones."""
MAX_COMPRESSED = 12 * 1024 * 1024
MAX_PART = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_INLINE = 16 * 1024


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of a log: ``text`` from byte ``offset`` of ``size_bytes``."""

    text: str
    offset: int
    size_bytes: int
    attempt: int
    name: str


class LogService:
    """Logs by task, attempt and name."""

    def __init__(self, store: Store, *, clock: Clock, tasks: TaskService) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks

    async def put(
        self, principal: Principal, task_id: str, lease_id: str | None, *, name: str, data: str
    ) -> None:
        """Keep a log of the caller's attempt, in place of what it had sent under that name.

        ``data`` is base64 of the zlib-compressed text; empty for an empty log.

        Raises:
            LeaseLost: the task is somebody else's by now.
            InputError: the name or the encoding is wrong.
            TooLarge: the log is, once unpacked, over `MAX_TEXT`.
        """
        check_name(name)
        attempt = await self._tasks.attempt_of(principal, "pilot.log", task_id, lease_id)
        await self.keep(task_id, attempt, name=name, data=data)

    async def keep(self, task_id: str, attempt: int, *, name: str, data: str) -> None:
        """As `put`, for a caller whose right to speak for that attempt was checked."""
        check_name(name)
        packed = _decode(data)
        if len(packed) <= _INLINE:
            size = _measure(packed)
        else:
            size = await asyncio.to_thread(_measure, packed)
        info = LogInfo(task_id, attempt, name, size, self._clock())
        await self._store.logs.put(info, packed)
        await self._tasks.log_kept(task_id, attempt, name)

    async def of_task(self, principal: Principal, task_id: str) -> list[LogInfo]:
        """Which logs a task has, by attempt and name."""
        await self._tasks.check_seen(principal, "task.logs", task_id)
        return await self._store.logs.of_task(task_id)

    async def read(
        self,
        principal: Principal,
        task_id: str,
        name: str,
        *,
        attempt: int | None = None,
        offset: int = 0,
        limit: int = 65536,
    ) -> LogPart:
        """A part of a log; a negative ``offset`` counts from its end; the last attempt if none is named.

        Raises:
            NotFoundError: there is no such log.
        """
        await self._tasks.check_seen(principal, "task.log", task_id)
        if attempt is None:
            attempts = [i.attempt for i in await self._store.logs.of_task(task_id) if i.name == name]
            attempt = max(attempts, default=0)
        packed = await self._store.logs.get(task_id, attempt, name)
        if packed is None:
            raise NotFoundError("log", f"{task_id} {name}")
        text = await asyncio.to_thread(zlib.decompress, packed) if packed else b""
        start = max(0, len(text) + offset) if offset < 0 else offset
        part = text[start : start + min(limit, MAX_PART)]
        return LogPart(part.decode(errors="replace"), start, len(text), attempt, name)


def check_name(name: str) -> None:
    """Refuse what can be no name of a log.

    Raises:
        InputError: as it says.
    """
    if not _NAME.fullmatch(name):
        raise InputError("a log's name has letters, digits, dots, dashes and underscores, 64 at most")


def _decode(data: str) -> bytes:
    if len(data) > MAX_COMPRESSED * 4 // 3 + 8:
        raise TooLarge(f"a log may have {MAX_COMPRESSED} compressed bytes", limit_bytes=MAX_COMPRESSED)
    try:
        return base64.b64decode(data)
    except (binascii.Error, ValueError):
        raise InputError("the log is not base64") from None


def _measure(packed: bytes) -> int:
    """The size of the text, found without ever holding all of it."""
    if not packed:
        return 0
    unpacker, size, rest = zlib.decompressobj(), 0, packed
    try:
        while rest and not unpacker.eof:
            size += len(unpacker.decompress(rest, 1024 * 1024))
            if size > MAX_TEXT:
                raise TooLarge(f"a log may have {MAX_TEXT} bytes", limit_bytes=MAX_TEXT)
            rest = unpacker.unconsumed_tail
    except zlib.error:
        raise InputError("the log is not zlib-compressed") from None
    if not unpacker.eof or unpacker.unused_data:
        raise InputError("the log is cut off, or something follows it")
    return size
