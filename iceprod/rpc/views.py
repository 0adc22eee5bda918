"""What the methods of this server show of its objects: the shapes of results.

Instants are seconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import JobStatus, TaskStatus
from iceprod.model.paging import Slice
from iceprod.model.pilot import Pilot
from iceprod.model.resources import Offer, Resources, bounded
from iceprod.model.task import Attempt, Task
from iceprod.services.datasets import ProgressReport

Label = Annotated[str, msgspec.Meta(max_length=1000)]

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class ListView(Generic[T]):
    """A part of a list; ``next`` is the cursor of what follows, null at the end."""

    items: list[T]
    next: str | None


def listed(found: Slice[S], view: Callable[[S], T]) -> ListView[T]:
    """A slice with each item as it is shown."""
    return ListView([view(item) for item in found.items], found.next)


@dataclass(frozen=True, slots=True)
class ChangedView:
    """How many tasks a call changed."""

    changed: int


class OfferParameter(msgspec.Struct, frozen=True, gc=False):
    """What a pilot has: cores, GPUs, GB of memory and disk, hours of wall time."""

    cpu: float = 1
    gpu: float = 0
    memory: float = 1.0
    disk: float = 1.0
    time: float = 1.0
    os: Label = ""
    site: Label = ""

    def to_model(self) -> Offer:
        """As the scheduler wants it."""
        return _offer(self)


@lru_cache(maxsize=256)
def _offer(given: OfferParameter) -> Offer:
    """Remembered, because a pilot offers the same again and again."""
    resources = Resources(*map(bounded, (given.cpu, given.gpu, given.memory, given.disk, given.time)))
    return Offer(resources, os=given.os, site=given.site)


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A dataset; ``jobs_wanted`` jobs were asked for, ``jobs_made`` exist by now.

    Tasks run at ``only_sites`` if any are named, and not at ``never_sites``; this site is the empty text.
    """

    dataset_id: str
    number: int
    owner: str
    group: str
    description: str
    status: JobStatus
    priority: float
    jobs_wanted: int
    jobs_made: int
    tasks: list[str]
    config_version: int
    truncated: bool
    suspended: bool
    debug: bool
    public: bool
    created_at: float
    status_changed_at: float
    only_sites: list[str]
    never_sites: list[str]


def dataset_view(dataset: Dataset) -> DatasetView:
    """A dataset as it is shown."""
    return DatasetView(
        dataset_id=dataset.dataset_id,
        number=dataset.number,
        owner=dataset.owner,
        group=dataset.group,
        description=dataset.description,
        status=dataset.status,
        priority=dataset.priority,
        jobs_wanted=dataset.jobs_wanted,
        jobs_made=dataset.jobs_made,
        tasks=list(dataset.task_names),
        config_version=dataset.config_version,
        truncated=dataset.truncated,
        suspended=dataset.suspended,
        debug=dataset.debug,
        public=dataset.public,
        created_at=dataset.created_at,
        status_changed_at=dataset.status_changed_at,
        only_sites=list(dataset.sites.only),
        never_sites=list(dataset.sites.never),
    )


@dataclass(frozen=True, slots=True)
class TaskKindView:
    """How many tasks of one kind stand where."""

    name: str
    index: int
    counts: Mapping[TaskStatus, int]


@dataclass(frozen=True, slots=True)
class ProgressView:
    """How far a dataset is; ``eta_s`` is the time left at the present rate, null if unknown."""

    dataset_id: str
    status: JobStatus
    jobs: Mapping[JobStatus, int]
    tasks: Mapping[TaskStatus, int]
    by_task: list[TaskKindView]
    jobs_wanted: int
    jobs_made: int
    rate_per_s: float | None
    eta_s: float | None


def progress_view(report: ProgressReport) -> ProgressView:
    """Progress as it is shown."""
    dataset, progress = report.dataset, report.progress
    counts = [*progress.tasks, *({} for _ in range(len(dataset.task_names) - len(progress.tasks)))]
    return ProgressView(
        dataset_id=dataset.dataset_id,
        status=dataset.status,
        jobs=progress.jobs,
        tasks=progress.all_tasks,
        by_task=[TaskKindView(name, index, counts[index]) for index, name in enumerate(dataset.task_names)],
        jobs_wanted=dataset.jobs_wanted,
        jobs_made=dataset.jobs_made,
        rate_per_s=report.rate_per_s,
        eta_s=report.eta_s,
    )


class TaskView(msgspec.Struct, frozen=True, gc=False):
    """A task; ``lease_until`` and ``pilot_id`` are of the attempt that runs, or ran last."""

    task_id: str
    dataset_id: str
    job_index: int
    task_index: int
    name: str
    status: TaskStatus
    status_changed_at: float
    attempt: int
    failures: int
    evictions: int
    pilot_id: str
    lease_until: float
    release_at: float | None


def task_view(task: Task, names: tuple[str, ...]) -> TaskView:
    """A task as it is shown, never with its lease: who knows that may act for it."""
    return TaskView(
        task_id=task.task_id,
        dataset_id=task.dataset_id,
        job_index=task.job_index,
        task_index=task.task_index,
        name=names[task.task_index],
        status=task.status,
        status_changed_at=task.status_changed_at,
        attempt=task.attempt,
        failures=task.failures,
        evictions=task.evictions,
        pilot_id=task.pilot_id,
        lease_until=task.lease_until,
        release_at=task.release_at,
    )


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An ended attempt; ``usage`` in cores, GPUs, GB and hours."""

    attempt: int
    pilot_id: str
    hostname: str
    started_at: float
    ended_at: float
    outcome: str
    failure_class: str
    summary: str
    walltime_s: float
    usage: Mapping[str, float]
    stats: Mapping[str, Any]


def attempt_view(attempt: Attempt) -> AttemptView:
    """An attempt as it is shown."""
    return AttemptView(
        attempt=attempt.attempt,
        pilot_id=attempt.pilot_id,
        hostname=attempt.hostname,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome,
        failure_class=attempt.failure_class,
        summary=attempt.summary,
        walltime_s=attempt.walltime_s,
        usage=attempt.usage,
        stats=attempt.stats,
    )


@dataclass(frozen=True, slots=True)
class PilotView:
    """A pilot; ``offer`` is all it has, ``claimed`` what its tasks take of that."""

    pilot_id: str
    status: str
    grid: str
    grid_job_id: str
    hostname: str
    version: str
    offer: dict[str, Any]
    claimed: dict[str, Any]
    finished: int
    failed: int
    created_at: float
    seen_at: float
    reason: str


def pilot_view(pilot: Pilot) -> PilotView:
    """A pilot as it is shown."""
    offer = pilot.offer.resources.to_format() | {"os": pilot.offer.os, "site": pilot.offer.site}
    return PilotView(
        pilot_id=pilot.pilot_id,
        status=pilot.status,
        grid=pilot.grid,
        grid_job_id=pilot.grid_job_id,
        hostname=pilot.hostname,
        version=pilot.version,
        offer=offer,
        claimed=pilot.claimed.to_format(),
        finished=pilot.finished,
        failed=pilot.failed,
        created_at=pilot.created_at,
        seen_at=pilot.seen_at,
        reason=pilot.reason,
    )
