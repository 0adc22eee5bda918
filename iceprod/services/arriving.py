"""Files of the temp areas on their way: out to a reader, and in to their place and the catalogue."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from iceprod.errors import ConflictError, InputError
from iceprod.model.principal import Principal
from iceprod.services.filestore import Draft, FileFacts, Incoming, OpenedFile
from iceprod.services.quotas import Reservation

if TYPE_CHECKING:
    from iceprod.services.files import FileService

T = TypeVar("T")
_PIECE: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Area:
    """What a path belongs to; no dataset for the site's area, no job for a dataset's."""

    dataset_id: str | None = None
    job_index: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A path that a caller may use, and whose the file there is; empty fields are nobody's.

    What ``is_foreign`` is of a dataset of another site.
    """

    names: tuple[str, ...]
    area: Area
    owner: str = ""
    group: str = ""
    is_foreign: bool = False

    @property
    def dataset_id(self) -> str:
        """The dataset that it belongs to; empty for the site's."""
        return self.area.dataset_id or ""

    @property
    def path(self) -> str:
        """As clients write it."""
        return "/".join(self.names)

    @property
    def name(self) -> str:
        """Under what the catalogue has it."""
        names = (self.names[0], *self.names[2:]) if self.area.dataset_id else self.names
        return "/".join(names)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What became of an upload; ``is_new`` if nothing was at that path before."""

    facts: FileFacts
    is_new: bool


class Download:
    """A file being read; close it."""

    def __init__(self, files: FileService, opened: OpenedFile) -> None:
        self._files = files
        self._opened = opened
        self.facts = opened.facts

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return await self._files.run(lambda: self._opened.read(offset, size))

    def close(self) -> None:
        """Let go of it."""
        self._opened.close()


class Arrived:
    """A file that was received; ends with `commit` or `abort`, and takes one call at a time."""

    def __init__(
        self,
        files: FileService,
        principal: Principal,
        place: Place,
        draft: Draft,
        *,
        room: Reservation | None = None,
    ) -> None:
        self._files = files
        self._principal = principal
        self._place = place
        self._draft = draft
        self._room = room
        # The client may go while a write is under way; its descriptor must stay until that ends.
        self._lock = asyncio.Lock()
        self._is_over = False

    async def commit(self, *, size: int | None = None, digest: bytes | None = None) -> StoredFile:
        """Check size and SHA-256 where they were announced, and make the file appear, in the catalogue too.

        Raises:
            InputError: something else arrived than was announced.
            LeaseLost: the task's lease ended meanwhile.
            ConflictError: the client has gone, and the file with it.
        """
        draft = self._draft
        if size is not None and size != draft.size_bytes:
            raise InputError(f"{size} bytes were announced and {draft.size_bytes} came")
        if digest is not None and not hmac.compare_digest(digest, draft.digest):
            raise InputError("the digest is not that of what came")
        await self._files.check_lease(self._principal)
        facts = FileFacts(draft.size_bytes, 0.0, draft.digest)
        is_new, note = await self._with_draft(self._put)
        await self._files.register(self._principal, self._place, facts)
        await self._files.run(lambda: note.unlink(missing_ok=True))
        self._release()
        return StoredFile(facts, is_new)

    def _put(self) -> tuple[bool, Path]:
        """Put the file in its place; whether it is new, and the note of it to be removed when it is known."""
        note = self._files.arrivals.note(self._place.names, self._principal)
        try:
            return self._draft.commit(self._place.names), note
        except BaseException:
            note.unlink(missing_ok=True)
            raise

    async def abort(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        self._release()
        async with self._lock:
            self._is_over = True
            await self._files.run(self._draft.discard)

    def _release(self) -> None:
        if self._room is not None:
            self._room.release()

    async def _with_draft(self, work: Callable[[], T]) -> T:
        async with self._lock:
            if self._is_over:
                raise ConflictError("the upload was broken off")
            return await self._files.run(work)


class Upload(Arrived):
    """A file being written by this process."""

    def __init__(
        self,
        files: FileService,
        principal: Principal,
        place: Place,
        incoming: Incoming,
        *,
        room: Reservation,
    ) -> None:
        super().__init__(files, principal, place, incoming, room=room)
        self._incoming = incoming
        self._growing = room
        self._piece = bytearray()
        self._size_bytes = 0

    async def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            TooLarge: the file is over the limit.
            QuotaExceeded: it has become more than may be kept.
            Unavailable: the disk is full.
        """
        self._size_bytes += len(data)
        self._files.check_size(self._size_bytes)
        self._piece += data
        if len(self._piece) >= _PIECE:
            await self._flush()

    async def commit(self, *, size: int | None = None, digest: bytes | None = None) -> StoredFile:
        """As of every file that arrived, with what was written last."""
        await self._flush()
        return await super().commit(size=size, digest=digest)

    async def _flush(self) -> None:
        piece, self._piece = bytes(self._piece), bytearray()
        if piece:
            await self._growing.grow(to_bytes=self._size_bytes)
            await self._with_draft(lambda: self._incoming.write(piece))
