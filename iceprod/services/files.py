"""The file store behind the temp areas: who may read and write which file.

An address is ``job_temp/DATASET/JOB/…``, ``dataset_temp/DATASET/…`` or ``site_temp/…``.
Tasks reach the areas of their own job and dataset and the site's, as long as they hold
their lease; users read the areas of their own datasets; administrators everything.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from iceprod.clock import Clock
from iceprod.errors import ConflictError, InputError, NotFoundError, TooLarge, Unavailable
from iceprod.model.dataset import Dataset
from iceprod.model.file import Direction, FileRecord, Flow, Replica
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import parse_job_id, parse_task_id
from iceprod.services import authorization
from iceprod.services.catalogue import Catalogue
from iceprod.services.file_catalogue import FileCatalogue, here
from iceprod.services.filestore import (
    Draft,
    FileFacts,
    FileTree,
    HandedOver,
    Incoming,
    OpenedFile,
    check_names,
)
from iceprod.services.holding import check_lease
from iceprod.services.quotas import Quotas, Reservation
from iceprod.store.base import Store

T = TypeVar("T")
JOB_TEMP: Final = "job_temp"
DATASET_TEMP: Final = "dataset_temp"
SITE_TEMP: Final = "site_temp"
_THREADS: Final = 8
_PIECE: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class _Area:
    """What a path belongs to; no dataset for the site's area, no job for a dataset's."""

    dataset_id: str | None = None
    job_index: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A path that a caller may use, and whose the file there is; empty fields are nobody's."""

    names: tuple[str, ...]
    area: _Area
    owner: str = ""
    group: str = ""

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
        is_new = await self._with_draft(lambda: draft.commit(self._place.names))
        await self._files.register(self._principal, self._place, facts)
        self._release()
        return StoredFile(facts, is_new)

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


