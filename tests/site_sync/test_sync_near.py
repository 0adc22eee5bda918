"""Tasks are lent near their data: where the files of their jobs are, if it is that site's turn anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from file_sites import Chain, Child, open_chain, open_fan, run_one
from lending_harness import finished, join
from site_harness import BOB, LARGE, Site, task
from sync_harness import make_means, peer_of

from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, ErrandStatus, Original, PeerRole, SiteRules, site_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.resources import Requirements
from iceprod.services.scheduling.ready import MOST_PASSED_OVER, WINDOW, ReadyClass
from iceprod.site_sync.as_child.nearby import MOST, Nearby
from iceprod.site_sync.as_child.parents import Parent
from iceprod.store.base import TaskClass
from iceprod.store.federation import PeerPatch

CORES = LARGE.resources.cpu
WHOLE = {"cpu": CORES}


def jobs_of(lent: list) -> list[int]:  # type: ignore[type-arg]
    return [one.job for one in lent]


# What a parent makes of it


async def test_tasks_of_jobs_that_a_site_has_files_of_go_first(site: Site):
    dataset = await site.submit(task("a"), njobs=10)
    west = await join(site)
    west.near = [(dataset.dataset_id, 7), (dataset.dataset_id, 4), ("unheard", 1), (dataset.dataset_id, 99)]

    assert jobs_of(await west.pull(4)) == [7, 4, 0, 1]

    lent = site.services.federation.lending.lent
    assert (lent["west", True], lent["west", False]) == (2, 2)


async def test_priorities_and_shares_and_steps_go_before_it(site: Site):
    low = await site.submit(task("a"), njobs=4, priority=0.1)
    high = await site.submit(task("a"), njobs=2, priority=0.9)
    west = await join(site)
    west.near = [(low.dataset_id, n) for n in range(4)]

    assert [one.dataset_id for one in await west.pull(3)] == [high.dataset_id] * 2 + [low.dataset_id]


async def test_the_next_step_of_another_job_goes_before_the_first_of_ones_own(site: Site):
    dataset = await site.submit(task("a"), task("b", "a"), njobs=3)
    east, west = await join(site, "east"), await join(site, "west")
    (first,) = await east.pull(1)
    await east.say(finished(first))
    west.near = [(dataset.dataset_id, 2)]

    assert [(one.job, one.name) for one in await west.pull(2)] == [(0, "b"), (2, "a")]


async def test_a_site_gets_no_more_by_it(site: Site):
    dataset = await site.submit(task("a"), njobs=9)
    west = await join(site, most_tasks=3)
    west.near = [(dataset.dataset_id, n) for n in range(9)]

    assert len(await west.pull(8)) == 3


async def test_what_does_not_fit_or_may_not_run_there_is_not_lent(site: Site):
    large = await site.submit(task("a", cpu=8))
    elsewhere = await site.submit(task("a"), owner=BOB)
    await site.services.datasets.set_sites(BOB, elsewhere.dataset_id, SiteRules(only=("",)))
    west = await join(site)
    west.near = [(large.dataset_id, 0), (elsewhere.dataset_id, 0)]

    assert await west.pull(5, cpu=4) == []


async def test_the_oldest_task_is_not_passed_over_for_ever(site: Site):
    number = MOST_PASSED_OVER + 5
    dataset = await site.submit(task("a"), njobs=number)
    west = await join(site)
    west.near = [(dataset.dataset_id, n) for n in range(1, number)]

    order = [one.job for _ in range(number) for one in await west.pull(1)]

    assert order.index(0) == MOST_PASSED_OVER
    assert sorted(order) == list(range(number))


async def test_tasks_near_one_site_go_to_another_that_asks(site: Site):
    dataset = await site.submit(task("a"), njobs=3)
    east, west = await join(site, "east"), await join(site, "west")
    east.near = [(dataset.dataset_id, n) for n in range(3)]

    assert len(await west.pull(3)) == 3


def test_taking_out_of_turn_keeps_no_more_than_what_waits():
    ready = ReadyClass(TaskClass(1, "D", 0, Requirements()), now=0.0)
    ready.add("D-0-0")
    for n in range(1, 20 * WINDOW):
        ready.add(f"D-{n}-0")
        assert ready.take_one(iter([f"D-{n}-0"])) or ready.take()
        for taken in list(ready.taken):
            ready.settle(taken)

    assert ready.count == 1
    assert len(ready._window) < WINDOW


# What a child says


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent and its child."""
    async with open_chain(tmp_path) as made:
        yield made


