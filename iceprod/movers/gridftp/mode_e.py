"""Extended block mode (MODE E): a file in blocks that say where they belong. No I/O.

A block has a header of 17 bytes: a byte of flags, its count and its offset, both of 8 bytes, big
endian. Each data connection ends with a block flagged EOD; on one of them a block flagged EOF
says in its offset how many connections there are to be waited for. Source: GFD.20 section 4.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

from iceprod.movers.gridftp.faults import ProtocolFault

EOR: Final = 0x80
EOF: Final = 0x40
ERRORS: Final = 0x20
RESTART: Final = 0x10
EOD: Final = 0x08
CLOSE: Final = 0x04

_HEADER: Final = struct.Struct(">BQQ")
HEADER_BYTES: Final = _HEADER.size
MAX_OFFSET: Final = 2**63 - 1


class BlockError(ProtocolFault):
    """These bytes are no blocks of a file, or not of this one."""


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a block; ``count`` bytes follow."""

    flags: int
    count: int
    offset: int

    @property
    def ends_connection(self) -> bool:
        """Whether no more blocks follow on this connection."""
        return bool(self.flags & EOD)

    @property
    def connections(self) -> int | None:
        """How many data connections there are in all, where this block tells it."""
        return self.offset if self.flags & EOF else None


def encode(header: Header) -> bytes:
    """The 17 bytes of a header."""
    return _HEADER.pack(header.flags, header.count, header.offset)


def data_header(offset: int, count: int) -> bytes:
    """The header of ``count`` bytes of the file."""
    return _HEADER.pack(0, count, offset)


def end_of_connection(*, connections: int = 0) -> bytes:
    """The last block of a connection; on one of them ``connections`` says how many there are."""
    return _HEADER.pack(EOF | EOD if connections else EOD, 0, connections)


def decode(data: bytes) -> Header:
    """The header that ``data`` is.

    Raises:
        BlockError: it is none that a file could have.
    """
    flags, count, offset = _HEADER.unpack(data)
    if flags & EOF:
        if count or not 0 < offset <= 4096:
            raise BlockError("an end of file that counts wrongly")
    elif offset + count > MAX_OFFSET:
        raise BlockError("a block beyond the end of any file")
    if flags & (RESTART | ERRORS) or flags & 0x03:
        raise BlockError("a block of an unknown kind")
    return Header(flags, count, offset)


class BlockParser:
    """Cuts what comes on one connection into headers and parts of blocks, however it was cut."""

    def __init__(self) -> None:
        self._head = b""
        self._offset = 0
        self._left = 0

    @property
    def offset(self) -> int:
        """Where the next byte of the block under way belongs."""
        return self._offset

    @property
    def left(self) -> int:
        """How many bytes of that block are to come."""
        return self._left

    @property
    def wanted(self) -> int:
        """How many bytes are to be fed next, at most: to the end of a header or of a block."""
        return self._left or HEADER_BYTES - len(self._head)

    @property
    def is_between_blocks(self) -> bool:
        """Whether a block has just ended."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> Header | tuple[int, bytes] | None:
        """Take at most `wanted` bytes: a header that is complete now, or ``(offset, part)``.

        Raises:
            BlockError: the header is none.
        """
        if len(data) > self.wanted:
            raise BlockError("more than was asked for")
        if self._left:
            offset = self._offset
            self._offset += len(data)
            self._left -= len(data)
            return offset, data
        self._head += data
        if len(self._head) < HEADER_BYTES:
            return None
        header = decode(self._head)
        self._head = b""
        self._offset, self._left = header.offset, header.count
        return header


class Ranges:
    """A set of byte ranges, each with its end excluded; neighbours are joined."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> zip[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def add(self, start: int, end: int) -> int:
        """Add a range; how many of its bytes were not there yet."""
        if start >= end:
            return 0
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        held = sum(
            max(0, min(end, its_end) - max(start, its_start))
            for its_start, its_end in zip(self._starts[first:last], self._ends[first:last], strict=True)
        )
        if first < last:
            start_joined, end_joined = min(start, self._starts[first]), max(end, self._ends[last - 1])
        else:
            start_joined, end_joined = start, end
        self._starts[first:last], self._ends[first:last] = [start_joined], [end_joined]
        return end - start - held

    def contiguous(self, start: int = 0) -> int:
        """Where the range that holds ``start`` ends; ``start`` itself where none does."""
        index = bisect_right(self._starts, start) - 1
        return self._ends[index] if index >= 0 and self._ends[index] > start else start

    def forget(self, end: int) -> None:
        """Drop what lies before ``end``."""
        index = bisect_right(self._ends, end)
        del self._starts[:index], self._ends[:index]
        if self._starts and self._starts[0] < end:
            self._starts[0] = end

    def __str__(self) -> str:
        return ",".join(f"{start}-{end}" for start, end in self)