class FileService:
    """Reads and writes files of the temp areas for those who may."""

    def __init__(
        self,
        store: Store,
        tree: FileTree,
        *,
        clock: Clock,
        catalogue: Catalogue,
        known: FileCatalogue,
        quotas: Quotas,
        max_bytes: int,
    ) -> None:
        self._store = store
        self._tree = tree
        self._clock = clock
        self._catalogue = catalogue
        self._known = known
        self._quotas = quotas
        self._max_bytes = max_bytes
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")

    async def open(self) -> None:
        """Make the directories."""
        await self.run(self._tree.open)

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def download(self, principal: Principal, path: str) -> Download:
        """Open a file for reading.

        Raises:
            NotFoundError: there is none, or it is none of the caller's.
            InputError: no file can have such a path.
        """
        names = (await self._admit(principal, "file.read", path)).names
        try:
            return Download(self, await self.run(lambda: self._tree.read(names)))
        except NotFoundError:
            raise NotFoundError("file", path) from None

    async def upload(self, principal: Principal, path: str, *, size: int | None = None) -> Upload:
        """Begin to write a file, of ``size`` bytes if that is known.

        Raises:
            NotFoundError: the area is none of the caller's.
            TooLarge, Unavailable: it is over the limit, or there is no room.
            QuotaExceeded: it is more than may be kept.
        """
        place = await self._may_upload(principal, path, size=size)
        room = self._room(place)
        await room.grow(to_bytes=size or 0)
        try:
            return Upload(self, principal, place, await self.run(self._tree.begin), room=room)
        except BaseException:
            room.release()
            raise

    async def may_upload(
        self, principal: Principal, path: str, *, size: int | None = None
    ) -> tuple[str, ...]:
        """The names of ``path``, if `upload` would begin.

        Raises:
            NotFoundError, TooLarge, Unavailable, QuotaExceeded: as of `upload`.
        """
        place = await self._may_upload(principal, path, size=size)
        await self._quotas.check(
            owner=place.owner, group=place.group, dataset_id=place.dataset_id, more_bytes=size or 0
        )
        return place.names

    async def _may_upload(self, principal: Principal, path: str, *, size: int | None) -> Place:
        place = await self._admit(principal, "file.write", path)
        self.check_size(size or 0)
        # Also of a size that nobody knows: what nginx writes, nobody looks at until it is there.
        self._tree.check_space(size or 0)
        return place

    def _room(self, place: Place) -> Reservation:
        return self._quotas.hold(owner=place.owner, group=place.group, dataset_id=place.dataset_id)

    async def take_over(self, principal: Principal, path: str, source: str) -> Arrived:
        """Take the file at ``source``, which the web server in front has received for ``path``.

        It is in its place after `Arrived.commit`; in any case it is gone from ``source``.

        Raises:
            NotFoundError: the area is none of the caller's.
            TooLarge, QuotaExceeded: it is over the limit.
            Unavailable: it is not at ``source`` any more, or leaves too little space.
        """
        draft = await self.handed_over(source)
        room: Reservation | None = None
        try:
            place = await self._admit(principal, "file.write", path)
            self.check_size(draft.whole_size_bytes)
            self._tree.check_space(0)  # it is there already
            room = self._room(place)
            await room.grow(to_bytes=draft.whole_size_bytes)
            while await self.run(draft.read_more):
                pass
        except BaseException:
            if room is not None:
                room.release()
            await self.run(draft.discard)
            raise
        return Arrived(self, principal, place, draft, room=room)

    async def adopt(self, principal: Principal, path: str, source: Path, *, digest: bytes) -> StoredFile:
        """Put the file at ``source``, complete, on the disk and of that digest, in its place.

        It is moved where both are on one disk; it stays where it is if anything is wrong.

        Raises:
            NotFoundError: the area is none of the caller's.
            LeaseLost: the task's lease has ended.
            Unavailable: there is no room.
        """
        place = await self._admit(principal, "file.write", path)
        draft = await self.run(lambda: self._tree.adopt(source, digest))
        arrived = Arrived(self, principal, place, draft)
        try:
            return await arrived.commit()
        finally:
            await arrived.abort()

    async def dataset_of(self, path: str) -> Dataset | None:
        """The dataset whose area a path is in; None in the site's area.

        Raises:
            NotFoundError: there is no such area, or no such dataset.
        """
        area = _area_of(check_names(path.split("/")))
        return await self._catalogue.get(area.dataset_id) if area.dataset_id else None

    async def handed_over(self, source: str) -> HandedOver:
        """The file that the web server in front has put at ``source``; discard it when it was read.

        Raises:
            InputError: it puts no files there.
            Unavailable: it is not there any more.
        """
        try:
            return await self.run(lambda: self._tree.take_over(source))
        except NotFoundError:
            raise Unavailable("the upload got lost on its way; send it again") from None

    async def drop(self, source: str) -> None:
        """Throw away the file that the web server in front has put at ``source``."""
        draft = await self.handed_over(source)
        await self.run(draft.discard)

    async def clean(self, *, before: float) -> int:
        """Delete what uploads left behind that ended badly before that instant; how much that was."""
        return await self.run(lambda: self._tree.clean(before=before))

    async def flow(self, principal: Principal, path: str, direction: Direction) -> Flow:
        """Whose bytes they are that go to or come from that path: the owner's of its dataset.

        Files of the site's area count for the caller, and for a task's dataset.
        """
        dataset = await self.dataset_of(path)
        if dataset is None and principal.kind is PrincipalKind.TASK:
            dataset = await self._catalogue.get(parse_task_id(principal.id)[0])
        if dataset is None:
            return Flow(principal.id, direction, "files")
        return Flow(dataset.owner, direction, "files", group=dataset.group, dataset_id=dataset.dataset_id)

    async def delete(self, principal: Principal, path: str) -> None:
        """Delete a file.

        Raises:
            NotFoundError: there is none, or it is none of the caller's.
        """
        place = await self._admit(principal, "file.delete", path)
        try:
            await self.run(lambda: self._tree.delete(place.names))
        except NotFoundError:
            # Whoever deleted it may have been cut off before it was forgotten.
            await self._known.gone_from_here(place.dataset_id, place.name, place.path)
            raise NotFoundError("file", path) from None
        await self._known.gone_from_here(place.dataset_id, place.name, place.path)

    async def register(self, principal: Principal, place: Place, facts: FileFacts) -> None:
        """Have the catalogue know of a file that has just been put in its place."""
        now, task_index = self._clock(), None
        if principal.kind is PrincipalKind.TASK and place.area.job_index is not None:
            task_index = parse_task_id(principal.id)[2]
        record = FileRecord(
            place.dataset_id,
            place.name,
            facts.size_bytes,
            {"sha256": facts.digest.hex()},
            place.owner,
            place.group,
            now,
            place.area.job_index,
            task_index,
            (Replica(here(place.path), "", now),),
        )
        await self._known.register(record)

    async def run(self, work: Callable[[], T]) -> T:
        """Do blocking ``work`` on a thread; what was begun ends even if nobody waits any more."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        return await asyncio.shield(future)

    def check_size(self, size: int) -> None:
        """Refuse a file that is too large.

        Raises:
            TooLarge: as it says.
        """
        if size > self._max_bytes:
            raise TooLarge(f"a file may have {self._max_bytes} bytes", limit_bytes=self._max_bytes)

    async def check_lease(self, principal: Principal) -> None:
        """Refuse a task whose attempt is over.

        Raises:
            LeaseLost: the task is somebody else's by now, or was stopped.
        """
        await check_lease(self._store, principal)

    async def _admit(self, principal: Principal, action: str, path: str) -> Place:
        """The place of the path, once it is certain that the caller may do that there."""
        names = check_names(path.split("/"))
        area = _area_of(names)
        if area.dataset_id is None:
            authorization.check(principal, f"{action}_shared")
            # What a task leaves there is its owner's.
            owner, group = principal.id, ""
            if principal.kind is PrincipalKind.TASK:
                owner, group = await self._holder(parse_task_id(principal.id)[0])
        else:
            authorization.check(principal, action)
            owner, group = await self._holder(area.dataset_id)
            authorization.check_area(
                principal, action, dataset_id=area.dataset_id, job_index=area.job_index, owner=owner
            )
        await self.check_lease(principal)
        return Place(names, area, owner, group)

    async def _holder(self, dataset_id: str) -> tuple[str, str]:
        """Owner and group of a dataset; nobody if it is absent, so that absent and hidden look the same."""
        try:
            dataset = await self._catalogue.get(dataset_id)
        except NotFoundError:
            return "", ""
        return dataset.owner, dataset.group


def _area_of(names: tuple[str, ...]) -> _Area:
    """The area of a path.

    Raises:
        NotFoundError: there is no such area, or the path names the area itself.
    """
    match names:
        case (area, dataset_id, job, _, *_) if area == JOB_TEMP:
            _, index = parse_job_id(f"{dataset_id}-{job}")
            return _Area(dataset_id, index)
        case (area, dataset_id, _, *_) if area == DATASET_TEMP:
            return _Area(dataset_id)
        case (area, _, *_) if area == SITE_TEMP:
            return _Area()
        case _:
            raise NotFoundError("file area", "/".join(names))
