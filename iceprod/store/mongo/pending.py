"""Changes of a dataset that take several writes: each begins with one that says what is to come.

The first write changes the dataset and sets ``pending``, both or neither.  `complete` does
the rest, again and again without harm, until it removes ``pending``; whoever wants to change
the dataset in such a way again, and every process that opens the store, does that first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus
from iceprod.model.task import job_id
from iceprod.store.mongo.client import ASCENDING, Document
from iceprod.store.mongo.context import Context, begun
from iceprod.store.mongo.documents import (
    IDLE,
    WAITING,
    config_document,
    config_key,
    dataset_of,
    job_counts,
    job_document,
    new_task,
    of_dataset,
    read_graph,
    task_key,
)
from iceprod.store.mongo.effects import follow
from iceprod.store.mongo.work import JobWork
from iceprod.store.mongo.writing import Taken, carry

_PART = 200  # jobs that are brought in line with a new graph at a time
_SOME = 1000  # jobs that are inserted at a time

Rows = Sequence[Sequence[int]]  # the classes of the tasks of each job


class Making(msgspec.Struct, frozen=True):
    """Jobs to make: the first, and the classes of their tasks, as (number of jobs, classes)."""

    first: int
    rows: list[tuple[int, list[int]]]

    @classmethod
    def of(cls, first: int, rows: Rows) -> Making:
        """From one row for each job; most are alike."""
        packed: list[tuple[int, list[int]]] = []
        for row in rows:
            if packed and packed[-1][1] == list(row):
                packed[-1] = packed[-1][0] + 1, packed[-1][1]
            else:
                packed.append((1, list(row)))
        return cls(first, packed)

    def jobs(self) -> Iterator[tuple[int, list[int]]]:
        """Index and classes of each job."""
        index = self.first
        for number, row in self.rows:
            for _ in range(number):
                yield index, row
                index += 1


def pending(
    context: Context,
    *,
    now: float,
    config: tuple[int, str] | None = None,
    link: bool = False,
    making: Making | None = None,
    settle: bool = False,
    removing: Sequence[int] = (),
    dropping: bool = False,
) -> Document:
    """What is to be done: keep a configuration, tell the datasets that are needed, make jobs, settle all.

    Or delete the jobs of these indices, or the dataset itself.
    """
    found: Document = {"id": context.new_batch(), "at": now}
    if config is not None:
        found["config"] = {"version": config[0], "text": config[1]}
    if link:
        found["link"] = True
    if making is not None:
        found["making"] = msgspec.json.encode(making).decode()
    if settle:
        found["settle"] = True
    if removing:
        found["removing"] = list(removing)
    if dropping:
        found["dropping"] = True
    return found


async def without_pending(context: Context, dataset_id: str) -> Document | None:
    """A dataset's document, after what was pending for it is done."""
    while True:
        document = await context.datasets.find_one({"_id": dataset_id})
        if document is None or "pending" not in document:
            return document
        await complete(context, document)


def rolled_up(document: Document, *, now: float) -> Document:
    """A dataset's document with the status that follows from the rest of it."""
    status = dataset_of(document).rolled_up(job_counts(document)).value
    if status == document["status"]:
        return document
    return {**document, "status": status, "status_changed_at": now}


async def complete(context: Context, document: Document) -> list[tuple[str, int]]:
    """Do what is pending for a dataset; the tasks released by that, with their classes."""
    with begun():
        return await _complete(context, document)


async def _complete(context: Context, document: Document) -> list[tuple[str, int]]:
    todo, name = document["pending"], document["_id"]
    released: list[tuple[str, int]] = []
    if "config" in todo:
        kept = config_document(name, todo["config"]["version"], todo["config"]["text"])
        await context.configs.insert_missing([kept])
    if "link" in todo:
        await _link(context, name, document["needs"])
    if "making" in todo:
        making = msgspec.json.decode(todo["making"], type=Making)
        released = await _make(context, document, making, now=todo["at"])
    if "settle" in todo:
        await _settle(context, document, now=todo["at"])
    if "removing" in todo:
        await _remove(context, document, todo["removing"])
    if "dropping" in todo:
        await _drop(context, document)
    await context.datasets.update(
        {"_id": name, "pending.id": todo["id"]}, {"$unset": {"pending": ""}, "$inc": {"version": 1}}
    )
    return released


