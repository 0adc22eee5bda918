"""A child leaves its parent: what waits goes back, what runs ends, and all is told before the good-bye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from site_harness import ADMIN, LARGE, Site, open_site, task
from sync_harness import Fault, Pair, join, make_parent, make_parents, open_pair

from iceprod.errors import InvalidTransition
from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus, OperationKind, PeerRole, PeerStatus
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.principal import Principal
from iceprod.model.task import Task
from iceprod.site_sync.as_child.parents import Parents
from iceprod.store.federation import PeerPatch


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child."""
    async with open_pair(tmp_path) as made:
        yield made


async def take(pair: Pair, jobs: int) -> Dataset:
    """Have so many tasks of a dataset lent."""
    dataset = await pair.north.submit(task("only"), njobs=jobs)
    pair.room[LARGE] = jobs
    await pair.take()
    assert await pair.errands() == {ErrandStatus.OPEN: jobs}
    pair.room.clear()
    return dataset


async def stand(site: Site, role: PeerRole, name: str) -> PeerStatus:
    """How a site stands at another."""
    found = await site.store.peers.get(role, name)
    assert found is not None
    return found.status


async def begin_to_leave(pair: Pair, *, at_once: bool = False) -> None:
    """What the command does."""
    patch = PeerPatch(status=PeerStatus.LEAVING, at_once=at_once)
    assert await pair.south.store.peers.update(PeerRole.PARENT, "north", patch)


@asynccontextmanager
async def sharing(pair: Pair) -> AsyncIterator[Parents]:
    """The child's side running by itself."""
    parents = make_parents(pair.south, pair.wire, pair.room)
    running = asyncio.create_task(parents.run())
    try:
        yield parents
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def soon(happened: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20.0):
        while not await happened():
            await asyncio.sleep(0.005)


async def has_left(pair: Pair) -> bool:
    return await stand(pair.south, PeerRole.PARENT, "north") is PeerStatus.LEFT


async def run(pair: Pair, number: int) -> list[tuple[Principal, Task]]:
    """Have pilots of the child begin with some tasks."""
    pilots = [await pair.south.pilot() for _ in range(number)]
    return [(pilot, await pair.south.one(pilot)) for pilot in pilots]


async def test_what_waits_goes_back_what_runs_ends_and_all_is_told(pair: Pair) -> None:
    dataset = await take(pair, 4)
    (first, held), (second, running) = await run(pair, 2)
    await pair.south.finish(first, held)  # which nobody has told yet
    await begin_to_leave(pair)
    async with sharing(pair):
        await soon(lambda: waits_at(pair.north, dataset, 2))
        assert not await has_left(pair)
        assert (await pair.north.counts(dataset))[TaskStatus.COMPLETE] == 1
        assert await stand(pair.north, PeerRole.CHILD, "south") is PeerStatus.JOINED

        await pair.south.finish(second, running)
        await soon(lambda: has_left(pair))

    counts = await pair.north.counts(dataset)
    assert (counts[TaskStatus.COMPLETE], counts[TaskStatus.WAITING]) == (2, 2)
    assert await stand(pair.north, PeerRole.CHILD, "south") is PeerStatus.LEFT
    assert await pair.errands() == {ErrandStatus.ENDED: 4}
    assert (await pair.south.store.outbox.backlog("north")).waiting == 0
    assert [method for method, _ in pair.wire.said if method == "site.pull"] == ["site.pull"]


async def waits_at(site: Site, dataset: Dataset, number: int) -> bool:
    return (await site.counts(dataset)).get(TaskStatus.WAITING, 0) == number


async def test_at_once_what_runs_goes_back_too_but_what_has_ended_is_told(pair: Pair) -> None:
    dataset = await take(pair, 3)
    (first, held), _ = await run(pair, 2)
    await pair.south.finish(first, held)
    await begin_to_leave(pair, at_once=True)
    async with sharing(pair):
        await soon(lambda: has_left(pair))

    counts = await pair.north.counts(dataset)
    assert (counts[TaskStatus.COMPLETE], counts[TaskStatus.WAITING]) == (1, 2)
    left = await pair.south.counts(await pair.mirror())
    assert (left[TaskStatus.COMPLETE], left[TaskStatus.SUSPENDED]) == (1, 2)


async def test_a_task_whose_pilot_has_gone_goes_back_instead_of_beginning_again(pair: Pair) -> None:
    dataset = await take(pair, 1)
    ((_, held),) = await run(pair, 1)
    await begin_to_leave(pair)
    async with sharing(pair):
        await soon(lambda: said(pair, "site.renew"))
        await pair.south.services.tasks.evict([(held.task_id, held.lease_id)], "the pilot has gone")
        await soon(lambda: has_left(pair))
    assert await waits_at(pair.north, dataset, 1)


async def said(pair: Pair, method: str) -> bool:
    return any(each == method for each, _ in pair.wire.said)


async def test_leaving_goes_on_in_the_next_process(pair: Pair) -> None:
    dataset = await take(pair, 2)
    ((pilot, held),) = await run(pair, 1)
    await begin_to_leave(pair)
    pair.wire.is_down = True
    async with sharing(pair):
        await soon(lambda: waiting_reports(pair))
    await pair.restart_south()
    pair.wire.is_down = False
    async with sharing(pair):
        await soon(lambda: waits_at(pair.north, dataset, 1))
        await pair.south.finish(pilot, held)
        await soon(lambda: has_left(pair))
    assert (await pair.north.counts(dataset))[TaskStatus.COMPLETE] == 1


