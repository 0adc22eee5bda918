"""What somebody should look at, of other sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from iceprod.model.federation import Peer, PeerRole
from iceprod.site_sync.messages import FIRST_WITH_TERMS
from iceprod.site_sync.seen.history import Point

SILENT_S: Final = 300.0
"""A site asks for work or renews its leases several times in this time."""
LATE_S: Final = 600.0
"""Reports that wait longer, and ever longer, are not caught up with."""
_GROWING_S: Final = 900.0
ENDING: Final = 1 / 6
"""Certificates are renewed when twice this part of their life is left."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One sentence about a site; what ``is_grave`` does harm now or soon, by itself."""

    role: PeerRole
    site: str
    kind: str
    message: str
    is_grave: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What alerts are made of: a site as it stands at ``now``."""

    peer: Peer
    contact_at: float
    lag_s: float
    dead: int
    reason: str
    points: Sequence[Point]
    version: str  # this site's own
    certificate_s: float  # for how long certificates of sites are good
    now: float
    term: int = 0  # this site's own, while children have to say what they hold


def alerts(look: Look) -> tuple[Alert, ...]:
    """What is wrong with a site, the worst first; nothing about those that have gone."""
    peer = look.peer
    if peer.is_gone:
        return ()
    found = [
        Alert(peer.role, peer.name, kind, message, is_grave=is_grave)
        for kind, message, is_grave in (*_contact(look), *_lag(look), *_certificate(look), *_rest(look))
    ]
    return tuple(sorted(found, key=lambda alert: not alert.is_grave))


_Found = Iterator[tuple[str, str, bool]]


def _contact(look: Look) -> _Found:
    """Silence: beyond a lease time the tasks go back to where they came from."""
    silent_s = look.now - max(look.contact_at, look.peer.joined_at)
    if silent_s <= SILENT_S:
        return
    is_grave = silent_s > look.peer.lease_s
    if look.peer.role is PeerRole.PARENT:
        why = f" ({look.reason})" if look.reason else ""
        what = "its tasks were given to others" if is_grave else "its tasks go on here, and are reported then"
        yield "silent", f"it has not answered for {_span(silent_s)}{why}; {what}", is_grave
        return
    lease = _span(look.peer.lease_s)
    what = "what it held has gone to others" if is_grave else f"it keeps its tasks for {lease}"
    yield "silent", f"it was not heard of for {_span(silent_s)}; {what}", is_grave


def _lag(look: Look) -> _Found:
    if look.lag_s <= LATE_S:
        return
    former = [point.lag_s for point in look.points if point.at <= look.now - _GROWING_S]
    if not former or look.lag_s > former[-1]:
        yield "lag", f"reports wait for {_span(look.lag_s)}, and ever longer", False


def _certificate(look: Look) -> _Found:
    ends_at = look.peer.expires_at
    if ends_at is None:
        return
    left_s = ends_at - look.now
    if left_s <= 0:
        yield "certificate", f"its certificate ended {_span(-left_s)} ago: it can't be spoken with", True
    elif left_s <= ENDING * look.certificate_s:
        yield "certificate", f"its certificate ends in {_span(left_s)}, and was not renewed", False


def _rest(look: Look) -> _Found:
    peer = look.peer
    if peer.role is PeerRole.CHILD and peer.term < look.term and peer.protocol >= FIRST_WITH_TERMS:
        yield "restored", "this site was restored, and waits for it to say what it holds", False
    if look.dead:
        where = "here" if peer.role is PeerRole.PARENT else "there"
        what = f"{look.dead} reports were" if look.dead > 1 else "a report was"
        yield "dead letters", f"{what} refused for good; what to do is decided {where}", False
    if peer.version and _release(peer.version) != _release(look.version):
        yield "version", f"it runs release {peer.version}, this site {look.version}", False


def _release(version: str) -> str:
    """The part of a version that decides what two sites can say to each other."""
    return ".".join(version.partition("+")[0].split(".")[:2])


def _span(seconds: float) -> str:
    """A span of time in its largest unit."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
