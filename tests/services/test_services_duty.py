"""Who has the duties: one process at a time, and another soon when that one is gone."""

from __future__ import annotations

import asyncio

import pytest
from memory_sharing import MemorySharing
from site_harness import Site, Time, spread

from iceprod.errors import StoreUnavailable
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.pilot import PilotStatus
from iceprod.services.duty import DutyHolder

TTL_S = 3.0


def holder(sharing: MemorySharing | None, name: str, clock: Time) -> DutyHolder:
    return DutyHolder(sharing, process_id=name, monotonic=clock, ttl_s=TTL_S)


async def pass_time(seconds: float, *clocks: Time, steps: tuple[DutyHolder, ...] = ()) -> None:
    """Let time go by in thirds of a second, in which these step."""
    for _ in range(round(seconds * 3)):
        for clock in clocks:
            clock.advance(1 / 3)
        for one in steps:
            await one.step()


async def test_with_a_store_of_its_own_a_process_always_has_the_duties():
    alone = holder(None, "a", Time(0.0))
    await alone.step()
    assert alone.is_holding()
    assert alone.fence == 0
    await alone.release()
    assert alone.is_holding()


async def test_one_of_several_has_them_for_as_long_as_it_beats():
    sharing, clock = MemorySharing(), Time(0.0)
    first, second = holder(sharing, "a", clock), holder(sharing, "b", clock)
    await first.step()
    await pass_time(60, clock, steps=(first, second))
    assert (first.is_holding(), second.is_holding()) == (True, False)
    assert first.fence == 1


async def test_of_many_that_want_them_at_once_one_gets_them():
    sharing, clock = MemorySharing(), Time(0.0)
    contenders = [holder(sharing, str(number), clock) for number in range(20)]
    await asyncio.gather(*(one.step() for one in contenders))
    assert [one.is_holding() for one in contenders].count(True) == 1


async def test_who_dies_loses_them_within_seconds():
    sharing, clock = MemorySharing(), Time(0.0)
    first, second = holder(sharing, "a", clock), holder(sharing, "b", clock)
    await first.step()
    await pass_time(2, clock, steps=(first, second))
    await pass_time(TTL_S - 1, clock, steps=(second,))
    assert not second.is_holding()
    await pass_time(1.5, clock, steps=(second,))
    assert second.is_holding()
    assert second.fence == 2


async def test_who_gives_them_up_is_followed_at_once():
    sharing, clock = MemorySharing(), Time(0.0)
    first, second = holder(sharing, "a", clock), holder(sharing, "b", clock)
    await first.step()
    await second.step()
    await first.release()
    await second.step()
    assert (first.is_holding(), second.is_holding()) == (False, True)


async def test_the_holder_stops_before_another_may_begin():
    """Whatever the two steady clocks say: they began at different times."""
    sharing, ours, theirs = MemorySharing(), Time(1000.0), Time(5.0)
    first, second = holder(sharing, "a", ours), holder(sharing, "b", theirs)
    await first.step()
    for _ in range(12):
        await pass_time(1 / 3, ours, theirs, steps=(second,))  # the first is cut off from the store
        assert not (first.is_holding() and second.is_holding())
    assert second.is_holding()


async def test_a_paused_holder_that_wakes_up_knows_at_its_next_beat():
    sharing, clock = MemorySharing(), Time(0.0)
    first, second = holder(sharing, "a", clock), holder(sharing, "b", clock)
    await first.step()
    await pass_time(10, clock, steps=(second,))
    assert not first.is_holding()
    await first.step()
    assert not first.is_holding()
    await pass_time(10, clock, steps=(first, second))
    assert second.is_holding()
    assert not first.is_holding()


