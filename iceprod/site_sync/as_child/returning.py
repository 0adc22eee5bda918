"""Handing back what waits here for too long: there may be room for it somewhere else.

That is so when a grid has gone or is out of order, or when more was lent than fits.
"""

from __future__ import annotations

from typing import Final

from iceprod.clock import Clock
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.services.foreign import Foreign
from iceprod.services.scheduling import Scheduler
from iceprod.services.tasks import TaskService
from iceprod.store.base import Store

_PART: Final = 500


class Returning:
    """Gives tasks of other sites up that no pilot has begun with for ``patience_s``."""

    def __init__(
        self,
        store: Store,
        *,
        scheduler: Scheduler,
        tasks: TaskService,
        foreign: Foreign,
        clock: Clock,
        patience_s: float,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._tasks = tasks
        self._foreign = foreign
        self._clock = clock
        self._patience_s = patience_s

    async def look(self) -> int:
        """Hand back what has waited for too long; how many tasks; a duty."""
        classes = [
            ready.task_class.class_id for ready, dataset in self._scheduler.ranking() if dataset.is_mirror
        ]
        return sum([await self._look(class_id) for class_id in classes])

    async def _look(self, class_id: int) -> int:
        before, returned, after = self._clock() - self._patience_s, 0, None
        while found := await self._store.tasks.ready(class_id, after, _PART):
            tasks = await self._store.tasks.among(found)
            old = [
                task_id
                for task_id, task in tasks.items()
                if task.status is TaskStatus.WAITING and task.status_changed_at < before
            ]
            if old:
                await self._foreign.returned(old, f"it waited for {self._patience_s:g} s")
                returned += await self._tasks.change_all(TaskEvent.SUSPENDED, old)
            after = found[-1]
        return returned
