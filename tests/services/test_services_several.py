"""Several processes that share one store: what happens at one is known at the others."""

from __future__ import annotations

import asyncio
import json

import pytest
from site_harness import ADMIN, ALICE, BOB, LARGE, SMALL, Site, config, ids, spread, task

from iceprod.errors import AccessDenied, NotAuthenticated
from iceprod.model.failures import Failure, FailureKind
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.pilot import PilotStatus
from iceprod.model.principal import Principal
from iceprod.model.resources import Offer, Resources
from iceprod.services.events import Event, EventKind
from iceprod.store.sqlite import SqliteStore

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


async def waiting(site: Site, pilot: Principal, offer: Offer = LARGE) -> asyncio.Task:
    """A claim that waits for work."""
    before = len(site.services.waiters)
    claim = asyncio.create_task(site.services.pilots.claim(pilot, offer, max_tasks=1, wait_s=30.0))
    while len(site.services.waiters) == before:
        await asyncio.sleep(0)
    return claim


async def test_work_that_is_submitted_at_one_wakes_a_pilot_that_waits_at_the_other(two):
    here, there = two
    claim = await waiting(there, await there.pilot())
    dataset = await here.submit()
    await spread(here, there)
    async with asyncio.timeout(60):
        assert ids((await claim).tasks) == [f"{dataset.dataset_id}-0-0"]


async def test_jobs_are_made_where_the_duties_are_wherever_they_are_submitted(two):
    here, there = two
    making = asyncio.create_task(there.services.materialiser.run())
    await asyncio.sleep(0)
    await here.submit(fill=False)
    await spread(here, there)
    async with asyncio.timeout(60):
        while not there.services.scheduler.demand():
            await asyncio.sleep(0)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await spread(here, there)
    assert await here.claim(await here.pilot())


async def test_a_task_that_comes_back_at_one_wakes_a_pilot_at_the_other(two):
    here, there = two
    await here.submit()
    first, second = await here.pilot(), await there.pilot()
    held = await here.one(first)
    await spread(here, there)
    claim = await waiting(there, second)
    await here.services.tasks.release(first, held.task_id, held.lease_id, "node goes down")
    await spread(here, there)
    async with asyncio.timeout(60):
        assert ids((await claim).tasks) == [held.task_id]


async def test_claims_at_both_never_hand_out_a_task_twice_and_leave_none(two):
    here, there = two
    number = 300 if isinstance(here.store, SqliteStore) else 40
    await here.submit(task("a", **TINY), njobs=number)
    await there.submit(task("a", **TINY), njobs=number, owner=BOB)
    await spread(here, there)
    seen: list[str] = []

    async def drain(site: Site, pilot: Principal) -> None:
        while claimed := await site.claim(pilot, LARGE, max_tasks=3):
            seen.extend(ids(claimed))

    claimers = [(site, await site.pilot()) for site in two for _ in range(64)]
    await asyncio.gather(*(drain(site, pilot) for site, pilot in claimers))
    assert len(seen) == len(set(seen)) == 2 * number
    await spread(here, there)
    assert [site.services.scheduler.demand() for site in two] == [[], []]


async def test_processes_prefer_different_tasks(two):
    here, there = two
    await here.submit(task("a", **TINY), njobs=100)
    await spread(here, there)
    pilots = [await site.pilot() for site in two]
    lost = 0
    apply = there.services.scheduler._transitions.apply

    async def counted(moves):
        nonlocal lost
        results = await apply(moves)
        lost += results.count(None)
        return results

    there.services.scheduler._transitions.apply = counted
    for _ in range(40):  # without a word between them
        assert await here.claim(pilots[0])
        assert await there.claim(pilots[1])
    assert lost == 0


