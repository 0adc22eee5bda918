"""What people see of other sites, all together."""

from __future__ import annotations

from dataclasses import dataclass

from iceprod.clock import Clock
from iceprod.services.peer_states import PeerStates
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.seen.history import SiteHistory
from iceprod.site_sync.seen.letters import Letters
from iceprod.site_sync.seen.overview import Overview
from iceprod.site_sync.seen.whereabouts import Whereabouts
from iceprod.store.base import Store


@dataclass(frozen=True, slots=True)
class Observation:
    """For pages, figures and commands; nothing here changes what sites do, but for `letters`."""

    overview: Overview
    history: SiteHistory
    letters: Letters
    whereabouts: Whereabouts


def observe(
    store: Store,
    *,
    peers: PeerStates,
    outbox: Outbox,
    clock: Clock,
    name: str,
    version: str,
    certificate_s: float,
) -> Observation:
    """All of it, for the site of that name, which runs that release."""
    history = SiteHistory(store, peers=peers, clock=clock)
    return Observation(
        overview=Overview(
            store,
            peers=peers,
            history=history,
            clock=clock,
            name=name,
            version=version,
            certificate_s=certificate_s,
        ),
        history=history,
        letters=Letters(store, outbox=outbox, clock=clock),
        whereabouts=Whereabouts(store),
    )
