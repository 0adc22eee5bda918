"""A parent of two processes: whatever holds for a child, holds at whichever of them it lands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from lending_harness import Child, finished, join, leases, slots
from process_harness import talking
from site_harness import ADMIN, ALICE, Site, spread, task

from iceprod.errors import AccessDenied
from iceprod.model.federation import PeerRole, holder_of
from iceprod.site_sync.as_parent import share_turns

CHILD = PeerRole.CHILD
TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


@pytest.fixture
async def both(two: list[Site]) -> AsyncIterator[list[Site]]:
    """Two processes that tell each other what happens."""
    async with talking(two):
        yield two


def there(child: Child, site: Site) -> Child:
    """The same child, as it lands at another process."""
    return Child(site, child.name)


async def soon(condition: Callable[[], object], *, within_s: float = 2.0) -> None:
    """Wait for what has to come about in a second or two."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


# -- shares ------------------------------------------------------------------------------


async def keep_asking(child: Child, got: dict[str, int]) -> None:
    """Ask for work again and again."""
    while True:
        got[child.name] += len((await child.ask(slots(40), wait_s=20.0)).tasks)


async def test_shares_hold_over_processes(both: list[Site]):
    west, east = await join(both[0], "west", share=3.0), there(await join(both[0], "east"), both[1])
    got, batches = {"west": 0, "east": 0}, 8

    def are_waiting() -> bool:
        return all(len(site.services.hearing.peers.waiting(0.0)) == 2 for site in both)

    asking = [asyncio.create_task(keep_asking(child, got)) for child in (west, east)]
    for batch in range(1, batches + 1):
        await soon(are_waiting)
        # The process at which work comes up knows of it first.
        await both[batch % 2].submit(task("a", **TINY), njobs=40)
        await soon(lambda batch=batch: sum(got.values()) == 40 * batch, within_s=10.0)
    for task_ in asking:
        task_.cancel()

    assert 40 * batches / 8 <= got["east"] <= 40 * batches * 3 / 8


async def test_who_cannot_be_served_elsewhere_holds_nobody_up_for_long(both: list[Site]):
    here, other = both
    west, east = await join(here, "west"), there(await join(here, "east", most_tasks=1), other)
    here.services.federation.lending._turns._had["west"] = 5.0  # so it is the turn of the other one
    await here.submit(task("a", **TINY))
    assert len((await east.ask(wait_s=20.0)).tasks) == 1
    pull = asyncio.create_task(east.ask(wait_s=20.0))
    await soon(lambda: here.services.hearing.peers.waiting(0.0))

    await here.submit(task("a", **TINY), njobs=3)

    loop = asyncio.get_running_loop()
    began, taken = loop.time(), 0
    async with asyncio.timeout(20):
        while taken < 3:
            taken += len(await west.pull())
    assert loop.time() - began < share_turns.YIELD_S + 2.0
    pull.cancel()


# -- limits, pauses, revocation -------------------------------------------------------------


async def test_a_child_holds_no_more_than_it_may_wherever_it_asks(both: list[Site]):
    child = await join(both[0], most_tasks=10)
    await both[0].submit(task("a", **TINY), njobs=40)
    assert len((await child.ask(slots(4), wait_s=10.0)).tasks) == 4

    assert len((await there(child, both[1]).ask(slots(4), wait_s=10.0)).tasks) == 4
    assert len(await child.pull(40)) == 2
    assert await there(child, both[1]).pull(40) == []


async def test_large_limits_hold_by_what_the_others_tell(both: list[Site], monkeypatch: pytest.MonkeyPatch):
    here, other = both
    child = await join(here, most_tasks=5000)
    await here.submit(task("a", **TINY), njobs=40)
    counted = list[str]()
    count = here.store.tasks.count_held

    async def count_held(holder: str, dataset_id: str | None = None) -> int:
        counted.append(holder)
        return await count(holder, dataset_id)

    monkeypatch.setattr(here.store.tasks, "count_held", count_held)
    assert len((await child.ask(slots(5), wait_s=10.0)).tasks) == 5
    assert len((await there(child, other).ask(slots(5), wait_s=10.0)).tasks) == 5

    holdings = here.services.federation.lending._holdings
    await soon(lambda: holdings["west"].number == 10)
    assert len(await child.pull(5)) == 5
    assert holdings["west"].number == 15
    assert len(counted) <= 2  # one of each process at most, where both have the same store


async def test_a_child_that_waits_at_one_hears_that_the_other_has_ended_its_pause(both: list[Site]):
    here, other = both
    child = await join(here)
    await here.services.federation.registry.pause(ADMIN, "west")
    await here.submit(task("a", **TINY))
    pull = await there(child, other).waits()

    await here.services.federation.registry.resume(ADMIN, "west")

    async with asyncio.timeout(2):
        assert len((await pull).tasks) == 1


async def test_a_child_that_waits_at_one_gets_nothing_once_the_other_has_paused_it(both: list[Site]):
    here, other = both
    child = await join(here)
    pull = await there(child, other).waits(wait_s=1.0)
    await here.services.federation.registry.pause(ADMIN, "west")

    await other.submit(task("a", **TINY))

    async with asyncio.timeout(5):
        assert (await pull).tasks == []


