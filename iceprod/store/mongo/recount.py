"""Counting afresh what counters say, and correcting them; and repair when the store is opened.

The counters of a dataset follow its jobs by `effects`, so they drift only by a fault of the
program or of the database.  A count is taken at its word only if nothing has moved meanwhile:
no job owes anything before and after, and the dataset is still of the same version.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from iceprod.model.federation import HOLDER_PREFIX, site_of
from iceprod.model.lifecycle import JobStatus, TaskStatus, roll_up_job
from iceprod.store.base import Drift
from iceprod.store.mongo.client import ASCENDING, Document
from iceprod.store.mongo.context import Context, together
from iceprod.store.mongo.documents import (
    WAITING,
    dataset_of,
    derived,
    job_place,
    of_dataset,
    task_key,
    unfinished,
)
from iceprod.store.mongo.effects import OWES, carry_out
from iceprod.store.mongo.owed import at_site
from iceprod.store.mongo.pending import complete

_TRIES: Final = 8
_PAUSE_S: Final = 0.02
_SEVERAL: Final = 100  # jobs with debts that are looked at
_MARKS: Final = 50  # as many may be left behind by crashes before they are dropped

Counts = dict[str, int]
"""Numbers by the name that each has in the dataset's document."""


async def repair(context: Context) -> None:
    """Do whatever a process that ended has left undone.

    A process that lives may be about to do the same: nothing is done twice.
    """
    context.left.clear()
    for document in await context.datasets.find({"pending.id": {"$gt": ""}}):
        await complete(context, document)
    found = await context.jobs.find({"owing": OWES}, ("_id",))
    owing = {place[0] for job in found if (place := job_place(job["_id"])) is not None}
    for dataset_id in sorted(owing):
        await carry_out(context, dataset_id)


async def repair_left(context: Context) -> None:
    """Do what this process could not while the database was away."""
    left = sorted(context.left)
    context.left.clear()
    try:
        await together(*(_mend(context, dataset_id) for dataset_id in left))
    except BaseException:
        context.left.update(left)
        raise


async def _mend(context: Context, dataset_id: str) -> None:
    """Do what is left undone for a dataset."""
    document = await context.datasets.find_one({"_id": dataset_id})
    if document is not None:
        if "pending" in document:
            await complete(context, document)
        if await _owed(context, document):
            await carry_out(context, dataset_id)


async def recount(context: Context, dataset_id: str, *, correct: bool = True) -> list[Drift]:
    """Every counter of a dataset that differs from what it counts.

    Empty also if the dataset's jobs would not stand still for as long as counting takes.
    """
    owed_before: set[str] = set()
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE_S * attempt)
        document = await context.datasets.find_one({"_id": dataset_id})
        if document is None:
            return []
        if "pending" in document:
            if correct:
                await complete(context, document)
        elif owed := await _owed(context, document):
            # What was just changed follows in a moment; a repair would only disturb that.
            if correct and owed & owed_before:
                await carry_out(context, dataset_id)
            owed_before = owed
        else:
            counted = await _count(context, document)
            if not await _owed(context, document) and await _correct(
                context, document, counted, correct=correct
            ):
                return _drift(document, counted)
    return []


async def fill_counters(context: Context, dataset_id: str, *, needed_by: list[str]) -> None:
    """Count what a dataset has that was written without counters; nobody else may use it meanwhile."""
    document = await context.datasets.find_one({"_id": dataset_id})
    if document is None:
        return
    counted = await _count(context, document)
    del counted["jobs_made"]
    counted.update(await _count_at_sites(context, document["number"]))
    change = {"$set": {**counted, "needed_by": needed_by}, "$inc": {"version": 1}}
    await context.datasets.update({"_id": dataset_id}, change)


async def damage(context: Context) -> list[str]:
    """One line for each counter or job that is not what it should be; changes nothing."""
    lines = []
    for found in await context.datasets.find({}, ("number",), sort=[("number", ASCENDING)]):
        lines += [
            f"dataset {d.dataset_id}: {d.what} is {d.stored}, counted {d.counted}"
            for d in await recount(context, found["_id"], correct=False)
        ]
    async for part in context.jobs.scan({}, ("status", "tasks", *_DERIVED)):
        lines += [f"job {job['_id']}: {what}" for job in part for what in _job_damage(job)]
    return lines


_DERIVED: Final = ("statuses", "ready", "held", "lease_until", "due")


def _job_damage(job: Mapping[str, Any]) -> list[str]:
    """What in a job's document does not follow from its tasks."""
    tasks = job["tasks"]
    counts: defaultdict[TaskStatus, int] = defaultdict(int)
    for task in tasks:
        counts[TaskStatus(task["status"])] += 1
    found = [] if job["status"] == roll_up_job(counts) else [f"status is {job['status']}"]
    present, _ = derived(tasks)
    return found + [f"{name} is wrong" for name in _DERIVED if _in_order(job.get(name)) != present.get(name)]