async def _link(context: Context, dataset_id: str, needs: Iterable[str]) -> None:
    """Tell the datasets that are needed, and hear from those that need this one.

    Of two datasets that are added at once at least one finds the other.
    """
    for needed in needs:
        await context.datasets.update({"_id": needed}, {"$addToSet": {"needed_by": dataset_id}})
    others = [found["_id"] for found in await context.datasets.find({"needs": dataset_id}, ("_id",))]
    if others:
        await context.datasets.update(
            {"_id": dataset_id}, {"$addToSet": {"needed_by": {"$each": sorted(others)}}}
        )


async def _make(context: Context, document: Document, making: Making, *, now: float) -> list[tuple[str, int]]:
    """Insert the jobs that are not there yet; the dataset has counted them already."""
    starts = starting(document)
    _, _, external = read_graph(document["graph"])
    outer = [index for index, needs in enumerate(external) if needs]
    made, released = [], []
    for index, row in making.jobs():
        job = Job(job_id(document["_id"], index), document["_id"], index, JobStatus.PROCESSING, now)
        tasks = [new_task(i, status, row[i], now=now) for i, status in enumerate(starts)]
        made.append(job_document(job, document["number"], tasks, graph_version=document["graph_version"]))
        released += [(f"{job.job_id}-{i}", row[i]) for i, status in enumerate(starts) if status == WAITING]
    for start in range(0, len(made), _SOME):
        await context.jobs.insert_missing(made[start : start + _SOME])
    if outer:
        works = await _settle_jobs(context, [job["_id"] for job in made], outer, now=now)
        released += [task for work in works for task in work.released]
    return sorted(released, key=_place)


async def _remove(context: Context, document: Document, jobs: Sequence[int]) -> None:
    """Delete jobs and what is of their tasks; the dataset counts them no more."""
    name, number, width = document["_id"], document["number"], len(document["tasks"])
    tasks = [(job, task) for job in jobs for task in range(width)]
    await context.logs.delete({"task_id": {"$in": [f"{name}-{job}-{task}" for job, task in tasks]}})
    await context.attempts.delete({"key": {"$in": [task_key(number, job, task) for job, task in tasks]}})
    await context.jobs.delete({"_id": {"$in": [job_id(name, job) for job in jobs]}})


async def _drop(context: Context, document: Document) -> None:
    """Delete a dataset that has no jobs; last what says that this is to be done."""
    name = document["_id"]
    versions = range(1, document["config_version"] + 1)
    await context.configs.delete({"_id": {"$in": [config_key(name, version) for version in versions]}})
    await context.classes.delete({"number": document["number"]})
    await context.datasets.delete({"_id": name})


def starting(document: Document) -> list[str]:
    """Where the tasks of a new job stand: what needs nothing may be claimed at once.

    What needs tasks of other datasets only is settled when it has been inserted, for those may
    be completed at the same time.
    """
    _, depends, external = read_graph(document["graph"])
    return [IDLE if inner or outer else WAITING for inner, outer in zip(depends, external, strict=True)]


async def _settle(context: Context, document: Document, *, now: float) -> None:
    """Bring all jobs in line with a new graph, part by part."""
    version, bounds = document["graph_version"], of_dataset(document["number"])
    context.states.learn(document)

    def step(work: JobWork) -> None:
        if work.document["graph"] < version:
            work.settle_all(version, now=now)

    while True:
        where = {"key": dict(bounds), "graph": {"$lt": version}}
        part = await context.jobs.find(where, ("key",), sort=[("key", ASCENDING)], limit=_PART)
        if not part:
            return
        await carry(
            context, [job["_id"] for job in part], step, lambda batch, taken: follow(context, batch, taken)
        )
        bounds["$gte"] = part[-1]["key"] + 1


async def _settle_jobs(
    context: Context, job_ids: Sequence[str], tasks: Sequence[int], *, now: float
) -> list[JobWork]:
    def step(work: JobWork) -> None:
        work.settle(tasks, now=now)

    async def effects(batch: str, taken: Taken) -> None:
        await follow(context, batch, taken)

    return await carry(context, job_ids, step, effects)


def _place(classed: tuple[str, int]) -> tuple[Any, ...]:
    """Orders the tasks of a dataset by their place."""
    _, job, task = classed[0].rsplit("-", 2)
    return int(job), int(task)
