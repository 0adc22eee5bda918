"""Bodies on their way out: never more or less than was said, and never with a wrong checksum."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final, Protocol

from iceprod.errors import InputError
from iceprod.movers.base import Outgoing

PIECE_BYTES: Final = 1024 * 1024
"""Most bytes in a piece of a body."""

_INLINE_BYTES: Final = 64 * 1024
_HASHES: Final = frozenset({"md5", "sha1", "sha224", "sha256", "sha384", "sha512"})


class Digest(Protocol):
    """A checksum that is being computed."""

    def update(self, data: bytes, /) -> None:
        """Add ``data``."""
        ...

    def hexdigest(self) -> str:
        """The checksum of what was added, in lower-case hexadecimal."""
        ...


class _Adler32:
    """The checksum that grid storage goes by."""

    def __init__(self) -> None:
        self._value = 1

    def update(self, data: bytes, /) -> None:
        """Add ``data``."""
        self._value = zlib.adler32(data, self._value)

    def hexdigest(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._value:08x}"


def new_digest(algorithm: str) -> Digest:
    """A new checksum of that name.

    Raises:
        InputError: it is none that is known here.
    """
    if algorithm == "adler32":
        return _Adler32()
    if algorithm in _HASHES:
        return hashlib.new(algorithm, usedforsecurity=False)
    raise InputError(f"no checksum is called {algorithm[:40]!r} here")


class Upload:
    """A body to be sent; once ``has_begun`` it can't be sent again."""

    def __init__(self, size_bytes: int, pieces: AsyncIterator[bytes], *, ask_first: bool = True) -> None:
        self.size_bytes = size_bytes
        self.ask_first = ask_first
        self.has_begun = False
        self._pieces = pieces

    async def next_piece(self) -> bytes:
        """The next one; empty at the end."""
        piece = await anext(self._pieces, b"")
        self.has_begun = self.has_begun or bool(piece)
        return piece


async def verified(body: Outgoing) -> AsyncGenerator[bytes, None]:
    """The pieces of ``body``, the last one only when size and checksums have been found right.

    So who sends them to an origin, which takes a body that breaks off for none, need not check.

    Raises:
        InputError: they have another size than ``body`` says, or another checksum.
    """
    digests = {name: new_digest(name) for name in body.checksums}
    done, held = 0, b""
    async for piece in body.pieces:
        if not piece:
            continue
        done += len(piece)
        if done > body.size_bytes:
            raise InputError(f"more than the {body.size_bytes} bytes came that were announced")
        await _update(digests.values(), piece)
        if held:
            yield held
        held = piece
    _check(body, done, digests)
    if held:
        yield held


async def _update(digests: Iterable[Digest], piece: bytes) -> None:
    for digest in digests:
        # Small pieces cost less than the way to a thread and back.
        if len(piece) <= _INLINE_BYTES:
            digest.update(piece)
        else:
            await asyncio.to_thread(digest.update, piece)


def _check(body: Outgoing, done: int, digests: dict[str, Digest]) -> None:
    if done != body.size_bytes:
        raise InputError(f"{done} bytes came, not the {body.size_bytes} that were announced")
    for name, digest in digests.items():
        if digest.hexdigest() != body.checksums[name].lower():
            raise InputError(f"the {name} of what came is another than was announced")
