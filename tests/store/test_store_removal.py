"""What every store promises about jobs that are forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path

from store_samples import CHAIN, OpenStore, class_of, make, make_jobs, move, run

from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.resources import Requirements
from iceprod.store.base import LogInfo, Store, TaskClass, TaskFilter
from iceprod.store.checking import check
from iceprod.store.copying import copy

J, T = JobStatus, TaskStatus
MIRROR = {"source": "north/D", "truncated": True, "jobs_wanted": 0}


async def ended(store: Store) -> None:
    """Five jobs: done, done, suspended, failed, and one that waits."""
    await make(store, jobs=5, **MIRROR)
    await run(store, "d-0-0", "d-1-0")
    await move(store, "d-2-0", TaskEvent.SUSPENDED)
    await move(store, "d-3-0", TaskEvent.CLAIMED)
    await move(store, "d-3-0", TaskEvent.FAILED)


async def counters(store: Store) -> tuple[dict[JobStatus, int], dict[TaskStatus, int]]:
    """By the counters, which are compared with what they count."""
    assert await store.datasets.recount("d") == []
    progress = await store.datasets.progress("d")
    jobs = {status: number for status, number in progress.jobs.items() if number}
    return jobs, {status: number for status, number in progress.all_tasks.items() if number}


async def test_jobs_that_have_ended_are_forgotten_and_counted_no_more(store: Store):
    await ended(store)

    assert await store.datasets.remove_jobs("d", [0, 0, 3, 4, 7], now=30.0) == 2

    assert await counters(store) == (
        {J.COMPLETE: 1, J.SUSPENDED: 1, J.PROCESSING: 1},
        {T.COMPLETE: 1, T.SUSPENDED: 1, T.WAITING: 1},
    )
    kept = await store.datasets.get("d")
    assert kept is not None
    assert (kept.jobs_made, kept.jobs_removed, kept.status) == (5, 2, J.PROCESSING)
    assert [job.job_index for job in (await store.jobs.select("d", None, Page(9))).items] == [1, 2, 4]
    assert await store.jobs.get("d-0") is None
    assert [t.task_id for t in (await store.tasks.select("d", TaskFilter(), Page(9))).items] == [
        "d-1-0",
        "d-2-0",
        "d-4-0",
    ]
    assert await store.tasks.get("d-0-0") is None
    assert await store.tasks.attempts("d-0-0") == []
    assert len(await store.tasks.attempts("d-1-0")) == 1
    assert await store.datasets.remove_jobs("d", [0, 3], now=31.0) == 0


async def test_logs_of_forgotten_jobs_go_with_them(store: Store):
    await ended(store)
    for task_id in ("d-0-0", "d-1-0"):
        await store.logs.put(LogInfo(task_id, 1, "out", 1, 5.0), b"x")

    await store.datasets.remove_jobs("d", [0], now=30.0)

    assert await store.logs.of_task("d-0-0") == []
    assert len(await store.logs.of_task("d-1-0")) == 1


async def test_the_place_of_a_forgotten_job_is_given_to_none(store: Store):
    await ended(store)
    assert await store.datasets.remove_jobs("d", [0, 1, 2, 3], now=30.0) == 4
    await run(store, "d-4-0")
    assert await store.datasets.remove_jobs("d", [4], now=30.0) == 1
    empty = await store.datasets.get("d")
    assert empty is not None
    assert (await counters(store), empty.status) == (({}, {}), J.COMPLETE)

    assert await make_jobs(store, empty, 4, 1) is None
    assert await make_jobs(store, empty, 5, 2)

    assert await counters(store) == ({J.PROCESSING: 2}, {T.WAITING: 2})
    assert [job.job_index for job in (await store.jobs.select("d", None, Page(9))).items] == [5, 6]
    assert await store.tasks.ready(class_of(0), None, 9) == ["d-5-0", "d-6-0"]


async def test_a_job_goes_only_as_a_whole(store: Store):
    await make(store, jobs=2, depends=CHAIN, **MIRROR)
    await run(store, "d-0-0", "d-0-1", "d-1-0", "d-1-1", "d-1-2")

    assert await store.datasets.remove_jobs("d", [0, 1], now=30.0) == 1

    jobs, tasks = await counters(store)
    assert (jobs, tasks[T.COMPLETE]) == ({J.PROCESSING: 1}, 2)


async def test_of_nothing_nothing_is_forgotten(store: Store):
    assert await store.datasets.remove_jobs("nope", [0], now=1.0) == 0
    await ended(store)
    assert await store.datasets.remove_jobs("d", [], now=1.0) == 0


async def test_jobs_are_forgotten_while_others_are_run_and_made(store: Store):
    made = await make(store, jobs=30, **MIRROR)
    await run(store, *(f"d-{n}-0" for n in range(10)))

    async def remove() -> int:
        return sum([await store.datasets.remove_jobs("d", [n, n + 1], now=30.0) for n in range(0, 10, 2)])

    removed, *_ = await asyncio.gather(
        remove(), run(store, *(f"d-{n}-0" for n in range(10, 20))), make_jobs(store, made, 30, 5)
    )

    assert removed == 10
    jobs, _ = await counters(store)
    assert (jobs[J.COMPLETE], jobs[J.PROCESSING]) == (10, 15)


async def test_what_was_forgotten_stays_so_in_a_copy(open_store: OpenStore, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with open_store(tmp_path / "one") as store, open_store(tmp_path / "two") as target:
        await ended(store)
        await store.datasets.add_classes([TaskClass(class_of(0), "d", 0, Requirements())])
        assert await store.datasets.remove_jobs("d", [0, 3], now=30.0) == 2
        await copy(store.archive, target.archive)

        assert not (await check(target.archive)).problems
        assert await target.check() == []
        assert await target.datasets.get("d") == await store.datasets.get("d")
        assert await counters(target) == await counters(store)


async def test_a_dataset_without_jobs_is_forgotten_with_all_that_is_its(store: Store):
    await ended(store)
    await store.datasets.add_classes([TaskClass(class_of(0), "d", 0, Requirements())])
    assert not await store.datasets.remove("d")
    await run(store, "d-4-0")
    await store.datasets.remove_jobs("d", range(5), now=30.0)

    assert await store.datasets.remove("d")

    assert await store.datasets.get("d") is None
    assert await store.datasets.config("d", 1) is None
    assert await store.datasets.classes("d") == []
    assert await store.datasets.remove_jobs("d", [0], now=1.0) == 0
    assert await store.datasets.materialise("d", 5, [[class_of(0)]], now=1.0) is None
    assert not await store.datasets.remove("d")
    assert not (await check(store.archive)).problems
    assert await store.check() == []
    assert (await make(store, "e", jobs=1)).number == 2
