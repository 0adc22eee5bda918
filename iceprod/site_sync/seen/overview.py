"""How every other site stands, for those who look after this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import NotFoundError
from iceprod.model.federation import ErrandStatus, Peer, PeerRole, PeerStatus, holder_of
from iceprod.model.principal import Principal
from iceprod.services.authorization import check
from iceprod.services.peer_states import PeerStates
from iceprod.site_sync import terms
from iceprod.site_sync.seen.alerts import SILENT_S, Alert, Look, alerts
from iceprod.site_sync.seen.history import Course, Point, SiteHistory, rates
from iceprod.store.base import Store

_LATELY_S: Final = 900.0
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A site as it stands ``at`` an instant.

    ``condition`` is one word for it: ``well``, ``silent``, ``paused`` or ``revoked``.  ``held`` are the
    tasks that it runs for this site, or this site for it.  ``waiting`` operations are not reported
    yet, the oldest for ``lag_s``; ``dead`` were refused.  ``done_per_min`` is a mean of the last
    quarter of an hour; ``failed`` attempts ended in the last hour.
    """

    at: float
    peer: Peer
    condition: str
    contact_at: float
    held: int
    waiting: int
    lag_s: float
    dead: int
    done_per_min: float
    done: int
    failed: int
    reason: str
    alerts: tuple[Alert, ...]
    course: Course


class Overview:
    """Reads what the registry, the outbox and the history know.

    ``name`` and ``version`` are this site's own; its certificates are good for ``certificate_s``.
    """

    def __init__(
        self,
        store: Store,
        *,
        peers: PeerStates,
        history: SiteHistory,
        clock: Clock,
        name: str,
        version: str,
        certificate_s: float,
    ) -> None:
        self.name = name
        self._store = store
        self._peers = peers
        self._history = history
        self._clock = clock
        self._version = version
        self._certificate_s = certificate_s

    async def sites(self, principal: Principal) -> list[Standing]:
        """Every site that work is shared with, parents first."""
        check(principal, "site.list")
        found = sorted(
            await self._store.peers.all(), key=lambda peer: (peer.role != PeerRole.PARENT, peer.name)
        )
        return [await self._standing(peer) for peer in found]

    async def site(self, principal: Principal, role: PeerRole, name: str) -> Standing:
        """One site.

        Raises:
            NotFoundError: there is none of that role and name.
        """
        check(principal, "site.get")
        peer = await self._store.peers.get(role, name)
        if peer is None:
            raise NotFoundError("site", name)
        return await self._standing(peer)

    async def measured(self) -> list[Standing]:
        """The same as `sites`, for this site's own figures."""
        return [await self._standing(peer) for peer in await self._store.peers.all()]

    async def _standing(self, peer: Peer) -> Standing:
        now, state = self._clock(), self._peers.of(peer.role, peer.name)
        course = await self._history.course(peer.role, peer.name)
        if peer.role is PeerRole.CHILD:
            held = await self._store.tasks.count_held(holder_of(peer.name))
            waiting, lag_s, dead = state.waiting, state.lag_s, state.dead
        else:
            held = (await self._store.errands.counts(peer.name)).get(ErrandStatus.OPEN, 0)
            backlog = await self._store.outbox.backlog(peer.name)
            waiting, dead = backlog.waiting, backlog.dead
            lag_s = 0.0 if backlog.oldest_at is None else max(0.0, now - backlog.oldest_at)
        contact_at = max(peer.contact_at, state.contact_at)
        look = Look(
            peer,
            contact_at=contact_at,
            lag_s=lag_s,
            dead=dead,
            reason=state.reason,
            points=course.points,
            version=self._version,
            certificate_s=self._certificate_s,
            now=now,
            term=await self._recovering_term() if peer.role is PeerRole.CHILD else 0,
        )
        return Standing(
            at=now,
            peer=peer,
            condition=_condition(peer, contact_at, now),
            contact_at=contact_at,
            held=held,
            waiting=waiting,
            lag_s=lag_s,
            dead=dead,
            done_per_min=_lately(course.points, now=now),
            done=course.done,
            failed=sum(point.failed for point in course.points if point.at > now - _HOUR_S),
            reason=state.reason if state.failures else "",
            alerts=alerts(look),
            course=course,
        )

    async def _recovering_term(self) -> int:
        """This site's term while children have to say what they hold since it began; else 0."""
        term = await terms.current(self._store.values)
        return term.number if term.is_recovering else 0


def _condition(peer: Peer, contact_at: float, now: float) -> str:
    if peer.status is not PeerStatus.JOINED:
        return str(peer.status)
    return "silent" if now - max(contact_at, peer.joined_at) > SILENT_S else "well"


def _lately(points: Sequence[Point], *, now: float) -> float:
    """Tasks finished per minute, as a mean."""
    found = [rate for ago, rate in rates(points, now=now) if ago <= _LATELY_S]
    return sum(found) / len(found) if found else 0.0
