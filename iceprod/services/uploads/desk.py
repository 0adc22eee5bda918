"""Everything about uploads, put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iceprod.clock import Clock
from iceprod.services.catalogue import Catalogue
from iceprod.services.file_catalogue import FileCatalogue
from iceprod.services.files import FileService
from iceprod.services.origins import Origins
from iceprod.services.threads import Threads
from iceprod.services.transfers import Transfers
from iceprod.services.uploads.ending import Ending
from iceprod.services.uploads.joining import Joining
from iceprod.services.uploads.keeper import UploadKeeper
from iceprod.services.uploads.one_time import OneTime
from iceprod.services.uploads.passing import PassingOn
from iceprod.services.uploads.service import UploadService
from iceprod.services.uploads.shelf import Shelf
from iceprod.services.uploads.targets import QuotaCheck, Targets
from iceprod.services.uploads.values import UploadLimits


@dataclass(frozen=True, slots=True)
class Uploads:
    """What there is: uploads that come in parts, in one piece to a one-time path, and of pieces.

    What is `passing` on to an origin meanwhile is kept nowhere.
    """

    service: UploadService
    one_time: OneTime
    joining: Joining
    keeper: UploadKeeper
    passing: PassingOn


def make_uploads(
    root: Path,
    *,
    files: FileService,
    origins: Origins,
    catalogue: Catalogue,
    known: FileCatalogue,
    quotas: QuotaCheck,
    transfers: Transfers,
    clock: Clock,
    limits: UploadLimits,
) -> Uploads:
    """Uploads below the directory ``root``."""
    run = Threads("uploads")
    targets = Targets(files, origins=origins, catalogue=catalogue, known=known, quotas=quotas)
    ending = Ending(
        run=run,
        clock=clock,
        targets=targets,
        origins=origins,
        transfers=transfers,
        expire_s=limits.expire_s,
    )
    service = UploadService(
        Shelf(root, keep_free_bytes=limits.keep_free_bytes, most=limits.most_open),
        targets,
        ending=ending,
        run=run,
        transfers=transfers,
        clock=clock,
        limits=limits,
    )
    passing = PassingOn(targets, origins=origins, transfers=transfers, run=run, clock=clock)
    return Uploads(service, OneTime(service), Joining(service), UploadKeeper(service), passing)
