"""Making the services of the file plane from the settings."""

from __future__ import annotations

from iceprod.clock import Clock
from iceprod.config import Settings
from iceprod.config.files import FileSettings, OriginSettings
from iceprod.model.location import parse_location
from iceprod.movers.addresses import Addresses
from iceprod.movers.base import Mover
from iceprod.movers.globus import GlobusMover
from iceprod.movers.gridftp.mover import GridFtpMover
from iceprod.movers.http import HttpMover
from iceprod.movers.local import LocalMover
from iceprod.movers.sftp import SftpMover
from iceprod.server.context import FilePlane
from iceprod.server.token_endpoint import HttpTokenEndpoint
from iceprod.services.accounting import Accounting
from iceprod.services.cache import Cache, CacheLimits
from iceprod.services.catalogue import Catalogue
from iceprod.services.credentials import CredentialVault
from iceprod.services.file_catalogue import FileCatalogue
from iceprod.services.files import FileService
from iceprod.services.filestore import FileTree
from iceprod.services.flow_history import FlowHistory
from iceprod.services.foreign import Foreign
from iceprod.services.origins import OriginRule, Origins
from iceprod.services.places import Places
from iceprod.services.proxying import Proxying
from iceprod.services.quotas import Quotas
from iceprod.services.recovering import Recovering
from iceprod.services.task_reach import TaskReach
from iceprod.services.temp_areas import TempAreas, TempLimits
from iceprod.services.token_grants import TokenEndpoint, VaultOrigin
from iceprod.services.transfers import TransferLimits, Transfers
from iceprod.services.uploads.desk import make_uploads
from iceprod.services.uploads.values import UploadLimits
from iceprod.services.vault_keys import KeyRing
from iceprod.store.base import Store


def make_movers() -> dict[str, Mover]:
    """Every protocol by the schemes that it goes by."""
    movers: tuple[Mover, ...] = (LocalMover(), HttpMover(), SftpMover(), GridFtpMover(), GlobusMover())
    return {scheme: mover for mover in movers for scheme in mover.schemes}


def make_file_plane(
    store: Store,
    settings: Settings,
    *,
    clock: Clock,
    monotonic: Clock,
    catalogue: Catalogue,
    foreign: Foreign,
    recovering: Recovering,
) -> FilePlane:
    """All of it over an open store; nothing runs yet."""
    known = FileCatalogue(store, catalogue, clock=clock, recovering=recovering)
    quotas = make_quotas(store, settings, clock=clock, catalogue=catalogue)
    files = FileService(
        store,
        FileTree(settings.files_path, keep_free_bytes=settings.files.keep_free_bytes),
        clock=clock,
        catalogue=catalogue,
        known=known,
        quotas=quotas,
        max_bytes=settings.files.max_bytes,
        recovering=recovering,
    )
    vault = make_vault(store, settings, clock=clock)
    transfers = make_transfers(store, settings, clock=clock)
    origins = Origins(
        [
            origin_rule(name, each, parts=settings.server.processes)
            for name, each in settings.files.origins.items()
        ],
        make_movers(),
        vault,
        reach=TaskReach(store, catalogue, foreign=foreign, recovering=recovering),
    )
    uploads = make_uploads(
        settings.uploads_path,
        files=files,
        origins=origins,
        catalogue=catalogue,
        known=known,
        quotas=quotas,
        transfers=transfers,
        clock=clock,
        limits=_upload_limits(settings),
    )
    cache = Cache(_cache_limits(settings), origins, transfers, clock=clock)
    return FilePlane(
        files=files,
        file_catalogue=known,
        quotas=quotas,
        vault=vault,
        temp_areas=make_temp_areas(store, settings, files=files, known=known, clock=clock),
        transfers=transfers,
        origins=origins,
        proxying=Proxying(origins, cache, transfers),
        uploads=uploads,
        places=Places(origins, transfers),
        flow_history=FlowHistory(lambda: transfers.accounting.bytes_moved, clock=monotonic),
    )


