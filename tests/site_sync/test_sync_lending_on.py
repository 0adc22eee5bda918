"""A site between two others: what it was lent, it lends on, and tells its parent what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lending_harness import Child, failed, finished, join, logged, returned, said
from site_harness import ALICE, task
from sync_harness import Pair, open_pair

from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.site_sync.messages import Lent


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as made:
        yield made


async def lend_on(pair: Pair, **requirements: object) -> tuple[Child, Lent, str]:
    """A task of the first site at a child of the second: the child, what it was lent, the task's id."""
    dataset = await pair.north.submit(task("a"), task("sim", "a", **requirements), njobs=2)
    pilot = await pair.north.pilot()
    for held in await pair.north.claim(pilot, max_tasks=2):
        await pair.north.finish(pilot, held.task)
    await pair.take()
    child = await join(pair.south, "far")
    (lent,) = await child.pull()
    return child, lent, f"{dataset.dataset_id}-{lent.job}-1"


async def test_a_task_keeps_its_name_however_far_it_is_lent(pair: Pair):
    child, lent, original = await lend_on(pair, cpu=2)

    assert lent.task_id != original
    assert (lent.original_task_id, lent.original_dataset_id) == (original, original.split("-", 1)[0])
    assert (lent.task_index, lent.name, lent.jobs_submitted) == (1, "sim", 2)
    assert lent.requirements.cpu == 2
    told = await child.about(lent.dataset_id, lent.config_version)
    assert told.config is not None
    assert told.owner == "alice@north"


async def test_what_the_farthest_tells_reaches_where_the_task_is_from(pair: Pair):
    child, lent, original = await lend_on(pair)

    assert (
        await child.results(said("started", lent, hostname="far-1"), logged(lent, "hello"), finished(lent))
        == ["applied"] * 3
    )
    assert (await pair.north.task(original)).status is TaskStatus.PROCESSING
    await pair.tell()

    assert (await pair.north.task(original)).status is TaskStatus.COMPLETE
    (attempt,) = await pair.north.store.tasks.attempts(original)
    assert (attempt.pilot_id, attempt.hostname) == ("site:south", "node1")
    log = await pair.north.services.logs.read(ALICE, original, "stdout")
    assert log.text == "hello"


async def test_whose_task_it_is_decides_about_its_failure(pair: Pair):
    child, lent, original = await lend_on(pair)

    assert await child.results(failed(lent)) == ["applied"]
    assert (await pair.south.task(lent.task_id)).status is TaskStatus.FAILED
    await pair.tell()

    after = await pair.north.task(original)
    assert after.failures == 1
    assert after.status in (TaskStatus.WAITING, TaskStatus.IDLE)


async def test_what_is_given_back_stays_with_the_site_between(pair: Pair):
    child, lent, original = await lend_on(pair)

    assert await child.results(returned(lent)) == ["applied"]
    await pair.tell()

    assert (await pair.south.task(lent.task_id)).status is TaskStatus.WAITING
    assert (await pair.north.task(original)).status is TaskStatus.PROCESSING
    assert len(await child.pull()) == 1


async def test_the_farthest_hears_that_the_first_took_a_task_away(pair: Pair):
    child, lent, original = await lend_on(pair)
    await child.listen()

    await pair.north.services.tasks.change(ALICE, TaskEvent.SUSPENDED, [original])
    await pair.renew()

    assert (await child.listen()).taken
    assert await child.renew((lent.task_id, lent.lease_id)) == [lent.lease_id]
    assert await child.results(finished(lent)) == ["lost"]


async def test_nothing_is_lent_back_to_where_it_is_from(pair: Pair):
    await pair.north.submit()
    await pair.take()
    back = await join(pair.south, "north")

    assert await back.pull() == []
    assert len(await (await join(pair.south, "far")).pull()) == 1
