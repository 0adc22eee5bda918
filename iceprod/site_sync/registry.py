"""The sites that work is shared with: who they are, how they stand, and what they may.

How they come to be known is told in `iceprod.site_sync.as_parent.enrolment`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from iceprod.clock import Clock
from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    InvalidTransition,
    NotFoundError,
)
from iceprod.model.federation import ErrandStatus, Peer, PeerRole, PeerState, PeerStatus, holder_of
from iceprod.model.principal import Principal
from iceprod.model.values import value
from iceprod.services import authorization
from iceprod.services.accounts import Accounts
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.peer_states import PeerStates
from iceprod.services.refusals import Refusals
from iceprod.services.tasks import TaskService
from iceprod.site_sync.addresses import parent_url
from iceprod.site_sync.as_parent.authority import Authority
from iceprod.site_sync.messages import PROTOCOLS, Hello, Welcome
from iceprod.store.base import AuditEntry, Store
from iceprod.store.federation import PeerPatch

E = TypeVar("E", bound=IceProdError)

_BULK: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_AWAITED: Final = "this site was restored, and waits for it to say what it holds"
_OF_CHILDREN: Final = ("share", "most_tasks", "lease_s")


@value
class KnownSite:
    """A peer, how it was last seen, and how many tasks one of both runs for the other."""

    peer: Peer
    state: PeerState
    tasks: int


def check_name(name: str) -> str:
    """The name, if it is one of a site.

    Raises:
        InputError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise _field_error("name", "1 to 64 letters, digits, '.', '_' and '-' name a site")
    return name


def agreed(protocols: list[int]) -> int:
    """The highest version of the protocol that both sites speak.

    Raises:
        ConflictError: there is none.
    """
    both = set(protocols) & set(PROTOCOLS)
    if not both:
        ours = ", ".join(map(str, PROTOCOLS))
        raise ConflictError(
            f"no version of the protocol is spoken here and there (here: {ours})", protocols=list(PROTOCOLS)
        )
    return max(both)


