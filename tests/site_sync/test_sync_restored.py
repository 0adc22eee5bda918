"""A parent that was restored from a backup: what it forgot, its children know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from site_harness import ADMIN, CRASH, LARGE, Site, open_site, settings, task
from sync_harness import Fault, Pair, make_parents, open_pair, peer_of

from iceprod.errors import AccessDenied, ConflictError, LeaseLost, Unavailable
from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus, Peer, PeerRole, PeerStatus, SiteRules
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Outcome
from iceprod.server import backups
from iceprod.server.diagnosis import sites as diagnosis
from iceprod.site_sync.as_child import reclaiming, sender
from iceprod.site_sync.messages import Listen, Pull, Reclaim, Renew, Report
from iceprod.store.base import DatasetPatch
from iceprod.store.federation import PeerPatch

SOUTH = Principal(PrincipalKind.SITE, "south")
COMPLETE, PROCESSING, WAITING = TaskStatus.COMPLETE, TaskStatus.PROCESSING, TaskStatus.WAITING


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked again is asked soon."""
    monkeypatch.setattr(reclaiming, "GAP_S", 0.001)
    monkeypatch.setattr(sender, "LOOK_S", 0.001)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child, which speak the present version and has room for ten tasks."""
    async with open_pair(tmp_path) as made:
        made.room[LARGE] = 10
        await made.parent.greet()
        yield made


async def backup(pair: Pair, folder: Path) -> Path:
    """What the parent is now."""
    await pair.north.store.backup(folder / "backup")
    return folder / "backup"


@asynccontextmanager
async def restored(pair: Pair, copy: Path, **federation: float) -> AsyncIterator[Site]:
    """The parent as it was when the backup was made, and as it begins anew."""
    former, folder = pair.north, copy.parent / "restored"
    given = {"federation": federation}
    await backups.restore(settings(folder, **given), copy)
    async with open_site(folder, **given) as north:
        north.advance(former.clock.now - north.clock.now)
        pair.north = north
        pair.wire.lead_to(north)
        try:
            yield north
        finally:
            pair.north = former


async def run_one(pair: Pair, *, fails: bool = False) -> None:
    """A pilot of the child runs a task to its end."""
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    if fails:
        await pair.south.fail(pilot, held, CRASH)
    else:
        await pair.south.finish(pilot, held, walltime_s=60.0, hostname="worker", stats={"events": 7})


async def outcomes(site: Site, dataset: Dataset, job: int = 0, index: int = 0) -> list[Outcome]:
    """How the attempts at a task ended."""
    attempts = await site.store.tasks.attempts(f"{dataset.dataset_id}-{job}-{index}")
    return [attempt.outcome for attempt in attempts]


async def test_what_was_lent_and_ended_after_the_backup_is_not_run_again(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()
    copy = await backup(pair, tmp_path)
    await pair.take()
    await run_one(pair)
    await pair.tell()

    async with restored(pair, copy) as north:
        await pair.parent.greet()
        assert await pair.errands() == {ErrandStatus.OPEN: 1}
        await pair.renew()
        await pair.tell()

        assert await north.statuses(dataset) == [COMPLETE]
        (attempt,) = await north.store.tasks.attempts(f"{dataset.dataset_id}-0-0")
        assert (attempt.hostname, attempt.walltime_s, attempt.stats) == ("worker", 60.0, {"events": 7})
        assert await pair.errands() == {ErrandStatus.ENDED: 1}
        assert not north.services.scheduler.recovering.is_on
        assert await north.claim(await north.pilot()) == ()


async def test_what_was_lent_before_and_ended_after_the_backup_is_not_taken_back(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()
    await pair.take()
    copy = await backup(pair, tmp_path)
    await run_one(pair)
    await pair.tell()

    async with restored(pair, copy) as north:
        north.advance(1000.0)
        await pair.parent.greet()
        await pair.parent.listening.renew(is_settled=True)
        await pair.tell()

        assert await north.statuses(dataset) == [COMPLETE]
        assert await outcomes(north, dataset) == [Outcome.FINISHED]


async def test_what_was_lent_again_after_the_backup_is_held_by_the_later_lease(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()
    await pair.take()
    copy = await backup(pair, tmp_path)
    await run_one(pair, fails=True)
    await pair.tell()
    pair.north.advance(10_000.0)
    await pair.north.services.tasks.release_due()
    await pair.take()
    await run_one(pair)
    await pair.tell()
    assert await outcomes(pair.north, dataset) == [Outcome.FAILED, Outcome.FINISHED]

    async with restored(pair, copy) as north:
        await pair.parent.greet()
        await pair.tell()

        assert await north.statuses(dataset) == [COMPLETE]
        assert await outcomes(north, dataset) == [Outcome.EVICTED, Outcome.FINISHED]


async def test_what_runs_at_the_child_goes_on_by_the_same_lease(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit(njobs=2)
    copy = await backup(pair, tmp_path)
    await pair.take()
    leases = [(await pair.north.task(f"{dataset.dataset_id}-{job}-0")).lease_id for job in range(2)]

    async with restored(pair, copy) as north:
        await pair.parent.greet()
        await pair.renew()

        adopted = [await north.task(f"{dataset.dataset_id}-{job}-0") for job in range(2)]
        assert [(each.status, each.lease_id) for each in adopted] == [(PROCESSING, one) for one in leases]
        assert await north.counts(dataset) == {PROCESSING: 2}
        for _ in range(2):
            await run_one(pair)
        await pair.tell()
        assert await north.statuses(dataset) == [COMPLETE, COMPLETE]
        assert await north.services.scheduler.reconcile() is None
        assert await north.claim(await north.pilot()) == ()


async def test_nothing_is_given_out_until_the_child_has_spoken(pair: Pair, tmp_path: Path):
    dataset, home = await pair.north.submit(), await pair.north.submit()
    only_here = DatasetPatch(sites=SiteRules(only=("",)))
    await pair.north.store.datasets.update(home.dataset_id, only_here, now=1.0)
    copy = await backup(pair, tmp_path)
    await pair.take()

    async with restored(pair, copy) as north:
        await north.store.peers.put(peer_of(PeerRole.CHILD, "east"))
        east = Principal(PrincipalKind.SITE, "east")
        pilot, lending = await north.pilot(), north.services.federation.lending
        shapes = pair.parent.taking._shapes(0)
        assert await north.claim(pilot) == ()
        assert (await lending.pull(east, Pull(shapes))).tasks == []
        assert "waits for south" in north.services.scheduler.recovering.sentence
        waiting = asyncio.create_task(north.claim(pilot, wait_s=30.0))

        await pair.parent.greet()

        assert [one.task.dataset_id for one in await waiting] == [home.dataset_id]
        assert await north.counts(dataset) == {PROCESSING: 1}


async def test_it_is_not_waited_for_ever(pair: Pair, tmp_path: Path):
    await pair.north.submit(njobs=3)
    copy = await backup(pair, tmp_path)
    await pair.take()

    async with restored(pair, copy, recovery_s=60.0) as north:
        pilot, recovery = await north.pilot(), north.services.federation.recovery
        north.advance(59.0)
        await recovery.look()
        assert await north.claim(pilot) == ()
        north.advance(2.0)
        await recovery.look()
        first = await north.one(pilot)
        later = (await north.restarted()).services.federation.recovery
        assert not recovery.state.is_on
        assert not later.state.is_on

        await pair.parent.greet()
        await pair.renew()

        # Who comes late keeps what nobody else has got meanwhile.
        held = await north.store.tasks.held_by("site:south")
        assert len(held) == 2
        assert first.task_id not in [each.task_id for each in held]
        assert await pair.errands() == {ErrandStatus.OPEN: 2, ErrandStatus.LOST: 1}


@pytest.mark.parametrize("status", [PeerStatus.REVOKED, PeerStatus.LEFT])
async def test_a_site_without_children_waits_for_nobody(pair: Pair, tmp_path: Path, status: PeerStatus):
    await pair.north.submit()
    await pair.north.store.peers.update(PeerRole.CHILD, "south", PeerPatch(status=status))

    async with restored(pair, await backup(pair, tmp_path)) as north:
        assert len(await north.claim(await north.pilot())) == 1


async def test_one_that_does_not_know_of_terms_is_as_it_was(pair: Pair, tmp_path: Path):
    await pair.north.submit()
    await pair.north.store.peers.update(PeerRole.CHILD, "south", PeerPatch(protocol=1))
    copy = await backup(pair, tmp_path)
    await pair.take()
    (errand,) = await pair.south.store.errands.open("north", None, 9)

    async with restored(pair, copy) as north:
        lease = errand.parent_task_id, errand.lease_id
        renewed = await north.services.federation.lending.renew(SOUTH, Renew([lease], is_all=True))

        assert renewed.lost == [errand.lease_id]
        assert len(await north.claim(await north.pilot())) == 1


async def test_a_job_that_is_to_be_made_yet_is_waited_for(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit(fill=False)
    copy = await backup(pair, tmp_path)
    await pair.north.services.materialiser.fill(dataset.dataset_id)
    await pair.take()

    async with restored(pair, copy) as north:
        greeting = asyncio.create_task(pair.parent.greet())
        while len([1 for method, _ in pair.wire.said if method == "site.reclaim"]) < 3:
            await asyncio.sleep(0)
        assert not greeting.done()
        await north.services.materialiser.fill(dataset.dataset_id)
        await greeting

        assert await north.counts(dataset) == {PROCESSING: 1}


async def test_what_depends_on_something_that_ended_here_is_waited_for(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit(task("a"), task("b", "a"), task("c", "b"))
    copy = await backup(pair, tmp_path)
    for _ in range(2):
        await pair.take()
        await run_one(pair)
        await pair.tell()
    await pair.take()
    assert await pair.north.statuses(dataset) == [COMPLETE, COMPLETE, PROCESSING]

    async with restored(pair, copy) as north:
        await pair.parent.greet()
        await pair.renew()

        assert await north.statuses(dataset) == [COMPLETE, COMPLETE, PROCESSING]
        assert await outcomes(north, dataset, index=1) == [Outcome.FINISHED]
        assert await pair.errands() == {ErrandStatus.ENDED: 2, ErrandStatus.OPEN: 1}


async def test_what_depends_on_something_that_ended_at_home_is_run_again(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit(task("a"), task("b", "a"))
    copy = await backup(pair, tmp_path)
    pilot = await pair.north.pilot()
    await pair.north.finish(pilot, await pair.north.one(pilot))
    await pair.take()

    async with restored(pair, copy, recovery_s=0.01) as north:
        assert north.services.scheduler.recovering.is_on
        await pair.parent.greet()
        await pair.renew()

        assert await north.statuses(dataset) == [WAITING, TaskStatus.IDLE]
        assert await pair.errands() == {ErrandStatus.LOST: 1}


async def test_what_a_pilot_has_ended_since_is_not_its_own_again_before_children_have_spoken(
    pair: Pair, tmp_path: Path
):
    dataset = await pair.north.submit(task("a"), task("b", "a"))
    pilot = await pair.north.pilot()
    first = await pair.north.one(pilot)
    copy = await backup(pair, tmp_path)
    await pair.north.finish(pilot, first)
    await pair.take()

    async with restored(pair, copy, recovery_s=0.01) as north:
        assert await north.statuses(dataset) == [PROCESSING, TaskStatus.IDLE]
        assert await north.claim(pilot, held=[]) == ()
        await pair.parent.greet()
        await pair.renew()
        (again,) = await north.claim(pilot, held=[])

        assert (again.task.task_id, again.task.lease_id) == (first.task_id, first.lease_id)
        assert await pair.errands() == {ErrandStatus.LOST: 1}


async def test_a_failure_that_was_forgotten_is_not_told_again(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()
    await pair.take()
    copy = await backup(pair, tmp_path)
    await run_one(pair, fails=True)
    await pair.tell()

    async with restored(pair, copy) as north:
        await pair.parent.greet()
        north.advance(121.0)
        await pair.renew()

        assert await north.statuses(dataset) == [WAITING]
        assert await outcomes(north, dataset) == [Outcome.EVICTED]


async def test_a_lease_that_ended_before_the_backup_stays_so(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()
    await pair.take()
    (lent,) = await pair.north.store.tasks.held_by("site:south")
    await pair.north.services.tasks.evict([(lent.task_id, lent.lease_id)], "lease ran out")

    async with restored(pair, await backup(pair, tmp_path)) as north:
        await pair.parent.greet()
        await pair.renew()

        assert await north.statuses(dataset) == [WAITING]
        assert await pair.errands() == {ErrandStatus.LOST: 1}


async def test_leases_that_ended_while_nobody_was_there_are_not_over(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()
    await pair.take()

    async with restored(pair, await backup(pair, tmp_path), recovery_s=1e6) as north:
        for _ in range(20):
            north.advance(1000.0)
            await north.services.federation.recovery.look()
            await north.services.leases.expire()
        await pair.parent.greet()

        assert await outcomes(north, dataset) == []
        assert await north.statuses(dataset) == [PROCESSING]


async def test_only_what_a_child_may_hold_and_nobody_has_is_adopted(pair: Pair, tmp_path: Path):
    north = pair.north
    held, done, elsewhere = [await north.submit() for _ in range(3)]
    rules = DatasetPatch(sites=SiteRules(only=("", "east")))
    await north.store.datasets.update(elsewhere.dataset_id, rules, now=1.0)
    pilot = await north.pilot()
    by_dataset = {one.dataset_id: one for one in [await north.one(pilot) for _ in range(3)]}
    await north.finish(pilot, by_dataset[done.dataset_id])
    free = by_dataset[elsewhere.dataset_id]
    await north.services.tasks.evict([(free.task_id, free.lease_id)], "lost")
    names = [f"{dataset.dataset_id}-0-0" for dataset in (held, done, elsewhere)]
    strange = [("nope-0-0", "x"), (f"{held.dataset_id}-7-0", "y"), ("nonsense", "z")]

    async with restored(pair, await backup(pair, tmp_path)) as made:
        federation = made.services.federation
        named = [*((name, f"mine-{name}") for name in names), *strange]
        answer = await federation.adoption.reclaim(SOUTH, Reclaim(named, federation.registry.term))

        assert answer.held == []
        assert answer.later == [f"mine-{names[0]}"]  # its pilot may not come back
        assert await made.store.tasks.held_by("site:south") == []


async def test_once_all_was_said_nothing_more_is_adopted(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()

    async with restored(pair, await backup(pair, tmp_path)) as north:
        await pair.parent.greet()
        adoption, term = north.services.federation.adoption, north.services.federation.registry.term

        answer = await adoption.reclaim(SOUTH, Reclaim([(f"{dataset.dataset_id}-0-0", "mine")], term))

        assert (answer.held, answer.later) == ([], [])
        assert await north.statuses(dataset) == [WAITING]
        with pytest.raises(AccessDenied):
            await adoption.reclaim(Principal(PrincipalKind.SITE, "stranger"), Reclaim([], term))


async def test_what_is_said_in_another_term_is_not_heard(pair: Pair, tmp_path: Path):
    await pair.north.submit()
    copy = await backup(pair, tmp_path)
    await pair.take()
    await run_one(pair)
    (errand,) = await pair.south.store.errands.open("north", None, 9)

    async with restored(pair, copy) as north:
        federation = north.services.federation
        for said in (
            federation.lending.pull(SOUTH, Pull([], term=0)),
            federation.lending.renew(SOUTH, Renew([], term=0)),
            federation.lending.listen(SOUTH, Listen(term=0)),
            federation.inbox.report(SOUTH, Report([], term=0)),
            federation.adoption.reclaim(SOUTH, Reclaim([], 0, is_last=True)),
        ):
            with pytest.raises(ConflictError, match="was restored"):
                await said
        with pytest.raises(ConflictError):
            await pair.parent.sender.step()

        # Nothing of it was lost on the way.
        assert pair.parent.link.is_stale.is_set()
        assert (await pair.south.store.outbox.backlog("north")).waiting
        assert (await pair.south.store.errands.of_tasks([errand.task_id]))[errand.task_id] == errand


async def test_an_older_copy_is_not_spoken_with(pair: Pair, tmp_path: Path):
    await pair.north.submit()
    former, copy = pair.north, await backup(pair, tmp_path)
    async with restored(pair, copy) as north:
        await pair.parent.greet()
        known = await pair.south.store.peers.get(PeerRole.PARENT, "north")
        assert known is not None
        assert (await south_of(north)).term == known.term > 0
    pair.wire.lead_to(former)

    with pytest.raises(ConflictError, match="an older copy of"):
        await pair.take()
    with pytest.raises(Unavailable, match="an older copy of north answers"):
        await pair.parent.greet()

    assert "older copy" in pair.wire.distrusted[0]
    assert await former.store.tasks.held_by("site:south") == []


async def south_of(north: Site) -> Peer:
    found = await north.store.peers.get(PeerRole.CHILD, "south")
    assert found is not None
    return found


@pytest.mark.parametrize("cut", range(1, 6))
async def test_it_is_said_again_from_the_beginning_if_it_was_cut_off(pair: Pair, tmp_path: Path, cut: int):
    dataset = await pair.north.submit(njobs=3)
    copy = await backup(pair, tmp_path)
    await pair.take()
    await run_one(pair)
    await pair.tell()

    async with restored(pair, copy) as north:
        faults = [Fault.UNANSWERED, Fault.LOST, Fault.TWICE, Fault.LATE]
        pair.wire.then("site.reclaim", *[None] * (cut // 2), faults[cut % 4])
        for _ in range(3):
            with suppress(Unavailable):
                await pair.parent.greet()
            await pair.restart_south()
        await pair.parent.greet()
        await pair.renew()
        await pair.tell()

        assert await north.counts(dataset) == {COMPLETE: 1, PROCESSING: 2}
        assert [await outcomes(north, dataset, job) for job in range(3)].count([Outcome.FINISHED]) == 1


async def test_a_child_that_runs_finds_out_by_itself(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit(njobs=4)
    copy = await backup(pair, tmp_path)
    pair.room[LARGE] = 2
    parents = make_parents(pair.south, pair.wire, pair.room)
    running = asyncio.create_task(parents.run())
    await until(lambda: waiting(pair.south), 2)
    await run_one(pair)
    pair.room.clear()

    async with restored(pair, copy) as north:
        pair.room[LARGE] = 10
        await until(lambda: number(north, dataset, COMPLETE), 1)
        await until(lambda: north.store.tasks.count_held("site:south"), 3)
        assert [await outcomes(north, dataset, job) for job in range(4)].count([Outcome.FINISHED]) == 1
        await until(lambda: ended(pair), 1)
        assert await pair.errands() == {ErrandStatus.OPEN: 3, ErrandStatus.ENDED: 1}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def waiting(site: Site) -> int:
    return sum((await site.store.tasks.ready_counts()).values())


async def ended(pair: Pair) -> int:
    return (await pair.errands()).get(ErrandStatus.ENDED, 0)


async def number(north: Site, dataset: Dataset, status: TaskStatus) -> int:
    return (await north.counts(dataset)).get(status, 0)


async def until(look: Callable[[], Awaitable[int]], wanted: int) -> None:
    async with asyncio.timeout(20):
        while await look() < wanted:
            await asyncio.sleep(0.01)


async def test_files_of_leases_that_may_be_true_are_asked_for_again(pair: Pair, tmp_path: Path):
    await pair.north.submit()
    copy = await backup(pair, tmp_path)
    await pair.take()
    (lent,) = await pair.north.store.tasks.held_by("site:south")
    caller = Principal(PrincipalKind.TASK, lent.task_id, lease_id=lent.lease_id)

    async with restored(pair, copy) as north:
        with pytest.raises(Unavailable, match="waits for south"):
            await north.services.files.check_lease(caller)
        with pytest.raises(Unavailable):
            await north.services.origins._reach.of(caller)
        await pair.parent.greet()

        await north.services.files.check_lease(caller)
        stranger = Principal(PrincipalKind.TASK, lent.task_id, lease_id="other")
        with pytest.raises(LeaseLost):
            await north.services.files.check_lease(stranger)


async def test_everybody_is_told_for_whom_is_waited(pair: Pair, tmp_path: Path):
    dataset = await pair.north.submit()

    async with restored(pair, await backup(pair, tmp_path)) as north:
        told = await said_of_recovery(north, f"{dataset.dataset_id}-0-0")
        assert "The site was restored and waits for south to say what it holds." in told
        assert len(told) == 4

        await pair.parent.greet()

        assert await said_of_recovery(north, f"{dataset.dataset_id}-0-0") == []


async def said_of_recovery(north: Site, task_id: str) -> list[str]:
    """What "why", the list of sites, their page and the doctor say of it."""
    services = north.services
    (known,) = await services.federation.registry.all(ADMIN)
    (standing,) = await services.sites.overview.sites(ADMIN)
    found = [
        *(await services.why.task(ADMIN, task_id)).sentences,
        known.state.reason,
        *(alert.message for alert in standing.alerts),
        *(finding.message for finding in await diagnosis.look(north.store, north.settings)),
    ]
    return [each for each in found if "restored" in each]