async def waiting_reports(pair: Pair) -> bool:
    queued = await pair.south.store.outbox.next("north", 0, 10)
    return OperationKind.RETURNED in {one.operation.kind for one in queued}


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNANSWERED])
async def test_a_good_bye_that_is_lost_is_said_again(pair: Pair, fault: Fault) -> None:
    pair.wire.then("site.leave", fault, fault)
    await begin_to_leave(pair)
    async with sharing(pair):
        await soon(lambda: has_left(pair))
    assert await stand(pair.north, PeerRole.CHILD, "south") is PeerStatus.LEFT


async def test_who_has_been_revoked_meanwhile_leaves_all_the_same(pair: Pair) -> None:
    await pair.north.services.federation.registry.revoke(ADMIN, "south")
    await begin_to_leave(pair)
    async with sharing(pair):
        await soon(lambda: has_left(pair))
    assert await stand(pair.north, PeerRole.CHILD, "south") is PeerStatus.REVOKED


async def test_a_parent_that_is_left_no_more_lends_again(pair: Pair) -> None:
    dataset = await take(pair, 2)
    ((pilot, held),) = await run(pair, 1)
    await begin_to_leave(pair)
    registry = pair.south.services.federation.registry
    async with sharing(pair):
        await soon(lambda: waits_at(pair.north, dataset, 1))
        with pytest.raises(InvalidTransition):
            await registry.pause(ADMIN, "north")
        peer = await registry.resume(ADMIN, "north")
        assert (peer.status, peer.at_once) == (PeerStatus.JOINED, False)
        pair.room[LARGE] = 1
        await soon(lambda: waits_at(pair.north, dataset, 0))
        pair.room.clear()
        await pair.south.finish(pilot, held)
    assert await stand(pair.north, PeerRole.CHILD, "south") is PeerStatus.JOINED


@pytest.mark.expects_logs
async def test_a_report_that_was_refused_is_decided_about_first(pair: Pair) -> None:
    dataset = await take(pair, 1)
    ((pilot, held),) = await run(pair, 1)
    await pair.south.finish(pilot, held)
    (queued, *_) = (
        one
        for one in await pair.south.store.outbox.next("north", 0, 10)
        if one.operation.kind is OperationKind.FINISHED
    )
    await pair.south.store.outbox.bury("north", queued.number, "it makes no sense", now=1.0)
    await begin_to_leave(pair)
    async with sharing(pair) as parents:
        await soon(lambda: said(pair, "site.renew"))
        assert not await has_left(pair)
        assert await parents.means.outbox.revive(queued.number, peer="north")
        await soon(lambda: has_left(pair))
    assert (await pair.north.counts(dataset))[TaskStatus.COMPLETE] == 1


async def test_at_once_nobody_decides_about_reports_that_were_refused(pair: Pair) -> None:
    dataset = await take(pair, 1)
    ((pilot, held),) = await run(pair, 1)
    await pair.south.finish(pilot, held)
    for queued in await pair.south.store.outbox.next("north", 0, 10):
        await pair.south.store.outbox.bury("north", queued.number, "it makes no sense", now=1.0)
    await begin_to_leave(pair, at_once=True)
    async with sharing(pair):
        await soon(lambda: has_left(pair))
    assert await waits_at(pair.north, dataset, 1)
    assert not (await pair.south.store.outbox.dead("north", Page(10))).items


async def test_tasks_of_a_parent_that_was_left_are_stopped(pair: Pair) -> None:
    await take(pair, 2)
    ((pilot, held),) = await run(pair, 1)
    await pair.south.finish(pilot, held)
    forgotten: list[str] = []
    left = PeerPatch(status=PeerStatus.LEFT)
    async with sharing(pair) as parents:
        object.__setattr__(parents.means, "forget", forgotten.append)
        pair.wire.is_down = True
        await soon(lambda: is_linked(parents))
        await pair.south.store.peers.update(PeerRole.PARENT, "north", left)
        await soon(lambda: nothing_to_tell(pair))
        await soon(lambda: is_linked(parents, wanted=False))
    assert forgotten == ["north"]
    assert sorted(await pair.south.statuses(await pair.mirror())) == ["complete", "suspended"]
    assert await pair.errands() == {ErrandStatus.LOST: 2}


async def is_linked(parents: Parents, *, wanted: bool = True) -> bool:
    return bool(parents.links) is wanted


async def nothing_to_tell(pair: Pair) -> bool:
    return (await pair.south.store.outbox.backlog("north")).waiting == 0


async def test_what_was_lent_on_goes_on_while_the_site_between_leaves(tmp_path: Path, pair: Pair) -> None:
    (tmp_path / "deep").mkdir()
    async with open_site(tmp_path / "deep") as deep:
        wire = await join(pair.south, deep, parent_name="south", name="deep")
        dataset = await take(pair, 1)
        below = make_parent(deep, wire, pair.room, parent="south")
        pair.room[LARGE] = 1
        await below.taking.step()
        pair.room.clear()
        pilot = await deep.pilot()
        held = await deep.one(pilot)

        await begin_to_leave(pair)
        async with sharing(pair):
            await soon(lambda: said(pair, "site.renew"))
            await below.listening.renew()
            await deep.finish(pilot, held)
            while (await deep.store.outbox.backlog("south")).waiting:
                await below.sender.step()
            await soon(lambda: has_left(pair))
        assert (await pair.north.counts(dataset))[TaskStatus.COMPLETE] == 1
