"""Files of tasks that are run for another site: stored there in the end, and read from there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from file_sites import Chain, Running, decoded, open_chain, run_one
from site_harness import ADMIN, task

from iceprod.errors import Unavailable
from iceprod.model.federation import ErrandStatus, OperationKind
from iceprod.model.file import Quota
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.services.file_catalogue import FileQuery
from iceprod.site_sync.file_fetching import FRESH_S

BIG = os.urandom(3_000_000)
SOON = time.time() + 1000.0


class Killed(Exception):
    """What stands for the end of a process."""


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent and its child."""
    async with open_chain(tmp_path) as made:
        yield made


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent, its child, and that one's child."""
    async with open_chain(tmp_path, ("top", "mid", "leaf")) as made:
        yield made


def read(web, path: str) -> bytes | None:
    """What lies in a site's file store."""
    found = web.site.settings.files_path / path
    return found.read_bytes() if found.is_file() else None


async def put(web, path: str, data: bytes) -> None:
    """A file that the administrator of a site puts there."""
    upload = await web.site.services.files.upload(ADMIN, path)
    await upload.write(data)
    await upload.commit()


async def known(web) -> dict[str, str]:
    """The files in a site's catalogue and their digests."""
    found = await web.site.services.file_catalogue.find(ADMIN, FileQuery(), Page(100))
    return {file.name: file.checksums["sha256"] for file in found.items}


async def statuses(chain: Chain, dataset) -> list[TaskStatus]:
    return await chain.top.site.statuses(dataset)


async def reasons(chain: Chain) -> list[str]:
    """Why statements were refused for good."""
    letters = await chain.last.site.store.outbox.dead(None, Page(10))
    return [letter.reason for letter in letters.items]


# Storing


async def store_by_put(running: Running, path: str, data: bytes) -> None:
    assert await running.put(path, data) == 201


async def store_by_tus(running: Running, path: str, data: bytes) -> None:
    token = running.web.site.services.accounts.make_task_token(running.task.task_id, running.task.lease_id)
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(len(data)),
        "Upload-Metadata": f"path {base64.b64encode(path.encode()).decode()}",
        "Content-Type": "application/offset+octet-stream",
    }
    answer = await running.web.browser(token).send("POST", "/tus", headers=headers, body=data)
    assert answer.code == 201, answer.body


async def store_announced(running: Running, path: str, data: bytes) -> None:
    token = running.web.site.services.accounts.make_task_token(running.task.task_id, running.task.lease_id)
    said = '{"url": "%s", "size": %d, "checksum": "%s", "checksum_type": "sha512"}'
    body = said % (path, len(data), hashlib.sha512(data).hexdigest())
    begun = await running.web.browser(token).send("POST", "/upload", body=body)
    answer = await running.web.browser().send("PUT", decoded(begun)["upload"], body=data)
    assert answer.code == 200, answer.body


async def store_through_nginx(running: Running, path: str, data: bytes) -> None:
    files = running.web.site.services.files
    source = files.tree.handover / "0000000001"
    source.write_bytes(data)
    await (await files.take_over(running.principal, path, str(source))).commit()


@pytest.mark.parametrize("store", [store_by_put, store_by_tus, store_announced, store_through_nginx])
async def test_a_file_is_queued_before_its_bringer_is_answered(pair: Chain, store):
    dataset = await pair.lend(task("gen"), task("sim", "gen"))
    running = await pair.running()

    await store(running, f"{running.job_area}/deep/hits", b"muons")

    assert OperationKind.FILE in await pair.child.queued()
    await running.finish()
    assert (await pair.child.queued())[-2:] == [OperationKind.FILE, OperationKind.FINISHED]
    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/deep/hits") == b"muons"
    assert await known(pair.top) == {"job_temp/0/deep/hits": hashlib.sha256(b"muons").hexdigest()}
    assert await statuses(pair, dataset) == [TaskStatus.COMPLETE, TaskStatus.WAITING]