async def test_a_child_that_one_has_revoked_is_a_stranger_to_the_other_at_once(both: list[Site]):
    here, other = both
    child = await join(here)
    await here.submit(task("a", **TINY), njobs=4)
    (lent,) = (await there(child, other).ask(wait_s=10.0)).tasks

    assert await here.services.federation.registry.revoke(ADMIN, "west") == 1

    with pytest.raises(AccessDenied):
        await there(child, other).say(finished(lent))
    with pytest.raises(AccessDenied):
        await there(child, other).pull()
    await soon(lambda: other.services.scheduler.demand()[0].waiting == 4)


async def test_what_is_lent_in_the_moment_of_revocation_is_taken_back_at_once(
    both: list[Site], monkeypatch: pytest.MonkeyPatch
):
    here, other = both
    child = await join(here)
    await here.submit(task("a", **TINY), njobs=4)
    await soon(other.services.scheduler.demand)
    scheduler, lend = other.services.scheduler, other.services.scheduler.lend

    async def lend_late(*given: object, **more: object) -> object:
        await here.services.federation.registry.revoke(ADMIN, "west")
        return await lend(*given, **more)

    monkeypatch.setattr(scheduler, "lend", lend_late)
    with pytest.raises(AccessDenied):
        await there(child, other).pull(4)

    assert await other.store.tasks.count_held(holder_of("west")) == 0


# -- hearing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["suspend", "hard_reset"])
async def test_what_one_takes_is_told_to_who_listens_at_the_other(both: list[Site], how: str):
    here, other = both
    child = await join(here)
    dataset = await here.submit(task("a", **TINY))
    lent = (await child.ask(wait_s=10.0)).tasks
    await there(child, other).listen()  # of everything, as the first one
    listening = asyncio.create_task(there(child, other).listen(20.0))

    await getattr(here.services.datasets, how)(ALICE, dataset.dataset_id)

    async with asyncio.timeout(5):
        while not (await listening).taken:  # that the dataset has changed may be heard first
            listening = asyncio.create_task(there(child, other).listen(20.0))
    assert await there(child, other).renew(*leases(lent)) == [lent[0].lease_id]


async def test_what_changes_at_one_is_told_to_who_listens_at_the_other(both: list[Site]):
    here, other = both
    child = await join(here)
    dataset = await here.submit(task("a", **TINY))
    await child.ask(wait_s=10.0)
    await there(child, other).listen()
    await there(child, other).about(dataset.dataset_id)
    listening = asyncio.create_task(there(child, other).listen(20.0))

    await here.services.datasets.set_priority(ALICE, dataset.dataset_id, 0.9)

    async with asyncio.timeout(2):
        assert (await listening).datasets == [dataset.dataset_id]


async def test_what_is_again_as_it_was_is_news_to_who_has_heard_otherwise_elsewhere(both: list[Site]):
    here, other = both
    child = await join(here)
    dataset = await here.submit(task("a", **TINY))
    await child.ask(wait_s=10.0)
    at_other = there(child, other)
    await at_other.listen()
    await at_other.about(dataset.dataset_id)
    await here.services.datasets.set_priority(ALICE, dataset.dataset_id, 0.9)
    assert (await child.about(dataset.dataset_id)).priority == 0.9

    async def is_heard(priority: float) -> None:
        async with asyncio.timeout(2):
            while (await other.services.catalogue.get(dataset.dataset_id)).priority != priority:
                await asyncio.sleep(0.01)

    await is_heard(0.9)
    await here.services.datasets.set_priority(ALICE, dataset.dataset_id, dataset.priority)
    await is_heard(dataset.priority)

    assert (await at_other.listen(2.0)).datasets == [dataset.dataset_id]


# -- being seen --------------------------------------------------------------------------------


async def test_what_a_child_tells_one_outlasts_what_it_tells_the_other(both: list[Site]):
    here, other = both
    child = await join(here)

    def states() -> list[tuple[int, float, int]]:
        found = [site.services.hearing.peers.of(CHILD, "west") for site in both]
        return [(state.waiting, state.lag_s, state.dead) for state in found]

    await child.say(waiting=7, lag_s=60.0, dead=2)
    await there(child, other).renew()
    await spread(here, other)
    here.advance(1.0)
    await there(child, other).ask()

    await soon(lambda: states() == [(7, 60.0, 2)] * 2)
    here.advance(1.0)
    await there(child, other).say(waiting=0)
    await child.renew()
    await soon(lambda: states() == [(0, 0.0, 0)] * 2)


async def test_who_has_asked_the_other_meanwhile_still_waits(both: list[Site]):
    here, other = both
    child = await join(here)
    first = await child.waits()
    await soon(lambda: here.services.hearing.peers.waiting(0.0))
    here.advance(1.0)
    second = await there(child, other).waits()
    await soon(lambda: other.services.hearing.peers.of(CHILD, "west").contact_at == here.clock())

    first.cancel()  # as a child does that has more room by now
    await asyncio.gather(first, return_exceptions=True)

    await soon(lambda: here.services.hearing.peers.waiting(0.0))
    await spread(here, other)
    assert other.services.hearing.peers.waiting(0.0)
    second.cancel()


async def test_what_a_child_offers_one_is_known_to_the_other(both: list[Site]):
    here, other = both
    child = await join(here)
    await child.ask(slots(1, cpu=3))

    await soon(other.services.slots.sites)
    largest = other.services.slots.largest()
    assert largest is not None
    assert largest.cpu == 3
