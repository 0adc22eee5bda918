"""The file store behind the temp areas: who may read and write which file.

An address is ``job_temp/DATASET/JOB/…``, ``dataset_temp/DATASET/…`` or ``site_temp/…``.
Tasks reach the areas of their own job and dataset and the site's, as long as they hold
their lease; users read the areas of their own datasets; administrators everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from iceprod.clock import Clock
from iceprod.errors import AccessDenied, ConflictError, NotFoundError, TooLarge, Unavailable
from iceprod.model.dataset import Dataset
from iceprod.model.federation import site_of
from iceprod.model.file import Direction, FileRecord, Flow, Replica
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import parse_job_id, parse_task_id
from iceprod.services import authorization
from iceprod.services.arrivals import Arrival, Arrivals
from iceprod.services.arriving import Area, Arrived, Download, Place, StoredFile, Upload
from iceprod.services.catalogue import Catalogue
from iceprod.services.file_catalogue import FileCatalogue, here
from iceprod.services.filestore import (
    FileFacts,
    FileTree,
    HandedOver,
    check_names,
)
from iceprod.services.foreign_files import ForeignFiles, NoForeignFiles
from iceprod.services.holding import check_lease
from iceprod.services.quotas import Quotas, Reservation
from iceprod.services.recovering import NEVER, Recovering
from iceprod.services.threads import Threads
from iceprod.store.base import Store

__all__ = ["Arrived", "Download", "FileService", "StoredFile", "Upload"]

T = TypeVar("T")
JOB_TEMP: Final = "job_temp"
DATASET_TEMP: Final = "dataset_temp"
SITE_TEMP: Final = "site_temp"


class FileService:
    """Reads and writes files of the temp areas for those who may.

    ``foreign`` is told of the files of other sites' tasks; whoever makes one sets it.
    """

    foreign: ForeignFiles = NoForeignFiles()

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
        recovering: Recovering = NEVER,
    ) -> None:
        self._store = store
        self.tree = tree
        self.arrivals = Arrivals(tree.arriving)
        self._clock = clock
        self._catalogue = catalogue
        self._known = known
        self._quotas = quotas
        self._max_bytes = max_bytes
        self._recovering = recovering
        self._threads = Threads("files")

    async def open(self) -> None:
        """Make the directories."""
        await self.run(self.tree.open)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    async def download(self, principal: Principal, path: str) -> Download:
        """Open a file for reading.

        Raises:
            NotFoundError: there is none, or it is none of the caller's.
            InputError: no file can have such a path.
            LeaseLost, Unavailable, QuotaExceeded, TooLarge: it is another site's
                (`ForeignFiles.bring`).
        """
        place = await self._admit(principal, "file.read", path)
        if place.is_foreign:
            await self.foreign.bring(principal, place)
        try:
            return Download(self, await self.run(lambda: self.tree.read(place.names)))
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
        room = self.room(place)
        await room.grow(to_bytes=size or 0)
        try:
            return Upload(self, principal, place, await self.run(self.tree.begin), room=room)
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
        self.tree.check_space(size or 0)
        return place

    def room(self, place: Place) -> Reservation:
        """Room for a file there, of no bytes yet."""
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
            self.tree.check_space(0)  # it is there already
            room = self.room(place)
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
            QuotaExceeded: it is more than may be kept by now.
            Unavailable: there is no room.
        """
        place = await self._admit(principal, "file.write", path)
        draft = await self.run(lambda: self.tree.adopt(source, digest))
        room = self.room(place)
        arrived = Arrived(self, principal, place, draft, room=room)
        try:
            # Others may have brought files since this one was announced.
            await room.grow(to_bytes=draft.size_bytes)
            return await arrived.commit()
        finally:
            await arrived.abort()

    async def confirm(self, principal: Principal, path: str) -> None:
        """Have the catalogue know of a file that is in its place, in case whoever put it there was killed.

        Raises:
            NotFoundError: there is none, or the area is none of the caller's.
            LeaseLost: the task's lease has ended.
        """
        place = await self._admit(principal, "file.write", path)
        opened = await self.run(lambda: self.tree.read(place.names))
        opened.close()
        await self.register(principal, place, opened.facts)

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
            return await self.run(lambda: self.tree.take_over(source))
        except NotFoundError:
            raise Unavailable("the upload got lost on its way; send it again") from None

    async def drop(self, source: str) -> None:
        """Throw away the file that the web server in front has put at ``source``."""
        draft = await self.handed_over(source)
        await self.run(draft.discard)

    async def clean(self, *, before: float) -> int:
        """Delete what uploads left behind that ended badly before that instant; how much that was."""
        return await self.run(lambda: self.tree.clean(before=before))

    async def flow(self, principal: Principal, path: str, direction: Direction) -> Flow:
        """Whose bytes they are that go to or come from that path: the owner's of its dataset.

        Files of the site's area count for the caller, and for a task's dataset.  What is moved for
        a task that was lent to another site goes to or comes from there.
        """
        dataset, peer = await self.dataset_of(path), ""
        if principal.kind is PrincipalKind.TASK:
            dataset = dataset or await self._catalogue.get(parse_task_id(principal.id)[0])
            task = await self._store.tasks.get(principal.id)
            peer = site_of(task.pilot_id) if task is not None else ""
        if dataset is None:
            return Flow(principal.id, direction, "files")
        return Flow(
            dataset.owner, direction, "files", group=dataset.group, dataset_id=dataset.dataset_id, peer=peer
        )

    async def delete(self, principal: Principal, path: str) -> None:
        """Delete a file.

        Raises:
            NotFoundError: there is none, or it is none of the caller's.
            LeaseLost, Unavailable: it is another site's (`ForeignFiles.delete`).
        """
        place = await self._admit(principal, "file.delete", path)
        was_there = place.is_foreign and await self.foreign.delete(principal, place)
        try:
            await self.run(lambda: self.tree.delete(place.names))
        except NotFoundError:
            # Whoever deleted it may have been cut off before it was forgotten.
            await self.forget(place)
            if not was_there:
                raise NotFoundError("file", path) from None
        else:
            await self.forget(place)

    async def forget(self, place: Place) -> None:
        """Have the catalogue know that there is no file any more."""
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
        if place.is_foreign and not facts.is_copy:
            await self.foreign.stored(principal, place, facts)

    async def catch_up(self, *, before: float) -> int:
        """Register files whose bringers were killed before that was done, before that instant; how many."""
        left = await self.run(lambda: self.arrivals.left(before=before))
        return sum([await self._catch_up_with(arrival) for arrival in left])

    async def _catch_up_with(self, arrival: Arrival) -> bool:
        place = await self._place(arrival.principal, arrival.names)
        try:
            opened = await self.run(lambda: self.tree.read(place.names))
        except (NotFoundError, ConflictError):  # it did not get there, or has been deleted since
            opened = None
        if opened is not None:
            opened.close()
            await self.register(arrival.principal, place, opened.facts)
        await self.run(lambda: arrival.note.unlink(missing_ok=True))
        return opened is not None

    async def run(self, work: Callable[[], T]) -> T:
        """Do blocking ``work`` on a thread; what was begun ends even if nobody waits any more.

        Raises:
            Unavailable: the site is stopping.
        """
        return await self._threads(work)

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
            Unavailable: that is not known for sure yet.
        """
        await check_lease(self._store, principal, recovering=self._recovering)

    async def check_open(self, principal: Principal) -> None:
        """Refuse a user whose account was closed since the caller was identified.

        Raises:
            AccessDenied: that is so.
        """
        if principal.kind in (PrincipalKind.USER, PrincipalKind.ADMIN):
            user = await self._store.accounts.user(principal.id)
            if user is not None and user.disabled:
                raise AccessDenied(f"the account of {principal.id} is closed")

    async def _admit(self, principal: Principal, action: str, path: str) -> Place:
        """The place of the path, once it is certain that the caller may do that there."""
        names = check_names(path.split("/"))
        is_shared = _area_of(names).dataset_id is None
        authorization.check(principal, f"{action}_shared" if is_shared else action)
        place = await self._place(principal, names)
        if not is_shared:
            authorization.check_area(
                principal,
                action,
                dataset_id=place.dataset_id,
                job_index=place.area.job_index,
                owner=place.owner,
            )
        await self.check_lease(principal)
        return place

    async def _place(self, principal: Principal, names: tuple[str, ...]) -> Place:
        """A path, and whose a file is that the caller puts there.

        Raises:
            NotFoundError: there is no such area.
        """
        area = _area_of(names)
        of = area.dataset_id
        if of is None and principal.kind is PrincipalKind.TASK:
            of = parse_task_id(principal.id)[0]
        if of is None:
            return Place(names, area, principal.id)
        try:
            dataset = await self._catalogue.get(of)
        except NotFoundError:  # nobody's, so that absent and hidden look the same
            return Place(names, area)
        return Place(
            names, area, dataset.owner, dataset.group, is_foreign=bool(area.dataset_id) and dataset.is_mirror
        )


def _area_of(names: tuple[str, ...]) -> Area:
    """The area of a path.

    Raises:
        NotFoundError: there is no such area, or the path names the area itself.
    """
    match names:
        case (area, dataset_id, job, _, *_) if area == JOB_TEMP:
            _, index = parse_job_id(f"{dataset_id}-{job}")
            return Area(dataset_id, index)
        case (area, dataset_id, _, *_) if area == DATASET_TEMP:
            return Area(dataset_id)
        case (area, _, *_) if area == SITE_TEMP:
            return Area()
        case _:
            raise NotFoundError("file area", "/".join(names))
