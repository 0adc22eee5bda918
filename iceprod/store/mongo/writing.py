"""Jobs' documents: read, worked on in memory, and written unless somebody else was quicker."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from iceprod.errors import StoreUnavailable
from iceprod.store.mongo.client import Document, UpdateOne
from iceprod.store.mongo.context import Context, begun, contend
from iceprod.store.mongo.documents import job_place
from iceprod.store.mongo.owed import Owed
from iceprod.store.mongo.work import JobWork

_FIELDS: Final = ("version", "graph", "status", "status_changed_at", "tasks")

Step = Callable[[JobWork], None]
Effects = Callable[[str, list[tuple[JobWork, Owed]]], Awaitable[None]]
Taken = list[tuple[JobWork, Owed]]


async def carry(context: Context, job_ids: Iterable[str], step: Step, effects: Effects) -> list[JobWork]:
    """Do ``step`` with every job of ``job_ids`` that exists, and what must follow.

    All are read in one call and written in one; those that another writer has changed in
    between are read again and done anew.  ``step`` is called again then, with the new document.
    """
    left = set(job_ids)
    done: list[JobWork] = []
    tries = 0
    while left:
        with begun() if done else contextlib.nullcontext():
            works, missed = await _try(context, left, step, effects)
        done += works
        left = missed
        if left:
            await contend(tries)
            tries += 1
    return done


async def _try(
    context: Context, job_ids: Collection[str], step: Step, effects: Effects
) -> tuple[list[JobWork], set[str]]:
    """Read, work and write once: the jobs that are done, and the ids of those that are not."""
    works = await load(context, job_ids)
    for work in works:
        step(work)
    batch = context.new_batch()
    changed = [(work, work.owed()) for work in works if work.is_changed]
    try:
        taken = await write(context, batch, changed)
        with begun():
            if taken:
                await effects(batch, taken)
    except StoreUnavailable:  # what has been written and what not is in the documents
        context.left.update(work.state.dataset_id for work, _ in changed)
        raise
    missed = {work.job_id for work, _ in changed} - {work.job_id for work, _ in taken}
    return [work for work in works if work.job_id not in missed], missed


async def load(context: Context, job_ids: Collection[str]) -> list[JobWork]:
    """Jobs and their datasets, with the jobs that they need; in this order.

    Whoever changes what a job needs writes that first and looks at the job afterwards, so
    one of the two sees what the other has done.
    """
    documents = await _find(context, job_ids)
    places = {job_id: place for job_id in documents if (place := job_place(job_id)) is not None}
    states = await context.states.load({dataset_id for dataset_id, _ in places.values()})
    behind = {
        dataset_id
        for job_id, (dataset_id, _) in places.items()
        if dataset_id in states and documents[job_id]["graph"] > states[dataset_id].graph_version
    }
    if behind:  # the graph has been changed by another process
        states.update(await context.states.refresh(behind))
    needed = {
        job_id
        for dataset_id, job_index in places.values()
        if dataset_id in states and states[dataset_id].needs_others
        for job_id in states[dataset_id].needed_jobs(job_index)
    }
    others = await _find(context, needed)
    return [
        JobWork(document, states[places[job_id][0]], others)
        for job_id, document in documents.items()
        if places[job_id][0] in states
    ]


async def write(context: Context, batch: str, changed: Sequence[tuple[JobWork, Owed]]) -> Taken:
    """Write those that nobody else has changed since they were read; which ones that were."""
    if not changed:
        return []
    writes = [
        UpdateOne({"_id": work.job_id, "version": work.document["version"]}, work.update(batch, owed))
        for work, owed in changed
    ]
    done = await context.jobs.bulk(writes, ordered=False)
    if done.matched == len(writes):
        return list(changed)
    if done.matched == 0:
        return []
    # The server tells how many; the documents tell which.
    job_ids = [work.job_id for work, _ in changed]
    with begun():
        found = await context.jobs.find({"_id": {"$in": job_ids}}, ("stamp", "owing"))
    won = {d["_id"] for d in found if d.get("stamp") == batch or batch in d.get("owing", ())}
    return [(work, owed) for work, owed in changed if work.job_id in won]


async def _find(context: Context, job_ids: Collection[str]) -> dict[str, Document]:
    if not job_ids:
        return {}
    wanted = sorted(job_ids)
    where = {"_id": wanted[0] if len(wanted) == 1 else {"$in": wanted}}
    return {document["_id"]: document for document in await context.jobs.find(where, _FIELDS)}
