"""A dataset: one submission, and how far its jobs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from iceprod.model.federation import ANYWHERE, SiteRules
from iceprod.model.lifecycle import JobStatus, TaskStatus, roll_up_dataset


@dataclass(frozen=True, slots=True)
class Dataset:
    """One submission: a configuration and ``jobs_wanted`` jobs of it.

    ``number`` is small, ascending and for people; ``jobs_made`` jobs have been materialised, and
    ``jobs_removed`` of them forgotten since.
    ``depends`` lists for each task the indices of the tasks of the same job that it needs,
    ``external`` what it needs of other datasets, as ``(dataset_id, task_index)``: the same
    job there.
    """

    dataset_id: str
    number: int
    owner: str
    status: JobStatus
    created_at: float
    status_changed_at: float
    jobs_wanted: int
    task_names: tuple[str, ...]
    depends: tuple[tuple[int, ...], ...]
    external: tuple[tuple[tuple[str, int], ...], ...] = ()
    group: str = "users"
    description: str = ""
    priority: float = 0.5  # 0 to 1, within the share of user and group
    jobs_made: int = 0
    config_version: int = 1
    truncated: bool = False  # no more jobs will be made
    suspended: bool = False  # nothing of it is handed out or made
    always_active: bool = False  # stays processing when its jobs are done: more will come
    jobs_immutable: bool = False  # the number of jobs may not be changed
    debug: bool = False  # a failing task is suspended for inspection, not retried
    public: bool = True  # may be seen by every user of the site
    retain_until: float | None = None
    source: str = ""  # PARENT/ID of the dataset of another site that it stands for; see `is_mirror`
    sites: SiteRules = ANYWHERE  # where its tasks may run
    jobs_removed: int = 0

    @property
    def is_mirror(self) -> bool:
        """Whether its jobs are tasks of another site's dataset, one task each, made as they are lent."""
        return bool(self.source)

    def may_run_at(self, site: str) -> bool:
        """Whether tasks may run at a site, which is this one if empty: what was lent is not lent back."""
        return self.sites.allow(site) and not (site and self.source.startswith(f"{site}/"))

    def dependents(self, task_index: int) -> tuple[int, ...]:
        """The tasks of a job that need task ``task_index`` of it."""
        return tuple(i for i, needs in enumerate(self.depends) if task_index in needs)

    def rolled_up(self, jobs: Mapping[JobStatus, int]) -> JobStatus:
        """The status that follows from the flags and the number of jobs in each status."""
        if self.suspended:
            return JobStatus.SUSPENDED
        wanted = self.jobs_made if self.truncated else self.jobs_wanted
        status = roll_up_dataset(jobs, jobs_wanted=wanted - self.jobs_removed)
        if self.always_active and status is not JobStatus.SUSPENDED:
            return JobStatus.PROCESSING
        return status


@dataclass(frozen=True, slots=True)
class Progress:
    """How many jobs and tasks of a dataset stand where; read from counters, not counted."""

    jobs: Mapping[JobStatus, int] = field(default_factory=dict)
    tasks: tuple[Mapping[TaskStatus, int], ...] = ()  # one per task of a job

    @property
    def all_tasks(self) -> dict[TaskStatus, int]:
        """The tasks of all kinds together."""
        total: dict[TaskStatus, int] = {}
        for counts in self.tasks:
            for status, number in counts.items():
                total[status] = total.get(status, 0) + number
        return total
