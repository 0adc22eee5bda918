"""Files of another site's tasks are read where the tasks run, as if they were there."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from file_sites import Chain, decoded, flows, known, open_chain, put, read
from site_harness import ADMIN, task

from iceprod.model.lifecycle import TaskEvent
from iceprod.site_sync.files.fetching import FRESH_S

BIG = os.urandom(3_000_000)


def soon() -> float:
    """Files have the times of the file system, whatever the clock of the test says."""
    return time.time() + 1000.0


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent and its child."""
    async with open_chain(tmp_path) as made:
        yield made


async def test_a_file_of_the_parent_is_read_whole_and_in_parts(pair: Chain):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()

    head = await running.send("HEAD", f"{running.job_area}/in")
    part = await running.get(f"{running.job_area}/in", Range="bytes=1000-1999")
    whole = await running.get(f"{running.job_area}/in")

    assert (head.code, head.headers["Content-Length"]) == (200, str(len(BIG)))
    assert part == BIG[1000:2000]
    assert whole == BIG
    assert pair.child.tap.heads == [
        f"HEAD /files/job_temp/{dataset.dataset_id}/0/in",
        f"GET /files/job_temp/{dataset.dataset_id}/0/in",
    ]
    assert list(await known(pair.child.web)) == ["job_temp/0/in"]


async def test_many_readers_fetch_a_file_once(pair: Chain):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"dataset_temp/{dataset.dataset_id}/geometry", BIG)
    running = await pair.running()
    pair.child.tap.gate.clear()

    readers = [asyncio.create_task(running.get(f"{running.dataset_area}/geometry")) for _ in range(20)]
    await asyncio.sleep(0.05)
    pair.child.tap.gate.set()

    assert await asyncio.gather(*readers) == [BIG] * 20
    assert (pair.child.tap.asked("HEAD"), pair.child.tap.asked("GET")) == (1, 1)


async def test_what_nobody_has_is_not_found(pair: Chain):
    await pair.lend(task("gen"))
    running = await pair.running()

    assert await running.get(f"{running.job_area}/none") == 404
    assert await known(pair.child.web) == {}


async def test_while_the_parent_is_away_readers_are_told_to_come_again(pair: Chain):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", b"x")
    running = await pair.running()
    pair.child.tap.is_down = True

    answer = await running.send("GET", f"{running.job_area}/in")

    assert (answer.code, answer.headers["Retry-After"]) == (503, "10")
    assert decoded(answer)["error"]["code"] == "unavailable"
    pair.child.tap.is_down = False
    assert await running.get(f"{running.job_area}/in") == b"x"


@pytest.mark.parametrize("at", [100_000, 2_999_000])
async def test_a_body_that_breaks_off_is_gone_on_with(pair: Chain, at: int):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    pair.child.tap.cut_down = at

    assert await running.get(f"{running.job_area}/in") == BIG
    assert pair.child.tap.asked("GET") == 2


@pytest.mark.parametrize("at", [100_000, 2_999_000])
async def test_a_body_that_is_garbled_is_never_seen(pair: Chain, at: int):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    pair.child.tap.flip_down = at

    assert await running.get(f"{running.job_area}/in") == 503
    assert read(pair.child.web, f"{running.job_area}/in") is None
    assert list((pair.child.site.settings.files_path / ".incoming").iterdir()) == []

    assert await running.get(f"{running.job_area}/in") == BIG


async def test_of_a_file_that_changes_while_it_comes_no_mixture_is_seen(pair: Chain):
    dataset = await pair.lend(task("gen"))
    there = f"job_temp/{dataset.dataset_id}/0/in"
    await put(pair.top, there, BIG)
    running = await pair.running()
    pair.child.tap.cut_down = 1_000_000
    pair.child.tap.gate.clear()
    reader = asyncio.create_task(running.get(f"{running.job_area}/in"))
    pair.child.tap.when_cut = lambda: put(pair.top, there, b"x" * len(BIG))

    pair.child.tap.gate.set()

    assert await reader == 503
    assert read(pair.child.web, f"{running.job_area}/in") is None
    assert await running.get(f"{running.job_area}/in") == b"x" * len(BIG)