class Registry:
    """Other sites, as administrators and the sites themselves see and change them.

    ``term`` is this site's own; after a restoration, ``awaited`` are the children that have to say
    what they hold (`iceprod.site_sync.as_parent.recovery`).
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        accounts: Accounts,
        tasks: TaskService,
        events: Events,
        states: PeerStates,
        authority: Authority,
        refusals: Refusals,
        name: str,
        version: str,
    ) -> None:
        self.name = name
        self.version = version
        self.term = 0
        self.awaited: tuple[str, ...] = ()
        self.states = states
        self._store = store
        self._clock = clock
        self._accounts = accounts
        self._tasks = tasks
        self._events = events
        self._authority = authority
        self._refusals = refusals

    # Who there is

    async def all(self, principal: Principal) -> list[KnownSite]:
        """Every site, parents and children, by role and name."""
        authorization.check(principal, "site.list")
        return [await self.known(peer) for peer in await self._store.peers.all()]

    async def get(self, principal: Principal, name: str, role: PeerRole | None = None) -> KnownSite:
        """One site.

        Raises:
            NotFoundError: there is none.
            InputError: a parent and a child have this name, and ``role`` does not say which.
        """
        authorization.check(principal, "site.get")
        return await self.known(await self._one(name, role))

    def refused(self, principal: Principal, action: str, error: E) -> E:
        """Note in the audit trail that a site is refused what it asks for, which ``error`` tells it."""
        self._refusals.note_call(principal, action, error)
        return error

    async def child(self, principal: Principal, *, term: int | None = None) -> Peer:
        """The child that calls, in the ``term`` that it tells, if any.

        Raises:
            AccessDenied: it is none, or no longer.
            ConflictError: that is not the present term of this site.
        """
        peer = await self._store.peers.get(PeerRole.CHILD, principal.id)
        if peer is None or peer.is_gone:
            error = AccessDenied(f"the site {principal.id} has not joined this one")
            raise self.refused(principal, "site.call", error)
        if term not in (None, self.term):
            raise ConflictError(_other_term(self.name, term, self.term), term=self.term)
        return peer

    def touch(self, name: str, *, at: float | None = None, **changes: Any) -> None:
        """A child was heard of, now or ``at`` an instant, and told ``changes``, fields of `PeerState`."""
        now = self._clock() if at is None else at
        self.states.saw(PeerRole.CHILD, name, at=now, contact_at=now, **changes)

    async def hello(self, principal: Principal, message: Hello) -> Welcome:
        """Agree with a child on a version of the protocol.

        Raises:
            ConflictError: there is none that both speak.
        """
        authorization.check(principal, "site.hello")
        peer = await self.child(principal)
        protocol = agreed(message.protocols)
        version = message.version[:64]
        if (peer.protocol, peer.version) != (protocol, version):
            await self.change(peer, PeerPatch(protocol=protocol, version=version))
        self.touch(peer.name)
        return Welcome(self.name, protocol, peer.lease_s, self.version, self.term)

    # What is done to them

    async def pause(self, principal: Principal, name: str, role: PeerRole | None = None) -> Peer:
        """Lend a child, or take from a parent, no more tasks; those that were lent go on.

        Raises:
            InvalidTransition: the site has gone, or is being left.
        """
        peer = await self._one(name, role)
        if peer.status is PeerStatus.LEAVING:
            raise InvalidTransition(f"this site leaves {name}, and takes no more of it anyway")
        return await self._stand(principal, "site.pause", peer, PeerStatus.PAUSED)

    async def resume(self, principal: Principal, name: str, role: PeerRole | None = None) -> Peer:
        """Go on after a pause, or leave a parent no more.

        Raises:
            InvalidTransition: the site has gone: it has to join anew.
        """
        return await self._stand(principal, "site.resume", await self._one(name, role), PeerStatus.JOINED)

    async def _stand(self, principal: Principal, action: str, peer: Peer, status: PeerStatus) -> Peer:
        authorization.check(principal, action)
        if peer.is_gone:
            what = "was left" if peer.status is PeerStatus.LEFT else "was revoked"
            raise InvalidTransition(f"the site {peer.name} {what}; it has to join anew")
        changed = await self.change(peer, PeerPatch(status=status, at_once=False))
        await self.audit(principal.id, action, peer.name, role=str(peer.role))
        return changed

    async def set(
        self, principal: Principal, name: str, changes: Mapping[str, Any], role: PeerRole | None = None
    ) -> Peer:
        """Change what was set for a site.

        That is a ``note``; of a child ``share``, ``most_tasks`` and ``lease_s``; of a parent its ``url``.

        Raises:
            InputError: it is nothing that a site of this role has, or the address will not do.
        """
        authorization.check(principal, "site.set")
        peer = await self._one(name, role)
        own = _OF_CHILDREN if peer.role is PeerRole.CHILD else ("url",)
        for field in changes:
            if field not in (*own, "note"):
                raise _field_error(field, f"a {peer.role} has none")
        if "url" in changes:
            changes = {**changes, "url": parent_url(changes["url"])}
        changed = await self.change(peer, PeerPatch(**changes))
        await self.audit(principal.id, "site.set", name, role=str(peer.role), **changes)
        return changed

    async def revoke(self, principal: Principal, name: str) -> int:
        """End it with a child: from now on it is a stranger; how many tasks were taken back.

        Raises:
            NotFoundError: there is no such child.
        """
        authorization.check(principal, "site.revoke")
        peer = await self._one(name, PeerRole.CHILD)
        return await self._end(principal, "site.revoke", peer, PeerStatus.REVOKED)

    async def leave(self, principal: Principal) -> int:
        """A child leaves; how many tasks were taken back from it."""
        authorization.check(principal, "site.leave")
        return await self._end(principal, "site.leave", await self.child(principal), PeerStatus.LEFT)

    async def _end(self, principal: Principal, action: str, peer: Peer, status: PeerStatus) -> int:
        await self.put(replace(peer, status=status, expires_at=None))
        await self._accounts.revoke_site(peer.name)
        await asyncio.to_thread(self._authority.revoke, peer.name)
        taken = await self._take_back(peer.name)
        await self.audit(principal.id, action, peer.name, tasks=taken)
        return taken

    async def take_back(self) -> int:
        """Take from children that have gone what they were lent in the very moment of it; a duty."""
        return sum(
            [
                await self._take_back(peer.name)
                for peer in await self._store.peers.all()
                if peer.role is PeerRole.CHILD and peer.is_gone
            ]
        )

    async def _take_back(self, name: str) -> int:
        taken, after = 0, None
        while held := await self._store.tasks.held_after(holder_of(name), after, _BULK):
            leases = [(task.task_id, task.lease_id) for task in held]
            taken += await self._tasks.evict(leases, f"the site {name} has gone")
            after = held[-1].task_id
        return taken

    # What the others of this room need

    async def put(self, peer: Peer) -> None:
        """Keep a site, and tell every process that it has changed."""
        await self._store.peers.put(peer)
        self._events.publish(Event(EventKind.PEER_CHANGED, peer.name))

    async def change(self, peer: Peer, patch: PeerPatch) -> Peer:
        """Change a site that stands as it was found, so that who was revoked meanwhile stays so.

        Raises:
            ConflictError: it does not stand so any more.
        """
        changed = await self._store.peers.update(peer.role, peer.name, patch, expected=peer.status)
        if changed is None:
            raise ConflictError(f"the site {peer.name} was changed by somebody else: look again")
        self._events.publish(Event(EventKind.PEER_CHANGED, peer.name))
        return changed

    async def audit(self, who: str, action: str, target: str, **detail: object) -> None:
        """Note what was done to a site, or by it."""
        await self._store.audit.add(AuditEntry(self._clock(), who, action, target, detail))

    async def known(self, peer: Peer) -> KnownSite:
        """A peer with how it stands; what is to be told to a parent, this site knows best."""
        state = self.states.of(peer.role, peer.name)
        if peer.role is PeerRole.CHILD:
            if peer.name in self.awaited:
                state = replace(state, reason=_AWAITED)
            return KnownSite(peer, state, await self._store.tasks.count_held(holder_of(peer.name)))
        backlog = await self._store.outbox.backlog(peer.name)
        lag_s = 0.0 if backlog.oldest_at is None else max(0.0, self._clock() - backlog.oldest_at)
        state = replace(state, waiting=backlog.waiting, lag_s=lag_s, dead=backlog.dead)
        held = (await self._store.errands.counts(peer.name)).get(ErrandStatus.OPEN, 0)
        return KnownSite(peer, state, held)

    async def _one(self, name: str, role: PeerRole | None) -> Peer:
        roles = tuple(PeerRole) if role is None else (role,)
        found = [peer for each in roles if (peer := await self._store.peers.get(each, name)) is not None]
        if not found:
            raise NotFoundError("site", name)
        if len(found) > 1:
            raise _field_error("role", f"{name} is a parent and a child: say which is meant")
        return found[0]


def _other_term(name: str, told: int | None, own: int) -> str:
    if told is not None and told > own:
        return f"this is an older copy of {name}, which somebody has put another one in the place of"
    return f"{name} was restored from a backup: say first what you hold of it"


def _field_error(field: str, message: str) -> InputError:
    return InputError(message, fields=[{"path": f"/{field}", "message": message}])
