"""Messages that are sent compressed (``Content-Encoding: gzip``): what sites tell each other."""

from __future__ import annotations

import zlib
from typing import Final

CODING: Final = "gzip"
_GZIP: Final = 31  # what zlib calls the format with its head and check sum
_LEVEL: Final = 6
_MOST: Final = 100
"""How many times longer than it came a message may be: nobody shall have much done for few bytes."""


def pack(body: bytes) -> bytes:
    """A message in the format of gzip."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()


def unpack(body: bytes, coding: str, *, limit: int) -> bytes:
    """The message in ``body``; of one that is longer than ``limit`` one byte more, by which it is seen.

    Nothing is left of what is of another coding, damaged, cut off, or suspiciously small: that
    is no message, and answered like any other that cannot be read.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name != CODING:
        return b""
    unpacker = zlib.decompressobj(_GZIP)
    try:
        found = unpacker.decompress(body, min(limit, _MOST * len(body)) + 1)
    except zlib.error:
        return b""
    return found if unpacker.eof or len(found) > limit else b""
