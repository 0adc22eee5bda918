"""After a restoration: when all that children hold is known again, and tasks may be handed out."""

from __future__ import annotations

import structlog

from iceprod.clock import Clock
from iceprod.model.federation import Peer, PeerRole
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.recovering import Recovering
from iceprod.services.scheduling import Scheduler
from iceprod.site_sync import terms
from iceprod.site_sync.messages import FIRST_WITH_TERMS
from iceprod.site_sync.registry import Registry
from iceprod.site_sync.terms import Term
from iceprod.store.base import Store

logger = structlog.get_logger(__name__)


class Recovery:
    """Holds work back until every child has said what it holds, or for ``longest_s`` after a start.

    ``state`` is what everybody else in this process sees of it.
    """

    def __init__(
        self,
        store: Store,
        *,
        registry: Registry,
        scheduler: Scheduler,
        state: Recovering,
        watch: ClockWatch,
        monotonic: Clock,
        longest_s: float,
    ) -> None:
        self.state = state
        self.longest_s = longest_s
        self._store = store
        self._registry = registry
        self._scheduler = scheduler
        self._watch = watch
        self._monotonic = monotonic
        self._until = 0.0

    async def load(self) -> None:
        """Learn what the term is, and whether something is to be waited for; called once at start."""
        term = await terms.current(self._store.values)
        self._registry.term = term.number
        self.state.is_on = term.is_recovering
        self._until = self._monotonic() + self.longest_s
        await self.look()

    async def look(self) -> None:
        """See whether it is over; a duty of every process."""
        if not self.state.is_on:
            return
        self._watch.unsettle()  # leases that ended while nobody was there are not over, either
        peers = await self._store.peers.all()
        self._wait_for(*(peer.name for peer in peers if self._is_awaited(peer)))
        is_late = self._monotonic() >= self._until
        is_on = (await terms.current(self._store.values)).is_recovering
        if self.state.waits_for and not is_late and is_on:
            return
        if is_on:
            await terms.keep(self._store.values, Term(self._registry.term))
        logger.info("work is given out again", missing=list(self.state.waits_for))
        self.state.is_on = False
        self._wait_for()
        self._scheduler.go_on()

    def _wait_for(self, *sites: str) -> None:
        self.state.waits_for = self._registry.awaited = sites

    def _is_awaited(self, peer: Peer) -> bool:
        is_child = peer.role is PeerRole.CHILD and not peer.is_gone
        knows = peer.protocol >= FIRST_WITH_TERMS  # others can't say what they hold
        return is_child and knows and peer.term < self._registry.term
