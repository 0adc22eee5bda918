"""What becomes of an upload when all of it is there: it is checked, then put in its place.

Every step is written down before it is taken, so that whoever finds an upload between two steps
(because a process was killed) goes on with it.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import ConflictError, IceProdError, InputError, NotFoundError
from iceprod.model.file import Direction
from iceprod.model.location import parse_location
from iceprod.movers.base import Outgoing
from iceprod.services.origins import Origins
from iceprod.services.threads import Run
from iceprod.services.transfers import Transfer, Transfers
from iceprod.services.uploads.digests import Digests
from iceprod.services.uploads.shelf import Held
from iceprod.services.uploads.targets import Targets
from iceprod.services.uploads.values import Part, Stage

logger = structlog.get_logger(__name__)

_PIECE: Final = 1024 * 1024
_BLOCK: Final = 16
_FIRST_WAIT_S: Final = 5.0
_LONGEST_WAIT_S: Final = 600.0


class Ending:
    """Brings whole uploads to their places."""

    def __init__(
        self,
        *,
        run: Run,
        clock: Clock,
        targets: Targets,
        origins: Origins,
        transfers: Transfers,
        expire_s: float,
    ) -> None:
        self._run = run
        self._clock = clock
        self._targets = targets
        self._origins = origins
        self._transfers = transfers
        self._expire_s = expire_s

    async def settle(self, held: Held, digests: Digests | None = None) -> None:
        """Go on with an upload as far as can be; ``digests`` are of all its bytes, if they are known.

        What is for an origin is left to `forward`.

        Raises:
            InputError: it is not what was announced, and was thrown away.
            IceProdError: it can't be put in its place; it was thrown away, or waits if a later
                try may succeed.
        """
        if held.about.part is Part.PARTIAL:
            return
        if held.about.stage is Stage.OPEN and held.is_whole:
            await self._verify(held, digests)
        if held.about.stage is Stage.STORING:
            await self._store(held)

    async def _verify(self, held: Held, digests: Digests | None) -> None:
        about = held.about
        # A crash of the machine may have left more than what counts.
        await self._run(held.cut)
        known = (digests or await self._read(held)).known()
        for algorithm, announced in about.checksums.items():
            if not hmac.compare_digest(known[algorithm], announced):
                error = f"its {algorithm} is {known[algorithm]}, and {announced} was announced"
                await self.fail(held, error)
                raise InputError(error, reason="wrong_checksum")
        stage = Stage.STORING if about.is_local else Stage.FORWARDING
        changed = about.after(stage=stage, sha256=known["sha256"], due_at=self._clock())
        await self._run(lambda: held.change(changed))

    async def _read(self, held: Held) -> Digests:
        """Read all bytes once more; a few at a time, because others wait for the threads, too."""
        digests, offset = Digests(held.about.checksums), 0

        def read_some() -> int:
            size = 0
            for _ in range(_BLOCK):
                data = held.read(offset + size, min(_PIECE, held.mark.offset - offset - size))
                digests.update(data)
                size += len(data)
            return size

        while offset < held.mark.offset:
            size = await self._run(read_some)
            if not size:
                await self.fail(held, "a part of it got lost on the disk")
                raise InputError("a part of the upload got lost on the disk; send it again")
            offset += size
        return digests

    async def _store(self, held: Held) -> None:
        if await self._run(held.data_path.exists):
            try:
                await self._targets.store(held.about, held.data_path)
            except IceProdError as exc:
                if not exc.retryable:
                    await self.fail(held, exc.message)
                raise
        else:
            # It is in its place already: nothing else removes it at this stage.
            with suppress(NotFoundError, ConflictError):
                await self._targets.confirm(held.about)
        await self._over(held, Stage.STORED, "")

    async def forward(self, held: Held) -> None:
        """Send a checked file to its origin; if that fails, later once more."""
        about = held.about
        if about.stage is not Stage.FORWARDING or about.due_at > self._clock():
            return
        try:
            await self._send(held)
            await self._targets.register(
                about.principal,
                parse_location(about.target),
                holder=about.holder,
                size=held.mark.offset,
                checksums={**about.checksums, "sha256": about.sha256},
                now=self._clock(),
            )
        except IceProdError as exc:
            await self._put_off(held, exc)
        else:
            await self._over(held, Stage.STORED, "")

    async def _send(self, held: Held) -> None:
        location, origin = await self._targets.origin(held.about)
        size = held.mark.offset
        flow = origin.flow(Direction.OUT, "forward")
        async with self._origins.turn(origin):
            with self._transfers.begin(flow, label=f"to {origin.name}", size_bytes=size) as transfer:
                checksums = {**held.about.checksums, "sha256": held.about.sha256}
                body = Outgoing(size, self._pieces(held, transfer), checksums)
                await self._targets.put(location, origin, body)

    async def _pieces(self, held: Held, transfer: Transfer) -> AsyncIterator[bytes]:
        offset = 0
        while offset < held.mark.offset:
            size = min(_PIECE, held.mark.offset - offset)
            data: bytes = await self._run(partial(held.read, offset, size))
            if not data:
                raise InputError("a part of the upload got lost on the disk; send it again")
            offset += len(data)
            yield data
            await transfer.moved(len(data))

    async def _put_off(self, held: Held, exc: IceProdError) -> None:
        about, now = held.about, self._clock()
        is_late = now >= held.mark.moved_at + self._expire_s
        logger.info("upload not forwarded", upload=held.upload_id, reason=exc.message, tries=about.tries + 1)
        if is_late or not exc.retryable:
            await self.fail(held, exc.message)
            return
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**about.tries)
        changed = about.after(tries=about.tries + 1, due_at=now + wait_s, error=exc.message)
        await self._run(lambda: held.change(changed))

    async def fail(self, held: Held, error: str) -> None:
        """Give an upload up."""
        await self._over(held, Stage.FAILED, error)

    async def expire(self, held: Held) -> None:
        """Give an upload up that nobody goes on with."""
        await self._over(held, Stage.EXPIRED, "nothing came for too long")

    async def _over(self, held: Held, stage: Stage, error: str) -> None:
        changed = held.about.after(stage=stage, error=error, over_at=self._clock(), is_used=True)
        await self._run(lambda: held.change(changed))
