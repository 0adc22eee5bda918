"""How children keep what they were lent, and hear of what changes."""

from __future__ import annotations

import asyncio

import pytest
from lending_harness import finished, join, leases
from site_harness import ALICE, Site, task

from iceprod.errors import AccessDenied
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.site_sync.as_parent.keeping import GRACE_S

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


async def test_leases_are_extended_when_it_is_time_to(site: Site):
    await site.submit(task("a", **TINY), njobs=2)
    west = await join(site, lease_s=1000.0)
    a, b = await west.pull(2)
    began = site.clock()

    site.advance(100.0)
    assert await west.renew(*leases([a, b])) == []
    assert (await site.task(a.task_id)).lease_until == began + 1000.0  # nothing is written for so little
    site.advance(500.0)
    assert await west.renew(*leases([a])) == []

    assert (await site.task(a.task_id)).lease_until == began + 1600.0
    assert (await site.task(b.task_id)).lease_until == began + 1000.0


async def test_what_is_lost_is_told(site: Site):
    dataset = await site.submit(task("a", **TINY), njobs=3)
    west = await join(site)
    a, b, c = await west.pull(3)
    await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, [a.task_id])
    await west.say(finished(b))

    for is_all in (False, True):
        named = [*leases([a, b, c]), ("nope-0-0", "L"), ("no id", "M")]
        assert sorted(await west.renew(*named, is_all=is_all)) == sorted([a.lease_id, b.lease_id, "L", "M"])
    assert (await site.counts(dataset))[TaskStatus.PROCESSING] == 1


async def test_what_a_child_does_not_know_of_is_taken_back_after_a_while(site: Site):
    await site.submit(task("a", **TINY), njobs=3)
    west = await join(site)
    known, *unknown = await west.pull(3)

    assert await west.renew(*leases([known]), is_all=True) == []
    assert len(await site.store.tasks.held_by("site:west")) == 3
    site.advance(GRACE_S + 1)
    assert await west.renew(*leases([known])) == []
    assert len(await site.store.tasks.held_by("site:west")) == 3
    assert await west.renew(*leases([known]), is_all=True) == []

    assert [one.task_id for one in await site.store.tasks.held_by("site:west")] == [known.task_id]
    for lent in unknown:
        assert (await site.task(lent.task_id)).status is TaskStatus.WAITING


async def test_thousands_are_kept_in_one_message(site: Site):
    await site.submit(task("a", **TINY), njobs=2000)
    west = await join(site, lease_s=1000.0)
    lent = [one for _ in range(2) for one in await west.pull(1000)]
    site.advance(900.0)

    assert await west.renew(*leases(lent), is_all=True) == []

    site.advance(500.0)
    await site.services.leases.expire()
    assert await site.store.tasks.count_held("site:west") == len(lent) == 2000


async def test_a_child_that_restored_a_backup_gives_up_what_it_forgot(site: Site):
    await site.submit(task("a", **TINY), njobs=4)
    west = await join(site)
    lent = await west.pull(4)
    site.advance(GRACE_S + 1)

    await west.renew(is_all=True)

    assert {(await site.task(one.task_id)).status for one in lent} == {TaskStatus.WAITING}


# -- listening -----------------------------------------------------------------------------


async def test_the_first_answer_tells_of_everything(site: Site):
    west = await join(site)
    mine, other = [await site.submit(task("a", **TINY)) for _ in range(2)]
    await west.pull(1)

    heard = await west.listen()

    assert heard.taken
    assert heard.datasets == [mine.dataset_id]
    assert other.dataset_id not in heard.datasets
    assert not (await west.listen()).taken


@pytest.mark.parametrize("how", ["suspend", "hard_reset"])
async def test_a_child_hears_at_once_that_tasks_were_taken(site: Site, how: str):
    dataset = await site.submit(task("a", **TINY), njobs=3)
    west, east = await join(site, "west"), await join(site, "east")
    lent = await west.pull(3)
    for child in (west, east):
        await child.listen()
    listening = [asyncio.create_task(child.listen(30.0)) for child in (west, east)]
    await asyncio.sleep(0)

    await getattr(site.services.datasets, how)(ALICE, dataset.dataset_id)

    async with asyncio.timeout(20):
        assert (await listening[0]).taken
    assert not listening[1].done()
    listening[1].cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    assert sorted(await west.renew(*leases(lent))) == sorted(one.lease_id for one in lent)


async def test_nothing_is_missed_between_two_calls(site: Site):
    dataset = await site.submit(task("a", **TINY))
    west = await join(site)
    (lent,) = await west.pull()
    await west.listen()

    await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, [lent.task_id])
    await site.submit(task("b", **TINY), njobs=50)

    assert (await west.listen()).taken
    assert dataset.dataset_id not in (await west.listen()).datasets


async def test_a_child_hears_of_changes_of_datasets_that_it_works_for(site: Site):
    mine, other = [await site.submit(task("a", **TINY), njobs=2) for _ in range(2)]
    west = await join(site)
    lent = await west.pull(2)
    assert {one.dataset_id for one in lent} == {mine.dataset_id}
    await west.listen()
    for dataset in (mine, other):
        await west.about(dataset.dataset_id)

    for dataset in (mine, other):
        await site.services.datasets.set_priority(ALICE, dataset.dataset_id, 0.9)

    assert (await west.listen()).datasets == [mine.dataset_id]
    assert (await west.about(mine.dataset_id)).priority == 0.9
    await site.services.datasets.extend(ALICE, mine.dataset_id, 9)
    assert (await west.listen()).datasets == []  # which is nothing that it is told


async def test_only_children_keep_and_listen(site: Site):
    west = await join(site)
    west.name = "east"
    with pytest.raises(AccessDenied):
        await west.renew(("a-0-0", "L"))
    with pytest.raises(AccessDenied):
        await west.listen()
