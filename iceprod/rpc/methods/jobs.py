"""Methods about jobs."""

from __future__ import annotations

from typing import Annotated

import msgspec

from iceprod.errors import ConflictError, NotFoundError
from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus, TaskEvent
from iceprod.model.paging import Page
from iceprod.rpc.methods.datasets import Limit
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ChangedView, ListView, listed

METHODS = Registry()

MAX_BULK = 100_000
JobIds = Annotated[list[str], msgspec.Meta(max_length=MAX_BULK)]


@METHODS.method("job.list", action="job.list", errors=(NotFoundError,), idempotent=True)
async def job_list(
    call: Call,
    *,
    dataset_id: str,
    status: JobStatus | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> ListView[Job]:
    """Jobs of a dataset in the order of their index."""
    found = await call.services.datasets.jobs(call.principal, dataset_id, status, Page(limit, cursor))
    return listed(found, lambda job: job)


@METHODS.method("job.get", action="job.get", errors=(NotFoundError,), idempotent=True)
async def job_get(call: Call, *, job_id: str) -> Job:
    """One job."""
    job: Job = await call.services.datasets.job(call.principal, job_id)
    return job


async def _change(call: Call, event: TaskEvent, job_ids: list[str]) -> ChangedView:
    return ChangedView(await call.services.datasets.change_jobs(call.principal, event, job_ids))


@METHODS.method("job.suspend", action="job.suspend", errors=(NotFoundError,), idempotent=True)
async def job_suspend(call: Call, *, job_ids: JobIds) -> ChangedView:
    """Hold every unfinished task of some jobs."""
    return await _change(call, TaskEvent.SUSPENDED, job_ids)


@METHODS.method("job.resume", action="job.resume", errors=(NotFoundError, ConflictError), idempotent=True)
async def job_resume(call: Call, *, job_ids: JobIds) -> ChangedView:
    """Let suspended tasks of some jobs run."""
    return await _change(call, TaskEvent.RESUMED, job_ids)


@METHODS.method("job.reset", action="job.reset", errors=(NotFoundError, ConflictError))
async def job_reset(call: Call, *, job_ids: JobIds) -> ChangedView:
    """Try failed and suspended tasks of some jobs again."""
    return await _change(call, TaskEvent.RESET, job_ids)


@METHODS.method("job.hard_reset", action="job.hard_reset", errors=(NotFoundError, ConflictError))
async def job_hard_reset(call: Call, *, job_ids: JobIds) -> ChangedView:
    """Start every task of some jobs again, complete ones too."""
    return await _change(call, TaskEvent.HARD_RESET, job_ids)
