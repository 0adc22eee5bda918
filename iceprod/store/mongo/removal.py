"""Forgetting jobs that have come to their end, and datasets of which no jobs are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from iceprod.model.lifecycle import UNFINISHED
from iceprod.model.task import job_id
from iceprod.store.mongo.client import Document
from iceprod.store.mongo.context import Context, contend
from iceprod.store.mongo.documents import job_place
from iceprod.store.mongo.pending import complete, pending, rolled_up, without_pending

Job = Mapping[str, Any]


async def remove_jobs(context: Context, dataset_id: str, jobs: Sequence[int], *, now: float) -> int:
    """Count those of some jobs no more of which no task may run, and delete them."""
    names, tries = [job_id(dataset_id, index) for index in jobs], 0
    while (document := await without_pending(context, dataset_id)) is not None:
        found = await context.jobs.find({"_id": {"$in": names}}, ("status", "tasks", "owing"))
        ended = [job for job in found if _has_ended(job)]
        if not ended:
            return 0
        changed = await context.datasets.change(
            {"_id": dataset_id, "version": document["version"]},
            _fewer_jobs(context, document, ended, now=now),
        )
        if changed is not None:
            await complete(context, changed)
            return len(ended)
        await contend(tries)
        tries += 1
    return 0


async def remove(context: Context, dataset_id: str) -> bool:
    """Delete a dataset without jobs."""
    tries = 0
    while (document := await without_pending(context, dataset_id)) is not None:
        if document["jobs_made"] != document.get("jobs_removed", 0):
            return False
        change = {
            "$set": {"pending": pending(context, now=document["created_at"], dropping=True)},
            "$inc": {"version": 1},
        }
        changed = await context.datasets.change({"_id": dataset_id, "version": document["version"]}, change)
        if changed is not None:
            await complete(context, changed)
            return True
        await contend(tries)
        tries += 1
    return False


def _has_ended(job: Job) -> bool:
    """Whether no task of a job may run, and the dataset's counters know that."""
    return not job.get("owing") and all(task["status"] not in UNFINISHED for task in job["tasks"])


def _fewer_jobs(context: Context, document: Document, ended: Sequence[Job], *, now: float) -> Document:
    """The change that counts jobs and their tasks no more, and says that they are to be deleted."""
    gone = Counter(job["status"] for job in ended)
    tasks = Counter((task["index"], task["status"]) for job in ended for task in job["tasks"])
    jobs = {status: number - gone[status] for status, number in document["jobs"].items()}
    removed = document.get("jobs_removed", 0) + len(ended)
    after = rolled_up({**document, "jobs": jobs, "jobs_removed": removed}, now=now)
    places = [place[1] for job in ended if (place := job_place(job["_id"])) is not None]
    return {
        "$set": {
            **{name: after[name] for name in ("status", "status_changed_at", "jobs_removed")},
            "pending": pending(context, now=now, removing=places),
        },
        "$inc": {
            "version": 1,
            **{f"jobs.{status}": -number for status, number in gone.items()},
            **{f"tasks.{index}.{status}": -number for (index, status), number in tasks.items()},
        },
    }
