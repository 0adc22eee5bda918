"""Which task goes to which pilot, and when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from site_harness import ALICE, BOB, LARGE, SMALL, Site, ids, task, user

from iceprod.errors import StoreUnavailable
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.resources import Offer, Resources
from iceprod.services.reporting import Report

GPU = Offer(Resources(cpu=2, gpu=1, memory=16.0, disk=50.0, time_h=24.0))
TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


async def test_the_oldest_task_of_a_dataset_comes_first(site: Site):
    dataset = await site.submit(njobs=3)
    pilot = await site.pilot()
    order = [(await site.one(pilot)).task_id for _ in range(3)]
    assert order == [f"{dataset.dataset_id}-{job}-0" for job in range(3)]


async def test_a_claim_hands_out_tasks_until_the_offer_is_full(site: Site):
    await site.submit(task("a", cpu=2, memory=1.0), njobs=10)
    pilot = await site.pilot()
    assert len(await site.claim(pilot, LARGE, max_tasks=100)) == 4


async def test_a_claim_hands_out_no_more_tasks_than_were_asked_for(site: Site):
    await site.submit(task("a", **TINY), njobs=10)
    assert len(await site.claim(await site.pilot(), LARGE, max_tasks=3)) == 3


async def test_what_is_left_of_an_offer_goes_to_tasks_that_fit_into_it(site: Site):
    large = await site.submit(task("large", cpu=6, memory=20.0), njobs=2)
    small = await site.submit(task("small", cpu=1, memory=1.0), njobs=5)
    claimed = ids(await site.claim(await site.pilot(), LARGE, max_tasks=100))
    assert claimed == [f"{large.dataset_id}-0-0", f"{small.dataset_id}-0-0", f"{small.dataset_id}-1-0"]


@pytest.mark.parametrize(
    "wanted",
    [{"cpu": 2}, {"gpu": 1}, {"memory": 4.1}, {"disk": 10.5}, {"time": 24.5}, {"os": "RHEL_7_x86_64"}],
)
async def test_a_pilot_gets_no_task_that_asks_for_more_than_it_offers(site: Site, wanted: dict):
    await site.submit(task("a", **wanted))
    assert await site.claim(await site.pilot(SMALL), SMALL) == ()


async def test_a_task_that_asks_for_exactly_what_is_offered_is_handed_out(site: Site):
    await site.submit(task("a", cpu=1, memory=4.0, disk=10.0, time=24.0))
    assert await site.claim(await site.pilot(SMALL), SMALL)


async def test_a_task_that_names_an_os_goes_to_a_pilot_that_has_it(site: Site):
    await site.submit(task("a", os="RHEL_7_x86_64"))
    assert await site.claim(await site.pilot(), replace(LARGE, os="RHEL_7_x86_64"))


async def test_a_task_that_names_a_site_goes_there_only(site: Site):
    await site.submit(task("a", site="madison"))
    pilot = await site.pilot()
    assert await site.claim(pilot, replace(LARGE, site="zeuthen")) == ()
    assert await site.claim(pilot, replace(LARGE, site="madison"))


async def test_a_slot_with_a_gpu_gets_gpu_tasks_first(site: Site):
    await site.submit(task("plain", **TINY), njobs=3)
    light = await site.submit(task("light", gpu=1, **TINY), njobs=1, owner=BOB)
    pilot = await site.pilot(GPU)
    claimed = ids(await site.claim(pilot, GPU, max_tasks=2))
    assert claimed[0] == f"{light.dataset_id}-0-0"
    assert len(claimed) == 2, "the rest of the slot is used by other work"


async def test_a_slot_with_a_gpu_is_not_idle_when_no_task_wants_one(site: Site):
    await site.submit(task("plain", **TINY))
    assert await site.claim(await site.pilot(GPU), GPU)


async def test_a_task_on_a_gpu_waits_for_a_pilot_that_has_one(site: Site):
    dataset = await site.submit(task("plain", gpu=1))
    assert await site.claim(await site.pilot(), LARGE) == ()
    assert await site.statuses(dataset) == [TaskStatus.WAITING]


async def test_the_owner_who_has_used_less_comes_first(site: Site):
    mine = await site.submit(task("a", **TINY), njobs=4)
    other = await site.submit(task("a", **TINY), njobs=4, owner=BOB)
    pilot = await site.pilot()
    first = await site.one(pilot)
    assert first.dataset_id == mine.dataset_id, "nobody has used anything: the older dataset"
    await site.finish(pilot, first, walltime_s=3600.0)
    site.clock.advance(1)
    second = await site.one(pilot)
    assert second.dataset_id == other.dataset_id


async def test_what_is_running_counts_as_used(site: Site):
    await site.submit(task("a", **TINY), njobs=4)
    other = await site.submit(task("a", **TINY), njobs=4, owner=BOB)
    pilot = await site.pilot()
    await site.one(pilot)
    site.clock.advance(1)
    assert (await site.one(pilot)).dataset_id == other.dataset_id


async def test_who_was_promised_more_gets_more(site_with):
    shares = {"users": {"users": {"alice": 3.0, "bob": 1.0}}}
    site = await site_with(scheduling={"shares": shares})
    mine = await site.submit(task("a", **TINY), njobs=100)
    await site.submit(task("a", **TINY), njobs=100, owner=BOB)
    pilot = await site.pilot()
    owners = []
    for _ in range(40):
        held = await site.one(pilot)
        await site.finish(pilot, held, walltime_s=3600.0)
        owners.append(held.dataset_id == mine.dataset_id)
        site.clock.advance(1)
    assert 28 <= sum(owners) <= 32, "three of four go to who has three of four shares"


async def test_groups_share_before_their_users_do(site: Site):
    carol, dave = user("carol", "icecube"), user("dave", "icecube")
    for owner in (carol, dave, ALICE):
        await site.submit(task("a", **TINY), njobs=50, owner=owner)
    pilot = await site.pilot()
    owners = []
    for _ in range(40):
        held = await site.one(pilot)
        await site.finish(pilot, held, walltime_s=3600.0)
        owners.append((await site.dataset(held.dataset_id)).owner)
        site.clock.advance(1)
    assert 18 <= owners.count("alice") <= 22, "alone in her group she gets that group's half"
    assert 8 <= owners.count("carol") <= 12


async def test_among_the_datasets_of_an_owner_priority_decides(site: Site):
    await site.submit(task("a", **TINY), priority=0.2)
    urgent = await site.submit(task("a", **TINY), priority=0.9)
    assert (await site.one(await site.pilot())).dataset_id == urgent.dataset_id


async def test_a_changed_priority_is_followed_at_once(site: Site):
    await site.submit(task("a", **TINY), njobs=2, priority=0.6)
    other = await site.submit(task("a", **TINY), priority=0.5)
    pilot = await site.pilot()
    await site.one(pilot)
    await site.services.datasets.set_priority(ALICE, other.dataset_id, 1.0)
    assert (await site.one(pilot)).dataset_id == other.dataset_id


async def test_nothing_starves(site: Site):
    slow = await site.submit(task("a", **TINY), priority=0.0)
    pilot = await site.pilot()
    for _hour in range(36):
        await site.submit(task("a", **TINY), priority=1.0)
        held = await site.one(pilot)
        if held.dataset_id == slow.dataset_id:
            return
        site.clock.advance(3600)
    pytest.fail("the dataset of the lowest priority waited for 36 hours")


async def test_an_owner_who_used_much_is_served_in_the_end(site: Site):
    pilot = await site.pilot()
    await site.submit(task("a", **TINY), njobs=2)
    await site.finish(pilot, await site.one(pilot), walltime_s=1e6)
    for _hour in range(40):
        new = await site.submit(task("a", **TINY), owner=BOB)
        if (await site.one(pilot)).dataset_id != new.dataset_id:
            return
        site.clock.advance(3600)
    pytest.fail("an owner waited for 40 hours")


async def test_later_steps_of_a_dataset_come_first(site: Site):
    dataset = await site.submit(task("first", **TINY), task("second", "first", **TINY), njobs=2)
    pilot = await site.pilot()
    await site.finish(pilot, await site.one(pilot))
    site.clock.advance(1)
    assert (await site.one(pilot)).task_id == f"{dataset.dataset_id}-0-1"


async def test_pilots_that_claim_together_get_different_tasks(site: Site):
    await site.submit(task("a", **TINY), njobs=25)
    pilots = [await site.pilot() for _ in range(10)]
    answers = await asyncio.gather(*(site.claim(pilot, max_tasks=4) for pilot in pilots))
    handed_out = [task_id for claimed in answers for task_id in ids(claimed)]
    assert len(handed_out) == len(set(handed_out)) == 25


async def test_a_class_larger_than_its_window_is_handed_out_whole(site_with):
    site = await site_with(scheduling={"buffer_tasks": 5000})
    dataset = await site.submit(task("a", **TINY), njobs=2500)
    offer = Offer(Resources(cpu=1000, memory=1000.0, disk=1000.0, time_h=10.0))
    pilot = await site.pilot(offer)
    seen: list[str] = []
    while claimed := await site.claim(pilot, offer, max_tasks=400):
        seen += ids(claimed)
    assert sorted(seen) == sorted(f"{dataset.dataset_id}-{job}-0" for job in range(2500))


async def test_a_waiting_pilot_is_woken_by_work_that_fits(site: Site):
    pilot = await site.pilot()
    waiting = asyncio.create_task(site.claim(pilot, wait_s=30.0))
    while not len(site.services.waiters):
        await asyncio.sleep(0)
    dataset = await site.submit()
    async with asyncio.timeout(60):
        assert ids(await waiting) == [f"{dataset.dataset_id}-0-0"]


async def test_a_waiting_pilot_sleeps_on_when_work_does_not_fit(site: Site):
    pilot = await site.pilot(SMALL)
    waiting = asyncio.create_task(site.claim(pilot, SMALL, wait_s=0.2))
    while not len(site.services.waiters):
        await asyncio.sleep(0)
    await site.submit(task("a", memory=100.0))
    assert len(site.services.waiters) == 1
    assert await waiting == ()


async def test_a_waiting_pilot_is_woken_when_a_task_comes_back(site: Site):
    await site.submit()
    first, second = await site.pilot(), await site.pilot()
    held = await site.one(first)
    waiting = asyncio.create_task(site.claim(second, wait_s=30.0))
    while not len(site.services.waiters):
        await asyncio.sleep(0)
    await site.services.tasks.release(first, held.task_id, held.lease_id, "node goes down")
    async with asyncio.timeout(60):
        assert ids(await waiting) == [held.task_id]


async def test_a_waiting_pilot_is_woken_when_its_dataset_is_resumed(site: Site):
    dataset = await site.submit()
    await site.services.datasets.suspend(ALICE, dataset.dataset_id)
    await site.services.tasks.change(ALICE, TaskEvent.RESUMED, [f"{dataset.dataset_id}-0-0"])
    waiting = asyncio.create_task(site.claim(await site.pilot(), wait_s=30.0))
    while not len(site.services.waiters):
        await asyncio.sleep(0)
    await site.services.datasets.resume(ALICE, dataset.dataset_id)
    async with asyncio.timeout(60):
        assert ids(await waiting) == [f"{dataset.dataset_id}-0-0"]


async def test_a_waiting_pilot_is_woken_by_what_another_process_released(site: Site):
    dataset = await site.submit()
    again = await site.restarted()
    pilot = await site.pilot()
    held = await site.one(pilot)
    waiting = asyncio.create_task(again.claim(await again.pilot(), wait_s=30.0))
    while not len(again.services.waiters):
        await asyncio.sleep(0)
    await site.services.tasks.release(pilot, held.task_id, held.lease_id, "")
    await again.services.scheduler.reconcile()
    async with asyncio.timeout(60):
        assert ids(await waiting) == [f"{dataset.dataset_id}-0-0"]


async def test_only_as_many_pilots_are_woken_as_there_is_work(site: Site):
    pilots = [await site.pilot() for _ in range(5)]
    waiting = [asyncio.create_task(site.claim(pilot, SMALL, wait_s=0.5)) for pilot in pilots]
    while len(site.services.waiters) < 5:
        await asyncio.sleep(0)
    await site.submit(njobs=2)
    answers = await asyncio.gather(*waiting)
    assert [len(claimed) for claimed in answers] == [1, 1, 0, 0, 0], "the longest waiting first"


async def test_a_pilot_that_hangs_up_leaves_the_work_to_the_next(site: Site):
    gone, other = await site.pilot(), await site.pilot()
    first = asyncio.create_task(site.claim(gone, SMALL, wait_s=30.0))
    second = asyncio.create_task(site.claim(other, SMALL, wait_s=30.0))
    while len(site.services.waiters) < 2:
        await asyncio.sleep(0)
    dataset = await site.submit(fill=False)
    filling = asyncio.create_task(site.services.materialiser.fill(dataset.dataset_id))
    while len(site.services.waiters) == 2:
        await asyncio.sleep(0)
    first.cancel()  # at the very moment at which it was woken
    async with asyncio.timeout(60):
        assert ids(await second) == [f"{dataset.dataset_id}-0-0"]
    await filling
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(site.services.waiters) == 0


async def test_a_pilot_without_work_is_told_when_to_come_again(site: Site):
    pilot = await site.pilot()
    claims = await site.services.pilots.claim(pilot, LARGE, max_tasks=1)
    assert claims.tasks == ()
    assert 10 <= claims.retry_after_s <= 30


async def test_nothing_of_a_suspended_dataset_is_handed_out(site: Site):
    dataset = await site.submit(njobs=2)
    await site.services.datasets.suspend(ALICE, dataset.dataset_id)
    await site.services.tasks.change(ALICE, TaskEvent.RESUMED, [f"{dataset.dataset_id}-0-0"])
    pilot = await site.pilot()
    assert await site.claim(pilot) == ()
    await site.services.datasets.resume(ALICE, dataset.dataset_id)
    assert len(await site.claim(pilot, max_tasks=5)) == 2


async def test_the_next_process_goes_on_where_the_last_one_ended(site: Site):
    mine = await site.submit(task("a", **TINY), njobs=3)
    other = await site.submit(task("a", **TINY), njobs=3, owner=BOB)
    pilot = await site.pilot()
    held = await site.one(pilot)
    await site.finish(pilot, held, walltime_s=3600.0)
    await site.services.scheduler.save_usage()
    again = await site.restarted()
    order = [(await again.one(pilot)).dataset_id for _ in range(5)]
    assert order[0] == other.dataset_id, "who has used what is remembered"
    assert sorted(order) == sorted([mine.dataset_id] * 2 + [other.dataset_id] * 3)


async def test_reconciling_finds_what_another_process_released(site: Site):
    dataset = await site.submit()
    again = await site.restarted()
    pilot = await site.pilot()
    held = await site.one(pilot)
    assert await again.claim(pilot) == (), "gone, and found to be so"
    await site.services.tasks.release(pilot, held.task_id, held.lease_id, "")
    await again.services.scheduler.reconcile()
    assert ids(await again.claim(pilot)) == [f"{dataset.dataset_id}-0-0"]


async def test_a_task_that_begins_to_wait_while_all_is_counted_is_not_forgotten(site: Site, monkeypatch):
    dataset = await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    tasks = site.store.tasks
    count = tasks.ready_counts

    async def released_meanwhile() -> dict[int, int]:
        counts = await count()
        await site.services.tasks.release(pilot, held.task_id, held.lease_id, "")
        return counts

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "ready_counts", released_meanwhile)
        await site.services.scheduler.reload()
    await site.services.scheduler.recheck()
    assert ids(await site.claim(pilot)) == [f"{dataset.dataset_id}-0-0"]


async def test_a_task_that_is_claimed_while_all_is_counted_hides_no_other(site: Site, monkeypatch):
    await site.submit(task("a", **TINY), njobs=2)
    pilot = await site.pilot()
    tasks = site.store.tasks
    move = tasks.move

    async def reloaded_meanwhile(*args: Any, **options: Any) -> Any:
        moved = await move(*args, **options)
        await site.services.scheduler.reload()
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "move", reloaded_meanwhile)
        await site.one(pilot)
    await site.services.scheduler.recheck()
    assert len(await site.claim(pilot)) == 1


async def test_a_task_released_by_a_move_that_was_not_answered_is_found_soon(site: Site, monkeypatch):
    dataset = await site.submit(task("a"), task("b", "a"))
    pilot = await site.pilot()
    held = await site.one(pilot)
    tasks = site.store.tasks
    move = tasks.move

    async def lost(*args: Any, **options: Any) -> Any:
        await move(*args, **options)
        raise StoreUnavailable("the answer is lost")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "move", lost)
        with pytest.raises(StoreUnavailable):
            await site.finish(pilot, held)
    assert await site.claim(pilot) == ()
    await site.services.scheduler.recheck()
    assert ids(await site.claim(pilot)) == [f"{dataset.dataset_id}-0-1"]


async def test_the_demand_is_what_waits(site: Site):
    await site.submit(task("a", cpu=2), task("b", "a"), njobs=3)
    pilot = await site.pilot()
    await site.one(pilot)
    (demand,) = site.services.scheduler.demand()
    assert (demand.requirements.resources.cpu, demand.waiting) == (2, 2)


async def test_used_time_counts_half_after_its_half_life(site: Site):
    await site.submit(task("a", **TINY))
    pilot = await site.pilot()
    held = await site.one(pilot)
    await site.services.pilots.finish(pilot, held.task_id, held.lease_id, Report(walltime_s=7200.0))
    share = site.services.scheduler._share
    assert share.usage() == {("users", "alice"): pytest.approx(2.0)}
    site.clock.advance(24 * 3600)
    assert share.usage() == {("users", "alice"): pytest.approx(1.0)}
