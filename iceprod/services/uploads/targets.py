"""Where uploads go: to a path of the temp areas, or to a file at an origin.

Rights are those that anybody needs to write there in any other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from iceprod.errors import ConflictError, InputError, NotFoundError, TransferFailed
from iceprod.model.file import FileRecord, Replica
from iceprod.model.location import Location, parse_location
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import parse_task_id
from iceprod.movers.base import Outgoing
from iceprod.services.catalogue import Catalogue
from iceprod.services.file_catalogue import AREAS, FileCatalogue
from iceprod.services.files import FileService
from iceprod.services.origins import Origin, Origins
from iceprod.services.uploads.values import About, Holder


class QuotaCheck(Protocol):
    """Whoever knows how much may be kept for whom; an empty name is nobody."""

    async def check(
        self, *, owner: str, group: str, dataset_id: str, more_bytes: int, more_files: int
    ) -> None:
        """Refuse what would be too much; raises `QuotaExceeded`."""
        ...


class NoQuotas:
    """As much as anybody likes."""

    async def check(
        self, *, owner: str, group: str, dataset_id: str, more_bytes: int, more_files: int
    ) -> None:
        """Refuse nothing."""


class Targets:
    """The places that a file may be uploaded to."""

    def __init__(
        self,
        files: FileService,
        *,
        origins: Origins,
        catalogue: Catalogue,
        known: FileCatalogue,
        quotas: QuotaCheck,
    ) -> None:
        self._files = files
        self._origins = origins
        self._catalogue = catalogue
        self._known = known
        self._quotas = quotas

    async def admit(self, principal: Principal, target: str, *, size: int | None) -> Holder:
        """Whose the file is going to be, once it is certain that the caller may put it there.

        Raises:
            NotFoundError, AccessDenied: the caller may not, or not any more.
            LeaseLost: the task's lease has ended.
            InputError: there can be no such place.
            TooLarge, Unavailable: it is over the limit, or there is no room.
        """
        self._files.check_size(size or 0)
        await self._files.check_open(principal)
        if not target:
            await self._files.check_lease(principal)
            return await self.holder(principal)
        if "://" in target:
            origin = await self._origins.find(parse_location(target), principal, writing=True)
            return Holder(origin.user, origin.group, origin.dataset_id)
        await self._files.may_upload(principal, target, size=size)
        dataset = await self._files.dataset_of(target)
        if dataset is None:
            return await self.holder(principal)
        return Holder(dataset.owner, dataset.group, dataset.dataset_id)

    async def holder(self, principal: Principal) -> Holder:
        """Whose a caller's files are that are of no dataset by where they lie."""
        if principal.kind is PrincipalKind.TASK:
            try:
                dataset = await self._catalogue.get(parse_task_id(principal.id)[0])
            except NotFoundError:
                return Holder("")
            return Holder(dataset.owner, dataset.group, dataset.dataset_id)
        if principal.kind is PrincipalKind.SITE:
            return Holder(f"site:{principal.id}")
        return Holder(principal.id)

    async def check_quota(self, holder: Holder, *, more_bytes: int, more_of_dataset: int) -> None:
        """Refuse what would be more than may be kept: for the user and the group, and for the dataset.

        Raises:
            QuotaExceeded: as it says.
        """
        await self._quotas.check(
            owner=holder.user, group=holder.group, dataset_id="", more_bytes=more_bytes, more_files=1
        )
        if holder.dataset_id:
            await self._quotas.check(
                owner="", group="", dataset_id=holder.dataset_id, more_bytes=more_of_dataset, more_files=1
            )

    async def store(self, about: About, source: Path) -> None:
        """Put a file that was checked into its place in a temp area.

        Raises:
            IceProdError: as of `FileService.adopt`.
        """
        await self._files.check_open(about.principal)
        digest = bytes.fromhex(about.sha256)
        await self._files.adopt(about.principal, about.target, source, digest=digest)

    async def confirm(self, about: About) -> None:
        """Take care that the catalogue knows of a file that is in its place.

        Raises:
            IceProdError: as of `FileService.confirm`.
        """
        await self._files.confirm(about.principal, about.target)

    async def origin(self, about: About) -> tuple[Location, Origin]:
        """The origin that a file is to be forwarded to.

        Raises:
            IceProdError: as of `Origins.find`.
        """
        await self._files.check_open(about.principal)
        location = parse_location(about.target)
        return location, await self._origins.find(location, about.principal, writing=True)

    async def put(self, location: Location, origin: Origin, body: Outgoing) -> None:
        """Send a file to an origin, at which it is the caller's turn, and look whether all of it is there.

        Raises:
            TransferFailed: it is not.
            IceProdError: as of `Mover.put`.
        """
        await origin.mover.put(location, origin.access, body)
        facts = await origin.mover.stat(location, origin.access)
        if facts.size_bytes not in (None, body.size_bytes):
            raise TransferFailed(
                f"the origin has {facts.size_bytes} bytes of {body.size_bytes}",
                source=location.shown,
                done_bytes=0,
            )

    async def register(
        self,
        principal: Principal,
        location: Location,
        *,
        holder: Holder,
        size: int,
        checksums: Mapping[str, str],
        now: float,
    ) -> None:
        """Let the catalogue know of a task's file that an origin has got, by the path of its address.

        What is of no dataset would be everybody's to see there.
        """
        name = location.path.strip("/")
        if not holder.dataset_id or name.split("/")[0] in AREAS:
            return
        job_index = task_index = None
        if principal.kind is PrincipalKind.TASK:
            _, job_index, task_index = parse_task_id(principal.id)
        record = FileRecord(
            dataset_id=holder.dataset_id,
            name=name,
            size_bytes=size,
            checksums=dict(checksums),
            owner=holder.user,
            group=holder.group,
            created_at=now,
            job_index=job_index,
            task_index=task_index,
            replicas=(Replica(location.shown, "", now),),
        )
        with suppress(InputError, ConflictError):  # a name that it can't have, or that is another job's
            await self._known.register_made(record)
