"""Uploads over the services of a site, and an origin on this disk that can be made to fail."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from site_harness import ADMIN, Site

from iceprod.errors import IceProdError, QuotaExceeded
from iceprod.model.location import Location
from iceprod.model.principal import Principal
from iceprod.movers.base import Access, Credential, Facts, Mover, Outgoing
from iceprod.services.accounting import Accounting
from iceprod.services.origins import OriginRule, Origins
from iceprod.services.task_reach import TaskReach
from iceprod.services.transfers import TransferLimits, Transfers
from iceprod.services.uploads.desk import Uploads, make_uploads
from iceprod.services.uploads.values import Announced, UploadLimits, UploadView

ROOT = Location("http", "origin.example", 80, "/data/")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Shelves(Mover):
    """An origin that keeps what it gets, or says what it was told to."""

    schemes = frozenset({"http"})

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.troubles: list[IceProdError] = []

    async def stat(self, location: Location, access: Access) -> Facts:
        return Facts(size_bytes=len(self.files[location.path]))

    def fetch(self, location: Location, access: Access, **_: Any) -> Any:
        raise NotImplementedError

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        data = b"".join([piece async for piece in body.pieces])
        if self.troubles:
            raise self.troubles.pop(0)
        assert len(data) == body.size_bytes
        assert body.checksums["sha256"] == sha256(data)
        self.files[location.path] = data


class Policy:
    """Every address will do."""

    def check(self, address: str, port: int) -> None:
        """Refuse none."""


@dataclass
class Ration:
    """So many bytes for everybody together."""

    left: int = 10**12

    async def check(
        self, *, owner: str, group: str, dataset_id: str, more_bytes: int, more_files: int
    ) -> None:
        if more_bytes > self.left:
            raise QuotaExceeded(f"{owner or dataset_id} may keep {self.left} more bytes")


@dataclass
class Elsewhere:
    """An origin of the settings, the mover that reaches it, and the credential for it."""

    rule: OriginRule
    mover: Mover
    secret: Credential | None = None

    async def credential(self, origin: str, user: str) -> Credential | None:
        return self.secret


@dataclass
class Bench:
    """Uploads of a site; `again` is what the next process makes of the same folder."""

    site: Site
    folder: Path
    limits: UploadLimits
    uploads: Uploads
    origin: Shelves = field(default_factory=Shelves)
    ration: Ration = field(default_factory=Ration)
    elsewhere: Elsewhere | None = None

    async def again(self) -> Bench:
        """Another process at the same uploads."""
        return await _bench(
            self.site, self.folder, self.limits, self.origin, self.ration, elsewhere=self.elsewhere
        )

    async def announce(self, data: bytes | None, target: str = "site_temp/x", **more: Any) -> UploadView:
        """A new upload of the administrator's."""
        length = None if data is None else len(data)
        principal: Principal = more.pop("principal", ADMIN)
        announced = Announced(target=target, length=length, **more)
        return (await self.uploads.service.create(principal, announced)).view

    async def append(self, upload_id: str, offset: int, data: bytes, **more: Any) -> UploadView:
        """Send a part."""
        service = self.uploads.service
        principal: Principal = more.pop("principal", ADMIN)
        writing = await service.begin(principal, upload_id, offset=offset, size=len(data), **more)
        try:
            await writing.write(data)
        except BaseException:
            await service.break_off(writing, "")
            raise
        return await service.finish(writing)

    async def status(self, upload_id: str, principal: Principal = ADMIN) -> UploadView:
        return await self.uploads.service.status(principal, upload_id)

    async def stored(self, path: str = "site_temp/x") -> bytes | None:
        """What is in the temp area."""
        place = self.site.settings.files_path / path
        return place.read_bytes() if place.exists() else None


async def _bench(
    site: Site,
    folder: Path,
    limits: UploadLimits,
    origin: Shelves,
    ration: Ration,
    *,
    elsewhere: Elsewhere | None = None,
) -> Bench:
    services = site.services
    own = OriginRule(name="place", root=ROOT, policy=Policy(), write=True)
    there = elsewhere or Elsewhere(own, origin)
    reach = TaskReach(site.store, services.catalogue)
    origins = Origins([there.rule], {there.rule.root.scheme: there.mover}, there, reach=reach)
    usage: Any = None  # nothing is saved
    transfers = Transfers(
        Accounting(usage, clock=site.clock), TransferLimits(connections=1000), clock=site.clock
    )
    uploads = make_uploads(
        folder,
        files=services.files,
        origins=origins,
        catalogue=services.catalogue,
        known=services.file_catalogue,
        quotas=ration,
        transfers=transfers,
        clock=site.clock,
        limits=limits,
    )
    await uploads.service.open()
    return Bench(site, folder, limits, uploads, origin, ration, elsewhere)


@asynccontextmanager
async def open_bench(
    site: Site, folder: Path, *, elsewhere: Elsewhere | None = None, **limits: Any
) -> AsyncIterator[Bench]:
    """Uploads of a site, in a folder."""
    await site.services.files.open()
    given = UploadLimits(**{"expire_s": 3600.0, "max_bytes": 10_000_000, "most_open": 50, **limits})
    bench = await _bench(site, folder, given, Shelves(), Ration(), elsewhere=elsewhere)
    try:
        yield bench
    finally:
        await bench.uploads.keeper.stop()
        bench.uploads.service.close()
