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
from file_sites import Chain, Running, decoded, known, open_chain, put, read, reasons, run_one, statuses
from site_harness import ADMIN, task

from iceprod.errors import Unavailable
from iceprod.model.federation import ErrandStatus, OperationKind
from iceprod.model.file import Quota
from iceprod.model.lifecycle import TaskEvent, TaskStatus

BIG = os.urandom(3_000_000)


def soon() -> float:
    """Files have the times of the file system, whatever the clock of the test says."""
    return time.time() + 1000.0


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

    assert await files.catch_up(before=soon()) == 1

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


async def test_who_waits_for_a_file_is_told_that_the_site_stops(pair: Chain):
    await pair.lend(task("gen"))
    running = await pair.running()
    pair.child.tap.gate.clear()
    asking = asyncio.create_task(running.send("GET", f"{running.job_area}/in"))
    fetching = pair.child.site.services.federation.files._fetching
    while not fetching._coming:
        await asyncio.sleep(0.01)

    await fetching.close()

    answer = await asking
    assert (answer.code, decoded(answer)["error"]["code"]) == (503, "unavailable")
    pair.child.tap.gate.set()


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
