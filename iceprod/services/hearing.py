"""What is done about the news of other processes: the same as about one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iceprod.clock import Clock
from iceprod.services.accounts import Accounts
from iceprod.services.bulletin import Bulletin, Draft, HolderState
from iceprod.services.catalogue import Catalogue
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.duty import DutyHolder
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.grids import GridController
from iceprod.services.loans import Loans
from iceprod.services.materialise import Materialiser
from iceprod.services.peer_states import PeerStates
from iceprod.services.pilots import PilotService
from iceprod.services.reports import Reports
from iceprod.services.scheduling import Scheduler, Transitions
from iceprod.store.base import Store

_DATASETS = frozenset({EventKind.DATASET_CREATED, EventKind.DATASET_CHANGED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """Applies bulletins; everything that it changes is in the memory of this process."""

    store: Store
    clock: Clock
    draft: Draft
    duty: DutyHolder
    watch: ClockWatch
    events: Events
    accounts: Accounts
    catalogue: Catalogue
    scheduler: Scheduler
    transitions: Transitions
    materialiser: Materialiser
    pilots: PilotService
    reports: Reports
    grids: GridController
    peers: PeerStates
    loans: Loans

    async def hear(self, bulletin: Bulletin) -> None:
        """Another process has told this."""
        with self.draft.quietly():
            self.scheduler.learn(bulletin.classes)
        await self.scheduler.find_classes(bulletin.ready)
        await self._datasets(bulletin.events)
        with self.draft.quietly():
            self.transitions.moved_elsewhere(gone=bulletin.gone, ready=bulletin.ready)
            self.scheduler.charged_elsewhere(bulletin.charges)
            self.reports.sampled_elsewhere(bulletin.samples)
            self.peers.seen_elsewhere(bulletin.sightings)
            self.loans.lent_elsewhere(bulletin.loans)
            if bulletin.state is not None:
                self._stands(bulletin.state)
        await self._pilots(bulletin)
        for kind, subject in bulletin.events:
            if kind is EventKind.CREDENTIALS_REVOKED:
                self.accounts.forget(subject)
            if kind not in _DATASETS:  # those have been told already
                self._tell(Event(kind, subject))

    async def look(self, *, after_outage: bool) -> None:
        """Something was missed: take everything from the store."""
        if after_outage:
            self.watch.unsettle()
        self.accounts.forget_all()
        self.catalogue.forget_all()
        await self.scheduler.reload()
        await self.pilots.load()
        await self.reports.load()
        await self.peers.load()
        for dataset in await self.store.datasets.active():
            self.materialiser.wake(dataset.dataset_id)
            self._tell(Event(EventKind.DATASET_CHANGED, dataset.dataset_id))
        self._tell(Event(EventKind.LEASES_TAKEN))  # from whom, nobody knows

    def processes_changed(self, rank: int, of: int) -> None:
        """This process is now the ``rank``-th of so many."""
        self.scheduler.share(rank, of)
        # Who begins has repaired what another had left undone, and tells nobody of it.
        self.scheduler.doubt()

    async def tell_state(self) -> None:
        """Tell what the holder of the duties knows best; a duty."""
        self.draft.stands(HolderState(self.clock(), self.scheduler.usage(), self.grids.status()))

    def _stands(self, state: HolderState) -> None:
        if not self.duty.is_holding():
            self.scheduler.restore_usage(state.usage, state.as_of)
            self.grids.cared_for_elsewhere(state.grids)

    async def _datasets(self, events: Sequence[tuple[EventKind, str]]) -> None:
        """Read what has changed, and see to what follows from it."""
        changed = dict.fromkeys(subject for kind, subject in events if kind in _DATASETS)
        has_new_graph = False
        for dataset_id in changed:
            former = self.catalogue.at_hand(dataset_id)
            dataset = await self.store.datasets.get(dataset_id)
            if dataset is None:
                continue
            # With another configuration the store may have released and held tasks.
            has_new_graph |= former is not None and former.config_version != dataset.config_version
            with self.draft.quietly():
                self.scheduler.dataset_changed(dataset)
            self.materialiser.wake(dataset_id)
        if has_new_graph:
            await self.scheduler.reconcile()
        for kind, subject in events:
            if kind is EventKind.DATASET_CREATED:
                self._tell(Event(kind, subject))

    async def _pilots(self, bulletin: Bulletin) -> None:
        for patch in bulletin.pilots:
            await self.pilots.seen_elsewhere(patch)
        for kind, subject in bulletin.events:
            if kind is EventKind.PILOT_CHANGED:
                await self.pilots.changed_elsewhere(subject)

    def _tell(self, event: Event) -> None:
        with self.draft.quietly():
            self.events.publish(event)
