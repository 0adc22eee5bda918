"""A task, one attempt of it, and what can be told about a change of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from iceprod.errors import NotFoundError
from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.values import value

MAX_JOBS = 1 << 28  # jobs of one dataset
MAX_TASKS = 1 << 12  # tasks of one job

# A number of up to nine digits in its one decimal spelling; nearly every call names a task.
_INDEX = "(0|[1-9][0-9]{0,8})"
_TASK_ID = re.compile(f"([^-]+)-{_INDEX}-{_INDEX}").fullmatch


def task_id(dataset_id: str, job_index: int, task_index: int) -> str:
    """The id of a task, made from its place."""
    return f"{dataset_id}-{job_index}-{task_index}"


def job_id(dataset_id: str, job_index: int) -> str:
    """The id of a job, made from its place."""
    return f"{dataset_id}-{job_index}"


@lru_cache(maxsize=10_000)  # who reads some tasks soon moves them
def parse_task_id(identifier: str) -> tuple[str, int, int]:
    """Dataset id, job index and task index of a task.

    Raises:
        NotFoundError: this can be no task's id.
    """
    found = _TASK_ID(identifier)
    if found is None:
        raise NotFoundError("task", identifier)
    job_index, task_index = int(found[2]), int(found[3])
    if job_index >= MAX_JOBS or task_index >= MAX_TASKS:
        raise NotFoundError("task", identifier)
    return found[1], job_index, task_index


def parse_job_id(identifier: str) -> tuple[str, int]:
    """Dataset id and job index of a job.

    Raises:
        NotFoundError: this can be no job's id.
    """
    dataset_id, _, job = identifier.partition("-")
    if not dataset_id or not _is_index(job) or int(job) >= MAX_JOBS:
        raise NotFoundError("job", identifier)
    return dataset_id, int(job)


def _is_index(text: str) -> bool:
    """Whether ``text`` is the one decimal spelling of a number of up to nine digits."""
    return text.isdecimal() and text.isascii() and len(text) < 10 and (text[0] != "0" or text == "0")


@value
class Task:
    """One step of a job, the smallest thing a pilot runs."""

    task_id: str
    dataset_id: str
    job_index: int
    task_index: int
    status: TaskStatus
    status_changed_at: float
    class_id: int
    attempt: int = 0  # how often it has been claimed
    failures: int = 0
    evictions: int = 0
    lease_id: str = ""  # of the attempt that runs, or ran last
    lease_until: float = 0.0
    pilot_id: str = ""
    release_at: float | None = None  # when its back-off ends


class Outcome(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    FAILED = "failed"
    EVICTED = "evicted"
    STOPPED = "stopped"  # a user suspended or reset the task while it ran


@value
class Attempt:
    """The record of one ended attempt: an entry in the usage ledger, never changed.

    ``usage`` holds what was measured, in the units of `Resources`; ``stats`` whatever else
    the pilot reported, as given.
    """

    task_id: str
    attempt: int
    lease_id: str
    pilot_id: str
    hostname: str
    started_at: float
    ended_at: float
    outcome: Outcome
    failure_class: str = ""
    summary: str = ""
    walltime_s: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)


@value
class Ended:
    """What is known of an attempt when it ends; the store adds the rest from the task."""

    outcome: Outcome
    hostname: str = ""
    failure_class: str = ""
    summary: str = ""
    walltime_s: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)


@value
class Lease:
    """The right to run one attempt of a task."""

    lease_id: str
    pilot_id: str
    until: float


@value
class Move:
    """One change of a task's status, guarded by its status and, where given, by its lease.

    With ``lease_id`` it can be told whose that has to be: ``holder``, else anybody's.

    Exactly the given things change: ``lease`` is set by a claim, ``ended`` records the
    attempt that this move ends, ``class_id`` is given when the requirements grow,
    ``release_at`` when a back-off begins.
    """

    task_id: str
    event: TaskEvent
    lease_id: str | None = None
    holder: str | None = None
    lease: Lease | None = None
    ended: Ended | None = None
    class_id: int | None = None
    release_at: float | None = None


@value
class Moved:
    """What a move has changed, all in one transaction.

    ``released`` are the tasks (this one among them) that may be claimed since, with their
    classes; ``held`` the others that no longer may.  ``job`` and ``dataset`` are given when their
    status changed by this.
    """

    task: Task
    before: TaskStatus
    released: tuple[tuple[str, int], ...] = ()
    held: tuple[tuple[str, int], ...] = ()
    job: JobStatus | None = None
    dataset: JobStatus | None = None
