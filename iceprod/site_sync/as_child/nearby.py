"""Of which of a parent's jobs this site has files, so that their next tasks had better run here.

It is a wish, and forgotten with the process: what matters is true without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from iceprod.model.federation import Errand, ErrandStatus
from iceprod.model.task import parse_task_id
from iceprod.store.base import Store

MOST: Final = 300
"""The newest jobs that a parent is told of."""

HasFiles = Callable[[Sequence[str]], Awaitable[set[str]]]
"""Which of these tasks have files in the area of their job here."""


class Nearby:
    """Remembers the errands that were taken of late, of one parent."""

    def __init__(self, store: Store, *, has_files: HasFiles) -> None:
        self._store = store
        self._has_files = has_files
        self._taken: OrderedDict[str, None] = OrderedDict()

    def took(self, task_ids: Iterable[str]) -> None:
        """Errands were taken, or found at the start."""
        for task_id in task_ids:
            self._taken[task_id] = None
            self._taken.move_to_end(task_id)
        while len(self._taken) > MOST:
            self._taken.popitem(last=False)

    async def jobs(self) -> list[tuple[str, int]]:
        """The parent's jobs whose files are here, or will be when what runs has ended; newest first.

        What is over, and has no files here any more, is forgotten.
        """
        taken = list(self._taken)
        errands = await self._store.errands.of_tasks(taken)
        ended = [task_id for task_id, errand in errands.items() if errand.status is ErrandStatus.ENDED]
        kept = await self._has_files(ended) if ended else set()
        found: dict[tuple[str, int], None] = {}
        for task_id in reversed(taken):
            errand = errands.get(task_id)
            if errand is not None and (errand.status is ErrandStatus.OPEN or task_id in kept):
                found[_job(errand)] = None
            else:
                self._taken.pop(task_id, None)
        return list(found)


def _job(errand: Errand) -> tuple[str, int]:
    dataset_id, job, _ = parse_task_id(errand.parent_task_id)
    return dataset_id, job
