"""Jobs in MongoDB."""

from __future__ import annotations

from typing import Any

from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.base import JobRepository
from iceprod.store.mongo.client import ASCENDING
from iceprod.store.mongo.context import Context
from iceprod.store.mongo.documents import job_of, job_place, of_dataset

_FIELDS = ("key", "status", "status_changed_at")


class MongoJobs(JobRepository):
    """Reads only: jobs are written with their tasks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, job_id: str) -> Job | None:
        """See the port."""
        if job_place(job_id) is None:
            return None
        found = await self._context.jobs.find_one({"_id": job_id}, _FIELDS)
        return None if found is None else job_of(found)

    async def select(self, dataset_id: str, status: JobStatus | None, page: Page) -> Slice[Job]:
        """See the port."""
        cursors.checked(page)
        state = await self._context.states.get(dataset_id)
        if state is None:
            return Slice(())
        bounds = of_dataset(state.number)
        where: dict[str, Any] = {
            "key": {**bounds, "$gte": max(bounds["$gte"], cursors.number_of(page, -1) + 1)}
        }
        if status is not None:
            where["status"] = status.value
        found = await self._context.jobs.find(where, _FIELDS, sort=[("key", ASCENDING)], limit=page.limit + 1)
        more = len(found) > page.limit
        items = tuple(map(job_of, found[: page.limit]))
        return Slice(items, cursors.encode(int(found[page.limit - 1]["key"])) if more else None)
