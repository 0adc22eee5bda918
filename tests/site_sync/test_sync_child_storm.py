"""A child and its parent at work by themselves, over a way that loses, repeats and delays."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from site_harness import ADMIN, LARGE, Site, open_site, task
from sync_harness import Fault, Pair, Wire, join, make_parent, make_parents, open_pair

from iceprod.errors import IceProdError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus, OperationKind, PeerRole, PeerStatus, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Outcome
from iceprod.site_sync.as_parent.keeping import GRACE_S
from iceprod.site_sync.messages import Report, Statement

JOBS = 4
_METHODS = ("site.pull", "site.report", "site.renew", "site.listen", "site.dataset")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child."""
    async with open_pair(tmp_path) as made:
        yield made


@asynccontextmanager
async def sharing(site: Site, wire: Wire, room: Counter) -> AsyncIterator[None]:
    """The child's side runs by itself."""
    parents = make_parents(site, wire, room)
    running = asyncio.create_task(parents.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def until(is_so: Callable[[], object], *, between: Callable[[], object] | None = None) -> None:
    """Wait for something, doing something else meanwhile."""
    async with asyncio.timeout(20):
        while not await is_so():
            if between is not None:
                await between()
            await asyncio.sleep(0.01)


async def is_complete(site: Site, dataset: Dataset) -> bool:
    return set(await site.statuses(dataset)) == {TaskStatus.COMPLETE}


async def work(site: Site, pilot: Principal) -> None:
    """A pilot that runs whatever it gets, and drops what is not its own any more."""
    for one in await site.claim(pilot, LARGE, max_tasks=3):
        with suppress(IceProdError):
            await site.services.tasks.processing(pilot, one.task.task_id, one.task.lease_id)
            await site.finish(pilot, one.task)


@pytest.mark.expects_logs
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_lost_repeated_or_late_all_is_done_once(pair: Pair, seed: int) -> None:
    dice = random.Random(seed)
    faults = [*Fault, None, None]
    for method in _METHODS:
        pair.wire.plan[method] = deque(dice.choice(faults) for _ in range(12))
    dataset = await pair.north.submit(task("a"), task("b", "a"), njobs=JOBS)
    pilot = await pair.south.pilot()

    async def go_on() -> None:
        pair.north.advance(GRACE_S / 4)  # so that pulls that came twice or late are found out
        await work(pair.south, pilot)

    async with sharing(pair.south, pair.wire, pair.room):
        await until(lambda: is_complete(pair.north, dataset), between=go_on)
        await until(lambda: _is_over(pair))
    for place in range(2 * JOBS):
        attempts = await pair.north.store.tasks.attempts(f"{dataset.dataset_id}-{place // 2}-{place % 2}")
        assert [a.outcome for a in attempts].count(Outcome.FINISHED) == 1
    assert await pair.north.store.datasets.recount(dataset.dataset_id) == []
    assert await pair.south.store.datasets.recount((await pair.mirror()).dataset_id) == []


async def _is_over(pair: Pair) -> bool:
    backlog = await pair.south.store.outbox.backlog("north")
    return not backlog.waiting and not (await pair.errands()).get(ErrandStatus.OPEN)


@pytest.mark.expects_logs
async def test_what_ended_while_the_parent_was_away_is_told_when_it_is_back(pair: Pair) -> None:
    dataset = await pair.north.submit(njobs=3)
    pilot = await pair.south.pilot()
    async with sharing(pair.south, pair.wire, pair.room):
        await until(lambda: _has_taken(pair, 3))
        pair.wire.is_down = True
        await until(lambda: _waits(pair, 6), between=lambda: work(pair.south, pilot))
        pair.wire.is_down = False
        await until(lambda: is_complete(pair.north, dataset))


async def _has_taken(pair: Pair, tasks: int) -> bool:
    return (await pair.errands()).get(ErrandStatus.OPEN) == tasks


async def _waits(pair: Pair, operations: int) -> bool:
    return (await pair.south.store.outbox.backlog("north")).waiting == operations


async def test_parents_are_followed_as_they_come_and_go(pair: Pair) -> None:
    await pair.north.submit(njobs=3)
    peers = pair.south.store.peers
    peer = await peers.get(PeerRole.PARENT, "north")
    assert peer is not None
    await peers.drop(PeerRole.PARENT, "north")
    parents = make_parents(pair.south, pair.wire, pair.room)
    running = asyncio.create_task(parents.run())
    registry = pair.south.services.federation.registry
    await asyncio.sleep(0)
    assert parents.links == {}
    await registry.put(peer)  # as who joins does
    await until(lambda: _has_taken(pair, 3))
    assert list(parents.links) == ["north"]
    await registry.pause(ADMIN, "north", PeerRole.PARENT)
    await pair.north.submit(njobs=2)
    renewals = _count(pair, "site.renew")
    await until(lambda: _is_true(_count(pair, "site.renew") > renewals + 3))
    assert (await pair.errands()) == {ErrandStatus.OPEN: 3}
    await registry.resume(ADMIN, "north", PeerRole.PARENT)
    await until(lambda: _has_taken(pair, 5))
    await registry.put(replace(peer, status=PeerStatus.REVOKED))
    await until(lambda: _is_true(parents.links == {}))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def _is_true(found: bool) -> bool:
    return found


def _count(pair: Pair, method: str) -> int:
    return sum(name == method for name, _ in pair.wire.said)


async def test_three_sites_in_a_row(tmp_path: Path) -> None:
    """What the one in the middle was lent it lends on, under the names of the first."""
    async with AsyncExitStack() as stack:
        sites = []
        for name in ("north", "middle", "south"):
            (tmp_path / name).mkdir()
            sites.append(await stack.enter_async_context(open_site(tmp_path / name)))
        north, middle, south = sites
        room = Counter({LARGE: 1})
        upper = make_parent(middle, await join(north, middle, name="middle"), room)
        lower_wire = await join(middle, south, parent_name="middle")
        lower = make_parent(south, lower_wire, room, parent="middle")
        dataset = await north.submit(task("a"), njobs=2)
        await upper.taking.step()
        await lower.taking.step()
        pilot = await south.pilot(hostname="far")
        claimed = await south.claim(pilot, LARGE, max_tasks=2)
        told = await south.services.handout.tasks(claimed)
        assert {one.named.task_id for one in told} == {f"{dataset.dataset_id}-{job}-0" for job in range(2)}
        assert {one.named.dataset for one in told} == {dataset.number}
        await south.finish(pilot, claimed[0].task, hostname="far", walltime_s=5.0)
        await south.fail(pilot, claimed[1].task)
        await lower.sender.step()
        await upper.sender.step()
        assert sorted(await north.statuses(dataset)) == [TaskStatus.COMPLETE, TaskStatus.WAITING]
        finished = claimed[0].task.task_id
        (original,) = [one.named.task_id for one in told if one.task_id == finished]
        (attempt,) = await north.store.tasks.attempts(original)
        assert (attempt.hostname, attempt.walltime_s) == ("far", 5.0)
        # What the first takes away, the last one hears of.
        await upper.taking.step()
        await lower.taking.step()
        held = await south.one(pilot)
        await north.services.datasets.suspend(ADMIN, dataset.dataset_id)
        await upper.listening.renew()
        await lower.listening.renew()
        assert (await south.task(held.task_id)).status is TaskStatus.SUSPENDED


async def test_an_owner_hears_of_no_end_that_its_holder_did_not_tell(tmp_path: Path) -> None:
    """The one in the middle passes on only what is said by the lease that it gave."""
    async with AsyncExitStack() as stack:
        sites = []
        for name in ("north", "middle", "south"):
            (tmp_path / name).mkdir()
            sites.append(await stack.enter_async_context(open_site(tmp_path / name)))
        north, middle, south = sites
        room = Counter({LARGE: 1})
        upper = make_parent(middle, await join(north, middle, name="middle"), room)
        lower = make_parent(south, await join(middle, south, parent_name="middle"), room, parent="middle")
        await north.submit(task("a"))
        await upper.taking.step()
        await lower.taking.step()
        (held,) = await middle.store.tasks.held_by(holder_of("south"))
        inbox, child = middle.services.federation.inbox, Principal(PrincipalKind.SITE, "south")

        async def results(lease_id: str) -> list[str]:
            said = Statement("x", OperationKind.FINISHED, held.task_id, lease_id)
            return [one.result for one in (await inbox.report(child, Report([said]))).outcomes]

        assert await results("another") == ["lost"]
        assert (await middle.store.outbox.backlog("north")).waiting == 0
        assert await results(held.lease_id) == ["applied"]
        assert (await middle.store.outbox.backlog("north")).waiting == 1
