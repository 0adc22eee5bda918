"""What was run for other sites long ago is forgotten; what is to be told still, and what runs, is not."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from site_harness import LARGE, task
from sync_harness import Pair, open_pair

from iceprod.model.federation import ErrandStatus
from iceprod.model.file import FileRecord
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.site_sync.as_child import tidying
from iceprod.store.base import DatasetFilter

KEEP_S = 14 * 86400.0


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child."""
    async with open_pair(tmp_path) as made:
        yield made


async def take(pair: Pair, jobs: int) -> None:
    await pair.north.submit(task("only"), njobs=jobs)
    pair.room[LARGE] = jobs
    await pair.take()


async def finish(pair: Pair, number: int) -> None:
    for _ in range(number):
        pilot = await pair.south.pilot()
        held = await pair.south.one(pilot)
        log = {"name": "stdout", "data": base64.b64encode(zlib.compress(b"said")).decode()}
        await pair.south.services.logs.put(pilot, held.task_id, held.lease_id, **log)
        await pair.south.finish(pilot, held)


async def look(pair: Pair) -> int:
    return await pair.south.services.federation.tidying.look()


async def datasets(pair: Pair) -> int:
    """How many there are at the child."""
    return len((await pair.south.store.datasets.select(DatasetFilter(), Page(9))).items)


async def put_file(pair: Pair) -> None:
    """Have a file in a temp area of the mirror."""
    mirror = await pair.mirror()
    sums = {"sha256": "ab"}
    file = FileRecord(mirror.dataset_id, "dataset_temp/a", 1, sums, "alice", "users", 1.0, None, None)
    await pair.south.store.files.put([file])


async def counts(pair: Pair) -> dict[TaskStatus, int]:
    found = await pair.south.counts(await pair.mirror())
    return {status: number for status, number in found.items() if number}


async def test_what_ended_long_ago_is_forgotten_and_what_did_not_stays(pair: Pair) -> None:
    await take(pair, 3)
    await finish(pair, 1)
    await pair.tell()
    pair.south.advance(KEEP_S - 1)
    assert await look(pair) == 0
    await finish(pair, 1)
    await pair.tell()
    pair.south.advance(2)

    assert await look(pair) == 1

    mirror = await pair.mirror()
    assert (mirror.jobs_made, mirror.jobs_removed) == (3, 1)
    assert await counts(pair) == {TaskStatus.COMPLETE: 1, TaskStatus.WAITING: 1}
    assert await pair.errands() == {ErrandStatus.OPEN: 1, ErrandStatus.ENDED: 1}
    gone = f"{mirror.dataset_id}-0-0"
    assert await pair.south.store.tasks.get(gone) is None
    assert await pair.south.store.logs.of_task(gone) == []


async def test_what_is_to_be_told_still_is_kept_for_as_long_as_that_takes(pair: Pair) -> None:
    await take(pair, 1)
    await finish(pair, 1)
    pair.south.advance(2 * KEEP_S)

    assert await look(pair) == 0

    await pair.tell()
    assert await counts(pair) == {TaskStatus.COMPLETE: 1}


async def test_tasks_of_lost_leases_do_not_stay_for_ever(pair: Pair) -> None:
    await take(pair, 2)
    for dataset in await pair.north.store.datasets.active():
        await pair.north.services.tasks.change_dataset(TaskEvent.SUSPENDED, dataset.dataset_id)
    await pair.renew()
    assert await counts(pair) == {TaskStatus.SUSPENDED: 2}
    pair.south.advance(KEEP_S + 1)

    assert await look(pair) == 2

    assert await datasets(pair) == 0
    assert await pair.errands() == {}


async def test_more_comes_to_a_mirror_of_which_all_was_forgotten(pair: Pair) -> None:
    await take(pair, 1)
    await finish(pair, 1)
    await pair.tell()
    await put_file(pair)  # which keeps the mirror
    pair.south.advance(KEEP_S + 1)
    assert await look(pair) == 1
    await pair.restart_south()
    (dataset,) = (await pair.north.store.datasets.select(DatasetFilter(), Page(9))).items
    task_id = f"{dataset.dataset_id}-0-0"
    await pair.north.services.tasks.change_all(TaskEvent.HARD_RESET, [task_id])
    pair.room[LARGE] = 1
    await pair.take()

    await finish(pair, 1)
    await pair.tell()

    assert (await pair.north.task(task_id)).status is TaskStatus.COMPLETE
    mirror = await pair.mirror()
    assert (mirror.jobs_made, mirror.jobs_removed) == (2, 1)
    assert await pair.south.store.tasks.get(f"{mirror.dataset_id}-1-0") is not None


async def test_what_was_cut_off_is_done_at_the_next_turn(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await take(pair, 3)
    await finish(pair, 3)
    await pair.tell()
    pair.south.advance(KEEP_S + 1)
    mirror = await pair.mirror()
    assert await pair.south.store.datasets.remove_jobs(mirror.dataset_id, [1], now=1.0) == 1
    monkeypatch.setattr(tidying, "_PART", 2)

    assert await look(pair) == 3

    assert await datasets(pair) == 0


async def test_a_mirror_of_which_nothing_is_left_is_dropped_and_made_anew(pair: Pair) -> None:
    await take(pair, 1)
    first = await pair.mirror()
    await finish(pair, 1)
    await pair.tell()
    pair.south.advance(KEEP_S - 10)
    assert await look(pair) == 0
    pair.south.advance(20)

    assert await look(pair) == 1

    assert await pair.south.store.datasets.get(first.dataset_id) is None
    await pair.restart_south()
    (dataset,) = (await pair.north.store.datasets.select(DatasetFilter(), Page(9))).items
    task_id = f"{dataset.dataset_id}-0-0"
    await pair.north.services.tasks.change_all(TaskEvent.HARD_RESET, [task_id])
    pair.room[LARGE] = 1
    await pair.take()
    await finish(pair, 1)
    await pair.tell()
    assert (await pair.north.task(task_id)).status is TaskStatus.COMPLETE
    second = await pair.mirror()
    assert (second.source, second.jobs_made) == (first.source, 1)
    assert second.dataset_id != first.dataset_id
    assert await pair.south.services.federation.parents.means.mirrors.find(first.source) == second


async def test_a_mirror_with_files_stays_until_they_have_gone(pair: Pair) -> None:
    await take(pair, 1)
    mirror = await pair.mirror()
    await finish(pair, 1)
    await pair.tell()
    await put_file(pair)
    pair.south.advance(KEEP_S + 1)
    assert await look(pair) == 1
    assert (await pair.mirror()).jobs_removed == 1

    await pair.south.store.files.delete(mirror.dataset_id, ["dataset_temp/a"])
    await look(pair)

    assert await pair.south.store.datasets.get(mirror.dataset_id) is None


async def test_a_lent_task_whose_mirror_is_dropped_in_that_moment_goes_back(pair: Pair) -> None:
    await take(pair, 1)
    mirror = await pair.mirror()
    await pair.south.services.tasks.change_all(TaskEvent.SUSPENDED, [f"{mirror.dataset_id}-0-0"])
    await pair.south.store.datasets.remove_jobs(mirror.dataset_id, [0], now=1.0)
    assert await pair.south.store.datasets.remove(mirror.dataset_id)

    await pair.parent.taking.repair()
    await pair.tell()

    assert (await pair.one_of_north()).status is TaskStatus.WAITING
    assert await pair.errands() == {ErrandStatus.ENDED: 1}