async def test_what_a_process_that_is_gone_would_have_preferred_is_handed_out(sites_of):
    here, there = await sites_of(2)
    await here.submit(task("a", **TINY), njobs=50)
    await spread(here, there)
    assert here.services.news.processes == 2
    pilot = await here.pilot()
    half = [(await here.one(pilot)).task_id for _ in range(25)]
    for _ in range(6):
        here.advance(1.0)
        await here.services.news.tell()
        await here.services.news.poll()
    assert here.services.news.processes == 1
    assert here.services.news.looks == 1, "it may not have told everything"
    rest = [(await here.one(pilot)).task_id for _ in range(25)]
    assert len({*half, *rest}) == 50


async def test_a_process_that_leaves_is_gone_at_once(two):
    here, there = two
    await there.services.news.leave()
    await here.services.news.poll()
    assert here.services.news.processes == 1


async def test_claims_at_one_are_not_offered_at_the_other(two):
    here, there = two
    await here.submit(njobs=2)
    await spread(here, there)
    pilot = await here.pilot()
    await here.claim(pilot, max_tasks=2)
    assert [demand.waiting for demand in there.services.scheduler.demand()] == [2]
    await spread(here, there)
    assert there.services.scheduler.demand() == []


async def test_a_suspended_dataset_is_handed_out_nowhere(two):
    here, there = two
    dataset = await here.submit(njobs=4)
    await spread(here, there)
    await here.services.datasets.suspend(ALICE, dataset.dataset_id)
    await here.services.tasks.change(ALICE, TaskEvent.RESUMED, [f"{dataset.dataset_id}-0-0"])
    await spread(here, there)
    pilot = await there.pilot()
    assert await there.claim(pilot) == ()
    claim = await waiting(there, pilot)
    await here.services.datasets.resume(ALICE, dataset.dataset_id)
    await spread(here, there)
    async with asyncio.timeout(60):
        assert len((await claim).tasks) == 1


async def test_a_priority_that_is_set_at_one_is_followed_at_the_other(two):
    here, there = two
    await here.submit(task("a", **TINY), njobs=2, priority=0.6)
    other = await here.submit(task("a", **TINY), priority=0.5)
    await spread(here, there)
    await here.services.datasets.set_priority(ALICE, other.dataset_id, 1.0)
    await spread(here, there)
    assert (await there.one(await there.pilot())).dataset_id == other.dataset_id


async def test_tasks_that_are_cancelled_at_one_are_not_handed_out_at_the_other(two):
    here, there = two
    dataset = await here.submit(njobs=3)
    await spread(here, there)
    await here.services.tasks.change(ALICE, TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])
    await spread(here, there)
    claimed = await there.claim(await there.pilot(), max_tasks=9)
    assert sorted(ids(claimed)) == [f"{dataset.dataset_id}-1-0", f"{dataset.dataset_id}-2-0"]


async def test_a_new_graph_is_followed_at_the_other(two):
    here, there = two
    chain = config(task("a", **TINY), task("b", "a", **TINY))
    dataset = await here.submit(document=chain)
    await spread(here, there)
    await there.claim(await there.pilot())
    free = config(task("a", **TINY), task("b", **TINY))
    await here.services.datasets.update_config(
        ALICE, dataset.dataset_id, json.dumps(free), description=None, version=dataset.config_version
    )
    await spread(here, there)
    assert ids(await there.claim(await there.pilot())) == [f"{dataset.dataset_id}-0-1"]


async def test_what_was_used_at_one_counts_at_the_other(two):
    here, there = two
    mine = await here.submit(task("a", **TINY), njobs=4)
    other = await here.submit(task("a", **TINY), njobs=4, owner=BOB)
    pilot = await here.pilot()
    await here.finish(pilot, await here.one(pilot), walltime_s=3600.0)
    await spread(here, there)
    here.clock.advance(1)
    assert (await there.one(await there.pilot())).dataset_id == other.dataset_id
    shares = [site.services.scheduler._share.usage()[mine.group, mine.owner] for site in two]
    assert shares[0] == pytest.approx(shares[1])


