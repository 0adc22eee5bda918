"""Several processes that lend to the same sites: whichever of them a site talks to."""

from __future__ import annotations

import asyncio

from lending_harness import Child, finished, join, leases
from site_harness import ADMIN, ALICE, Site, spread, task

from iceprod.model.federation import SiteRules
from iceprod.store.sqlite import SqliteStore

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


async def both(two: list[Site], name: str = "west", **fields) -> tuple[Child, Child]:
    """A child, as it calls one process or the other."""
    here, there = two
    await join(here, name, **fields)
    await spread(*two)
    return Child(here, name), Child(there, name)


async def test_work_that_is_submitted_at_one_is_lent_by_the_other(two: list[Site]):
    here, _there = two
    _, away = await both(two)
    pull = await away.waits()
    dataset = await here.submit()
    await spread(*two)

    async with asyncio.timeout(60):
        assert [one.dataset_id for one in (await pull).tasks] == [dataset.dataset_id]


async def test_what_was_lent_by_one_is_reported_to_and_kept_by_the_other(two: list[Site]):
    at_home, away = await both(two)
    await two[0].submit(task("a", **TINY), njobs=4)
    await spread(*two)
    lent = await at_home.pull(4)

    assert await away.results(*map(finished, lent[:2])) == ["applied", "applied"]
    assert await at_home.results(*map(finished, lent[:2])) == ["repeated", "repeated"]
    assert await away.renew(*leases(lent), is_all=True) == [one.lease_id for one in lent[:2]]


async def test_a_child_that_listens_at_one_hears_what_is_done_at_the_other(two: list[Site]):
    here, there = two
    at_home, away = await both(two)
    dataset = await here.submit(task("a", **TINY), njobs=2)
    await spread(*two)
    lent = await at_home.pull(2)
    await spread(*two)
    assert (await away.listen()).taken
    await away.about(dataset.dataset_id)
    listening = asyncio.create_task(away.listen(30.0))
    await asyncio.sleep(0)

    await here.services.datasets.set_priority(ALICE, dataset.dataset_id, 0.75)
    await spread(*two)
    async with asyncio.timeout(60):
        heard = await listening
    assert heard.datasets == [dataset.dataset_id]
    assert (await away.about(dataset.dataset_id)).priority == 0.75

    await here.services.datasets.suspend(ALICE, dataset.dataset_id)
    await spread(*two)
    assert (await away.listen()).taken
    assert sorted(await away.renew(*leases(lent))) == sorted(one.lease_id for one in lent)
    assert there is not here


async def test_rules_and_pauses_count_at_every_process(two: list[Site]):
    here, _there = two
    _, away = await both(two)
    dataset = await here.submit(task("a", **TINY), njobs=2)
    await here.services.datasets.set_sites(ALICE, dataset.dataset_id, SiteRules(never=("west",)))
    await spread(*two)
    assert await away.pull() == []

    await here.services.datasets.set_sites(ALICE, dataset.dataset_id, SiteRules())
    await here.services.federation.registry.pause(ADMIN, "west")
    await spread(*two)
    assert await away.pull() == []

    pull = await away.waits()
    await here.services.federation.registry.resume(ADMIN, "west")
    await spread(*two)
    async with asyncio.timeout(60):
        assert len((await pull).tasks) == 1


async def test_nothing_is_lent_twice_whoever_lends(two: list[Site]):
    number = 300 if isinstance(two[0].store, SqliteStore) else 40
    await two[0].submit(task("a", **TINY), njobs=number)
    children = [*await both(two), *await both(two, "east")]
    got: list[str] = []

    async def drain(child: Child) -> None:
        while lent := await child.pull(7):
            got.extend(one.task_id for one in lent)

    await asyncio.gather(*map(drain, children))

    assert len(got) == len(set(got)) == number


async def test_a_process_that_missed_news_has_children_renew(two: list[Site]):
    here, there = two
    _, away = await both(two)
    await away.listen()

    await there.services.hearing.look(after_outage=False)

    assert (await away.listen()).taken
    assert here.services.news.looks == 0
