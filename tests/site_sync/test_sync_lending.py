"""What a parent lends: to whom, how much, and to whom it does not."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from lending_harness import Child, finished, join, leases, slots
from site_harness import ADMIN, ALICE, BOB, LARGE, SMALL, Site, task

from iceprod.errors import AccessDenied, NotFoundError
from iceprod.model.federation import PeerStatus, SiteRules, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.task_tokens import PREFIX

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


async def test_a_task_is_lent_with_all_that_its_child_needs(site: Site):
    dataset = await site.submit(task("a", cpu=2, memory=3.0), debug=True, priority=0.7)
    west = await join(site, lease_s=5000.0)

    pulled = await west.ask()

    (lent,) = pulled.tasks
    stored = await site.task(f"{dataset.dataset_id}-0-0")
    assert (stored.status, stored.pilot_id) == (TaskStatus.PROCESSING, holder_of("west"))
    assert (stored.lease_id, stored.lease_until) == (lent.lease_id, site.clock() + 5000.0)
    assert (lent.task_id, lent.dataset_id, lent.config_version) == (stored.task_id, dataset.dataset_id, 1)
    assert (lent.original_task_id, lent.original_dataset_id) == (stored.task_id, dataset.dataset_id)
    assert (lent.original_dataset, lent.job, lent.task_index) == (dataset.number, 0, 0)
    assert (lent.name, lent.jobs_submitted, lent.debug) == ("a", 1, True)
    assert (lent.requirements.cpu, lent.requirements.memory) == (2, 3.0)
    assert (pulled.lease_s, pulled.retry_after_s) == (5000.0, 0.0)
    caller = site.services.accounts.authenticate(lent.token)
    assert lent.token.startswith(PREFIX)
    assert caller == Principal(PrincipalKind.TASK, lent.task_id, lease_id=lent.lease_id)


async def test_each_task_has_a_slot_of_its_own(site: Site):
    await site.submit(task("a", cpu=5, memory=1.0), njobs=10)
    west = await join(site)

    assert len(await west.pull(3, cpu=8)) == 3
    assert len(await west.pull(3, cpu=4)) == 0
    assert len((await west.ask(slots(2, cpu=4), slots(2, cpu=6), slots(1))).tasks) == 3


async def test_a_large_slot_is_left_to_what_fits_no_other(site: Site):
    await site.submit(task("a", cpu=1), njobs=2)
    await site.submit(task("b", gpu=1), njobs=2, owner=BOB)
    west = await join(site)

    lent = (await west.ask(slots(2, cpu=1), slots(2, gpu=1))).tasks

    assert Counter(one.name for one in lent) == {"a": 2, "b": 2}


async def test_thousands_are_lent_in_one_go(site: Site):
    await site.submit(task("a", **TINY), njobs=1500)
    west = await join(site)

    first, second = await west.pull(1000), await west.pull(1000)

    assert (len(first), len(second)) == (1000, 500)
    assert len({one.task_id for one in first + second}) == 1500
    assert await site.store.tasks.count_held(holder_of("west")) == 1500


async def test_a_child_holds_no_more_than_it_may(site: Site):
    await site.submit(task("a", **TINY), njobs=20)
    west = await join(site, most_tasks=5)

    lent = await west.pull(9)
    assert (len(lent), len(await west.pull(9))) == (5, 0)
    assert await west.results(*map(finished, lent[:2])) == ["applied", "applied"]

    assert len(await west.pull(9)) == 2


async def test_a_child_that_held_all_it_may_gets_more_when_it_has_reported(site: Site):
    await site.submit(task("a", **TINY), njobs=3)
    west = await join(site, most_tasks=2)
    lent = await west.pull(2)
    pull = await west.waits(wait_s=30.0)

    await west.say(finished(lent[0]))

    async with asyncio.timeout(20):
        assert len((await pull).tasks) == 1


@pytest.mark.parametrize("status", [PeerStatus.PAUSED, PeerStatus.REVOKED])
async def test_who_is_paused_or_revoked_gets_nothing(site: Site, status: PeerStatus):
    await site.submit()
    west = await join(site, status=status)

    if status is PeerStatus.PAUSED:
        assert await west.pull() == []
    else:
        with pytest.raises(AccessDenied):
            await west.pull()


async def test_who_never_joined_is_refused(site: Site):
    for name in ("west", ""):
        with pytest.raises(AccessDenied):
            await Child(site, name).pull()
    for caller in (ALICE, ADMIN, Principal(PrincipalKind.PILOT, "west")):
        with pytest.raises(AccessDenied):
            await site.services.federation.lending.pull(caller, None)


async def test_a_revoked_child_that_waits_gets_nothing(site: Site):
    west = await join(site)
    pull = await west.waits()
    await site.services.federation.registry.revoke(ADMIN, "west")
    await site.submit()

    with pytest.raises(AccessDenied):
        await pull
    assert len(await site.claim(await site.pilot())) == 1


async def test_a_child_whose_pause_ends_is_looked_after_at_once(site: Site):
    west = await join(site, status=PeerStatus.PAUSED)
    await site.submit()
    pull = await west.waits()

    await site.services.federation.registry.resume(ADMIN, "west")

    async with asyncio.timeout(20):
        assert len((await pull).tasks) == 1


# -- waiting -------------------------------------------------------------------------------


async def test_a_child_that_waits_gets_what_is_submitted(site: Site):
    pull = await (await join(site)).waits()
    dataset = await site.submit()

    async with asyncio.timeout(20):
        assert [one.task_id for one in (await pull).tasks] == [f"{dataset.dataset_id}-0-0"]


async def test_waiting_uses_up_no_pilots_wake(site: Site):
    pulls = [await (await join(site, name)).waits(slots(1, cpu=1)) for name in ("west", "east")]
    claim = asyncio.create_task(
        site.services.pilots.claim(await site.pilot(), LARGE, max_tasks=1, wait_s=30.0)
    )
    while not len(site.services.waiters):
        await asyncio.sleep(0)
    await site.submit(task("a", cpu=4))

    async with asyncio.timeout(20):
        assert len((await claim).tasks) == 1
    for pull in pulls:
        pull.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)


async def test_nobody_waits_any_more_once_the_server_stops(site: Site):
    west = await join(site)
    await west.listen()
    pull = await west.waits()
    listening = asyncio.create_task(west.listen(30.0))
    await asyncio.sleep(0)
    site.services.federation.lending.close()

    async with asyncio.timeout(20):
        assert (await pull).tasks == []
        assert not (await listening).taken
        assert (await west.ask(wait_s=30.0)).tasks == []


async def test_who_does_not_want_to_wait_is_told_when_to_come_again(site: Site):
    assert (await (await join(site)).ask()).retry_after_s > 0


# -- sites and datasets --------------------------------------------------------------------


async def allow(site: Site, dataset, **rules) -> None:
    await site.services.datasets.set_sites(ALICE, dataset.dataset_id, SiteRules(**rules))


async def test_tasks_run_only_where_their_dataset_may(site: Site):
    west, east = await join(site, "west"), await join(site, "east")
    pilot = await site.pilot()
    rules = [{"only": ("west",)}, {"never": ("west", "")}, {"only": ("",)}]
    datasets = [await site.submit(task("a", **TINY), njobs=3) for _ in rules]
    for dataset, rule in zip(datasets, rules, strict=True):
        await allow(site, dataset, **rule)

    got = [{one.dataset_id for one in await child.pull(9)} for child in (west, east)]
    here = {one.task.dataset_id for one in await site.claim(pilot, max_tasks=9)}

    assert [*got, here] == [{dataset.dataset_id} for dataset in datasets]


async def test_no_pilot_is_started_or_woken_for_what_runs_elsewhere(site: Site):
    await join(site)
    dataset = await site.submit(fill=False)
    await allow(site, dataset, only=("west",))
    claim = asyncio.create_task(
        site.services.pilots.claim(await site.pilot(), LARGE, max_tasks=1, wait_s=30.0)
    )
    while not len(site.services.waiters):
        await asyncio.sleep(0)

    await site.services.materialiser.fill(dataset.dataset_id)

    assert len(site.services.waiters) == 1
    assert site.services.scheduler.demand() == []
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)


async def test_rules_that_are_relaxed_wake_who_waits(site: Site):
    west = await join(site)
    dataset = await site.submit()
    await allow(site, dataset, never=("west",))
    pull = await west.waits()

    await allow(site, dataset)

    async with asyncio.timeout(20):
        assert len((await pull).tasks) == 1


async def test_what_names_a_site_goes_there(site: Site):
    await site.submit(task("a", site="west"))

    assert await (await join(site, "east")).pull() == []
    assert [one.site for one in await (await join(site, "west")).pull()] == ["west"]


# -- shares --------------------------------------------------------------------------------


async def test_who_asks_at_the_same_time_is_served_by_share(site: Site):
    west, east = await join(site, "west", share=3.0), await join(site, "east", share=1.0)
    pulls = [await child.waits(slots(1000)) for child in (east, west)]

    await site.submit(task("a", **TINY), njobs=1000)

    async with asyncio.timeout(30):
        got = [len((await pull).tasks) for pull in pulls]
    assert sum(got) == 1000
    assert 200 <= got[0] <= 300


async def test_who_asks_alone_gets_everything(site: Site):
    await join(site, "west", share=100.0)
    east = await join(site, "east", share=0.0)
    await site.submit(task("a", **TINY), njobs=300)

    assert len(await east.pull(500)) == 300


async def test_owners_have_their_turns_whoever_pulls(site: Site):
    for owner in (ALICE, BOB):
        await site.submit(task("a", **TINY), njobs=1000, owner=owner)
    west = await join(site)

    lent = await west.pull(800)

    of_each = Counter(one.dataset_id for one in lent)
    assert min(of_each.values()) >= 300


# -- about datasets ------------------------------------------------------------------------


async def test_a_child_may_know_of_what_it_holds_or_might_be_lent(site: Site):
    west = await join(site)
    dataset = await site.submit(description="muons", priority=0.25)

    told = await west.about(dataset.dataset_id, 1)

    assert (told.owner, told.group, told.description, told.priority) == ("alice", "users", "muons", 0.25)
    assert told.config == await site.store.datasets.config(dataset.dataset_id, 1)
    assert (await west.about(dataset.dataset_id)).config is None
    with pytest.raises(NotFoundError):
        await west.about(dataset.dataset_id, 2)


async def test_a_child_may_not_know_of_what_is_none_of_its_business(site: Site):
    west = await join(site)
    dataset = await site.submit()
    await allow(site, dataset, never=("west",))
    with pytest.raises(NotFoundError):
        await west.about(dataset.dataset_id)

    await allow(site, dataset)
    (lent,) = await west.pull()
    await allow(site, dataset, never=("west",))
    assert (await west.about(dataset.dataset_id)).owner == "alice"  # it holds a task of it

    await west.say(finished(lent))
    with pytest.raises(NotFoundError):
        await west.about(dataset.dataset_id)
    with pytest.raises(NotFoundError):
        await west.about("nope")


# -- expiry --------------------------------------------------------------------------------


async def test_a_silent_child_loses_its_tasks_after_its_own_lease(site: Site):
    await site.submit()
    west = await join(site, lease_s=10_000.0)
    (lent,) = await west.pull()
    lease_s = site.settings.scheduling.lease_s

    site.advance(lease_s + 1)  # pilots of the site would have lost theirs
    await site.services.pilots.end_silent()
    assert await site.services.leases.expire() == 0
    assert await west.renew(*leases([lent])) == []
    site.advance(10_001.0)

    assert await site.services.leases.expire() == 1
    assert (await site.task(lent.task_id)).status is TaskStatus.WAITING
    assert await west.renew(*leases([lent])) == [lent.lease_id]


async def test_local_pilots_and_children_never_get_the_same_task(site: Site):
    await site.submit(task("a", **TINY), njobs=400)
    children = [await join(site, name) for name in ("west", "east")]
    pilots = [await site.pilot() for _ in range(8)]

    async def claims(pilot: Principal) -> list[str]:
        found = []
        while claimed := await site.claim(pilot, SMALL, max_tasks=3):
            found += [one.task.task_id for one in claimed]
        return found

    async def pulls(child: Child) -> list[str]:
        found = []
        while lent := await child.pull(20, cpu=1):
            found += [one.task_id for one in lent]
        return found

    got = await asyncio.gather(*map(claims, pilots), *map(pulls, children))

    everything = [task_id for some in got for task_id in some]
    assert len(everything) == len(set(everything)) == 400
    assert all(got[-2:])
