"""The catalogue of files: what there is, what made it, where it lies, and who may know.

A file of a temp area is in it under its path without the dataset's id (``job_temp/3/hits.npz``
of that dataset); the address of its place here is a path, ``/files/…``.  Others are in it
because a task or a person has said so, at addresses elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from urllib.parse import quote

from iceprod.clock import Clock
from iceprod.errors import ConflictError, InputError, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.file import FileRecord, Replica
from iceprod.model.location import parse_location
from iceprod.model.paging import Page, Slice
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import parse_task_id
from iceprod.services import authorization
from iceprod.services.catalogue import Catalogue
from iceprod.services.filestore import check_names
from iceprod.services.holding import check_lease
from iceprod.services.recovering import NEVER, Recovering
from iceprod.store.base import Store
from iceprod.store.files import FileFilter

T = TypeVar("T")

AREAS: Final = ("job_temp", "dataset_temp", "site_temp")
"""The first names of files that lie here; nobody registers others under them."""
MAX_NAMES: Final = 1000
"""Most files that one call may register or forget."""
_AT_ONCE: Final = 100
"""Most files that are written together: claims wait for as long as that takes."""
_READING: Final = frozenset({"file.find", "file.get", "file.replicas"})
_SHA256: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class FileQuery:
    """Which files to find; None leaves a field open, ``dataset_id`` empty means the site's."""

    dataset_id: str | None = None
    job_index: int | None = None
    task_index: int | None = None
    prefix: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that lies elsewhere: ``url`` is its address, ``site`` the peer site that has it, if one has."""

    name: str
    size_bytes: int
    checksums: dict[str, str]
    url: str
    site: str = ""


def here(path: str) -> str:
    """The address by which a file of a temp area is in the catalogue."""
    return f"/files/{quote(path)}"


class FileCatalogue:
    """Registers files, finds them for those who may know of them, and forgets them."""

    def __init__(
        self, store: Store, catalogue: Catalogue, *, clock: Clock, recovering: Recovering = NEVER
    ) -> None:
        self._store = store
        self._recovering = recovering
        self._catalogue = catalogue
        self._clock = clock
        self._batch = _Batch(store)

    # For other services, which have asked for rights themselves

    async def register(self, record: FileRecord) -> bool:
        """Keep a record in place of that of the same dataset and name; whether it is new.

        Records of callers at the same time are written together.
        """
        return await self._batch.put(record)

    async def register_made(self, record: FileRecord) -> None:
        """Keep a record of what a task has put elsewhere.

        Raises:
            InputError: the file can't have that name here.
            ConflictError: another job has made the one of that name.
        """
        check_names(record.name.split("/"))
        await self._check_makers([record])
        await self.register(record)

    async def forget(self, dataset_id: str, *names: str) -> int:
        """Forget files; how many there were."""
        gone = 0
        for part in _batched(names):
            gone += await self._store.files.delete(dataset_id, part)
        return gone

    async def gone_from_here(self, dataset_id: str, name: str, path: str) -> None:
        """Take note that a file of a temp area was deleted; it may lie elsewhere, too."""
        await self._store.files.drop_replica(dataset_id, name, here(path))

    # For callers

    async def find(self, principal: Principal, wanted: FileQuery, page: Page) -> Slice[FileRecord]:
        """Files that the caller may know of, by name.

        Users find those of a dataset that they may see, or without naming one those that they
        or their groups own.  A task finds those of its own job, and those of its dataset in
        ``dataset_temp``.

        Raises:
            NotFoundError: the dataset is not there, or none of the caller's.
        """
        authorization.check(principal, "file.find")
        if len(wanted.prefix) > 4096:
            raise InputError("a prefix has at most 4096 characters")
        return await self._store.files.select(await self._narrowed(principal, wanted), page)

    async def _narrowed(self, principal: Principal, wanted: FileQuery) -> FileFilter:
        narrowed = FileFilter(
            wanted.dataset_id, wanted.job_index, wanted.task_index, wanted.prefix, wanted.sha256
        )
        if principal.kind is PrincipalKind.TASK:
            dataset_id, job_index, _ = parse_task_id(principal.id)
            if wanted.dataset_id not in (None, dataset_id) or wanted.job_index not in (None, job_index):
                raise NotFoundError("file area", f"{wanted.dataset_id}/{wanted.job_index}")
            is_shared = wanted.prefix.startswith("dataset_temp/") and wanted.job_index is None
            return replace(narrowed, dataset_id=dataset_id, job_index=None if is_shared else job_index)
        if wanted.dataset_id:
            await self._may(principal, "file.find", wanted.dataset_id)
        elif wanted.dataset_id is None:
            return replace(narrowed, visible_to=authorization.visible_to(principal, "file.find"))
        return narrowed

    async def get(
        self, principal: Principal, dataset_id: str, name: str, *, action: str = "file.get"
    ) -> FileRecord:
        """One file.

        Raises:
            NotFoundError: there is none, or the caller may not know of it.
        """
        await self._may(principal, action, dataset_id)
        found = await self._store.files.get(dataset_id, name)
        if found is None or not _is_for(principal, found):
            raise NotFoundError("file", name)
        return found

    async def add(
        self, principal: Principal, dataset_id: str | None, files: Sequence[NewFile]
    ) -> list[FileRecord]:
        """Register files that lie elsewhere: a task those that it made, a user those of own datasets.

        Raises:
            NotFoundError: there is no such dataset of the caller's.
            LeaseLost: the task is somebody else's by now.
            InputError: a name, checksum or address is none.
        """
        job_index = task_index = None
        if principal.kind is PrincipalKind.TASK:
            own, job_index, task_index = parse_task_id(principal.id)
            dataset_id = own if dataset_id is None else dataset_id
        dataset = await self._may(principal, "file.register", dataset_id or "")
        if dataset is None:
            raise _field_error("dataset_id", "files elsewhere are of a dataset")
        await check_lease(self._store, principal, recovering=self._recovering)
        records = [
            self._record(dataset, file, place, job_index, task_index) for place, file in enumerate(files)
        ]
        if principal.kind is PrincipalKind.TASK:
            await self._check_makers(records)
        for part in _batched(records):
            await self._store.files.put(part)
        return records

    async def _check_makers(self, records: Sequence[FileRecord]) -> None:
        """Refuse to replace what another job has made."""
        for record in records:
            former = await self._store.files.get(record.dataset_id, record.name)
            if former is not None and former.job_index not in (None, record.job_index):
                raise ConflictError(f"{record.name[:200]} was made by job {former.job_index}")

    def _record(
        self, dataset: Dataset, file: NewFile, place: int, job_index: int | None, task_index: int | None
    ) -> FileRecord:
        where = f"files/{place}"
        names = check_names(file.name.split("/"))
        if names[0] in AREAS:
            raise _field_error(f"{where}/name", f"{names[0]} is for files that are uploaded to this site")
        if file.size_bytes < 0:
            raise _field_error(f"{where}/size_bytes", "a size is not negative")
        now = self._clock()
        return FileRecord(
            dataset.dataset_id,
            file.name,
            file.size_bytes,
            _checksums(file.checksums, where),
            dataset.owner,
            dataset.group,
            now,
            job_index,
            task_index,
            (Replica(str(parse_location(file.url)), _site(file.site), now),),
        )

    async def add_replica(
        self, principal: Principal, dataset_id: str, name: str, url: str, *, site: str = ""
    ) -> FileRecord:
        """Note that a file lies at another address, too.

        Raises:
            NotFoundError: there is no such file of the caller's.
            InputError: that is no address.
        """
        await self.get(principal, dataset_id, name, action="file.add_replica")
        await check_lease(self._store, principal, recovering=self._recovering)
        replica = Replica(str(parse_location(url)), _site(site), self._clock())
        if not await self._store.files.add_replica(dataset_id, name, replica):
            raise NotFoundError("file", name)
        return await self.get(principal, dataset_id, name, action="file.add_replica")

    async def drop_replica(self, principal: Principal, dataset_id: str, name: str, url: str) -> None:
        """Forget a place of a file, and the file with its last place.

        Raises:
            NotFoundError: there is no such file of the caller's, or it is not known there.
            ConflictError: it lies here; delete it instead.
        """
        await self.get(principal, dataset_id, name, action="file.drop_replica")
        if url.startswith("/") and not principal.is_admin:
            raise ConflictError("that place is this site, which keeps the file until it is deleted")
        if not await self._store.files.drop_replica(dataset_id, name, url):
            raise NotFoundError("replica", url)

    async def drop(self, principal: Principal, dataset_id: str, names: Sequence[str]) -> int:
        """Forget files that do not lie here; how many there were.

        Nothing is deleted anywhere.  An administrator may also make the catalogue forget what
        lies here.

        Raises:
            NotFoundError: there is no such dataset of the caller's.
            ConflictError: one of the files lies here; delete it instead.
        """
        await self._may(principal, "file.forget", dataset_id)
        for name in names:
            check_names(name.split("/"))
        if not principal.is_admin:
            for name in names:
                found = await self._store.files.get(dataset_id, name)
                if found is not None and found.is_here:
                    raise ConflictError(f"{name[:200]} lies at this site; delete it there")
        return await self.forget(dataset_id, *names)

    async def _may(self, principal: Principal, action: str, dataset_id: str) -> Dataset | None:
        """The dataset, once it is certain that the caller may do that with files of it.

        None for the site's own files, which everybody may know of who may know of any.
        """
        authorization.check(principal, action)
        if not dataset_id:
            if action not in _READING and not principal.is_admin:
                raise NotFoundError("dataset", dataset_id)
            return None
        dataset = await self._catalogue.get(dataset_id)
        if principal.kind is not PrincipalKind.TASK:
            authorization.check_object(
                principal,
                action,
                identifier=dataset_id,
                owner=dataset.owner,
                group=dataset.group,
                public=dataset.public,
            )
        elif parse_task_id(principal.id)[0] != dataset_id:
            raise NotFoundError("dataset", dataset_id)
        return dataset


def _batched(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that may be written together."""
    return (things[start : start + _AT_ONCE] for start in range(0, len(things), _AT_ONCE))


