"""Files made of several uploads, so that their pieces can come at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from iceprod.errors import ConflictError, IceProdError, InputError
from iceprod.model.principal import Principal
from iceprod.services.uploads.service import UploadService
from iceprod.services.uploads.shelf import Held
from iceprod.services.uploads.values import Announced, Part, Stage, UploadView
from iceprod.services.uploads.writing import Writing

MAX_PARTS: Final = 1000
"""Most pieces of a file."""
_PIECE: Final = 1024 * 1024


class Joining:
    """Puts pieces together."""

    def __init__(self, uploads: UploadService) -> None:
        self._uploads = uploads

    async def join(self, principal: Principal, announced: Announced, parts: Sequence[str]) -> UploadView:
        """A file of these pieces in this order; the pieces are gone when it is in its place.

        Raises:
            NotFoundError: one is none of the caller's uploads.
            ConflictError: one is not complete, or is being written to.
            InputError: one is no piece, or the file is not what was announced.
            IceProdError: as of `UploadService.create` and `UploadService.finish`.
        """
        if not 0 < len(parts) <= MAX_PARTS or len(set(parts)) != len(parts):
            raise InputError(f"a file is made of 1 to {MAX_PARTS} different pieces")
        uploads = self._uploads
        async with AsyncExitStack() as stack:
            held = [await self._piece(stack, principal, upload_id) for upload_id in parts]
            size = sum(each.mark.offset for each in held)
            begun = await uploads.create(principal, _of_length(announced, size))
            if size == 0:
                view = begun.view
            else:
                view = await self._fill(begun.view.upload_id, held)
            for each in held:
                await uploads.run(each.remove)
        return view

    async def _piece(self, stack: AsyncExitStack, principal: Principal, upload_id: str) -> Held:
        uploads = self._uploads
        uploads.check_alive(await uploads.mine(principal, "upload.write", upload_id))
        held = await uploads.hold(upload_id)
        stack.push_async_callback(uploads.run, held.release)
        if held.about.part is not Part.PARTIAL:
            raise InputError(f"upload {upload_id} is no piece of a file")
        if not held.is_whole:
            raise ConflictError(f"upload {upload_id} is not complete", reason="incomplete")
        return held

    async def _fill(self, upload_id: str, pieces: Sequence[Held]) -> UploadView:
        uploads = self._uploads
        held = await uploads.hold(upload_id)
        writing = uploads.writing(held, is_moved=False)
        try:
            for piece in pieces:
                await self._copy(piece, writing)
            return await uploads.finish(writing)
        except IceProdError:
            if held.about.stage in (Stage.OPEN, Stage.FAILED):  # nobody was told of it
                await uploads.run(held.remove)
            raise
        finally:
            await writing.release()

    async def _copy(self, piece: Held, writing: Writing) -> None:
        offset = 0
        while offset < piece.mark.offset:
            size = min(_PIECE, piece.mark.offset - offset)
            data = await self._uploads.run(partial(piece.read, offset, size))
            if not data:
                raise InputError("a part of the upload got lost on the disk; send it again")
            offset += len(data)
            await writing.write(data)


def _of_length(announced: Announced, length: int) -> Announced:
    return replace(announced, length=length, part=Part.FINAL)
