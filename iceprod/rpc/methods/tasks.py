"""Methods about tasks, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from iceprod.errors import ConflictError, NotFoundError
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.task import parse_job_id
from iceprod.rpc.methods.datasets import Limit
from iceprod.rpc.methods.jobs import MAX_BULK
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import (
    AttemptView,
    ChangedView,
    ListView,
    TaskView,
    attempt_view,
    listed,
    task_view,
)
from iceprod.services.logs import MAX_PART, LogPart
from iceprod.services.why import Explanation
from iceprod.store.base import LogInfo, TaskFilter

METHODS = Registry()

TaskIds = Annotated[list[str], msgspec.Meta(max_length=MAX_BULK)]
PartSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_PART)]


@dataclass(frozen=True, slots=True)
class TaskDetail:
    """A task with the history of its ended attempts."""

    task: TaskView
    attempts: list[AttemptView]


@METHODS.method("task.list", action="task.list", errors=(NotFoundError,), idempotent=True)
async def task_list(
    call: Call,
    *,
    dataset_id: str,
    job_id: str | None = None,
    status: TaskStatus | None = None,
    name: str | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> ListView[TaskView]:
    """Tasks of a dataset in the order of job and task index."""
    dataset = await call.services.datasets.get(call.principal, dataset_id)
    names = dataset.task_names
    if name is not None and name not in names:
        raise NotFoundError("task name", name)
    wanted = TaskFilter(
        status=status,
        job_index=parse_job_id(job_id)[1] if job_id else None,
        task_index=names.index(name) if name is not None else None,
    )
    found = await call.services.tasks.select(call.principal, dataset_id, wanted, Page(limit, cursor))
    return listed(found, lambda task: task_view(task, names))


@METHODS.method("task.get", action="task.get", errors=(NotFoundError,), idempotent=True)
async def task_get(call: Call, *, task_id: str) -> TaskDetail:
    """One task and the history of its attempts."""
    tasks = call.services.tasks
    task = await tasks.get(call.principal, task_id)
    dataset = await call.services.catalogue.get(task.dataset_id)
    attempts = await tasks.attempts(call.principal, task_id)
    return TaskDetail(task_view(task, dataset.task_names), [attempt_view(a) for a in attempts])


@METHODS.method("task.why", action="task.why", errors=(NotFoundError,), idempotent=True)
async def task_why(call: Call, *, task_id: str) -> Explanation:
    """Why a task is not running, in plain words, with what each pilot and grid lacks."""
    explanation: Explanation = await call.services.why.task(call.principal, task_id)
    return explanation


async def _change(call: Call, event: TaskEvent, task_ids: list[str]) -> ChangedView:
    return ChangedView(await call.services.tasks.change(call.principal, event, task_ids))


@METHODS.method("task.suspend", action="task.suspend", errors=(NotFoundError,), idempotent=True)
async def task_suspend(call: Call, *, task_ids: TaskIds) -> ChangedView:
    """Hold tasks until somebody resumes them."""
    return await _change(call, TaskEvent.SUSPENDED, task_ids)


@METHODS.method("task.resume", action="task.resume", errors=(NotFoundError, ConflictError), idempotent=True)
async def task_resume(call: Call, *, task_ids: TaskIds) -> ChangedView:
    """Let suspended tasks run."""
    return await _change(call, TaskEvent.RESUMED, task_ids)


@METHODS.method("task.reset", action="task.reset", errors=(NotFoundError, ConflictError))
async def task_reset(call: Call, *, task_ids: TaskIds) -> ChangedView:
    """Try failed and suspended tasks again."""
    return await _change(call, TaskEvent.RESET, task_ids)


@METHODS.method("task.hard_reset", action="task.hard_reset", errors=(NotFoundError, ConflictError))
async def task_hard_reset(call: Call, *, task_ids: TaskIds) -> ChangedView:
    """Start tasks again, complete ones too."""
    return await _change(call, TaskEvent.HARD_RESET, task_ids)


@METHODS.method("task.logs", action="task.logs", errors=(NotFoundError,), idempotent=True)
async def task_logs(call: Call, *, task_id: str) -> ListView[LogInfo]:
    """Which logs a task has, by attempt and name."""
    return ListView(await call.services.logs.of_task(call.principal, task_id), None)


@METHODS.method("task.log", action="task.log", errors=(NotFoundError,), idempotent=True)
async def task_log(
    call: Call,
    *,
    task_id: str,
    name: str = "stdout",
    attempt: int | None = None,
    offset: int = 0,
    limit: PartSize = 65536,
) -> LogPart:
    """A part of a log, of the last attempt if none is named; a negative offset counts from the end."""
    part: LogPart = await call.services.logs.read(
        call.principal, task_id, name, attempt=attempt, offset=offset, limit=limit
    )
    return part
