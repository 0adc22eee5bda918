"""Datasets and moves that the tests of stores share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, Operation, OperationKind, Original
from iceprod.model.lifecycle import JobStatus, TaskEvent
from iceprod.model.paging import Page
from iceprod.model.task import Ended, Lease, Move, Moved, Outcome
from iceprod.store.base import Materialised, Store


class OpenStore(Protocol):
    """Opens an empty store that may keep files in ``folder``."""

    def __call__(self, folder: Path) -> AbstractAsyncContextManager[Store]: ...


CHAIN = ((), (0,), (0, 1))  # generate; detect needs it; merge needs both


def dataset(dataset_id: str = "d", **fields: Any) -> Dataset:
    """A dataset of two jobs of one task unless told otherwise."""
    depends = fields.pop("depends", ((),))
    values: dict[str, Any] = {
        "number": 0,
        "owner": "ada",
        "status": JobStatus.PROCESSING,
        "created_at": 1.0,
        "status_changed_at": 1.0,
        "jobs_wanted": 2,
        "task_names": tuple(f"t{i}" for i in range(len(depends))),
        "depends": depends,
        "external": ((),) * len(depends),
    }
    return Dataset(dataset_id, **{**values, **fields})


def errand(number: int = 0, **fields: Any) -> Errand:
    """The errand of task ``m-NUMBER-0``, lent by the site north, and made by yet another one."""
    original = Original("o", 7, f"o-{number}-1", number, 1, "sim", 100)
    values: dict[str, Any] = {"token": f"it_{number}", "original": original, "taken_at": 2.0}
    return Errand(f"m-{number}-0", "north", f"r-{number}-1", f"lease-{number}", **{**values, **fields})


def operation(operation_id: str, peer: str = "north") -> Operation:
    """Something to tell a peer."""
    return Operation(operation_id, peer, OperationKind.FINISHED, "r-0-1", "lease-0", 5.0, {"walltime_s": 1.5})


def class_of(task_index: int) -> int:
    """The class that the samples give to tasks of a kind."""
    return 100 + task_index


async def make(store: Store, dataset_id: str = "d", *, jobs: int | None = None, **fields: Any) -> Dataset:
    """Add a dataset and make its jobs."""
    added = await store.datasets.add(dataset(dataset_id, **fields), "{}")
    await make_jobs(store, added, 0, added.jobs_wanted if jobs is None else jobs)
    return added


async def make_jobs(store: Store, of: Dataset, first: int, jobs: int) -> Materialised | None:
    """Make some jobs."""
    classes = [[class_of(index) for index in range(len(of.task_names))]] * jobs
    return await store.datasets.materialise(of.dataset_id, first, classes, now=2.0)


async def move(
    store: Store, task_id: str, event: TaskEvent, *, now: float = 10.0, **fields: Any
) -> Moved | None:
    """One move."""
    (moved,) = await store.tasks.move([Move(task_id, event, **fields)], now=now)
    return moved


async def claim(
    store: Store, task_id: str, *, lease: str = "L", pilot: str = "p", until: float = 100.0, now: float = 10.0
) -> Moved | None:
    """Claim a task."""
    return await move(store, task_id, TaskEvent.CLAIMED, lease=Lease(lease, pilot, until), now=now)


async def finish(
    store: Store, task_id: str, *, lease: str = "L", now: float = 20.0, **ended: Any
) -> Moved | None:
    """Finish a claimed task."""
    return await move(
        store, task_id, TaskEvent.FINISHED, lease_id=lease, ended=Ended(Outcome.FINISHED, **ended), now=now
    )


async def run(store: Store, *task_ids: str) -> list[Moved | None]:
    """Claim and finish tasks one after another; what the finishing did."""
    found = []
    for task_id in task_ids:
        await claim(store, task_id)
        found.append(await finish(store, task_id))
    return found


async def pages(select: Any, *args: Any, limit: int) -> list[Sequence[Any]]:
    """All pages of a list."""
    found, cursor = [], None
    while True:
        part = await select(*args, Page(limit=limit, cursor=cursor))
        found.append(part.items)
        cursor = part.next
        if cursor is None:
            return found
