"""Which tasks a site would run near their data: those of jobs of which it has files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from iceprod.model.task import Task, task_id
from iceprod.store.base import TaskClass


class Near:
    """The jobs (dataset id, job index) of which a site has files; the first are preferred."""

    def __init__(self, jobs: Iterable[tuple[str, int]]) -> None:
        self._jobs: dict[str, dict[int, None]] = {}
        for dataset_id, job in jobs:
            self._jobs.setdefault(dataset_id, {})[job] = None

    def has(self, task: Task) -> bool:
        """Whether a task is of one of them."""
        return task.job_index in self._jobs.get(task.dataset_id, ())

    def tasks(self, of: TaskClass) -> Iterator[str]:
        """The tasks of one class that they have, or would have."""
        for job in self._jobs.get(of.dataset_id, ()):
            yield task_id(of.dataset_id, job, of.task_index)


NOWHERE: Final = Near(())
