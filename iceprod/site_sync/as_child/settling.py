"""What becomes here of errands that are over: their parent has taken in how they ended, or dropped them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from iceprod.clock import Clock
from iceprod.model.federation import Errand, ErrandStatus
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.services.tasks import TaskService
from iceprod.store.base import Store

_FINAL: Final = frozenset({TaskStatus.COMPLETE, TaskStatus.FAILED})
_PART: Final = 500


class Settling:
    """Closes errands; ``lost`` and ``ended`` count them by parent."""

    def __init__(self, store: Store, *, tasks: TaskService, clock: Clock) -> None:
        self._store = store
        self._tasks = tasks
        self._clock = clock
        self.ended: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    async def end(self, parent: str, lease_ids: Sequence[str]) -> None:
        """The parent has taken in how these ended."""
        errands = await self._open(parent, lease_ids)
        self.ended[parent] += await self._close(errands, ErrandStatus.ENDED)

    async def lose(self, parent: str, lease_ids: Sequence[str], *, with_told: bool) -> None:
        """These are this site's no longer: what still runs is stopped.

        What has ended here is left alone unless ``with_told``: its end is queued, and the
        answer to that tells more.
        """
        errands = await self._open(parent, lease_ids)
        final = await self._final([errand.task_id for errand in errands])
        # First of all they are stopped: of errands that are open still, all of this is done again.
        alive = [errand.task_id for errand in errands if errand.task_id not in final]
        await self._tasks.change_all(TaskEvent.SUSPENDED, alive)
        over = [errand for errand in errands if with_told or errand.task_id not in final]
        self.lost[parent] += await self._close(over, ErrandStatus.LOST)

    async def forsake(self, parent: str) -> None:
        """This site has left a parent: nothing is run for it any more, and nothing told to it, ever."""
        after = None
        while errands := await self._store.errands.open(parent, after, _PART):
            await self.lose(parent, [errand.lease_id for errand in errands], with_told=True)
            after = errands[-1].task_id
        while queued := await self._store.outbox.next(parent, 0, _PART):
            await self._store.outbox.done(parent, [each.number for each in queued])
        while letters := (await self._store.outbox.dead(parent, Page(_PART))).items:
            for letter in letters:
                await self._store.outbox.discard(letter.number)

    async def _open(self, parent: str, lease_ids: Sequence[str]) -> list[Errand]:
        if not lease_ids:
            return []
        found = await self._store.errands.of_leases(parent, lease_ids)
        return [errand for errand in found.values() if errand.status is ErrandStatus.OPEN]

    async def _close(self, errands: Sequence[Errand], status: ErrandStatus) -> int:
        if not errands:
            return 0
        task_ids = [errand.task_id for errand in errands]
        return sum(await self._store.errands.end(task_ids, status, now=self._clock()))

    async def _final(self, task_ids: Sequence[str]) -> set[str]:
        """Those of the tasks that have come to their end here."""
        found = set[str]()
        for start in range(0, len(task_ids), _PART):
            tasks = await self._store.tasks.among(task_ids[start : start + _PART])
            found |= {task_id for task_id, task in tasks.items() if task.status in _FINAL}
        return found