async def test_a_child_tells_of_jobs_that_it_runs_or_has_files_of(pair: Chain):
    dataset = await pair.lend(task("a", **WHOLE), njobs=4)
    nearby = pair.child.parent.taking._nearby
    with_file = await pair.running()
    assert await nearby.jobs() == [(dataset.dataset_id, 0)]
    await with_file.put(f"{with_file.job_area}/x", b"muons")
    await with_file.finish()
    await pair.pass_on()
    without = await pair.running()
    await without.finish()
    await pair.pass_on()
    assert [job for _, job in await nearby.jobs()] == [2, 1, 0]

    await pair.tell()
    await pair.pass_on()  # asks by what it knew before the last one came
    assert [job for _, job in await nearby.jobs()] == [3, 2, 0]
    pulls = [message["near"] for method, message in pair.child.wire.said if method == "site.pull"]
    assert pulls[-1] == [[dataset.dataset_id, 2], [dataset.dataset_id, 0]]

    (pair.child.site.settings.files_path / with_file.job_area / "x").unlink()
    assert [job for _, job in await nearby.jobs()] == [3, 2]


async def test_what_a_parent_took_back_is_not_told(pair: Chain):
    await pair.lend(task("a", **WHOLE))
    (its,) = await pair.child.site.store.errands.open("top", None, 10)
    await pair.child.site.store.errands.end([its.task_id], ErrandStatus.LOST, now=1.0)

    assert await pair.child.parent.taking._nearby.jobs() == []


async def test_the_next_process_knows_what_runs(pair: Chain):
    dataset = await pair.lend(task("a", **WHOLE), njobs=2)
    child = pair.child
    again = Parent(peer_of(PeerRole.PARENT, "top"), child.wire, make_means(child.site, Counter({LARGE: 1})))

    await again.taking.repair()

    assert await again.taking._nearby.jobs() == [(dataset.dataset_id, 0)]


async def test_only_the_newest_are_told(site: Site):
    errands = [
        Errand(f"M-{n}-0", "top", f"D-{n}-0", f"l{n}", "", Original("D", 1, f"D-{n}-0", n, 0, "a", 1), 1.0)
        for n in range(MOST + 50)
    ]
    await site.store.errands.add(errands)

    async def none(_: object) -> set[str]:
        return set()

    nearby = Nearby(site.store, has_files=none)
    nearby.took(errand.task_id for errand in errands)

    assert await nearby.jobs() == [("D", n) for n in range(MOST + 49, 49, -1)]


# Both


@pytest.fixture
async def fan(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent and two children that are alike."""
    async with open_fan(tmp_path) as made:
        yield made


async def work(child: Child) -> bool:
    """Pull one task and run it: it reads what the one before it has stored, and stores a file."""
    await child.take()
    open_ = await child.site.store.errands.open("top", None, 10)
    if not open_:
        return False
    (errand,) = open_
    running = await run_one(child.web)
    step = errand.original.task_index
    if step:
        assert await running.get(f"{running.job_area}/{step - 1}") == _data(errand.original.job, step - 1)
    assert await running.put(f"{running.job_area}/{step}", _data(errand.original.job, step)) == 201
    await running.finish()
    return True


def _data(job: int, step: int) -> bytes:
    return f"muons of {job} after {step}".encode() * 1000


async def ran_at(fan: Chain, dataset: Dataset, njobs: int, *, steps: int = 3) -> list[list[str]]:
    """The sites of each job's tasks."""
    tasks = fan.top.site.store.tasks
    found = []
    for job in range(njobs):
        attempts = [await tasks.attempts(f"{dataset.dataset_id}-{job}-{step}") for step in range(steps)]
        found.append([site_of(each[-1].pilot_id) for each in attempts])
    return found


async def test_chains_stay_where_they_have_begun(fan: Chain):
    east, west = fan.children
    chain = task("a", **WHOLE), task("b", "a", **WHOLE), task("c", "b", **WHOLE)
    dataset = await fan.top.site.submit(*chain, njobs=8)

    for n in range(12):
        turns = (east, west) if n % 2 else (west, east)  # who came last is first
        for child in turns:
            assert await work(child)
        for child in fan.children:
            await child.tell()

    assert set(await fan.top.site.statuses(dataset)) == {TaskStatus.COMPLETE}
    found = await ran_at(fan, dataset, 8)
    assert sum(len(set(sites)) == 1 for sites in found) >= 7, found
    assert {sites[0] for sites in found} == {"east", "west"}
    assert sum(child.tap.asked("GET") for child in fan.children) <= 2  # no file has to come down
    assert sum(fan.top.site.services.federation.lending.lent[name, True] for name in ("east", "west")) >= 14


async def test_chains_move_on_when_their_site_is_full(fan: Chain):
    east, west = fan.children
    chain = task("a", **WHOLE), task("b", "a", **WHOLE), task("c", "b", **WHOLE)
    dataset = await fan.top.site.submit(*chain, njobs=2)
    for _ in range(2):
        assert await work(east)
        await east.tell()
    assert await ran_at(fan, dataset, 1, steps=2) == [["east", "east"]]
    await fan.top.site.store.peers.update(PeerRole.CHILD, "east", PeerPatch(most_tasks=0))
    assert not await work(east)

    for _ in range(4):
        assert await work(west)
        await west.tell()

    assert set(await fan.top.site.statuses(dataset)) == {TaskStatus.COMPLETE}
    assert await ran_at(fan, dataset, 2) == [["east", "east", "west"], ["west"] * 3]
    assert west.tap.asked("GET") == 1
