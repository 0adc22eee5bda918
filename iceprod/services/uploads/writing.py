"""One request that adds to an upload."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import InputError, TooLarge
from iceprod.services.threads import Run
from iceprod.services.transfers import Transfer
from iceprod.services.uploads.digests import Digests, KnownDigests
from iceprod.services.uploads.shelf import Held

_PIECE: Final = 512 * 1024
_KEEP_BYTES: Final = 32 * 1024 * 1024
_KEEP_S: Final = 5.0
_ASK_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Proof:
    """The checksum of what one request brings."""

    algorithm: str
    digest: bytes


class Writing:
    """Takes the body of a request: `end` or `break_off`, then `release`.

    ``transfer`` is None for bytes that come from this disk.  ``most`` is how long the upload
    may become; ``may_grow`` is asked on the way about what says nothing of its length; ``when_over``
    is told when it is released.  Without a ``proof`` the bytes count from time to time, and
    whatever becomes of the request; with one only when all of them are right.
    """

    def __init__(
        self,
        held: Held,
        *,
        run: Run,
        clock: Clock,
        known: KnownDigests,
        transfer: Transfer | None,
        most: int,
        proof: Proof | None,
        may_grow: Callable[[int], Awaitable[None]] | None = None,
        when_over: Callable[[Writing], object],
    ) -> None:
        self.held = held
        self._run = run
        self._clock = clock
        self._known = known
        self._transfer = transfer
        self._most = most
        self._may_grow = may_grow
        self._when_over = when_over
        self._granted = 0
        self._proof = proof
        self._chunk = hashlib.new(proof.algorithm, usedforsecurity=False) if proof else None
        self._digests = known.take(held.upload_id, held.mark.offset, held.about.checksums)
        self._kept_digests = self._digests.copy() if self._digests else None
        self._written = held.mark.offset  # on the disk, in the system's memory at least
        self._kept_at = clock()
        self._piece = bytearray()
        self._lock = asyncio.Lock()  # a broken connection is told while a piece is being written
        self.is_over = False

    async def write(self, data: bytes) -> None:
        """Append ``data``; returns when more may follow.

        Raises:
            TooLarge: it is more than was announced, or than a file may have.
            QuotaExceeded: it is more than may be kept.
            Unavailable: the disk is full.
        """
        upto = self._written + len(self._piece) + len(data)
        if self._may_grow is not None and upto > self._granted:
            await self._may_grow(upto)
            self._granted = upto + _ASK_BYTES
        if upto > self._most:
            raise TooLarge(f"the upload may have {self._most} bytes", limit_bytes=self._most)
        self._piece += data
        is_long_ago = self._clock() - self._kept_at >= _KEEP_S
        if len(self._piece) >= _PIECE or is_long_ago:
            async with self._lock:
                await self._flush()
                is_much = self._written - self.held.mark.offset >= _KEEP_BYTES
                if self._proof is None and (is_much or is_long_ago):
                    await self._keep()
        if self._transfer is not None:
            await self._transfer.moved(len(data))

    async def end(self) -> None:
        """Let all that came count.

        Raises:
            InputError: it is not what the checksum is of; ``reason`` is ``checksum_mismatch``.
            Unavailable: the disk is full.
        """
        async with self._lock:
            await self._flush()
            if not self._is_proved():
                await self._run(self.held.cut)
                raise InputError(
                    "the checksum is not that of what came; it was thrown away", reason="checksum_mismatch"
                )
            await self._keep()
        self._end_transfer("")

    def _is_proved(self) -> bool:
        if self._proof is None or self._chunk is None:
            return True
        return hmac.compare_digest(self._chunk.digest(), self._proof.digest)

    async def break_off(self, reason: str) -> None:
        """End it as it is; what came counts if there is nothing to prove.  Harmless after `end`."""
        self._end_transfer(reason)
        async with self._lock:
            if self.is_over:
                return
            if self._proof is None:
                await self._flush()
                await self._keep()
            else:
                await self._run(self.held.cut)

    async def release(self) -> None:
        """Let others write to the upload."""
        self._end_transfer("it failed")
        async with self._lock:
            if not self.is_over:
                self.is_over = True
                self._when_over(self)
                if self._kept_digests is not None:
                    self._known.put(self.held.upload_id, self.held.mark.offset, self._kept_digests)
                await self._run(self.held.release)

    def _end_transfer(self, error: str) -> None:
        if self._transfer is not None:
            self._transfer.end(error)

    async def _flush(self) -> None:
        piece, self._piece = bytes(self._piece), bytearray()
        if piece and not self.is_over:
            await self._run(lambda: self._put(piece))

    def _put(self, piece: bytes) -> None:
        self.held.write(self._written, piece)
        self._written += len(piece)
        if self._digests is not None:
            self._digests.update(piece)
        if self._chunk is not None:
            self._chunk.update(piece)

    async def _keep(self) -> None:
        now, offset = self._clock(), self._written
        if not self.is_over:
            await self._run(lambda: self.held.keep(offset, now=now))
            self._kept_at = now
            self._kept_digests = self._digests.copy() if self._digests else None

    def digests(self) -> Digests | None:
        """The digests of all that counts, if they are known."""
        return self._kept_digests