async def test_an_event_at_one_is_heard_at_the_other(two):
    here, there = two
    heard: list[Event] = []
    there.services.events.listen(heard.append)
    dataset = await here.submit()
    with there.services.events.watch(dataset.dataset_id) as changed:
        await spread(here, there)
        assert changed.is_set()
        pilot = await here.pilot()
        held = await here.one(pilot)
        await spread(here, there)
        changed.clear()
        await here.finish(pilot, held)
        await spread(here, there)
        assert changed.is_set()
    assert Event(EventKind.DATASET_CREATED, dataset.dataset_id) in heard
    assert Event(EventKind.PILOT_CHANGED, pilot.id) in heard


async def test_news_that_were_heard_are_not_told_again(two):
    here, there = two
    await here.submit(njobs=3)
    await spread(here, there)
    told = there.services.news.told
    await here.services.tasks.change(ALICE, TaskEvent.SUSPENDED, ids(await here.claim(await here.pilot())))
    await spread(here, there)
    assert there.services.news.told == told


async def test_a_token_that_is_revoked_at_one_is_worthless_at_the_other(two):
    here, there = two
    await here.services.accounts.create_user(ADMIN, "carol", "correct horse battery")
    user = await here.services.accounts.sign_in("carol", "correct horse battery", address="192.0.2.1")
    principal = await there.services.accounts.authenticate(user.secret)
    assert there.services.accounts.authenticate(user.secret) == principal, "it is at hand"
    await here.services.accounts.sign_out(user.secret)
    await spread(here, there)
    with pytest.raises(NotAuthenticated):
        await there.services.accounts.authenticate(user.secret)


async def test_a_task_token_is_good_at_every_process(two):
    here, there = two
    token = here.services.accounts.make_task_token("d-0-0", "lease")
    assert there.services.accounts.authenticate(token).lease_id == "lease"


async def test_a_pilot_may_talk_to_any_process(two):
    here, there = two
    await here.submit(njobs=2)
    pilot = await here.pilot()
    await spread(here, there)
    held = await there.one(pilot)
    pulse = await here.services.pilots.heartbeat(pilot, [(held.task_id, held.lease_id)])
    assert pulse.lost == ()
    await here.finish(pilot, held)
    again = await here.one(pilot)
    claims = await there.services.pilots.claim(pilot, LARGE, max_tasks=1, held=[])
    assert ids(claims.tasks) == [again.task_id], "the answer got lost, and is given again elsewhere"
    assert claims.tasks[0].task.lease_id == again.lease_id


async def test_a_lost_answer_names_requirements_that_only_the_other_process_knew(two):
    here, there = two
    await here.submit(task("a", cpu=3))
    pilot = await here.pilot()
    held = await here.one(pilot)
    claims = await there.services.pilots.claim(pilot, LARGE, max_tasks=1, held=[])
    assert ids(claims.tasks) == [held.task_id]
    assert claims.tasks[0].requirements.resources.cpu == 3


@pytest.mark.expects_logs
async def test_a_pilot_that_is_drained_at_one_is_sent_away_at_the_other(two):
    here, there = two
    pilot = await here.pilot()
    claim = await waiting(there, pilot)
    await here.services.pilots.end(ADMIN, pilot.id)
    await spread(here, there)
    async with asyncio.timeout(60):
        assert (await claim).drain


async def test_a_pilot_that_has_ended_at_one_gets_nothing_at_the_other(two):
    here, there = two
    await here.submit()
    pilot = await here.pilot()
    await spread(here, there)
    await here.services.pilots.bye(pilot)
    await spread(here, there)
    with pytest.raises(AccessDenied):
        await there.claim(pilot)
    there.advance(100)
    await there.services.pilots.save_seen()
    stored = await here.store.pilots.get(pilot.id)
    assert stored is not None
    assert stored.status is PilotStatus.ENDED


