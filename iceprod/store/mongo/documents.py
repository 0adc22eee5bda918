"""Documents of datasets, jobs and attempts as values of the model, and back.

A job's document holds its tasks in order, and beside them what is derived from them so that
an index can find it (`derived`).  ``key`` orders jobs by the number of their dataset and
their place in it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from iceprod.errors import NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import SiteRules
from iceprod.model.job import Job
from iceprod.model.lifecycle import UNFINISHED, JobStatus, TaskStatus
from iceprod.model.resources import Requirements
from iceprod.model.task import MAX_JOBS, MAX_TASKS, Attempt, Outcome, Task, parse_job_id, task_id
from iceprod.store.base import TaskClass
from iceprod.store.mongo.client import Document

Graph = tuple[tuple[str, ...], tuple[tuple[int, ...], ...], tuple[tuple[tuple[str, int], ...], ...]]

TASK_BITS: Final = MAX_TASKS.bit_length() - 1
JOB_BITS: Final = MAX_JOBS.bit_length() - 1
_LONG: Final = 16  # items of a list that are written anew rather than told apart
LAST_KEY: Final = (1 << 63) - 1
LAST_NUMBER: Final = (1 << 23) - 1
"""The highest number of a dataset, so that the key of a task has 63 bits."""

WAITING, IDLE, PROCESSING, COMPLETE = (
    status.value
    for status in (TaskStatus.WAITING, TaskStatus.IDLE, TaskStatus.PROCESSING, TaskStatus.COMPLETE)
)
_PLAIN: Final = (
    "number", "owner", "group", "created_at", "status_changed_at", "jobs_wanted", "jobs_made",
    "config_version", "description", "priority", "truncated", "suspended", "always_active",
    "jobs_immutable", "debug", "public", "retain_until",
)  # fmt: skip
DATASET_FIELDS: Final = ("status", "graph", "source", "sites", "jobs_removed", *_PLAIN)
"""What `dataset_of` needs."""
HEAD_FIELDS: Final = (
    "status", "jobs", "version", "epoch", "needed_by", "graph_version", "jobs_removed", *_PLAIN,
)  # fmt: skip
"""What a move of tasks must know of their dataset; short, however many tasks its jobs have."""
ATTEMPT_FIELDS: Final = (
    "lease_id", "pilot_id", "hostname", "started_at", "ended_at", "failure_class", "summary", "walltime_s",
)  # fmt: skip
TASK_FIELDS: Final = (
    "status_changed_at", "class_id", "attempt", "failures", "evictions", "lease_id", "lease_until",
    "pilot_id", "release_at",
)  # fmt: skip


def job_key(number: int, job_index: int) -> int:
    """Orders jobs by dataset and place."""
    return number << JOB_BITS | job_index


def task_key(number: int, job_index: int, task_index: int) -> int:
    """Orders tasks by dataset, job and place."""
    return job_key(number, job_index) << TASK_BITS | task_index


def kind_key(number: int, task_index: int) -> int:
    """Tells the tasks of a dataset that have the same place in their jobs."""
    return number << TASK_BITS | task_index


def of_dataset(number: int) -> Document:
    """The condition on ``key`` that only the jobs of a dataset meet."""
    return {"$gte": job_key(number, 0), "$lt": job_key(number + 1, 0)}


# -- datasets ---------------------------------------------------------------------------------


def graph_text(names: Sequence[Any], depends: Sequence[Any], external: Sequence[Any]) -> str:
    """A task graph as it is stored."""
    return msgspec.json.encode((names, depends, external)).decode()


@functools.lru_cache(maxsize=256)
def read_graph(text: str) -> Graph:
    """Task names, depends and external from what `graph_text` made."""
    graph: Graph = msgspec.json.decode(text, type=Graph)
    return graph


def needed_datasets(external: Iterable[Iterable[tuple[str, int]]]) -> list[str]:
    """The datasets that a graph refers to."""
    return sorted({dataset_id for needs in external for dataset_id, _ in needs})


def dataset_document(given: Dataset) -> Document:
    """A dataset as it is stored, with all counters at zero and nothing pending."""
    plain = {name: getattr(given, name) for name in _PLAIN}
    return {
        "_id": given.dataset_id,
        "status": given.status.value,
        **plain,
        "graph": graph_text(given.task_names, given.depends, given.external),
        "source": given.source,
        "sites": sites_document(given.sites),
        "jobs_removed": given.jobs_removed,
        "graph_version": 1,
        "needs": needed_datasets(given.external),
        "needed_by": [],
        "version": 1,
        "epoch": 1,
        "applied": {},
        "jobs": {},
        "tasks": [{} for _ in given.task_names],
        "ready": {},
        "unfinished": 0,
    }


def dataset_of(document: Mapping[str, Any]) -> Dataset:
    """A dataset from its `DATASET_FIELDS`."""
    return _dataset(document, *read_graph(document["graph"]))


def head_of(document: Mapping[str, Any]) -> Dataset:
    """A dataset as if it had no tasks, from its `HEAD_FIELDS`: for rolling it up."""
    return _dataset(document, (), (), ())


def _dataset(document: Mapping[str, Any], names: Any, depends: Any, external: Any) -> Dataset:
    return Dataset(
        dataset_id=document["_id"],
        status=JobStatus(document["status"]),
        task_names=names,
        depends=depends,
        external=external,
        source=document.get("source", ""),  # older documents do not have these three
        sites=_sites_of(document.get("sites", {})),
        jobs_removed=document.get("jobs_removed", 0),
        **{name: document[name] for name in _PLAIN},
    )


def sites_document(given: SiteRules) -> Document:
    """Where tasks may run, as it is stored."""
    return {"only": list(given.only), "never": list(given.never)}


def _sites_of(document: Mapping[str, Any]) -> SiteRules:
    return SiteRules(tuple(document.get("only", ())), tuple(document.get("never", ())))


def job_counts(document: Mapping[str, Any]) -> dict[JobStatus, int]:
    """How many jobs of a dataset are in each status, from its ``jobs``."""
    return {JobStatus(status): int(n) for status, n in document["jobs"].items() if n}


def task_counts(document: Mapping[str, Any]) -> tuple[dict[TaskStatus, int], ...]:
    """How many tasks of each kind are in each status, from its ``tasks``."""
    return tuple(
        {TaskStatus(status): int(n) for status, n in (kind or {}).items() if n} for kind in document["tasks"]
    )


def unfinished(counts: Iterable[Mapping[str, int]]) -> int:
    """How many tasks are still to be worked on."""
    return sum(n for kind in counts for status, n in kind.items() if status in UNFINISHED)


def class_document(given: TaskClass, number: int) -> Document:
    """A class as it is stored."""
    return {
        "_id": str(given.class_id),
        "class_id": given.class_id,
        "number": number,
        "dataset_id": given.dataset_id,
        "task_index": given.task_index,
        "requirements": given.requirements.to_json(),
    }


def class_of(document: Mapping[str, Any]) -> TaskClass:
    """A class from its document."""
    return TaskClass(
        int(document["class_id"]),
        document["dataset_id"],
        int(document["task_index"]),
        Requirements.from_json(document["requirements"]),
    )


def config_key(dataset_id: str, version: int) -> str:
    """The ``_id`` of a configuration."""
    return f"{dataset_id}:{version}"


def config_document(dataset_id: str, version: int, text: str) -> Document:
    """A configuration as it is stored."""
    return {
        "_id": config_key(dataset_id, version),
        "dataset_id": dataset_id,
        "version": version,
        "text": text,
    }


# -- jobs and tasks ---------------------------------------------------------------------------


def task_document(task: Task) -> Document:
    """A task as it is stored within its job."""
    return {
        "index": task.task_index,
        "status": task.status.value,
        **{name: getattr(task, name) for name in TASK_FIELDS},
    }


def new_task(index: int, status: str, class_id: int, *, now: float) -> Document:
    """A task as it is stored when it is made."""
    return {
        "index": index,
        "status": status,
        "status_changed_at": now,
        "class_id": class_id,
        "attempt": 0,
        "failures": 0,
        "evictions": 0,
        "lease_id": "",
        "lease_until": 0.0,
        "pilot_id": "",
        "release_at": None,
    }


def job_document(job: Job, number: int, tasks: Sequence[Document], *, graph_version: int) -> Document:
    """A job as it is stored, owing nothing."""
    present, _ = derived(tasks)
    return {
        "_id": job.job_id,
        "key": job_key(number, job.job_index),
        "status": job.status.value,
        "status_changed_at": job.status_changed_at,
        "version": 1,
        "graph": graph_version,
        "tasks": list(tasks),
        **present,
    }


def derived(tasks: Iterable[Mapping[str, Any]]) -> tuple[Document, list[str]]:
    """What indexes need of a job's tasks; and the names of what there is none of.

    ``statuses`` that occur, classes of which a task is ``ready``, pilots by which one is
    ``held``, when the first lease ends and when the first back-off is ``due`` to end.
    """
    statuses, ready, held = set(), set(), set()
    lease_until = due = None
    for task in tasks:
        status = task["status"]
        statuses.add(status)
        if status == WAITING:
            ready.add(task["class_id"])
        elif status == PROCESSING:
            held.add(task["pilot_id"])
            until = task["lease_until"]
            lease_until = until if lease_until is None else min(lease_until, until)
        elif status == IDLE and task["release_at"] is not None:
            due = task["release_at"] if due is None else min(due, task["release_at"])
    found = {
        "statuses": sorted(statuses),
        "ready": sorted(ready) or None,
        "held": sorted(held) or None,
        "lease_until": lease_until,
        "due": due,
    }
    return {k: v for k, v in found.items() if v is not None}, [k for k, v in found.items() if v is None]


def rederived(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> Document:
    """The change that brings what is `derived` from tasks up to date."""
    former, _ = derived(before)
    present, absent = derived(after)
    change: Document = {}
    gone = {name: "" for name in absent if name in former}
    if gone:
        change["$unset"] = gone
    for name, value in present.items():
        if value != former.get(name):
            merge(change, _rewritten(name, former.get(name), value))
    return change


def _rewritten(name: str, before: Any, after: Any) -> Document:
    """The change of one field; of a long list only what is new or what is gone is written."""
    if isinstance(before, list) and len(after) > _LONG:
        new, gone = set(after) - set(before), set(before) - set(after)
        if not new:
            return {"$pullAll": {name: sorted(gone)}}
        if not gone:
            return {"$addToSet": {name: {"$each": sorted(new)}}}
    return {"$set": {name: after}}


def merge(change: Document, more: Document) -> None:
    """Add to a change another one of other fields."""
    for operator, fields in more.items():
        change.setdefault(operator, {}).update(fields)


def job_of(document: Mapping[str, Any]) -> Job:
    """A job from its document."""
    dataset_id, job_index = parse_job_id(document["_id"])
    return Job(
        document["_id"], dataset_id, job_index, JobStatus(document["status"]), document["status_changed_at"]
    )


def task_of(dataset_id: str, job_index: int, document: Mapping[str, Any]) -> Task:
    """A task from its document within the job's."""
    index = int(document["index"])
    return Task(
        task_id(dataset_id, job_index, index),
        dataset_id,
        job_index,
        index,
        TaskStatus(document["status"]),
        document["status_changed_at"],
        int(document["class_id"]),  # the driver has a type of its own for numbers of 64 bits
        *(document[name] for name in TASK_FIELDS[2:]),
    )