async def test_a_copy_follows_its_original(pair: Chain):
    dataset = await pair.lend(task("gen"))
    there = f"dataset_temp/{dataset.dataset_id}/x"
    await put(pair.top, there, b"first")
    running = await pair.running()
    here = f"{running.dataset_area}/x"
    seen = [await running.get(here)]

    await put(pair.top, there, b"second")
    seen.append(await running.get(here))  # nobody asks again for a while
    pair.child.site.advance(FRESH_S)
    seen.append(await running.get(here))
    await pair.top.site.services.files.delete(ADMIN, there)
    pair.child.site.advance(FRESH_S)
    seen.append(await running.get(here))

    assert seen == [b"first", b"first", b"second", 404]
    assert read(pair.child.web, here) is None
    assert await known(pair.child.web) == {}


async def test_a_task_sees_what_was_there_when_it_was_lent_however_short_ago(pair: Chain):
    dataset = await pair.lend(task("gen", cpu=8), njobs=2)
    there = f"dataset_temp/{dataset.dataset_id}/x"
    await put(pair.top, there, b"first")
    running = await pair.running()
    assert await running.get(f"{running.dataset_area}/x") == b"first"
    await put(pair.top, there, b"second")
    pair.child.site.advance(0.001)
    await pair.pass_on()

    after = await pair.running()

    assert await after.get(f"{after.dataset_area}/x") == b"second"


async def test_what_was_stored_here_is_never_replaced_before_it_is_there(pair: Chain):
    dataset = await pair.lend(task("gen"))
    there = f"dataset_temp/{dataset.dataset_id}/x"
    await put(pair.top, there, b"old")
    running = await pair.running()
    assert await running.get(f"{running.dataset_area}/x") == b"old"

    await running.put(f"{running.dataset_area}/x", b"new")
    pair.child.site.advance(2 * FRESH_S)
    before = await running.get(f"{running.dataset_area}/x")
    await pair.tell()
    pair.child.site.advance(2 * FRESH_S)
    await put(pair.top, there, b"newer")
    after = await running.get(f"{running.dataset_area}/x")

    assert (before, after) == (b"new", b"newer")


async def test_a_copy_is_used_while_the_parent_is_away_if_it_is_younger_than_the_errand(pair: Chain):
    dataset = await pair.lend(task("gen", cpu=8), njobs=2)
    await put(pair.top, f"dataset_temp/{dataset.dataset_id}/x", b"geometry")
    running = await pair.running()
    assert await running.get(f"{running.dataset_area}/x") == b"geometry"
    pair.child.site.clock.now = soon()
    await pair.pass_on()
    after = await pair.running()
    pair.child.tap.is_down = True

    assert await running.get(f"{running.dataset_area}/x") == b"geometry"
    assert await after.get(f"{after.dataset_area}/x") == 503


async def test_a_task_that_needs_another_one_run_here_fetches_nothing(pair: Chain):
    dataset = await pair.lend(task("gen"), task("sim", "gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/hits", BIG)
    await running.finish()
    await pair.tell()
    await pair.pass_on()

    after = await pair.running()

    assert after.job_area != running.job_area
    assert await after.get(f"{after.job_area}/hits") == BIG
    assert pair.child.tap.asked("GET") == 0
    await after.put(f"{after.job_area}/hits", b"changed")
    assert read(pair.child.web, f"{running.job_area}/hits") == BIG
    await after.finish()
    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/hits") == b"changed"


async def test_the_parents_word_that_a_lease_is_over_reaches_the_task(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await pair.top.site.services.tasks.change_all(TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])

    answer = await running.send("GET", f"{running.job_area}/in")

    assert (answer.code, decoded(answer)["error"]["code"]) == (409, "lease_lost")


async def test_bytes_are_accounted_to_the_site_at_the_other_end(pair: Chain):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", b"12345")
    running = await pair.running()
    await running.get(f"{running.job_area}/in")
    await running.put(f"{running.job_area}/out", b"123")
    await pair.tell()

    moved = [await flows(web) for web in (pair.top, pair.child.web)]

    assert moved == [
        {("alice", "leaf", "out"): 5, ("alice", "leaf", "in"): 3},
        {
            ("alice@top", "top", "in"): 5,
            ("alice@top", "", "out"): 5,
            ("alice@top", "", "in"): 3,
            ("alice@top", "top", "out"): 3,
        },
    ]