async def test_a_pilot_is_silent_only_if_no_process_hears_of_it(sites_of):
    here, there = await sites_of(2)
    pilot = await here.pilot()
    await spread(here, there)
    here.advance(590)
    await there.services.pilots.heartbeat(pilot, [])
    await there.services.pilots.save_seen()
    here.advance(20)
    assert await here.services.pilots.end_silent() == 0
    here.advance(700)
    assert await here.services.pilots.end_silent() == 1
    await spread(here, there)
    assert pilot.id not in there.services.slots.pilots


async def test_what_a_pilot_has_in_use_is_known_where_pilots_are_started(two):
    here, there = two
    await here.submit(task("a", cpu=3))
    pilot = await here.pilot()
    await spread(here, there)
    await there.claim(pilot)
    await spread(here, there)
    assert here.services.slots.pilots[pilot.id].claimed.cpu == 3


async def test_attempts_of_a_pilot_are_counted_at_all_processes_together(two):
    here, there = two
    await here.submit(njobs=3)
    pilot = await here.pilot()
    await spread(here, there)
    for site in (here, there, there):
        await site.finish(pilot, await site.one(pilot), walltime_s=1.0)
        await spread(here, there)
    for site in two:
        await site.services.pilots.save_seen()
    stored = await here.store.pilots.get(pilot.id)
    assert stored is not None
    assert (stored.finished, stored.failed) == (3, 0)


async def test_a_class_that_grew_at_one_is_handed_out_at_the_other(two):
    here, there = two
    await here.submit(task("a", cpu=1, memory=2.0))
    pilot = await here.pilot()
    await spread(here, there)
    held = await here.one(pilot)
    overuse = Failure(FailureKind.OVERUSE, "used too much memory", resource="memory")
    await here.fail(pilot, held, overuse, usage={"memory": 5.0})
    await spread(here, there)
    (claimed,) = await there.claim(pilot)
    assert claimed.requirements.resources.memory > 5.0
    assert await here.claim(await here.pilot(SMALL), SMALL) == ()


async def test_the_graphs_are_the_same_at_every_process(two):
    here, there = two
    await here.submit(njobs=2)
    await here.services.reports.sample()
    await spread(here, there)
    graphs = [site.services.reports.graphs(ALICE, minutes=60) for site in two]
    assert graphs[0] == graphs[1]
    assert len(graphs[0]) == 2


async def test_what_the_holder_of_the_duties_knows_best_is_believed(two):
    here, there = two
    await here.services.duty.step()
    here.services.scheduler.restore_usage([("users", "alice", 3.0, 20.0)], here.clock())
    await here.services.hearing.tell_state()
    await spread(here, there)
    assert there.services.scheduler.usage() == [("users", "alice", 3.0, 20.0)]
    await there.services.hearing.tell_state()  # by mistake: it does not hold them
    there.services.scheduler.restore_usage([], here.clock())
    await spread(here, there)
    assert here.services.scheduler.usage() == [("users", "alice", 3.0, 20.0)]


async def test_the_largest_slot_is_known_everywhere(two):
    here, there = two
    await here.pilot(Offer(Resources(cpu=64)))
    await spread(here, there)
    largest = there.services.slots.largest()
    assert largest is not None
    assert largest.cpu == 64


async def test_tasks_of_a_dataset_that_was_submitted_elsewhere_run_to_its_end(two):
    here, there = two
    dataset = await here.submit(task("a", **TINY), task("b", "a", **TINY), njobs=20)
    await spread(here, there)
    pilots = [await site.pilot() for site in two]
    while (await here.counts(dataset)) != {TaskStatus.COMPLETE: 40}:
        for site, pilot in zip(two, pilots, strict=True):
            for claimed in await site.claim(pilot, max_tasks=3):
                await site.finish(pilot, claimed.task)
        await spread(here, there)
    assert [site.services.scheduler.demand() for site in two] == [[], []]