def _in_order(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


async def _owed(context: Context, document: Document) -> set[str]:
    """The batches for which some jobs of a dataset owe something; not all if there are many."""
    where = {"owing": OWES, "key": of_dataset(document["number"])}
    found = await context.jobs.find(where, ("owing",), limit=_SEVERAL)
    return {batch for job in found for batch in job["owing"]}


async def _count(context: Context, document: Document) -> Counts:
    """What the dataset's counters should say; of those that are zero, only those that exist."""
    match = {"$match": {"key": of_dataset(document["number"])}}
    jobs = await context.jobs.aggregate([match, {"$group": {"_id": "$status", "n": {"$sum": 1}}}])
    fields = {"index": "$tasks.index", "status": "$tasks.status", "class_id": "$tasks.class_id"}
    tasks = await context.jobs.aggregate(
        [match, {"$unwind": "$tasks"}, {"$group": {"_id": fields, "n": {"$sum": 1}}}]
    )
    counted = dict.fromkeys(_stored(document), 0)
    for found in jobs:
        counted[f"jobs.{found['_id']}"] = found["n"]
    kinds: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for found in tasks:
        kind = found["_id"]
        kinds[kind["index"]][kind["status"]] += found["n"]
        if kind["status"] == WAITING:
            name = f"ready.{kind['class_id']}"
            counted[name] = counted.get(name, 0) + found["n"]
    for index, statuses in kinds.items():
        counted.update({f"tasks.{index}.{status}": n for status, n in statuses.items()})
    counted["unfinished"] = unfinished(kinds.values())
    counted["jobs_made"] = sum(found["n"] for found in jobs) + document.get("jobs_removed", 0)
    return counted


async def _count_at_sites(context: Context, number: int) -> Counts:
    """What the counters of attempts at other sites should say."""
    first, last = task_key(number, 0, 0), task_key(number + 1, 0, 0)
    where = {"key": {"$gte": first, "$lt": last}, "pilot_id": {"$gte": HOLDER_PREFIX, "$lt": "site;"}}
    of = {"holder": "$pilot_id", "outcome": "$outcome"}
    found = await context.attempts.aggregate([{"$match": where}, {"$group": {"_id": of, "n": {"$sum": 1}}}])
    return {at_site(site_of(each["_id"]["holder"]), each["_id"]["outcome"]): each["n"] for each in found}


def _stored(document: Mapping[str, Any]) -> Counts:
    """What the dataset's counters say."""
    stored = {"unfinished": document["unfinished"], "jobs_made": document["jobs_made"]}
    stored.update({f"jobs.{status}": n for status, n in document["jobs"].items()})
    stored.update({f"ready.{class_id}": n for class_id, n in document["ready"].items()})
    for index, kind in enumerate(document["tasks"]):
        stored.update({f"tasks.{index}.{status}": n for status, n in (kind or {}).items()})
    return stored


def _drift(document: Mapping[str, Any], counted: Counts) -> list[Drift]:
    stored, name = _stored(document), document["_id"]
    found = [
        Drift(name, what.replace(".", "/"), int(stored.get(what, 0)), n)
        for what, n in sorted(counted.items())
        if stored.get(what, 0) != n
    ]
    status, statuses = _status(document, counted), list(JobStatus)
    if status != document["status"]:
        places = statuses.index(JobStatus(document["status"])), statuses.index(status)
        found.append(Drift(name, "status", *places))
    return found


def _status(document: Mapping[str, Any], counted: Counts) -> JobStatus:
    jobs = {status: counted.get(f"jobs.{status.value}", 0) for status in JobStatus}
    made = {**document, "jobs_made": counted["jobs_made"]}
    return dataset_of(made).rolled_up(jobs)


async def _correct(context: Context, document: Document, counted: Counts, *, correct: bool) -> bool:
    """Correct what differs; False if the dataset has changed since it was read."""
    here = {"_id": document["_id"], "version": document["version"]}
    is_right = not _drift(document, counted)
    zeros = [f"ready.{c}" for c in document["ready"] if not counted[f"ready.{c}"]]
    is_tidy = len(document["applied"]) < _MARKS and len(zeros) < _MARKS
    if not correct or (is_right and is_tidy):
        return await context.datasets.find_one(here, ("_id",)) is not None
    change: Document = {
        # Nothing is owed, so the marks serve nobody; who knows an older epoch looks again.
        "$set": {"status": _status(document, counted).value, "applied": {}},
        "$inc": {"version": 1, "epoch": 1},
    }
    change["$set"].update({name: n for name, n in counted.items() if name not in zeros})
    if zeros:
        change["$unset"] = dict.fromkeys(zeros, "")
    return await context.datasets.update(here, change)
