"""What is done about uploads without being asked: forwarding, expiring, going on after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from iceprod.errors import ConflictError, IceProdError, NotFoundError
from iceprod.services.uploads.service import UploadService
from iceprod.services.uploads.shelf import Held, Kept
from iceprod.services.uploads.values import OVER, Stage

logger = structlog.get_logger(__name__)

FORWARDED_AT_A_TIME: Final = 8
_LEFTOVER_S: Final = 6 * 3600.0


class UploadKeeper:
    """Looks after the uploads of the site; several processes may do so at once."""

    def __init__(self, uploads: UploadService) -> None:
        self._uploads = uploads
        self._turns = asyncio.Semaphore(FORWARDED_AT_A_TIME)
        self._forwarding: dict[str, asyncio.Task[None]] = {}
        uploads.on_forwarding = self.forward_soon

    async def stop(self) -> None:
        """Break off what is being forwarded; it is begun anew later."""
        tasks = list(self._forwarding.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forward_soon(self, upload_id: str) -> None:
        """Forward an upload beside everything else."""
        if upload_id not in self._forwarding:
            task = asyncio.create_task(self._forward(upload_id), name="forward an upload")
            self._forwarding[upload_id] = task
            task.add_done_callback(lambda _: self._forwarding.pop(upload_id, None))

    async def _forward(self, upload_id: str) -> None:
        async with self._turns:
            try:
                await self._with(upload_id, self._uploads.ending.forward)
            except Exception:
                logger.exception("upload not forwarded", upload=upload_id)

    async def look_after(self) -> None:
        """Go on with what waits, and expire what rests for too long."""
        uploads = self._uploads
        now, expire_s = uploads.clock(), uploads.limits.expire_s
        for kept in await uploads.run(lambda: list(uploads.shelf.all())):
            about = kept.about
            if about.stage in OVER:  # whoever ended it was killed before it was put away
                await self._with(kept.upload_id, self._retire)
            elif about.stage is Stage.FORWARDING:
                if now >= about.due_at:
                    self.forward_soon(kept.upload_id)
            elif kept.is_between:
                await self._with(kept.upload_id, self._go_on)
            elif now >= kept.mark.moved_at + expire_s:
                await self._with(kept.upload_id, self._expire)

    async def forget(self) -> None:
        """Forget what is over for long, and delete what was left behind."""
        uploads = self._uploads
        before = uploads.clock() - uploads.limits.expire_s
        for kept in await uploads.run(lambda: list(uploads.shelf.over())):
            if (kept.about.over_at or 0.0) <= before:
                await self._with(kept.upload_id, self._forget)
        await uploads.run(lambda: uploads.shelf.sweep(before=uploads.clock() - _LEFTOVER_S))

    async def _with(self, upload_id: str, work: Callable[[Held], Awaitable[object]]) -> None:
        """Do ``work`` with an upload unless somebody else is at it."""
        try:
            held = await self._uploads.hold(upload_id)
        except (ConflictError, NotFoundError):
            return
        try:
            await work(held)
        finally:
            await self._uploads.run(held.release)

    async def _go_on(self, held: Held) -> None:
        try:
            await self._uploads.settle(held)
        except IceProdError as exc:
            logger.info("upload not completed", upload=held.upload_id, reason=exc.message)

    async def _expire(self, held: Held) -> None:
        # It may have grown since it was looked at.
        is_due = self._uploads.clock() >= held.mark.moved_at + self._uploads.limits.expire_s
        is_open = held.about.stage is Stage.OPEN
        if is_due and is_open and not Kept(held.upload_id, held.about, held.mark).is_between:
            await self._uploads.ending.expire(held)

    async def _retire(self, held: Held) -> None:
        if held.about.stage in OVER:
            await self._uploads.run(held.retire)

    async def _forget(self, held: Held) -> None:
        if held.about.stage in OVER:
            await self._uploads.run(held.remove)
