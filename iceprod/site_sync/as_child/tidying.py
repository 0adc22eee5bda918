"""Forgetting what was run for other sites long ago, of which nothing is to be told any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from iceprod.clock import Clock
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, PeerRole
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.paging import Page
from iceprod.model.task import parse_task_id
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.mirrors import Mirrors
from iceprod.services.tasks import TaskService
from iceprod.store.base import DatasetFilter, Store

MOST: Final = 20_000
"""Errands that are forgotten at one turn."""
_PART: Final = 200

logger = structlog.get_logger(__name__)


class Tidying:
    """Forgets errands that were closed ``keep_s`` ago, with their jobs, attempts and logs.

    Mirrors of which nothing is left are dropped.  The files have gone before, or keep the mirror
    until then (`iceprod.services.temp_areas`).
    """

    def __init__(
        self,
        store: Store,
        *,
        tasks: TaskService,
        mirrors: Mirrors,
        events: Events,
        clock: Clock,
        keep_s: float,
    ) -> None:
        self._store = store
        self._mirrors = mirrors
        self._tasks = tasks
        self._events = events
        self._clock = clock
        self._keep_s = keep_s

    async def look(self) -> int:
        """Forget what is due, part by part; how many errands; a duty."""
        before, forgotten = self._clock() - self._keep_s, 0
        while forgotten < MOST:
            errands = await self._store.errands.closed(before, _PART)
            if not errands:
                break
            for dataset_id, some in _by_dataset(errands).items():
                await self._remove(dataset_id, some)
            # Last: an errand whose jobs have gone already is found again, and does no harm.
            forgotten += await self._store.errands.forget([errand.task_id for errand in errands])
        dropped = await self._drop_mirrors(before)
        if forgotten or dropped:
            logger.info("old tasks of other sites forgotten", tasks=forgotten, mirrors=dropped)
        return forgotten

    async def _drop_mirrors(self, before: float) -> int:
        """Drop mirrors of which nothing is left; how many."""
        dropped = 0
        for peer in await self._store.peers.all():
            if peer.role is PeerRole.PARENT:
                async for mirror in self._mirrors_of(peer.name):
                    if mirror.created_at < before and await self._is_empty(mirror):
                        dropped += await self._mirrors.drop(mirror)
        return dropped

    async def _mirrors_of(self, parent: str) -> AsyncIterator[Dataset]:
        cursor: str | None = None
        while True:
            page = Page(limit=_PART, cursor=cursor)
            found = await self._store.datasets.select(DatasetFilter(group=f"@{parent}"), page)
            for dataset in found.items:
                if dataset.is_mirror:
                    yield dataset
            cursor = found.next
            if cursor is None:
                return

    async def _is_empty(self, mirror: Dataset) -> bool:
        """Whether it has neither jobs nor files."""
        if mirror.jobs_made != mirror.jobs_removed:
            return False
        return (await self._store.files.stored("dataset", mirror.dataset_id)).files_kept == 0

    async def _remove(self, dataset_id: str, task_ids: Sequence[str]) -> None:
        jobs = [parse_task_id(task_id)[1] for task_id in task_ids]
        removed = await self._store.datasets.remove_jobs(dataset_id, jobs, now=self._clock())
        if removed < len(jobs):
            # Of an errand that is over nothing may run; what does all the same, is stopped first.
            await self._tasks.change_all(TaskEvent.SUSPENDED, task_ids)
            await self._store.datasets.remove_jobs(dataset_id, jobs, now=self._clock())
        self._events.publish(Event(EventKind.DATASET_CHANGED, dataset_id))


def _by_dataset(errands: Sequence[Errand]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for errand in errands:
        found.setdefault(parse_task_id(errand.task_id)[0], []).append(errand.task_id)
    return found