async def test_a_store_that_is_away_takes_the_duties_from_everybody():
    sharing, clock = MemorySharing(), Time(0.0)
    first = holder(sharing, "a", clock)
    await first.step()
    sharing.is_away = True
    clock.advance(1.0)
    with pytest.raises(StoreUnavailable):
        await first.step()
    assert first.is_holding(), "nobody else can have taken them yet"
    clock.advance(1.1)
    assert not first.is_holding()
    sharing.is_away = False
    await first.step()
    assert first.is_holding(), "it was only away"


@pytest.mark.expects_logs
async def test_duties_begin_and_end_with_the_lease():
    sharing = MemorySharing()
    clock = asyncio.get_running_loop().time
    first = DutyHolder(sharing, process_id="a", monotonic=clock, ttl_s=0.3)
    gained, lost = asyncio.Event(), asyncio.Event()

    async def gain() -> None:
        gained.set()

    async def lose() -> None:
        lost.set()

    running = asyncio.create_task(first.run(gained=gain, lost=lose))
    async with asyncio.timeout(60):
        await gained.wait()
        assert not lost.is_set()
        gained.clear()
        sharing.is_away = True
        await lost.wait()
        assert not first.is_holding()
        sharing.is_away = False
        await gained.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert first.is_holding()


# -- what a holder that comes too late may not do ---------------------------------------------


async def hand_over(former: Site, new: Site) -> None:
    """The former holder is stopped for a while, and the new one takes the duties."""
    await former.services.duty.step()
    assert former.services.duty.is_holding()
    for _ in range(12):
        former.monotonic.advance(0.5)
        await new.services.duty.step()
    assert new.services.duty.is_holding()


async def test_usage_and_graphs_of_a_former_holder_are_not_kept(sites_of):
    former, new = await sites_of(2)
    await former.services.duty.step()
    fence = former.services.duty.fence
    await hand_over(former, new)
    new.services.scheduler.restore_usage([("users", "bob", 0.0, 5.0)], new.clock())
    await new.services.scheduler.save_usage(fence=new.services.duty.fence)
    await new.services.reports.sample(fence=new.services.duty.fence)
    kept = [await new.store.values.get(name) for name in ("fair_share.usage", "reports.graphs")]

    await former.services.scheduler.save_usage(fence=fence)
    former.clock.advance(1)
    await former.services.reports.sample(fence=fence)

    assert [await new.store.values.get(name) for name in ("fair_share.usage", "reports.graphs")] == kept
    assert former.services.duty.fence == fence


async def test_a_former_holder_ends_no_lease(sites_of):
    former, new = await sites_of(2)
    await former.submit()
    pilot = await former.pilot()
    former.advance(1000)
    held = await former.one(pilot)
    await former.services.duty.step()
    expired = former.store.tasks.expired

    async def slow(before: float, limit: int):
        found = await expired(before, limit)
        # The process is stopped here; meanwhile another takes the duties, the pilot its lease.
        await hand_over(former, new)
        await new.services.pilots.heartbeat(pilot, [(held.task_id, held.lease_id)])
        return found

    former.store.tasks.expired = slow
    former.advance(301)
    await former.services.duty.step()
    assert await former.services.leases.expire() == 0
    assert (await new.task(held.task_id)).status is TaskStatus.PROCESSING


async def test_a_former_holder_gives_up_no_pilot_that_others_hear_of(sites_of):
    former, new = await sites_of(2)
    pilot = await former.pilot()
    await spread(former, new)
    former.advance(1000)
    await new.services.pilots.heartbeat(pilot, [])
    await new.services.pilots.save_seen()
    assert await former.services.pilots.end_silent() == 0
    stored = await new.store.pilots.get(pilot.id)
    assert stored is not None
    assert stored.status is PilotStatus.RUNNING


async def test_two_that_make_jobs_at_once_make_each_job_once(sites_of):
    former, new = await sites_of(2)
    dataset = await former.submit(njobs=50, fill=False)
    await asyncio.gather(*(site.services.materialiser.fill(dataset.dataset_id) for site in (former, new)))
    assert await new.counts(dataset) == {TaskStatus.WAITING: 50}
