"""Making what shares work with other sites, over the services that it uses."""

from __future__ import annotations

from iceprod.clock import Clock
from iceprod.services.events import Events
from iceprod.site_sync.errands import Errands
from iceprod.site_sync.federation import Federation
from iceprod.site_sync.outbox import Outbox
from iceprod.site_sync.parents import Parents
from iceprod.store.base import Store


def make_federation(store: Store, *, clock: Clock, events: Events) -> Federation:
    """All that is shared with other sites; nothing runs yet."""
    outbox = Outbox(store, events=events)
    return Federation(errands=Errands(store, clock=clock, outbox=outbox), outbox=outbox, parents=Parents())
