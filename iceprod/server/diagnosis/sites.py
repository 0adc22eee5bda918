"""Other sites: whether they are heard of, and what waits to be told."""

from __future__ import annotations

from iceprod import clock as clocks
from iceprod._version import __version__
from iceprod.config import Settings
from iceprod.model.federation import PeerRole
from iceprod.server.diagnosis.findings import Finding, failed, good, warning
from iceprod.services.bulletin import Draft
from iceprod.services.peer_states import PeerStates
from iceprod.site_sync.seen.alerts import Alert
from iceprod.site_sync.seen.history import SiteHistory
from iceprod.site_sync.seen.overview import Overview
from iceprod.store.base import Store

_ADVICE = {
    "silent": "is its server running, and can it be reached? see its log, and iceprod doctor there",
    "lag": "is there an error in the log of the child? see: iceprod site show",
    "certificate": "is the child running? it renews its certificate by itself; else invite it anew",
    "restored": "is it running? revoke it if it is gone for good: until then no task is given to anybody",
    "dead letters": "iceprod site dead-letters, on the child; then retry or discard",
    "version": "upgrade the older one soon: one release apart still works",
}


async def look(store: Store, settings: Settings) -> list[Finding]:
    """One finding for each thing that is wrong with a site, or one that all is well."""
    peers = PeerStates(store.values, draft=Draft(is_alone=True), clock=clocks.now)
    await peers.load()
    overview = Overview(
        store,
        peers=peers,
        history=SiteHistory(store, peers=peers, clock=clocks.now),
        clock=clocks.now,
        name=settings.federation.own_name,
        version=__version__,
        certificate_s=settings.federation.certificate_days * 86400,
    )
    standings = await overview.measured()
    if not standings:
        return []
    found = [_finding(alert) for each in standings for alert in each.alerts]
    parents = sum(each.peer.role is PeerRole.PARENT for each in standings)
    children = len(standings) - parents
    return found or [good("sites", f"parents: {parents}, children: {children}; nothing is wrong with them")]


def _finding(alert: Alert) -> Finding:
    tell = failed if alert.is_grave else warning
    return tell(f"{alert.role} {alert.site}", alert.message, _ADVICE[alert.kind])
