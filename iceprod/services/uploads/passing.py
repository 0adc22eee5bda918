"""Files that go on to an origin while they come, of which nothing is kept here.

The client is read from no faster than the origin takes it.  The last piece is held back until
size, checksum and rights were found right, and no mover lets a file be seen whose source
failed: so nothing appears at the origin that is not what it should be.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import InputError
from iceprod.model.file import Direction
from iceprod.model.location import Location, parse_location
from iceprod.model.principal import Principal
from iceprod.movers.base import Outgoing
from iceprod.services.origins import Origin, Origins
from iceprod.services.threads import Run
from iceprod.services.transfers import Transfers
from iceprod.services.uploads.targets import Targets
from iceprod.services.uploads.values import Holder

_PIECE: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A file that somebody sends to an address: its length, and its SHA-256 (empty: not told)."""

    principal: Principal
    location: Location
    size: int
    sha256: str
    holder: Holder


class Passing:
    """One file on its way: `write`, then `finish` or `break_off`."""

    def __init__(self, desk: PassingOn, asked: Asked) -> None:
        self._desk = desk
        self._asked = asked
        self._hash = hashlib.sha256()
        self._gathered = bytearray()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._putting = asyncio.create_task(self._put(), name="pass a file on")

    async def write(self, data: bytes) -> None:
        """Pass ``data`` on; returns when more may follow.

        Raises:
            IceProdError: the origin does not take the file.
        """
        self._gathered += data
        if len(self._gathered) >= _PIECE:
            await self._give()

    async def finish(self) -> str:
        """All came: the SHA-256 of the file, which is at the origin.

        Raises:
            InputError: it is not what was announced; nothing has changed at the origin.
            IceProdError: the origin does not take it, or the caller may not put it there any more.
        """
        if self._gathered:
            await self._give()
        await asyncio.shield(self._putting)
        return self._hash.hexdigest()

    async def break_off(self) -> None:
        """Put nothing there; harmless after `finish`."""
        self._putting.cancel()
        with suppress(asyncio.CancelledError, Exception):  # it was told to whoever wrote
            await self._putting

    async def _give(self) -> None:
        piece, self._gathered = bytes(self._gathered), bytearray()
        await self._desk.run(lambda: self._hash.update(piece))
        giving = asyncio.create_task(self._pieces.put(piece))
        await asyncio.wait({giving, self._putting}, return_when=asyncio.FIRST_COMPLETED)
        if self._putting.done():
            giving.cancel()
            await self._putting

    async def _put(self) -> None:
        asked, desk = self._asked, self._desk
        origin = await desk.origin(asked)
        async with desk.origins.turn(origin):
            flow = origin.flow(Direction.OUT, "forward")
            label = f"to {asked.location.shown}"
            with desk.transfers.begin(flow, label=label, size_bytes=asked.size) as transfer:
                told = {"sha256": asked.sha256} if asked.sha256 else {}
                pieces = self._checked(transfer.moved)
                await desk.targets.put(asked.location, origin, Outgoing(asked.size, pieces, told))
        await desk.register(asked, self._hash.hexdigest())

    async def _checked(self, moved: Callable[[int], Awaitable[None]]) -> AsyncIterator[bytes]:
        left = self._asked.size
        while left > 0:
            piece = await self._pieces.get()
            left -= len(piece)
            if left <= 0:
                await self._check()
            yield piece
            await moved(len(piece))
        if not self._asked.size:
            await self._check()

    async def _check(self) -> None:
        found, told = self._hash.hexdigest(), self._asked.sha256
        if told and not hmac.compare_digest(found, told):
            raise InputError(f"its sha256 is {found}, and {told} was announced", reason="wrong_checksum")
        await self._desk.origin(self._asked)  # whoever sends it may have lost the right meanwhile


class PassingOn:
    """Lets files through to the origins that may be written."""

    def __init__(
        self, targets: Targets, *, origins: Origins, transfers: Transfers, run: Run, clock: Clock
    ) -> None:
        self.targets = targets
        self.origins = origins
        self.transfers = transfers
        self.run = run
        self._clock = clock

    async def admit(self, principal: Principal, url: str, *, size: int | None) -> Holder:
        """Whose the file is going to be, once it is certain that the caller may send it there.

        Raises:
            InputError: that is no address.
            IceProdError: as of `Targets.admit`.
        """
        return await self.targets.admit(principal, str(parse_location(url)), size=size)

    async def begin(self, principal: Principal, url: str, *, size: int, sha256: str = "") -> Passing:
        """Begin to pass a file on, of ``size`` bytes.

        Raises:
            IceProdError: as of `admit`.
        """
        holder = await self.admit(principal, url, size=size)
        return Passing(self, Asked(principal, parse_location(url), size, sha256, holder))

    async def origin(self, asked: Asked) -> Origin:
        """The origin that a file goes to.

        Raises:
            IceProdError: as of `Origins.find`.
        """
        return await self.origins.find(asked.location, asked.principal, writing=True)

    async def register(self, asked: Asked, sha256: str) -> None:
        """Let the catalogue know of a file that is at its origin."""
        await self.targets.register(
            asked.principal,
            asked.location,
            holder=asked.holder,
            size=asked.size,
            checksums={"sha256": sha256},
            now=self._clock(),
        )
