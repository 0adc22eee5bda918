"""Making what shares work with other sites, over the services that it uses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from iceprod._version import __version__
from iceprod.clock import Clock
from iceprod.config import Settings
from iceprod.errors import InputError, NotFoundError
from iceprod.model.federation import Peer, PeerRole
from iceprod.movers.addresses import Addresses as AnyAddress
from iceprod.server.context import Addresses, FilePlane
from iceprod.services.accounts import Accounts
from iceprod.services.catalogue import Catalogue
from iceprod.services.certificates import Certificates
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.events import Events
from iceprod.services.grids import GridController
from iceprod.services.loans import Loans
from iceprod.services.logs import LogService
from iceprod.services.mirrors import Mirrors
from iceprod.services.peer_states import PeerStates
from iceprod.services.refusals import Refusals
from iceprod.services.scheduling import Scheduler
from iceprod.services.tasks import TaskService
from iceprod.services.vault_keys import KeyRing
from iceprod.site_sync.addresses import parent_url
from iceprod.site_sync.as_child.errands import Errands
from iceprod.site_sync.as_child.identity import IdentityFiles
from iceprod.site_sync.as_child.link import LinkState, ParentLink
from iceprod.site_sync.as_child.outages import Outages
from iceprod.site_sync.as_child.parents import Means, Parents, Ways
from iceprod.site_sync.as_child.renewal import Renewal
from iceprod.site_sync.as_child.returning import Returning
from iceprod.site_sync.as_child.settling import Settling
from iceprod.site_sync.as_child.tidying import Tidying
from iceprod.site_sync.as_parent.adoption import Adoption
from iceprod.site_sync.as_parent.authority import Authority
from iceprod.site_sync.as_parent.enrolment import Enrolment, Limits
from iceprod.site_sync.as_parent.inbox import Inbox
from iceprod.site_sync.as_parent.lending import Lending
from iceprod.site_sync.as_parent.recovery import Recovery
from iceprod.site_sync.federation import Federation
from iceprod.site_sync.files.areas import with_files
from iceprod.site_sync.files.doors import Door, Doorway
from iceprod.site_sync.files.fetching import FileFetching
from iceprod.site_sync.files.sending import FileSending
from iceprod.site_sync.files.service import SiteFiles
from iceprod.site_sync.files.tokens import ErrandTokens
from iceprod.site_sync.registry import Registry
from iceprod.store.base import Store

_WAITING_S = 90.0
"""For how long after a child was heard of it is believed that it waits: longer than any wait lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What it is made of."""

    store: Store
    settings: Settings
    clock: Clock
    monotonic: Clock
    watch: ClockWatch
    accounts: Accounts
    certificates: Certificates
    catalogue: Catalogue
    scheduler: Scheduler
    tasks: TaskService
    logs: LogService
    plane: FilePlane
    events: Events
    states: PeerStates
    loans: Loans
    refusals: Refusals
    errands: Errands
    mirrors: Mirrors
    grids: GridController
    addresses: Addresses


def make_federation(parts: Parts) -> Federation:
    """All that is shared with other sites; nothing runs yet."""
    authority = make_authority(parts.settings, clock=parts.clock)
    registry = _make_registry(parts, authority)
    files, outages = _make_files(parts), Outages(parts.clock)
    parts.plane.files.foreign = files
    recovery = _make_recovery(parts, registry)
    return Federation(
        refusals=parts.refusals,
        registry=registry,
        enrolment=_make_enrolment(parts, registry, authority),
        lending=_make_lending(parts, registry),
        recovery=recovery,
        adoption=_make_adoption(parts, registry, recovery),
        inbox=Inbox(parts.store, tasks=parts.tasks, logs=parts.logs, registry=registry),
        renewal=Renewal(
            parts.store,
            clock=parts.clock,
            files=lambda name: identity_files(parts.settings, name),
            connect=lambda peer: connect(parts, peer, outages),
        ),
        errands=parts.errands,
        outbox=parts.errands.outbox,
        files=files,
        returning=Returning(
            parts.store,
            scheduler=parts.scheduler,
            tasks=parts.tasks,
            foreign=parts.errands,
            clock=parts.clock,
            patience_s=parts.settings.federation.patience_s,
        ),
        tidying=Tidying(
            parts.store,
            tasks=parts.tasks,
            mirrors=parts.mirrors,
            events=parts.events,
            clock=parts.clock,
            keep_s=parts.settings.federation.keep_days * 86400.0,
        ),
        parents=_make_parents(parts, files, outages),
    )


def _make_parents(parts: Parts, files: SiteFiles, outages: Outages) -> Parents:
    given = parts.settings.federation
    means = Means(
        store=parts.store,
        clock=parts.clock,
        tasks=parts.tasks,
        mirrors=parts.mirrors,
        outbox=parts.errands.outbox,
        settling=Settling(parts.store, tasks=parts.tasks, clock=parts.clock),
        events=parts.events,
        room=lambda: parts.grids.unclaimed(parts.states.wanted(parts.clock() - _WAITING_S)),
        send_file=files.sending.send_file,
        seal=_tokens(parts).seal,
        has_files=partial(with_files, parts.plane.files),
        forget=lambda name: identity_files(parts.settings, name).drop(),
        ways=Ways(given.own_name, __version__, given.pull, given.poll_s, given.renew_s),
    )
    return Parents(means, connect=lambda peer: connect(parts, peer, outages))


def _make_files(parts: Parts) -> SiteFiles:
    store, files, transfers = parts.store, parts.plane.files, parts.plane.transfers

    async def door(parent: str) -> Door | None:
        peer = await store.peers.get(PeerRole.PARENT, parent)
        if peer is None or peer.is_gone:
            return None
        try:
            identity = identity_files(parts.settings, parent).read()
        except (NotFoundError, InputError):  # the way to its methods complains of that
            return None
        shown, authority = identity.certificate, identity.authority
        return Door(
            parent_url(peer.url),
            ca_path=str(authority) if authority else None,
            certificate=shown.read_bytes() if shown else None,
        )

    # Where a parent is, an administrator has said: it may be in the same private network.
    mover = parts.plane.origins.movers["https"]
    doorway = Doorway(mover, door, tokens=_tokens(parts), policy=AnyAddress(allow_private=True))
    return SiteFiles(
        store,
        fetching=FileFetching(store, files, transfers, doorway=doorway, clock=parts.clock),
        sending=FileSending(store, files, transfers, doorway=doorway),
        queue=parts.errands.outbox.add,
        clock=parts.clock,
    )


def _tokens(parts: Parts) -> ErrandTokens:
    return ErrandTokens(KeyRing(parts.settings.credential_key_path))


def make_authority(settings: Settings, *, clock: Clock) -> Authority:
    """Who vouches for the sites that join, and for this one."""
    given = settings.federation
    return Authority(
        name=given.own_name,
        folder=settings.authority_path,
        server_ca=given.server_ca,
        days=given.certificate_days,
        clock=clock,
    )


def _make_registry(parts: Parts, authority: Authority) -> Registry:
    return Registry(
        parts.store,
        clock=parts.clock,
        accounts=parts.accounts,
        tasks=parts.tasks,
        events=parts.events,
        states=parts.states,
        authority=authority,
        refusals=parts.refusals,
        name=parts.settings.federation.own_name,
        version=__version__,
    )


def _make_enrolment(parts: Parts, registry: Registry, authority: Authority) -> Enrolment:
    given = parts.settings.federation
    return Enrolment(
        parts.store,
        registry,
        clock=parts.clock,
        accounts=parts.accounts,
        certificates=parts.certificates,
        authority=authority,
        limits=Limits(given.invitation_h * 3600.0, given.lease_s, given.most_tasks),
        is_plain=lambda: parts.addresses.url.startswith("http:"),
    )


def _make_lending(parts: Parts, registry: Registry) -> Lending:
    return Lending(
        parts.store,
        clock=parts.clock,
        accounts=parts.accounts,
        catalogue=parts.catalogue,
        scheduler=parts.scheduler,
        tasks=parts.tasks,
        foreign=parts.errands,
        events=parts.events,
        registry=registry,
        loans=parts.loans,
    )


def _make_recovery(parts: Parts, registry: Registry) -> Recovery:
    return Recovery(
        parts.store,
        registry=registry,
        scheduler=parts.scheduler,
        state=parts.scheduler.recovering,
        watch=parts.watch,
        monotonic=parts.monotonic,
        longest_s=parts.settings.federation.recovery_s,
    )


def _make_adoption(parts: Parts, registry: Registry, recovery: Recovery) -> Adoption:
    return Adoption(
        parts.store,
        clock=parts.clock,
        catalogue=parts.catalogue,
        scheduler=parts.scheduler,
        tasks=parts.tasks,
        registry=registry,
        recovery=recovery,
    )


def identity_files(settings: Settings, parent: str) -> IdentityFiles:
    """Where what is needed to call a parent is kept."""
    return IdentityFiles(settings.federation_path / parent)


def connect(parts: Parts, parent: Peer, outages: Outages) -> ParentLink:
    """The way to a parent; how it answers is known to every process."""

    def tell(state: LinkState) -> None:
        if state.failures:
            outages.failed(parent.name, state.reason)
        else:
            outages.answered(parent.name)
        parts.states.saw(
            PeerRole.PARENT,
            parent.name,
            contact_at=state.contact_at,
            failures=state.failures,
            reason=state.reason,
        )

    return ParentLink(
        name=parent.name,
        url=parent.url,
        files=identity_files(parts.settings, parent.name),
        clock=parts.clock,
        on_state=tell,
    )
