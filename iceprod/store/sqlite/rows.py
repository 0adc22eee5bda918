"""Rows of the tables as values of the model, and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from iceprod.model.dataset import Dataset
from iceprod.model.federation import SiteRules
from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus, TaskStatus
from iceprod.model.task import Attempt, Outcome, Task, job_id
from iceprod.store.sqlite.keys import JOB_BITS, JOB_MASK, TASK_BITS, TASK_MASK

Graph = tuple[tuple[str, ...], tuple[tuple[int, ...], ...], tuple[tuple[tuple[str, int], ...], ...]]

# What a status is on disk: the place in these tuples, which may grow at their end only.
TASK_STATUSES = (
    TaskStatus.IDLE,
    TaskStatus.WAITING,
    TaskStatus.QUEUED,
    TaskStatus.PROCESSING,
    TaskStatus.COMPLETE,
    TaskStatus.FAILED,
    TaskStatus.SUSPENDED,
)
JOB_STATUSES = (JobStatus.PROCESSING, JobStatus.COMPLETE, JobStatus.ERRORS, JobStatus.SUSPENDED)
TASK_CODE: Mapping[TaskStatus, int] = {status: code for code, status in enumerate(TASK_STATUSES)}
JOB_CODE: Mapping[JobStatus, int] = {status: code for code, status in enumerate(JOB_STATUSES)}

TASK_COLUMNS = (
    "key, status, status_changed_at, class_id, attempt, failures, evictions,"
    " lease_id, lease_until, pilot_id, release_at"
)
JOB_COLUMNS = "key, status, status_changed_at"
DATASET_COLUMNS = (
    'number, dataset_id, owner, "group", status, created_at, status_changed_at, jobs_wanted, jobs_made,'
    " config_version, description, priority, truncated, suspended, always_active, jobs_immutable, debug,"
    " public, retain_until, graph, source, sites, jobs_removed"
)
ATTEMPT_COLUMNS = (
    "key, attempt, lease_id, pilot_id, hostname, started_at, ended_at, outcome,"
    " failure_class, summary, walltime_s, usage, stats"
)


def each_of(table: str) -> str:
    """What to select from for the rows of a table whose keys a parameter lists, as JSON."""
    # Taken as it stands: a subquery after IN would be sorted first.
    return f"(SELECT value FROM json_each(?)) CROSS JOIN {table} ON key = value"


def task(dataset_id: str, row: Sequence[Any]) -> Task:
    """A task from its ``TASK_COLUMNS``."""
    key = row[0]
    job_index, task_index = (key & JOB_MASK) >> TASK_BITS, key & TASK_MASK
    return Task(
        f"{dataset_id}-{job_index}-{task_index}",
        dataset_id,
        job_index,
        task_index,
        TASK_STATUSES[row[1]],
        *row[2:],
    )


def job(dataset_id: str, row: Sequence[Any]) -> Job:
    """A job from its ``JOB_COLUMNS``."""
    job_index = row[0] & ((1 << JOB_BITS) - 1)
    return Job(job_id(dataset_id, job_index), dataset_id, job_index, JOB_STATUSES[row[1]], row[2])


def dataset(row: Sequence[Any]) -> Dataset:
    """A dataset from its ``DATASET_COLUMNS``."""
    task_names, depends, external = read_graph(row[19])
    return Dataset(
        number=row[0],
        dataset_id=row[1],
        owner=row[2],
        group=row[3],
        status=JOB_STATUSES[row[4]],
        created_at=row[5],
        status_changed_at=row[6],
        jobs_wanted=row[7],
        jobs_made=row[8],
        config_version=row[9],
        description=row[10],
        priority=row[11],
        truncated=bool(row[12]),
        suspended=bool(row[13]),
        always_active=bool(row[14]),
        jobs_immutable=bool(row[15]),
        debug=bool(row[16]),
        public=bool(row[17]),
        retain_until=row[18],
        task_names=task_names,
        depends=depends,
        external=external,
        source=row[20],
        sites=read_sites(row[21]),
        jobs_removed=row[22],
    )


def dataset_row(given: Dataset) -> tuple[Any, ...]:
    """The ``DATASET_COLUMNS`` of a dataset but its number."""
    return (
        given.dataset_id,
        given.owner,
        given.group,
        JOB_CODE[given.status],
        given.created_at,
        given.status_changed_at,
        given.jobs_wanted,
        given.jobs_made,
        given.config_version,
        given.description,
        given.priority,
        given.truncated,
        given.suspended,
        given.always_active,
        given.jobs_immutable,
        given.debug,
        given.public,
        given.retain_until,
        graph_text(given.task_names, given.depends, given.external),
        given.source,
        sites_text(given.sites),
        given.jobs_removed,
    )


def graph_text(*graph: Any) -> str:
    """Task names, depends and external as they are stored."""
    return msgspec.json.encode(graph).decode()


@functools.lru_cache(maxsize=256)
def read_graph(text: str) -> Graph:
    """Task names, depends and external from what `graph_text` made."""
    graph: Graph = msgspec.json.decode(text, type=Graph)
    return graph


def sites_text(sites: SiteRules) -> str:
    """Where tasks may run, as it is stored."""
    return msgspec.json.encode(sites).decode()


@functools.lru_cache(maxsize=256)
def read_sites(text: str) -> SiteRules:
    """Where tasks may run, from what `sites_text` made, or from an empty object."""
    return msgspec.json.decode(text, type=SiteRules)


def attempt(task_id: str, row: Sequence[Any]) -> Attempt:
    """An ended attempt from its ``ATTEMPT_COLUMNS``."""
    return Attempt(
        task_id=task_id,
        attempt=row[1],
        lease_id=row[2],
        pilot_id=row[3],
        hostname=row[4],
        started_at=row[5],
        ended_at=row[6],
        outcome=Outcome(row[7]),
        failure_class=row[8],
        summary=row[9],
        walltime_s=row[10],
        usage=msgspec.json.decode(row[11], type=dict[str, float]),
        stats=msgspec.json.decode(row[12]),
    )
