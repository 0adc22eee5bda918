"""News between processes: told in order, heard once, and made up for when missing."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_sharing import MemorySharing
from site_harness import ADMIN, ALICE, LARGE, Site, ids, spread, task

from iceprod.errors import LeaseLost, StoreUnavailable
from iceprod.model.principal import Principal
from iceprod.model.resources import Requirements, Resources
from iceprod.model.task import Task
from iceprod.services import bulletin, news
from iceprod.services.bulletin import Bulletin, Draft, decode, encode
from iceprod.services.events import Event, EventKind
from iceprod.services.scheduling import ready
from iceprod.services.scheduling.ready import ReadyIndex, Stripe
from iceprod.store.base import Message, TaskClass

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


def sharing_of(site: Site) -> MemorySharing:
    sharing = site.store.sharing
    assert isinstance(sharing, MemorySharing)
    return sharing


async def test_a_silent_process_tells_every_second_that_it_lives(sites_of):
    here, there = await sites_of(2)
    assert await here.services.news.tell() == 0
    here.monotonic.advance(1.0)
    assert await here.services.news.tell() == 1
    assert await there.services.news.poll() == 1
    assert there.services.news.processes == 2


async def test_a_number_that_is_missing_has_everything_read_again(sites_in_memory):
    here, there = await sites_in_memory(2)
    dataset = await here.submit(njobs=2)
    await here.services.news.tell()
    del sharing_of(here).messages[here.services.news.process_id][2]
    await here.services.accounts.create_user(ADMIN, "carol", "correct horse battery")
    here.monotonic.advance(1.0)
    await here.services.news.tell()
    await there.services.news.poll()
    assert there.services.news.looks == 1
    assert len(ids(await there.claim(await there.pilot(), max_tasks=5))) == 2
    assert there.services.catalogue.at_hand(dataset.dataset_id) is not None


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"version":2,"more":"news"}', b'{"version":1,"gone":7}', b"\xff"]
)
async def test_a_message_that_is_not_understood_has_everything_read_again(sites_in_memory, body):
    here, there = await sites_in_memory(2)
    await here.submit()
    await sharing_of(here).publish([Message("newer", 1, body)])
    await there.services.news.poll()
    assert there.services.news.looks == 1
    assert there.services.news.processes == 3, "it lives, whatever it says"
    assert await there.claim(await there.pilot())


async def test_a_message_that_comes_twice_is_heard_once(sites_in_memory):
    here, there = await sites_in_memory(2)
    await here.submit()
    await spread(here, there)
    heard = there.services.news.heard
    since = sharing_of(there).since

    async def doubled(seen, limit):
        found = await since({**seen, here.services.news.process_id: 0}, limit)
        return [*found, *found]

    sharing_of(there).since = doubled
    await there.services.news.poll()
    assert there.services.news.heard == heard
    assert there.services.news.looks == 0


async def test_a_store_that_is_away_loses_no_news(sites_in_memory):
    here, there = await sites_in_memory(2)
    dataset = await here.submit()
    sharing_of(here).is_away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await here.services.news.tell()
        with pytest.raises(StoreUnavailable):
            await there.services.news.poll()
        here.monotonic.advance(1.0)
    sharing_of(here).is_away = False
    await spread(here, there)
    assert there.services.news.looks == 0
    assert ids(await there.claim(await there.pilot())) == [f"{dataset.dataset_id}-0-0"]


async def test_after_a_long_outage_nothing_is_believed_and_nobody_expires(sites_of):
    here, there = await sites_of(2)
    await here.submit(njobs=2)
    pilot = await here.pilot()
    await spread(here, there)
    here.advance(1000)
    held = await here.one(pilot)
    for _ in range(40):
        here.advance(10)  # in which nobody could renew a lease
    await spread(here, there)
    assert there.services.news.looks == 1
    await there.services.duty.step()
    assert await there.services.leases.expire() == 0
    await there.services.pilots.heartbeat(pilot, [(held.task_id, held.lease_id)])
    for _ in range(31):
        here.advance(9.9)
        await spread(here, there)
    await there.services.duty.step()
    assert await there.services.leases.expire() == 1, "of whom nothing was heard since then"


async def test_too_much_to_tell_is_left_for_others_to_look_at(sites_of, monkeypatch):
    monkeypatch.setattr(bulletin, "MAX_ITEMS", 10)
    here, there = await sites_of(2)
    await here.submit(task("a", **TINY), njobs=30)
    await spread(here, there)
    assert there.services.news.looks == 1
    assert len(await there.claim(await there.pilot(), max_tasks=8)) == 8


async def test_processes_that_are_gone_for_long_are_forgotten(sites_in_memory):
    here, there = await sites_in_memory(2)
    for _ in range(4):
        here.monotonic.advance(news.FORGET_S / 3)
        await here.services.news.tell()
        await here.services.news.poll()
    await here.services.news.forget_gone()
    assert set(sharing_of(here).numbers) == {here.services.news.process_id}
    here.monotonic.advance(1.0)
    looks = here.services.news.looks
    await there.services.news.tell()  # it was only asleep
    await here.services.news.poll()
    assert here.services.news.processes == 2
    assert here.services.news.looks == looks + 1


async def test_news_are_told_at_once_and_heard_within_a_moment(sites_of):
    here, there = await sites_of(2)
    loops = [
        asyncio.create_task(run())
        for site in (here, there)
        for run in (site.services.news.keep_telling, site.services.news.keep_hearing)
    ]
    pilot = await there.pilot()
    claim = asyncio.create_task(there.services.pilots.claim(pilot, LARGE, max_tasks=1, wait_s=30.0))
    dataset = await here.submit()
    async with asyncio.timeout(60):
        assert ids((await claim).tasks) == [f"{dataset.dataset_id}-0-0"]
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


@pytest.mark.expects_logs
async def test_trouble_is_logged_once_and_the_loops_go_on(sites_in_memory, caplog, monkeypatch):
    monkeypatch.setattr(news, "GAP_S", 0.001)
    monkeypatch.setattr(news, "POLL_S", 0.001)
    here, there = await sites_in_memory(2)
    sharing_of(here).is_away = True
    hearing = asyncio.create_task(there.services.news.keep_hearing())
    await asyncio.sleep(0.05)
    sharing_of(here).is_away = False
    here.services.events.publish(Event(EventKind.TASKS_MOVED, "d"))
    await here.services.news.tell()
    heard = there.services.news.heard
    async with asyncio.timeout(60):
        while there.services.news.heard == heard:
            await asyncio.sleep(0.001)
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    assert caplog.text.count("news cannot be heard") == 1


def test_what_nobody_heard_of_and_is_over_is_not_told():
    draft = Draft(is_alone=False)
    draft.released([("d-0-0", 1), ("d-1-0", 1)])
    draft._tasks.gone("d-0-0", 1)
    draft._tasks.gone("d-2-0", 1)
    draft.released([("d-2-0", 1)])
    told = draft.take()
    assert told.ready == {1: ["d-1-0", "d-2-0"]}
    assert told.gone == {}
    assert not draft.filled.is_set()


def test_a_process_that_is_alone_writes_nothing_down():
    draft = Draft(is_alone=True)
    draft.released([("d-0-0", 1)])
    draft.happened(Event(EventKind.TASKS_MOVED, "d"))
    with draft.quietly():
        pass
    draft.learnt([TaskClass(1, "d", 0, Requirements())])
    assert not draft.filled.is_set()
    assert draft.take() == Bulletin()


def test_a_bulletin_comes_back_as_it_was_told():
    told = Bulletin(
        is_leaving=True,
        classes=[TaskClass(2**63 - 1, "d", 0, Requirements(Resources(cpu=2), os=("x",), site="y"))],
        gone={2**63 - 1: ["d-0-0"]},
        ready={-5: ["d-1-0"]},
        charges=[("users", "alice", -1.0, 2.5)],
        events=[(EventKind.TASKS_MOVED, "d")],
    )
    assert decode(encode(told)) == told


# -- all of it, whatever goes wrong -----------------------------------------------------------


class Trouble:
    """Three processes to which everything happens in an order that chance decides."""

    def __init__(self, sites: list[Site], seed: int) -> None:
        self.sites = sites
        self.random = random.Random(seed)
        self.pilots: list[Principal] = []
        self.datasets: list[str] = []
        self.held: list[tuple[Principal, Task]] = []

    async def submits(self, site: Site) -> None:
        tasks = [task("a", **TINY), task("b", "a", **TINY)]
        dataset = await site.submit(*tasks[: self.random.randint(1, 2)], njobs=self.random.randint(1, 6))
        self.datasets.append(dataset.dataset_id)

    async def claims(self, site: Site) -> None:
        pilot = self.random.choice(self.pilots)
        self.held += [(pilot, claimed.task) for claimed in await site.claim(pilot, max_tasks=3)]

    async def ends(self, site: Site) -> None:
        if self.held:
            pilot, held = self.held.pop(self.random.randrange(len(self.held)))
            with suppress(LeaseLost):
                if self.random.random() < 0.6:
                    await site.finish(pilot, held)
                else:
                    await site.services.tasks.release(pilot, held.task_id, held.lease_id, "")

    async def steers(self, site: Site) -> None:
        if self.datasets:
            do = self.random.choice([site.services.datasets.suspend, site.services.datasets.resume])
            await do(ALICE, self.random.choice(self.datasets))

    async def tells(self, site: Site) -> None:
        with suppress(StoreUnavailable):
            await site.services.news.tell()

    async def hears(self, site: Site) -> None:
        with suppress(StoreUnavailable):
            await site.services.news.poll()

    async def loses(self, site: Site) -> None:
        """A message that not everybody has heard."""
        kept = sharing_of(site).messages.get(site.services.news.process_id)
        if kept:
            del kept[self.random.choice(list(kept))]

    async def is_cut_off(self, site: Site) -> None:
        sharing_of(site).is_away = not sharing_of(site).is_away

    async def goes_by(self, site: Site) -> None:
        site.advance(self.random.choice([0.3, 1.0, 4.0]))

    async def happens(self) -> None:
        usual = [
            self.submits,
            self.claims,
            self.claims,
            self.ends,
            self.ends,
            self.tells,
            self.hears,
            self.hears,
        ]
        unusual = [self.steers, self.loses, self.is_cut_off, self.goes_by]
        what = self.random.choice(usual if self.random.random() < 0.8 else unusual)
        await what(self.random.choice(self.sites))


@pytest.mark.parametrize("seed", range(6))
async def test_in_the_end_every_process_hands_out_all_that_waits(sites_in_memory, seed, monkeypatch):
    if seed % 2:
        monkeypatch.setattr(ready, "WINDOW", 4)
    sites = await sites_in_memory(3)
    trouble = Trouble(sites, seed)
    trouble.pilots = [await site.pilot() for site in sites]
    for _ in range(150):
        await trouble.happens()

    sharing_of(sites[0]).is_away = False
    for _ in sites:
        sites[0].advance(1.0)
        await spread(*sites)
    for dataset_id in trouble.datasets:
        await sites[0].services.datasets.resume(ALICE, dataset_id)
    await spread(*sites)
    for site in sites:
        await site.services.scheduler.recheck()
    last = trouble.random.choice(sites)
    store = {class_id for class_id, count in (await last.store.tasks.ready_counts()).items() if count}
    assert store <= {
        class_id for class_id, held in last.services.scheduler._ready.classes.items() if held.count
    }
    for _ in range(2):
        while await last.claim(trouble.pilots[0], max_tasks=50):
            pass
        await last.services.scheduler.recheck()
    assert await last.store.tasks.ready_counts() == {}


# -- stripes and windows, whatever comes in whatever order ------------------------------------

tasks = [f"d-{job}-0" for job in range(12)]
happenings = st.lists(
    st.tuples(st.sampled_from(["ready", "gone", "take", "share", "load"]), st.sampled_from(tasks))
)


@settings(max_examples=200)
@given(st.sets(st.sampled_from(tasks)), happenings)
async def test_an_index_that_hears_anything_still_hands_out_all_that_waits(waiting, heard):
    """News may be late, doubled or wrong: the store decides, and nothing of it is left over."""

    class Tasks:
        async def ready(self, class_id: int, after: str | None, limit: int) -> list[str]:
            return sorted(waiting)[:limit]

    index = ReadyIndex(Tasks(), lambda: 0.0, on_new_class=lambda: None)
    index.learn([TaskClass(1, "d", 0, Requirements())])
    index.load({1: len(waiting)} if waiting else {})
    ranks = itertools.cycle([(0, 2), (1, 3), (0, 1)])
    for what, task_id in heard:
        if what == "ready":
            index.add(task_id, 1)
        elif what == "gone":
            index.remove(task_id, 1)
        elif what == "share":
            index.share(*next(ranks))
        elif what == "load":
            index.load({1: len(waiting)} if waiting else {})
        elif 1 in index.classes and (taken := index.classes[1].take()) is not None:
            index.classes[1].settle(taken)
            waiting.discard(taken)
        known = index.classes.get(1)
        assert known is None or known.count >= len(known._members)
        await asyncio.sleep(0)
    index.reload({1: len(waiting)} if waiting else {})
    found = set()
    while (known := index.classes.get(1)) is not None and known.count:
        taken = known.take()
        if taken is None:
            await index.start_refill(known)
        else:
            known.settle(taken)
            found.add(taken)
    assert found >= waiting


def test_stripes_divide_all_jobs_and_keep_tasks_of_a_job_together():
    for of in (2, 3, 7):
        stripes = [Stripe(rank, of) for rank in range(of)]
        for job in range(200):
            owners = {
                rank for rank, stripe in enumerate(stripes) for n in range(3) if stripe.has(f"d-{job}-{n}")
            }
            assert len(owners) == 1
        shares = [sum(stripe.has(f"d-{job}-0") for job in range(7000)) for stripe in stripes]
        assert max(shares) < 1.2 * min(shares)
