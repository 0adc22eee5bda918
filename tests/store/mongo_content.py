"""All that a MongoDB store holds of datasets and their work, looked at without the store."""

from __future__ import annotations

from collections import Counter
from typing import Any

from iceprod.model.lifecycle import UNFINISHED, TaskStatus, roll_up_job
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.documents import dataset_of, derived, job_counts

Content = dict[str, list[dict[str, Any]]]
COLLECTIONS = ("datasets", "jobs", "attempts", "configs", "sequences")
PASSING = ("version", "epoch", "applied", "stamp", "owed", "owing")
"""Fields that depend on how things came about."""


async def content(database: Database) -> Content:
    """All documents."""
    return {
        name: sorted(await database.collection(name).find({}), key=lambda document: document["_id"])
        for name in COLLECTIONS
    }


async def restore(database: Database, kept: Content) -> None:
    """Put documents in the place of all that there are."""
    for name, documents in kept.items():
        await database.collection(name).delete({})
        await database.collection(name).insert_missing(documents)


async def seen(database: Database) -> Content:
    """What there is to see, after it was found sound.

    Every counter is right, jobs and datasets stand where their tasks say, and nothing is left
    to be done: counted here by other means than those of the store.
    """
    found = await content(database)
    for kept in found["datasets"]:
        assert "pending" not in kept
        jobs = [job for job in found["jobs"] if job["_id"].partition("-")[0] == kept["_id"]]
        assert kept["jobs_made"] == len(jobs) + kept["jobs_removed"]
        assert +Counter(kept["jobs"]) == Counter(job["status"] for job in jobs)
        tasks = [task for job in jobs for task in job["tasks"]]
        for index, counted in enumerate(kept["tasks"]):
            assert +Counter(counted) == Counter(t["status"] for t in tasks if t["index"] == index)
        waiting = Counter(str(task["class_id"]) for task in tasks if task["status"] == "waiting")
        assert +Counter(kept["ready"]) == waiting
        assert kept["unfinished"] == sum(task["status"] in UNFINISHED for task in tasks)
        assert kept["status"] == dataset_of(kept).rolled_up(job_counts(kept))
        kept["ready"] = dict(waiting)
        kept["jobs"] = kept["tasks"] = {}
    stands = {f"{job['_id']}-{t['index']}": t["status"] for job in found["jobs"] for t in job["tasks"]}
    graphs = {kept["_id"]: dataset_of(kept) for kept in found["datasets"]}
    for job in found["jobs"]:
        name, _, place = job["_id"].partition("-")
        graph = graphs[name]
        for index, task in enumerate(job["tasks"]):
            needs = [f"{name}-{place}-{inner}" for inner in graph.depends[index]]
            needs += [f"{other}-{place}-{outer}" for other, outer in graph.external[index]]
            is_free = task["release_at"] is None and all(stands.get(n) == "complete" for n in needs)
            assert task["status"] != ("idle" if is_free else "waiting"), (job["_id"], index)
        assert not job.get("owing")
        assert not job.get("owed")
        assert job["status"] == roll_up_job(Counter(TaskStatus(task["status"]) for task in job["tasks"]))
        present, absent = derived(job["tasks"])
        assert {name: job[name] for name in present} == present
        assert not job.keys() & set(absent)
    for document in found["datasets"] + found["jobs"]:
        for name in PASSING:
            document.pop(name, None)
    found.pop("sequences")
    for kept in found["datasets"]:
        kept.pop("number")
    return found
