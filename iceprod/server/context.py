"""What lives as long as the process, and what handlers and RPC methods are given of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from iceprod.clock import Clock
from iceprod.config import Settings
from iceprod.services.accounts import Accounts
from iceprod.services.audit_trail import AuditTrail
from iceprod.services.catalogue import Catalogue
from iceprod.services.certificates import Certificates
from iceprod.services.credentials import CredentialVault
from iceprod.services.datasets import DatasetService
from iceprod.services.duty import DutyHolder
from iceprod.services.events import Events
from iceprod.services.file_catalogue import FileCatalogue
from iceprod.services.files import FileService
from iceprod.services.flow_history import FlowHistory
from iceprod.services.grids import GridController
from iceprod.services.handout import Handout
from iceprod.services.hearing import Hearing
from iceprod.services.housekeeping import CounterAudit, LeaseWatch
from iceprod.services.logs import LogService
from iceprod.services.materialise import Materialiser
from iceprod.services.news import News
from iceprod.services.origins import Origins
from iceprod.services.pilots import PilotService
from iceprod.services.places import Places
from iceprod.services.proxying import Proxying
from iceprod.services.quotas import Quotas
from iceprod.services.reports import Reports
from iceprod.services.scheduling import Scheduler, Waiters
from iceprod.services.slots import Slots
from iceprod.services.tasks import TaskService
from iceprod.services.temp_areas import TempAreas
from iceprod.services.transfers import Transfers
from iceprod.services.uploads.desk import Uploads
from iceprod.services.why import Why
from iceprod.site_sync.federation import Federation
from iceprod.site_sync.seen.observation import Observation
from iceprod.store.base import Store

if TYPE_CHECKING:
    from iceprod.rpc.dispatch import Dispatcher
    from iceprod.server.duties import Supervisor
    from iceprod.server.live import LiveProgress
    from iceprod.server.metrics import Metrics


@dataclass(slots=True)
class Addresses:
    """How the server is reached, without a slash at the end; known once it listens.

    ``url`` is for people and files, ``rpc_url`` for JSON-RPC (``/jsonrpc`` follows).
    """

    url: str = ""
    rpc_url: str = ""


@dataclass(frozen=True, slots=True)
class FilePlane:
    """What keeps files and moves them: between clients, this site and origins."""

    files: FileService
    file_catalogue: FileCatalogue
    quotas: Quotas
    vault: CredentialVault
    temp_areas: TempAreas
    transfers: Transfers
    origins: Origins
    proxying: Proxying
    uploads: Uploads
    places: Places
    flow_history: FlowHistory


@dataclass(frozen=True, slots=True)
class Services(FilePlane):
    """The use cases; ``call.services`` of RPC methods, ``self.services`` of handlers."""

    accounts: Accounts
    certificates: Certificates
    catalogue: Catalogue
    datasets: DatasetService
    tasks: TaskService
    pilots: PilotService
    handout: Handout
    logs: LogService
    scheduler: Scheduler
    materialiser: Materialiser
    waiters: Waiters
    why: Why
    reports: Reports
    events: Events
    slots: Slots
    grids: GridController
    leases: LeaseWatch
    audit: CounterAudit
    trail: AuditTrail
    duty: DutyHolder
    news: News
    hearing: Hearing
    addresses: Addresses
    federation: Federation
    sites: Observation


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """Everything that is made once per process; handlers get it from the application."""

    settings: Settings
    clock: Clock
    store: Store
    services: Services
    dispatcher: Dispatcher
    supervisor: Supervisor
    metrics: Metrics
    live: LiveProgress

    def end_polls(self) -> None:
        """Answer all who wait for something to happen, and let nobody wait any more."""
        self.live.close()
        self.services.waiters.close()
        self.services.federation.lending.close()
