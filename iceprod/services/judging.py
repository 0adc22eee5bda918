"""What becomes of a task whose attempt has failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iceprod.model.dataset import Dataset
from iceprod.model.failures import Decision, Failure, FailureKind, FailureRule, classify, decide
from iceprod.model.growth import grow
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.task import Outcome, Task
from iceprod.services.materialise import task_class
from iceprod.services.reporting import Report
from iceprod.services.scheduling import Scheduler
from iceprod.services.slots import Slots
from iceprod.store.base import Store

PEERS: Final = 200
"""Finished tasks of the same kind that a grown requirement looks at."""


class Judge:
    """Applies this site's rules; of tasks of other sites those decide, and here nothing is tried again."""

    def __init__(
        self, store: Store, *, scheduler: Scheduler, slots: Slots, rules: Sequence[FailureRule]
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._slots = slots
        self._rules = tuple(rules)

    async def decide(self, task: Task, dataset: Dataset, failure: Failure) -> Decision:
        """Whether, and when, a task is tried again."""
        if dataset.is_mirror:
            return Decision(TaskEvent.FAILED, classify(failure, self._rules).name)
        return decide(failure, await self._failures(task), self._rules, debug=dataset.debug)

    async def grown(self, task: Task, dataset: Dataset, failure: Failure, report: Report) -> int | None:
        """The class with larger requirements after overuse, or None to stay in the same."""
        if failure.kind is not FailureKind.OVERUSE or dataset.is_mirror:
            return None
        classes = {c.class_id: c for c in await self._store.datasets.classes(task.dataset_id)}
        if task.class_id not in classes:
            return None
        peers = await self._store.tasks.recent_attempts(task.dataset_id, task.task_index, PEERS)
        grown = grow(
            classes[task.class_id].requirements,
            failure.resource,
            report.usage.get(failure.resource, 0.0),
            peers=[a.usage for a in peers if a.outcome is Outcome.FINISHED],
            largest=self._slots.largest(),
        )
        new = task_class(task.dataset_id, task.task_index, grown)
        await self._store.datasets.add_classes([new])
        self._scheduler.learn([new])
        return new.class_id

    async def _failures(self, task: Task) -> list[str]:
        """The classes of the failures that count: those since the task was last reset."""
        classes = [a.failure_class for a in await self._store.tasks.attempts(task.task_id) if a.failure_class]
        return classes[-task.failures :] if task.failures else []
