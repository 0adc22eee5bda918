"""Making the services from the settings: the one place that knows how they hang together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from argon2 import PasswordHasher

from iceprod import clock as clocks
from iceprod import ids
from iceprod._version import __version__
from iceprod.clock import Clock
from iceprod.config import FailureSettings, FederationSettings, SchedulingSettings, Settings
from iceprod.errors import ConfigError
from iceprod.grids.base import Grid, GridSettings
from iceprod.grids.local import GRACE_S, LocalGrid
from iceprod.server.configured import failure_rules
from iceprod.server.context import Addresses, FilePlane, Services
from iceprod.server.federation import Parts, make_federation
from iceprod.server.file_plane import make_file_plane, relayed_places
from iceprod.server.matching import Matching, make_matching
from iceprod.services.accounts import Accounts
from iceprod.services.audit_trail import AuditTrail
from iceprod.services.bulletin import Draft
from iceprod.services.catalogue import Catalogue
from iceprod.services.certificates import Certificates
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.datasets import DatasetService
from iceprod.services.duty import DutyHolder
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.grids import GridController
from iceprod.services.handout import Handout
from iceprod.services.hearing import Hearing
from iceprod.services.housekeeping import CounterAudit, LeaseWatch
from iceprod.services.loans import Loans
from iceprod.services.logs import LogService
from iceprod.services.materialise import Materialiser
from iceprod.services.mirrors import Mirrors
from iceprod.services.news import News
from iceprod.services.passwords import Passwords
from iceprod.services.peer_states import PeerStates
from iceprod.services.pilots import PilotLimits, PilotService
from iceprod.services.rates import Rates
from iceprod.services.recovering import Recovering
from iceprod.services.refusals import Refusals
from iceprod.services.reports import Reports
from iceprod.services.sightings import Sightings
from iceprod.services.slots import Slots
from iceprod.services.tasks import TaskService
from iceprod.services.why import Why
from iceprod.site_sync.as_child.errands import Errands
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.seen.observation import Observation, observe
from iceprod.store.base import Store
from iceprod.store.sqlite import SqliteStore

_SILENT_LEASES = 2
"""After how many lease times without a word a pilot is given up."""
_LEAST_SILENCE_S = 180.0
"""A pilot that found no server comes again after a minute, and then waits for an answer."""


def make_store(settings: Settings) -> Store:
    """The datastore, not opened yet."""
    path = settings.store_path
    if path is None:
        # The driver takes a while to import, and most commands need none.
        from iceprod.store.mongo import MongoStore  # noqa: PLC0415

        return MongoStore(settings.store.url)
    synchronous: Literal["FULL", "NORMAL"] = "FULL" if settings.store.synchronous == "full" else "NORMAL"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteStore(path, synchronous=synchronous)


def make_grids(settings: Settings, *, grace_s: float = GRACE_S) -> list[tuple[Grid, GridSettings]]:
    """The configured grids, whose pilots get ``grace_s`` to hand back their tasks when cancelled.

    Raises:
        ConfigError: there is no adapter for one's kind.
    """
    made: list[tuple[Grid, GridSettings]] = []
    for name, grid in settings.grids.items():
        plain = GridSettings(name=name, **grid.model_dump())
        if grid.kind != "local":
            message = f"there is no kind of grid {grid.kind!r}; there is: local"
            raise ConfigError(message, fields=[{"path": f"grids.{name}.kind", "message": message}])
        directory = settings.data_dir / "grids" / name
        made.append((LocalGrid(plain, directory=directory, grace_s=grace_s), plain))
    return made


def make_accounts(
    store: Store,
    settings: Settings,
    *,
    clock: Clock,
    events: Events | None = None,
    refusals: Refusals | None = None,
) -> Accounts:
    """Users, tokens and sessions alone: what commands beside a running server need."""
    accounts = settings.accounts
    # One lane per hash: two are computed at a time as it is.
    hasher = PasswordHasher(
        time_cost=accounts.hash_rounds, memory_cost=accounts.hash_memory_kib, parallelism=1
    )
    passwords = Passwords(hasher=hasher, shortest=accounts.shortest_password)
    return Accounts(
        store,
        clock=clock,
        passwords=passwords,
        session_s=accounts.session_h * 3600,
        events=events,
        on_refused_site=(refusals or Refusals(store.audit, clock=clock)).note_token,
    )


@dataclass(frozen=True, slots=True)
class _Base:
    """What most services are made of."""

    store: Store
    clock: Clock
    scheduling: SchedulingSettings
    events: Events
    draft: Draft
    duty: DutyHolder
    catalogue: Catalogue
    rates: Rates
    slots: Slots
    peers: PeerStates
    loans: Loans
    matching: Matching
    errands: Errands
    recovering: Recovering


def _make_base(store: Store, settings: Settings, *, clock: Clock, monotonic: Clock, process_id: str) -> _Base:
    events, catalogue = Events(), Catalogue(store, clock)
    draft = Draft(is_alone=store.sharing is None)
    recovering = Recovering()
    matching = make_matching(
        store,
        settings.scheduling,
        clock=clock,
        catalogue=catalogue,
        events=events,
        draft=draft,
        recovering=recovering,
    )
    peers = PeerStates(store.values, draft=draft, clock=clock)
    return _Base(
        store=store,
        clock=clock,
        scheduling=settings.scheduling,
        events=events,
        draft=draft,
        duty=DutyHolder(
            store.sharing, process_id=process_id, monotonic=monotonic, ttl_s=settings.server.duty_ttl_s
        ),
        catalogue=catalogue,
        rates=Rates(clock),
        slots=Slots(peers.offering),
        peers=peers,
        loans=Loans(draft),
        matching=matching,
        errands=Errands(store, clock=clock, outbox=Outbox(store, events=events)),
        recovering=recovering,
    )


def _make_materialiser(base: _Base) -> Materialiser:
    return Materialiser(
        base.store,
        clock=base.clock,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        transitions=base.matching.transitions,
        duty=base.duty,
        buffer_tasks=base.scheduling.buffer_tasks,
    )


def _make_tasks(base: _Base, failures: FailureSettings) -> TaskService:
    return TaskService(
        base.store,
        clock=base.clock,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        transitions=base.matching.transitions,
        rules=failure_rules(failures),
        slots=base.slots,
        foreign=base.errands,
    )


def _make_datasets(base: _Base, *, materialiser: Materialiser, tasks: TaskService) -> DatasetService:
    return DatasetService(
        base.store,
        clock=base.clock,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        materialiser=materialiser,
        tasks=tasks,
        rates=base.rates,
        events=base.events,
    )


def _make_pilots(base: _Base, *, accounts: Accounts, tasks: TaskService, watch: ClockWatch) -> PilotService:
    scheduling = base.scheduling
    limits = PilotLimits(
        heartbeat_s=scheduling.heartbeat_s,
        long_poll_max_s=scheduling.long_poll_max_s,
        silence_s=max(_LEAST_SILENCE_S, _SILENT_LEASES * scheduling.lease_s),
    )
    return PilotService(
        base.store,
        clock=base.clock,
        accounts=accounts,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        waiters=base.matching.waiters,
        tasks=tasks,
        slots=base.slots,
        sightings=Sightings(base.store.pilots, clock=base.clock, slots=base.slots, draft=base.draft),
        events=base.events,
        watch=watch,
        limits=limits,
    )


def _make_mirrors(base: _Base) -> Mirrors:
    return Mirrors(
        base.store,
        clock=base.clock,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        transitions=base.matching.transitions,
        events=base.events,
    )


def _make_why(base: _Base, *, datasets: DatasetService, tasks: TaskService) -> Why:
    return Why(
        base.store,
        clock=base.clock,
        catalogue=base.catalogue,
        datasets=datasets,
        tasks=tasks,
        scheduler=base.matching.scheduler,
        slots=base.slots,
        rates=base.rates,
    )


def _make_controller(
    base: _Base, grids: list[tuple[Grid, GridSettings]], pilots: PilotService
) -> GridController:
    return GridController(
        grids,
        pilots=pilots,
        records=base.store.pilots.get,
        slots=base.slots,
        demand=base.matching.scheduler.demand,
        clock=base.clock,
        is_on_duty=base.duty.is_holding,
    )


def _observe(base: _Base, settings: FederationSettings) -> Observation:
    return observe(
        base.store,
        peers=base.peers,
        outbox=base.errands.outbox,
        clock=base.clock,
        name=settings.own_name,
        version=__version__,
        certificate_s=settings.certificate_days * 86400,
    )


@dataclass(frozen=True, slots=True)
class _Core:
    """The services that others are made of."""

    accounts: Accounts
    certificates: Certificates
    materialiser: Materialiser
    tasks: TaskService
    datasets: DatasetService
    pilots: PilotService
    logs: LogService
    reports: Reports
    controller: GridController
    refusals: Refusals
    watch: ClockWatch
    addresses: Addresses


def _make_core(
    base: _Base, settings: Settings, grids: list[tuple[Grid, GridSettings]], *, monotonic: Clock
) -> _Core:
    store, clock = base.store, base.clock
    watch = ClockWatch(clock, monotonic, quiet_s=settings.scheduling.lease_s)
    refusals = Refusals(store.audit, clock=clock)
    accounts = make_accounts(store, settings, clock=clock, events=base.events, refusals=refusals)
    materialiser, tasks = _make_materialiser(base), _make_tasks(base, settings.failures)
    pilots = _make_pilots(base, accounts=accounts, tasks=tasks, watch=watch)
    return _Core(
        accounts=accounts,
        certificates=Certificates(store, accounts, clock=clock),
        materialiser=materialiser,
        tasks=tasks,
        datasets=_make_datasets(base, materialiser=materialiser, tasks=tasks),
        pilots=pilots,
        logs=LogService(store, clock=clock, tasks=tasks),
        reports=Reports(store, clock=clock, catalogue=base.catalogue, draft=base.draft),
        controller=_make_controller(base, grids, pilots),
        refusals=refusals,
        watch=watch,
        addresses=Addresses(),
    )


def _make_hearing(base: _Base, core: _Core) -> Hearing:
    return Hearing(
        store=base.store,
        clock=base.clock,
        draft=base.draft,
        duty=base.duty,
        watch=core.watch,
        events=base.events,
        accounts=core.accounts,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        transitions=base.matching.transitions,
        materialiser=core.materialiser,
        pilots=core.pilots,
        reports=core.reports,
        grids=core.controller,
        peers=base.peers,
        loans=base.loans,
    )


def _make_handout(base: _Base, core: _Core, settings: Settings) -> Handout:
    return Handout(
        accounts=core.accounts,
        catalogue=base.catalogue,
        pilots=core.pilots,
        foreign=base.errands,
        lease_s=settings.scheduling.lease_s,
        site_url=lambda: core.addresses.url,
        relayed=relayed_places(settings.files),
    )


def _federation_parts(
    base: _Base, core: _Core, plane: FilePlane, settings: Settings, *, monotonic: Clock
) -> Parts:
    return Parts(
        store=base.store,
        settings=settings,
        clock=base.clock,
        monotonic=monotonic,
        watch=core.watch,
        accounts=core.accounts,
        certificates=core.certificates,
        catalogue=base.catalogue,
        scheduler=base.matching.scheduler,
        tasks=core.tasks,
        logs=core.logs,
        plane=plane,
        events=base.events,
        states=base.peers,
        loans=base.loans,
        refusals=core.refusals,
        errands=base.errands,
        mirrors=_make_mirrors(base),
        grids=core.controller,
        addresses=core.addresses,
    )


def make_services(
    store: Store,
    settings: Settings,
    *,
    clock: Clock = clocks.now,
    monotonic: Clock = clocks.monotonic,
    grids: list[tuple[Grid, GridSettings]] | None = None,
) -> Services:
    """All services over an open store; nothing runs yet."""
    process_id = ids.new_id()
    base = _make_base(store, settings, clock=clock, monotonic=monotonic, process_id=process_id)
    core = _make_core(base, settings, make_grids(settings) if grids is None else grids, monotonic=monotonic)
    plane = make_file_plane(
        store,
        settings,
        clock=clock,
        monotonic=monotonic,
        catalogue=base.catalogue,
        foreign=base.errands,
        recovering=base.recovering,
    )
    services = Services(
        **{each.name: getattr(plane, each.name) for each in fields(plane)},
        accounts=core.accounts,
        certificates=core.certificates,
        catalogue=base.catalogue,
        datasets=core.datasets,
        tasks=core.tasks,
        pilots=core.pilots,
        handout=_make_handout(base, core, settings),
        logs=core.logs,
        scheduler=base.matching.scheduler,
        materialiser=core.materialiser,
        waiters=base.matching.waiters,
        why=_make_why(base, datasets=core.datasets, tasks=core.tasks),
        reports=core.reports,
        events=base.events,
        slots=base.slots,
        grids=core.controller,
        leases=LeaseWatch(store, clock=clock, watch=core.watch, tasks=core.tasks, duty=base.duty),
        audit=CounterAudit(store),
        trail=AuditTrail(store.audit, core.refusals),
        duty=base.duty,
        news=News(store.sharing, base.draft, base.matching.share, process_id=process_id, monotonic=monotonic),
        hearing=_make_hearing(base, core),
        addresses=core.addresses,
        federation=make_federation(_federation_parts(base, core, plane, settings, monotonic=monotonic)),
        sites=_observe(base, settings.federation),
    )
    _connect(services)
    return services


def _connect(services: Services) -> None:
    """Let what happens in one service be heard by those that it concerns."""

    def make_more_jobs(event: Event) -> None:
        if event.kind is EventKind.TASKS_MOVED:
            services.materialiser.work_done(event.subject)

    services.events.listen(make_more_jobs)
    services.events.listen(services.grids.on_event)
    if not services.hearing.draft.is_alone:
        services.events.listen(services.hearing.draft.happened)
