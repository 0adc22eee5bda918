"""What services tell of tasks that are run for other sites, and what they ask about them.

They know no more of other sites than this.  All of it is about tasks of mirror datasets
(`iceprod.model.dataset.Dataset.is_mirror`) and is asked for no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from iceprod.errors import ConflictError
from iceprod.model.dataset import Dataset
from iceprod.model.failures import Failure
from iceprod.model.federation import Original
from iceprod.model.task import Task
from iceprod.services.reporting import Report


class Foreign(Protocol):
    """Whoever stands between this site and those whose tasks it runs.

    What is told here is durable when the call returns, and is told before the task is moved:
    a statement that was made is true whatever becomes of this process then.  Making it again
    changes nothing.
    """

    async def originals(self, task_ids: Sequence[str]) -> Mapping[str, Original]:
        """What tasks are called where their datasets were made; those that nobody wants are left out."""
        ...

    async def started(self, task: Task, hostname: str) -> None:
        """A pilot has begun with a task."""
        ...

    async def finished(self, task: Task, report: Report) -> None:
        """A task is about to be complete."""
        ...

    async def failed(self, task: Task, failure: Failure, report: Report) -> None:
        """An attempt has failed; what becomes of the task, its own site decides."""
        ...

    async def logged(self, task_id: str, attempt: int, name: str) -> None:
        """A log of an attempt was kept."""
        ...

    async def returned(self, task_ids: Sequence[str], reason: str) -> None:
        """Tasks are about to be suspended here: their own site may run them elsewhere."""
        ...


class NoForeign:
    """No other site: for parts that are used without one."""

    async def originals(self, task_ids: Sequence[str]) -> Mapping[str, Original]:
        """None."""
        del task_ids
        return {}

    async def started(self, task: Task, hostname: str) -> None:
        """Nobody is told."""

    async def finished(self, task: Task, report: Report) -> None:
        """Nobody is told."""

    async def failed(self, task: Task, failure: Failure, report: Report) -> None:
        """Nobody is told."""

    async def logged(self, task_id: str, attempt: int, name: str) -> None:
        """Nobody is told."""

    async def returned(self, task_ids: Sequence[str], reason: str) -> None:
        """Nobody is told."""


NO_FOREIGN: Final[Foreign] = NoForeign()


def check_own(dataset: Dataset) -> None:
    """Refuse to steer a dataset here that is steered elsewhere.

    Raises:
        ConflictError: as it says.
    """
    if dataset.is_mirror:
        site = dataset.source.partition("/")[0]
        raise ConflictError(
            f"dataset {dataset.dataset_id} stands for one of site {site}, where it must be changed; "
            "only its tasks may be suspended here, which hands them back",
            source=dataset.source,
        )