async def test_a_file_is_there_before_the_parent_hears_that_its_task_has_finished(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", BIG)
    await running.put(f"{running.dataset_area}/b", b"")
    await running.finish()
    pair.child.tap.cut_up = 1_000_000

    with pytest.raises(Unavailable):
        await pair.tell()

    assert await statuses(pair, dataset) == [TaskStatus.PROCESSING]
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") is None
    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") == BIG
    assert read(pair.top, f"dataset_temp/{dataset.dataset_id}/b") == b""
    assert await statuses(pair, dataset) == [TaskStatus.COMPLETE]


async def test_a_file_that_is_garbled_on_its_way_is_sent_again(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", BIG)
    pair.child.tap.flip_up = 500_000

    with pytest.raises(Unavailable, match="422"):
        await pair.tell()

    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") is None
    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") == BIG


@pytest.mark.parametrize("name", ["ünder scôre", "100%", "a;b", "..;c", "q?x=1", "#", "+", "%2e%2e", "x&y"])
async def test_odd_names_stay_what_they_are(pair: Chain, name: str):
    dataset = await pair.lend(task("gen"), task("sim", "gen"))
    running = await pair.running()
    files = pair.child.site.services.files
    upload = await files.upload(running.principal, f"{running.job_area}/{name}")
    await upload.write(b"odd")
    await upload.commit()
    await running.finish()
    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/{name}") == b"odd"

    await pair.pass_on()
    after = await pair.running()
    download = await files.download(after.principal, f"{after.job_area}/{name}")

    assert await download.read(0, 10) == b"odd"
    download.close()


async def test_what_replaces_a_file_before_it_is_sent_is_sent_alone(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    for data in (b"one", b"two", b"one", b"three"):
        await running.put(f"{running.job_area}/a", data)

    await pair.tell()

    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") == b"three"
    assert pair.child.tap.asked("PUT") == 1


async def test_sending_again_what_is_there_already_changes_nothing(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"muons")
    (queued,) = [
        each
        for each in await pair.child.site.store.outbox.next("top", 0, 10)
        if each.operation.kind is OperationKind.FILE
    ]
    await pair.tell()
    await pair.child.site.store.outbox.add([queued.operation])

    await pair.tell()

    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") == b"muons"


@pytest.mark.expects_logs
async def test_a_file_that_the_parent_has_no_room_for_fails_its_task_there(tmp_path: Path):
    async with open_chain(tmp_path) as chain:
        await chain.top.site.services.quotas.set(ADMIN, Quota("dataset", "", 100))
        dataset = await chain.lend(task("gen"))
        running = await chain.running()
        await running.put(f"{running.job_area}/a", b"x" * 101)
        await running.finish()

        await chain.tell()

        (attempt,) = await chain.top.site.store.tasks.attempts(f"{dataset.dataset_id}-0-0")
        assert attempt.summary.startswith("a: 127.0.0.1 refuses access")
        assert await statuses(chain, dataset) != [TaskStatus.COMPLETE]
        assert len(await reasons(chain)) == 1


@pytest.mark.expects_logs
async def test_a_file_that_is_gone_fails_its_task_at_the_parent(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"muons")
    await running.finish()
    (pair.child.site.settings.files_path / running.job_area / "a").unlink()

    await pair.tell()

    assert await reasons(pair) == ["the file is gone from this site"]
    (attempt,) = await pair.top.site.store.tasks.attempts(f"{dataset.dataset_id}-0-0")
    assert attempt.summary == "a: the file is gone from this site"


@pytest.mark.expects_logs
async def test_the_parent_takes_no_file_of_a_lease_that_is_over(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/a", b"muons")
    await pair.top.site.services.tasks.change_all(TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])

    await pair.tell()

    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") is None
    assert await statuses(pair, dataset) == [TaskStatus.SUSPENDED]
    assert (await pair.child.site.store.errands.counts("top"))[ErrandStatus.LOST] == 1


async def test_a_crash_before_it_is_queued_is_made_up_for(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    files = pair.child.site.services.files

    async def die(*_: object) -> None:
        raise Killed

    register, files.register = files.register, die
    with pytest.raises(Killed):
        await store_through_nginx(running, f"{running.job_area}/a", b"muons")
    files.register = register
    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") is None

    assert await files.catch_up(before=SOON) == 1

    await pair.tell()
    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/a") == b"muons"


async def test_a_file_is_deleted_there_too(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/sent", b"1")
    await pair.tell()
    await running.put(f"{running.job_area}/waiting", b"2")
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/theirs", b"3")

    gone = [
        (await running.send("DELETE", f"{running.job_area}/{name}")).code
        for name in ("sent", "waiting", "theirs", "none")
    ]
    await pair.tell()

    assert gone == [204, 204, 204, 404]
    assert await known(pair.top) == await known(pair.child.web) == {}
    assert [await running.get(f"{running.job_area}/{name}") for name in ("sent", "waiting")] == [404, 404]


# Reading


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


@pytest.mark.parametrize("fault", ["cut_down", "flip_down"])
@pytest.mark.parametrize("at", [100_000, 2_999_000])
async def test_a_body_that_breaks_off_or_is_garbled_is_never_seen(pair: Chain, fault: str, at: int):
    dataset = await pair.lend(task("gen"))
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await pair.running()
    setattr(pair.child.tap, fault, at)

    assert await running.get(f"{running.job_area}/in") == 503
    assert read(pair.child.web, f"{running.job_area}/in") is None
    assert list((pair.child.site.settings.files_path / ".incoming").iterdir()) == []

    assert await running.get(f"{running.job_area}/in") == BIG


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
    pair.child.site.clock.now = SOON
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


async def test_nobody_complains_of_files_of_a_lease_that_is_over(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/hits", BIG)
    await running.finish()
    await pair.top.site.services.tasks.change_all(TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])

    await pair.tell()

    assert await reasons(pair) == []
    assert (await pair.last.site.store.outbox.backlog("top")).waiting == 0
    assert (await pair.last.site.store.errands.counts("top"))[ErrandStatus.LOST] == 1


# Three sites


async def test_files_go_all_the_way_up(three: Chain):
    dataset = await three.lend(task("gen"))
    running = await three.running()
    await running.put(f"{running.job_area}/hits", BIG)
    await running.put(f"{running.dataset_area}/summary", b"2 muons")
    await running.finish()

    await three.tell()

    assert read(three.top, f"job_temp/{dataset.dataset_id}/0/hits") == BIG
    assert read(three.top, f"dataset_temp/{dataset.dataset_id}/summary") == b"2 muons"
    assert await statuses(three, dataset) == [TaskStatus.COMPLETE]


async def test_files_come_all_the_way_down(three: Chain):
    dataset = await three.lend(task("gen"))
    await put(three.top, f"job_temp/{dataset.dataset_id}/0/in", BIG)
    running = await three.running()

    assert await running.get(f"{running.job_area}/in") == BIG
    assert [child.tap.asked("GET") for child in three.children] == [1, 1]
    assert await running.get(f"{running.job_area}/none") == 404
    three.children[0].tap.is_down = True
    assert await running.get(f"{running.job_area}/other") == 503


async def test_sites_between_pass_on_what_one_below_has_deleted(three: Chain):
    dataset = await three.lend(task("gen"))
    running = await three.running()
    await running.put(f"{running.job_area}/a", b"1")
    await three.tell()
    assert read(three.top, f"job_temp/{dataset.dataset_id}/0/a") == b"1"

    assert (await running.send("DELETE", f"{running.job_area}/a")).code == 204

    assert await known(three.top) == {}
    assert await running.get(f"{running.job_area}/a") == 404


async def test_tasks_of_this_site_ask_nobody(pair: Chain):
    await pair.child.site.submit(task("own"))
    running = await run_one(pair.child.web)

    assert await running.get(f"{running.job_area}/none") == 404
    assert await running.put(f"{running.job_area}/a", b"1") == 201
    assert await pair.child.queued() == []
    assert pair.child.tap.heads == []