def _upload_limits(settings: Settings) -> UploadLimits:
    return UploadLimits(
        expire_s=settings.files.uploads.expire_s,
        max_bytes=settings.files.max_bytes,
        most_open=settings.files.uploads.max_open,
        keep_free_bytes=settings.files.keep_free_bytes,
    )


def _cache_limits(settings: Settings) -> CacheLimits:
    cache = settings.files.cache
    return CacheLimits(
        path=settings.cache_path,
        max_bytes=cache.max_bytes,
        max_file_bytes=cache.max_file_bytes,
        keep_free_bytes=settings.files.keep_free_bytes,
        fresh_s=cache.fresh_s,
    )


def make_transfers(store: Store, settings: Settings, *, clock: Clock) -> Transfers:
    """What limits and accounts transfers.

    Each of several processes gets its part of every limit of speed: they do not tell one another
    what they move.
    """
    limits, parts = settings.files.limits, settings.server.processes
    accounting = Accounting(store.usage, clock=clock)
    return Transfers(
        accounting,
        TransferLimits(
            connections=limits.connections,
            user=limits.user_bytes_per_s / parts,
            dataset=limits.dataset_bytes_per_s / parts,
            peer=limits.site_bytes_per_s / parts,
            origins={name: origin.bytes_per_s / parts for name, origin in settings.files.origins.items()},
            services={name: speed / parts for name, speed in limits.service_bytes_per_s.items()},
        ),
        clock=clock,
    )


def make_quotas(store: Store, settings: Settings, *, clock: Clock, catalogue: Catalogue) -> Quotas:
    """What limits how much is kept."""
    limits = settings.files.quotas
    defaults = {"user": limits.user_bytes, "group": limits.group_bytes, "dataset": limits.dataset_bytes}
    return Quotas(store, catalogue, clock=clock, defaults=defaults)


def make_vault(
    store: Store, settings: Settings, *, clock: Clock, endpoint: TokenEndpoint | None = None
) -> CredentialVault:
    """What keeps the secrets for origins."""
    return CredentialVault(
        store,
        KeyRing(settings.credential_key_path),
        clock=clock,
        origins={
            name: VaultOrigin(origin.token_endpoint, str(origin.ca_path) if origin.ca_path else None)
            for name, origin in settings.files.origins.items()
        },
        endpoint=endpoint or HttpTokenEndpoint(),
    )


def origin_rule(name: str, origin: OriginSettings, *, parts: int = 1) -> OriginRule:
    """What the settings say of one origin; of several processes each has its part of the connections."""
    return OriginRule(
        name=name,
        root=parse_location(origin.url),
        policy=Addresses(allow_private=origin.private),
        write=origin.write,
        groups=frozenset(origin.groups),
        connections=max(1, origin.connections // parts),
        bytes_per_s=origin.bytes_per_s,
        ca_path=str(origin.ca_path) if origin.ca_path else None,
        redirects=origin.redirects,
        options=origin.options,
    )


def make_temp_areas(
    store: Store, settings: Settings, *, files: FileService, known: FileCatalogue, clock: Clock
) -> TempAreas:
    """Who deletes what nobody needs any more."""
    temp = settings.files.temp
    limits = TempLimits(
        job_keep_s=temp.job_keep_h * 3600,
        dataset_keep_s=temp.dataset_keep_h * 3600,
        site_keep_s=temp.site_keep_h * 3600 or None,
    )
    return TempAreas(store, files, known, clock=clock, limits=limits)


def relayed_places(files: FileSettings) -> list[str]:
    """The addresses whose files pilots move through this site: at least those that they could not."""
    roots = [parse_location(origin.url) for origin in files.origins.values()]
    everything = files.pilots_use == "proxy"
    # Pilots reach the disks of their own machines, not of this one.
    return [
        str(root)
        for root in roots
        if root.scheme != "file" and (everything or root.scheme not in ("http", "https"))
    ]