def tasks_of(document: Mapping[str, Any]) -> list[Task]:
    """All tasks of a job, in order."""
    dataset_id, job_index = parse_job_id(document["_id"])
    return [task_of(dataset_id, job_index, task) for task in document["tasks"]]


def job_place(job_id: str) -> tuple[str, int] | None:
    """Dataset id and job index, or None if there can be no such job."""
    try:
        return parse_job_id(job_id)
    except NotFoundError:
        return None


# -- attempts ---------------------------------------------------------------------------------


def attempt_document(attempt: Attempt, key: int) -> Document:
    """An ended attempt as it is stored; ``key`` is that of its task.

    What was measured is kept as JSON, for its names may be anything.
    """
    number, task_index = key >> JOB_BITS >> TASK_BITS, key & (MAX_TASKS - 1)
    return {
        "_id": f"{attempt.task_id}:{attempt.attempt}",
        "task_id": attempt.task_id,
        "key": key,
        "kind": kind_key(number, task_index),
        "attempt": attempt.attempt,
        "outcome": attempt.outcome.value,
        **{name: getattr(attempt, name) for name in ATTEMPT_FIELDS},
        "usage": msgspec.json.encode(attempt.usage).decode(),
        "stats": msgspec.json.encode(attempt.stats).decode(),
    }


def attempt_of(document: Mapping[str, Any]) -> Attempt:
    """An ended attempt from its document."""
    return Attempt(
        task_id=document["task_id"],
        attempt=int(document["attempt"]),
        outcome=Outcome(document["outcome"]),
        **{name: document[name] for name in ATTEMPT_FIELDS},
        usage=msgspec.json.decode(document["usage"], type=dict[str, float]),
        stats=msgspec.json.decode(document["stats"]),
    )
