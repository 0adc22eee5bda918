"""Methods about the sites that work is shared with: who they are, and how they join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from iceprod.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    InvalidTransition,
    NotAuthenticated,
    NotFoundError,
    RateLimited,
)
from iceprod.model.federation import Peer, PeerRole
from iceprod.rpc.registry import Call, Registry
from iceprod.site_sync.messages import Certified, Certify, Hello, Introduction, Join, Joined, Nothing, Welcome
from iceprod.site_sync.registry import KnownSite

METHODS = Registry()

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Role = Literal["parent", "child"]
Lifetime = Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Most = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Note = Annotated[str, msgspec.Meta(max_length=200)]
Url = Annotated[str, msgspec.Meta(max_length=2000)]


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site; what is last is about how it was last seen.

    ``expires_at`` is when the certificate ends by which the child of the two is known.
    ``tasks`` one of both runs for the other.  ``waiting``, ``lag_s`` and ``dead`` are about what
    a child has to tell its parent; ``failures`` and ``reason`` about calls to a parent.
    """

    name: str
    role: str
    status: str
    url: str
    version: str
    protocol: int
    share: float
    most_tasks: int
    lease_s: float
    joined_at: float
    expires_at: float | None
    note: str
    contact_at: float | None
    tasks: int
    waiting: int
    lag_s: float
    dead: int
    failures: int
    reason: str


@dataclass(frozen=True, slots=True)
class SiteList:
    """All sites; ``next`` is always null."""

    items: list[SiteView]
    next: None = None


@dataclass(frozen=True, slots=True)
class InvitationView:
    """The code, which is known only now, and until when it is good."""

    code: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class TakenBack:
    """How many tasks the site does not hold any more."""

    tasks: int


def _view(known: KnownSite) -> SiteView:
    peer, state = known.peer, known.state
    return SiteView(
        name=peer.name,
        role=str(peer.role),
        status=str(peer.status),
        url=peer.url,
        version=peer.version,
        protocol=peer.protocol,
        share=peer.share,
        most_tasks=peer.most_tasks,
        lease_s=peer.lease_s,
        joined_at=peer.joined_at,
        expires_at=peer.expires_at,
        note=peer.note,
        contact_at=max(peer.contact_at, state.contact_at) or None,
        tasks=known.tasks,
        waiting=state.waiting,
        lag_s=state.lag_s,
        dead=state.dead,
        failures=state.failures,
        reason=state.reason,
    )


async def _seen(call: Call, peer: Peer) -> SiteView:
    return _view(await call.services.federation.registry.known(peer))


# What a site says


@METHODS.method("site.authority", action="site.authority", idempotent=True)
async def site_authority(call: Call) -> Introduction:
    """Who this site is, and who vouches for its certificate: to be compared with the invitation."""
    introduction: Introduction = await call.services.federation.enrolment.introduction()
    return introduction


@METHODS.method(
    "site.join", action="site.join", errors=(AccessDenied, ConflictError, NotAuthenticated, RateLimited)
)
async def site_join(call: Call, *, message: Join) -> Joined:
    """Join this site by the code of an invitation, which is used up by it."""
    joined: Joined = await call.services.federation.enrolment.join(
        call.principal, message, remote=call.origin.remote
    )
    return joined


@METHODS.method("site.hello", action="site.hello", errors=(AccessDenied, ConflictError), idempotent=True)
async def site_hello(call: Call, *, message: Hello) -> Welcome:
    """Tell what the calling site is, and agree on a version of the protocol."""
    welcome: Welcome = await call.services.federation.registry.hello(call.principal, message)
    return welcome


@METHODS.method(
    "site.renew_certificate",
    action="site.renew_certificate",
    errors=(AccessDenied, ConflictError, NotFoundError),
)
async def site_renew_certificate(call: Call, *, message: Certify) -> Certified:
    """Get a certificate for a new key of the calling site."""
    made: Certified = await call.services.federation.enrolment.renew_certificate(call.principal, message)
    return made


@METHODS.method("site.leave", action="site.leave", errors=(AccessDenied,))
async def site_leave(call: Call, *, message: Nothing) -> Nothing:
    """Leave this site: what the calling one holds is taken back, and it is a stranger from now on."""
    await call.services.federation.registry.leave(call.principal)
    return message


# What is done to sites


@METHODS.method("site.list", action="site.list", idempotent=True)
async def site_list(call: Call) -> SiteList:
    """Every site that work is shared with: parents and children, by role and name."""
    found = await call.services.federation.registry.all(call.principal)
    return SiteList([_view(known) for known in found])


@METHODS.method("site.get", action="site.get", errors=(NotFoundError,), idempotent=True)
async def site_get(call: Call, *, name: Name, role: Role | None = None) -> SiteView:
    """One site; ``role`` says which is meant if a parent and a child have this name."""
    return _view(await call.services.federation.registry.get(call.principal, name, _role(role)))


@METHODS.method("site.invite", action="site.invite", errors=(AlreadyExists,))
async def site_invite(
    call: Call, *, name: Name, lifetime_s: Lifetime | None = None, again: bool = False
) -> InvitationView:
    """Make a code by which one site may join under this name, once.

    A later code takes the place of one that was not used.  With ``again`` a site that has
    joined may join anew; what it was known by ends then.
    """
    enrolment = call.services.federation.enrolment
    return InvitationView(*await enrolment.invite(call.principal, name, lifetime_s=lifetime_s, again=again))


@METHODS.method("site.pause", action="site.pause", errors=(InvalidTransition, NotFoundError))
async def site_pause(call: Call, *, name: Name, role: Role | None = None) -> SiteView:
    """Lend a child, or take from a parent, no more tasks; those that were lent go on."""
    return await _seen(call, await call.services.federation.registry.pause(call.principal, name, _role(role)))


@METHODS.method("site.resume", action="site.resume", errors=(InvalidTransition, NotFoundError))
async def site_resume(call: Call, *, name: Name, role: Role | None = None) -> SiteView:
    """Go on after a pause, or leave a parent no more."""
    return await _seen(
        call, await call.services.federation.registry.resume(call.principal, name, _role(role))
    )


@METHODS.method("site.set", action="site.set", errors=(NotFoundError,))
async def site_set(
    call: Call,
    *,
    name: Name,
    role: Role | None = None,
    share: Share | None = None,
    most_tasks: Most | None = None,
    lease_s: Lifetime | None = None,
    url: Url | None = None,
    note: Note | None = None,
) -> SiteView:
    """Change what was set for a site; what is not given stays.

    A child has a ``share`` (its weight among children), ``most_tasks`` that it may hold, and
    ``lease_s``, for how long it holds them without being heard of.  A parent has a ``url``.
    """
    given = {"share": share, "most_tasks": most_tasks, "lease_s": lease_s, "url": url, "note": note}
    changes = {field: value for field, value in given.items() if value is not None}
    registry = call.services.federation.registry
    return await _seen(call, await registry.set(call.principal, name, changes, _role(role)))


@METHODS.method("site.revoke", action="site.revoke", errors=(NotFoundError,))
async def site_revoke(call: Call, *, name: Name) -> TakenBack:
    """End it with a child, at once: its tasks are taken back, and it is a stranger from now on."""
    return TakenBack(await call.services.federation.registry.revoke(call.principal, name))


def _role(role: Role | None) -> PeerRole | None:
    return None if role is None else PeerRole(role)
