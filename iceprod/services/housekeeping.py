"""Duties that are done now and then, whoever is calling or not.

Each is a function that is called with nothing and does one thing; the process decides how
often (`iceprod.server.duties`).
"""

from __future__ import annotations

import structlog

from iceprod.clock import Clock
from iceprod.errors import StoreUnavailable
from iceprod.model.dataset import Dataset
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.duty import DutyHolder
from iceprod.services.tasks import TaskService
from iceprod.store.base import Store

MAX_EXPIRED = 1000

logger = structlog.get_logger(__name__)


class LeaseWatch:
    """Takes tasks back from pilots that let their lease run out.

    After a start, an outage of the store and a jump of the clock nothing expires for the
    length of a lease, in which live pilots renew theirs.
    """

    def __init__(
        self, store: Store, *, clock: Clock, watch: ClockWatch, tasks: TaskService, duty: DutyHolder
    ) -> None:
        self._store = store
        self._duty = duty
        self._clock = clock
        self._watch = watch
        self._tasks = tasks

    async def expire(self) -> int:
        """Evict tasks whose lease has run out; how many."""
        if not self._watch.is_settled():
            return 0
        try:
            expired = await self._store.tasks.expired(self._clock(), MAX_EXPIRED)
        except StoreUnavailable:
            self._watch.unsettle()  # in which nobody can renew a lease either
            raise
        # A process that was stopped in between may have missed that they were renewed.
        if not expired or not self._duty.is_holding():
            return 0
        return await self._tasks.evict([(t.task_id, t.lease_id) for t in expired], "lease ran out")


class CounterAudit:
    """Recounts datasets, one at each turn, and reports what had drifted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: list[Dataset] = []
        self.drifts = 0

    async def step(self) -> None:
        """Recount the next active dataset."""
        if not self._queue:
            self._queue = await self._store.datasets.active()
        if self._queue:
            await self.recount(self._queue.pop().dataset_id)

    async def recount_files(self) -> int:
        """Recount what users, groups and datasets keep; how many counters were wrong."""
        wrong = await self._store.files.recount()
        if wrong:
            logger.error("what is kept of files had drifted", counters=wrong)
        self.drifts += wrong
        return wrong

    async def recount(self, dataset_id: str) -> int:
        """Recount one dataset; how many counters were wrong and are right now."""
        found = await self._store.datasets.recount(dataset_id)
        for drift in found:
            logger.error(
                "counter had drifted",
                dataset_id=dataset_id,
                what=drift.what,
                stored=drift.stored,
                counted=drift.counted,
            )
        self.drifts += len(found)
        return len(found)
