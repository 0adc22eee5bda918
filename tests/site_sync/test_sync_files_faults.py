"""Files of other sites' tasks where something is wrong: slow ways, full disks, ends in the middle."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from file_sites import Chain, decoded, open_chain, put
from site_harness import ADMIN, task

from iceprod.errors import Unavailable
from iceprod.model.federation import ErrandStatus, PeerRole
from iceprod.model.file import Quota
from iceprod.model.lifecycle import TaskEvent
from iceprod.services.temp_areas import TempAreas, TempLimits
from iceprod.site_sync.files import fetching as file_fetching
from iceprod.store.base import Store

BIG = os.urandom(3_000_000)
HOUR = 3600.0


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent and its child."""
    async with open_chain(tmp_path) as made:
        yield made


def left(web) -> list[str]:
    """What lies in a site's areas, and in the place of what is coming."""
    root = web.site.settings.files_path
    found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if path.parts[0] not in (".digests",))


def without_rests(pair: Chain) -> None:
    """Have a long time go by between files that fail."""
    pair.child.parent.sender._files._steady = count(step=1000).__next__


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_reader_of_what_takes_long_is_told_to_come_again(
    pair: Chain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(file_fetching, "PATIENCE_S", 0.1)
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    pair.child.tap.gate.clear()

    answer = await running.send("GET", f"{running.job_area}/in")

    assert (answer.code, answer.headers["Retry-After"]) == (503, "5")
    pair.child.tap.gate.set()
    await until(lambda: f"{running.job_area}/in" in left(pair.child.web))
    assert await running.get(f"{running.job_area}/in") == BIG
    assert pair.child.tap.asked("GET") == 1


async def test_a_stop_leaves_nothing_of_what_was_coming(pair: Chain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_fetching, "PATIENCE_S", 0.1)
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    pair.child.tap.gate.clear()
    assert await running.get(f"{running.job_area}/in") == 503

    await pair.child.site.services.federation.files.close()

    assert left(pair.child.web) == []


async def test_a_full_disk_here_is_told_and_got_over(pair: Chain):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    tree = pair.child.site.services.files.tree
    tree._keep_free_bytes = 1 << 60

    answer = await running.send("GET", f"{running.job_area}/in")

    assert (answer.code, decoded(answer)["error"]["detail"]["reason"]) == (507, "storage_full")
    assert left(pair.child.web) == []
    tree._keep_free_bytes = 0
    assert await running.get(f"{running.job_area}/in") == BIG


async def test_a_full_disk_there_is_waited_for(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"muons")
    await running.finish()
    tree = pair.top.site.services.files.tree
    tree._keep_free_bytes = 1 << 60
    without_rests(pair)

    for _ in range(8):
        with pytest.raises(Unavailable):
            await pair.tell()

    tree._keep_free_bytes = 0
    await pair.tell()
    assert left(pair.top) == [f"job_temp/{dataset.dataset_id}/0/a"]


@pytest.mark.expects_logs
async def test_a_file_that_always_comes_broken_is_given_up(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", BIG)
    without_rests(pair)

    for _ in range(4):
        pair.child.tap.flip_up = 500_000
        with pytest.raises(Unavailable, match="422"):
            await pair.tell()
    pair.child.tap.flip_up = 500_000
    await pair.tell()

    assert left(pair.top) == []
    (attempt,) = await pair.top.site.store.tasks.attempts(f"{dataset.dataset_id}-0-0")
    assert attempt.summary == "a: 127.0.0.1 answered 422"


async def test_more_than_may_be_kept_here_is_not_fetched(pair: Chain):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    quotas = pair.child.site.services.quotas
    await quotas.set(ADMIN, Quota("group", "@top", 1000))

    answer = await running.send("GET", f"{running.job_area}/in")

    assert (answer.code, decoded(answer)["error"]["code"]) == (403, "quota_exceeded")
    assert pair.child.tap.asked("GET") == 0
    await quotas.set(ADMIN, Quota("group", "@top"))
    assert await running.get(f"{running.job_area}/in") == BIG
    assert (await pair.child.site.store.files.stored("group", "@top")).bytes_kept == len(BIG)


async def test_a_parent_that_is_none_any_more_is_as_one_that_is_away(pair: Chain):
    await pair.lend(task("gen"))
    running = await pair.running()
    await pair.child.site.store.peers.drop(PeerRole.PARENT, "top")

    assert await running.get(f"{running.job_area}/in") == 503


async def test_readers_of_one_errand_do_not_fail_by_another_ones_lease(pair: Chain):
    dataset = await pair.lend(task("gen", cpu=8), njobs=2)
    await put(pair.top, f"dataset_temp/{dataset.dataset_id}/x", BIG)
    one = await pair.running()
    await pair.pass_on()
    two = await pair.running()
    pair.child.tap.gate.clear()
    fetching = pair.child.site.services.federation.files._fetching
    first = asyncio.create_task(one.get(f"{one.dataset_area}/x"))
    await until(lambda: fetching._coming)
    second = asyncio.create_task(two.get(f"{two.dataset_area}/x"))
    await asyncio.sleep(0.1)
    await pair.top.site.services.tasks.change_all(TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])

    pair.child.tap.gate.set()

    assert await asyncio.gather(first, second) == [409, BIG]


# What goes


def areas_of(chain: Chain) -> TempAreas:
    site = chain.child.site
    limits = TempLimits(job_keep_s=HOUR, dataset_keep_s=24 * HOUR, site_keep_s=None)
    services = site.services
    return TempAreas(site.store, services.files, services.file_catalogue, clock=site.clock, limits=limits)


async def test_what_is_not_sent_yet_stays_however_long_its_task_has_been_complete(pair: Chain):
    await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"1")
    await running.put(f"{running.dataset_area}/b", b"2")
    await running.finish()
    pair.child.site.clock.now = time.time() + 100 * 24 * HOUR

    early = await areas_of(pair).clean()
    await pair.tell()
    soon = await areas_of(pair).clean()
    pair.child.site.advance(HOUR + 1)
    late = await areas_of(pair).clean()

    assert early == []
    assert [each.path for each in soon] == [running.dataset_area]
    assert [(each.path, each.reason) for each in late] == [(running.job_area, "the task is its site's again")]
    assert left(pair.child.web) == []


async def test_what_a_lost_task_has_left_goes(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"1")
    await pair.top.site.services.tasks.change_all(TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])
    await pair.child.parent.listening.renew()
    await pair.tell()
    assert (await pair.child.site.store.errands.counts("top"))[ErrandStatus.LOST] == 1

    before = await areas_of(pair).clean()
    pair.child.site.advance(HOUR + 1)
    after = await areas_of(pair).clean()

    assert (before, [each.path for each in after]) == ([], [running.job_area])


async def forget_errands(store: Store, before: float) -> int:
    return await store.errands.forget([each.task_id for each in await store.errands.closed(before, 100)])


async def test_files_of_errands_that_were_forgotten_go_when_they_are_old(pair: Chain):
    await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"1")
    await running.finish()
    await pair.tell()
    site = pair.child.site
    site.clock.now = time.time()
    assert await forget_errands(site.store, site.clock.now + HOUR) == 1

    before = await areas_of(pair).clean()
    site.advance(HOUR + 10)
    after = await areas_of(pair).clean()

    assert (before, [each.path for each in after]) == ([], [running.job_area])


async def test_the_area_of_a_dataset_stays_as_long_as_a_task_of_it_is_here(pair: Chain):
    await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.dataset_area}/b", b"2")
    pair.child.site.clock.now = time.time() + 100 * 24 * HOUR

    assert await areas_of(pair).clean() == []
