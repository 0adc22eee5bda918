"""The bytes that the web server in front has sent by itself, read from its log.

Each line is a JSON object: ``account`` (a flow as `accounting.flow_text` writes it), ``bytes``
of the body and ``at``, the second it ended.  How far the log was read is kept in the store, and
follows the file when it is rotated: what was renamed is read to its end before the new one.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from iceprod.errors import InputError
from iceprod.model.file import Flow
from iceprod.services.accounting import Accounting, parse_flow
from iceprod.store.base import ValueRepository

logger = structlog.get_logger(__name__)

POSITION: Final = "sent_log.position"
_PIECE: Final = 1024 * 1024


class _Line(msgspec.Struct):
    at: float
    bytes: int
    account: str


@dataclass(frozen=True, slots=True)
class Sent:
    """One answer that was sent; ``at`` in seconds since the epoch."""

    flow: Flow
    bytes_sent: int
    at: float


class Position(msgspec.Struct, frozen=True):
    """How far a log was read: the file, by its inode, and the bytes of it."""

    inode: int = 0
    offset: int = 0


class SentLog:
    """Reads what has been added to the log since the last time."""

    def __init__(self, path: Path, values: ValueRepository, accounting: Accounting) -> None:
        self._path = path
        self._values = values
        self._accounting = accounting

    async def read(self, *, fence: int = 0) -> int:
        """Account what has been sent since the last time; how many answers that were."""
        text = await self._values.get(POSITION)
        position = msgspec.json.decode(text, type=Position) if text else Position()
        count = 0
        while True:
            found, position = await asyncio.to_thread(read_on, self._path, position)
            if found is None:
                return count
            # Noted before it is counted: a crash in between loses a few lines, and doubles none.
            if not await self._values.put(POSITION, msgspec.json.encode(position).decode(), fence=fence):
                return count
            for sent in found:
                self._accounting.count(sent.flow, bytes_moved=sent.bytes_sent, transfers=1, at=sent.at)
            count += len(found)


def read_on(path: Path, position: Position) -> tuple[list[Sent] | None, Position]:
    """The next lines after ``position``, and where they end; None if there is nothing new.

    At most some 1 MiB is read at a time.  A file that has become shorter was begun anew.
    """
    for file, start in _places(path, position):
        with file.open("rb") as log:
            inode = os.fstat(log.fileno()).st_ino
            log.seek(start)
            piece = log.read(_PIECE)
        whole, newline, _ = piece.rpartition(b"\n")
        if newline:
            return _parse(whole), Position(inode, start + len(whole) + 1)
        if len(piece) == _PIECE:  # no line is so long: it is damage, and passed over
            return [], Position(inode, start + len(piece))
    return None, position


def _places(path: Path, position: Position) -> list[tuple[Path, int]]:
    """Where to read on: what is left of the file read last, if it was renamed, then the present one."""
    places = []
    try:
        present = path.stat()
    except FileNotFoundError:
        present = None
    if position.inode and (present is None or present.st_ino != position.inode):
        renamed = _renamed(path, position.inode)
        places += [(renamed, position.offset)] if renamed else []
    if present is not None:
        is_same = present.st_ino == position.inode and position.offset <= present.st_size
        places.append((path, position.offset if is_same else 0))
    return places


def _renamed(path: Path, inode: int) -> Path | None:
    """The file that was the log and got another name; None if it is gone or was compressed."""
    for sibling in path.parent.glob(f"{path.name}*"):
        try:
            if sibling.stat().st_ino == inode:
                return sibling
        except FileNotFoundError:
            continue
    return None


def _parse(lines: bytes) -> list[Sent]:
    found, odd = [], 0
    for line in lines.splitlines():
        try:
            entry = msgspec.json.decode(line, type=_Line)
            found.append(Sent(parse_flow(entry.account), max(0, entry.bytes), entry.at))
        except (msgspec.MsgspecError, InputError, ValueError):
            odd += 1
    if odd:
        logger.warning("lines of the web server's log not understood", lines=odd)
    return found