class _Batch:
    """Writes what callers bring at the same time in one call of the store."""

    def __init__(self, store: Store) -> None:
        self._files = store.files
        self._waiting: list[tuple[FileRecord, asyncio.Future[bool]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, record: FileRecord) -> bool:
        """Whether it is new."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        if self._task is None:
            self._task = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            try:
                found = await self._files.put([record for record, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # its caller may have gone
                if not isinstance(error, Exception):
                    self._task = None
                    raise
            else:
                for (_, future), is_new in zip(batch, found, strict=True):
                    if not future.done():
                        future.set_result(is_new)
        self._task = None


def _is_for(principal: Principal, record: FileRecord) -> bool:
    """Whether a task may know of a file of its dataset."""
    if principal.kind is not PrincipalKind.TASK or not record.dataset_id:
        return True
    return record.job_index in (None, parse_task_id(principal.id)[1])


def _checksums(given: dict[str, str], where: str) -> dict[str, str]:
    found = {name: value.strip().lower() for name, value in given.items()}
    if len(found) > 10 or any(not name.isalnum() or len(name) > 20 for name in found):
        raise _field_error(f"{where}/checksums", "at most ten checksums, by the names of their algorithms")
    if any(not value or len(value) > 256 or set(value) - _HEX for value in found.values()):
        raise _field_error(f"{where}/checksums", "a checksum is hexadecimal")
    if len(found.get("sha256", "")) != _SHA256:
        raise _field_error(f"{where}/checksums", "sha256 has to be among them, 64 hexadecimal digits")
    return found


def _site(name: str) -> str:
    if len(name) > 100 or not name.isprintable():
        raise InputError("that is no name of a site")
    return name


def _field_error(path: str, message: str) -> InputError:
    return InputError(message, fields=[{"path": f"/{path}", "message": message}])
