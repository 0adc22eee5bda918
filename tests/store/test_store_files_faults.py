"""Whatever happens between two writes to MongoDB, the counters of holders are right after the repair."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mongo_faults import Crash, CrashBefore, CrashWithin, Fate, GoAway, LoseAnswer, Overtake, Process

from iceprod.errors import StoreUnavailable
from iceprod.model.file import FileRecord, Replica
from iceprod.model.paging import Page
from iceprod.store.files import FileFilter
from iceprod.store.holdings import Tally
from iceprod.store.mongo import MongoStore
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.stored import count, repair_stored, stored_damage

pytestmark = pytest.mark.mongo

HERE = Replica("/here", "", 1.0)


def record(name: str, size_bytes: int, owner: str = "ada", **fields: Any) -> FileRecord:
    return FileRecord("d", name, size_bytes, {"sha256": "a"}, owner, "ice", 1.0, replicas=(HERE,), **fields)


@pytest.fixture
async def database(mongo_url: str) -> AsyncIterator[Database]:
    found = Database(mongo_url)
    await found.open()
    yield found
    await found.close()


async def _begin(database: Database) -> None:
    """The same files before each try."""
    process = Process(database)
    await process.context.files.delete({})
    await process.context.stored.delete({})
    await process.files.put([record("a", 10), record("b", 20), record("c", 40, "eve")])


async def _put(process: Any) -> None:
    await process.files.put([record("a", 11), record("b", 20, "eve"), record("new", 80)])


async def _delete(process: Any) -> None:
    await process.files.delete("d", ["a", "c"])


async def _drop(process: Any) -> None:
    await process.files.drop_replica("d", "c", "/here")


STORIES = {"put": _put, "delete": _delete, "drop": _drop}


async def _files(process: Process) -> dict[str, FileRecord]:
    found = (await process.files.select(FileFilter(), Page())).items
    return {one.name: one for one in found}


async def _check_counters(process: Process) -> None:
    """Every counter is what the files say, counted here by other means than those of the store."""
    tally = Tally()
    for one in (await _files(process)).values():
        tally.change(None, one)
    kept = {(d["kind"], d["holder"]): (d["bytes"], d["files"]) for d in await process.context.stored.find({})}
    assert {holder: sums for holder, sums in kept.items() if any(sums)} == tally.sums()
    assert await stored_damage(process.context) == []


async def _play(database: Database, story: str, fate: Fate) -> Process | None:
    """Begin again, with a fate; the process that has met it, or None if it met none."""
    await _begin(database)
    process = Process(database, fate)
    with contextlib.suppress(Crash, StoreUnavailable):
        await STORIES[story](process)
    await process.context.drain()
    return process if fate.is_met else None


async def _end(database: Database, story: str) -> dict[str, FileRecord]:
    """How it ends if nothing happens."""
    await _begin(database)
    process = Process(database)
    await STORIES[story](process)
    await _check_counters(process)
    return await _files(process)


@pytest.mark.parametrize("story", STORIES)
async def test_a_crash_between_two_writes_is_repaired(database: Database, story: str):
    end = await _end(database, story)
    for kind in (CrashBefore, CrashWithin):
        at = 1
        while await _play(database, story, kind(at)):
            process = Process(database)
            await repair_stored(process.context)
            await _check_counters(process)
            await STORIES[story](process)
            await _check_counters(process)
            assert await _files(process) == end
            at += 1
        assert at > 1


@pytest.mark.parametrize("fate", [LoseAnswer, GoAway])
@pytest.mark.parametrize("story", STORIES)
async def test_a_lost_connection_is_made_up_for_by_the_next_change(
    database: Database, story: str, fate: type[Fate]
):
    end = await _end(database, story)
    at = 1
    while process := await _play(database, story, fate(at)):
        await STORIES[story](process)
        await _check_counters(process)
        assert await _files(process) == end
        at += 1
    assert at > 1


@pytest.mark.parametrize("story", STORIES)
async def test_another_process_repairs_what_is_under_way(database: Database, story: str):
    end = await _end(database, story)

    async def deed() -> None:
        await repair_stored(Process(database).context)

    at = 1
    while process := await _play(database, story, Overtake(at, deed=deed)):
        await _check_counters(process)
        assert await _files(process) == end
        at += 1


@pytest.mark.parametrize("story", STORIES)
async def test_two_processes_that_change_the_same_count_it_once(database: Database, story: str):
    end = await _end(database, story)

    async def deed() -> None:
        await STORIES[story](Process(database))

    at = 1
    while process := await _play(database, story, Overtake(at, deed=deed)):
        await _check_counters(process)
        assert await _files(process) == end
        at += 1


async def test_a_count_is_taken_only_if_nothing_moves_meanwhile(database: Database):
    async def deed() -> None:
        await Process(database).files.put([record("b", 7)])

    for at in (1, 2):
        await _begin(database)
        process = Process(database, Overtake(at, deed=deed))
        await count(process.context, ("user", "ada"))
        await _check_counters(process)


async def test_the_audit_finds_what_is_wrong_without_a_mark(database: Database):
    await _begin(database)
    process = Process(database)
    await process.context.stored.update({"_id": "user:ada"}, {"$inc": {"bytes": 5}})
    await process.context.stored.delete({"_id": "group:ice"})

    assert await stored_damage(process.context) == [
        "group ice: stored is 0 bytes in 0 files, counted 70 in 3",
        "user ada: stored is 35 bytes in 2 files, counted 30 in 2",
    ]
    assert await process.files.recount() == 2
    await _check_counters(process)
    assert await process.files.recount() == 0


async def test_a_store_repairs_its_counters_as_it_is_opened(mongo_url: str):
    store = MongoStore(mongo_url)
    await store.open()
    await store.close()
    database = Database(mongo_url)
    await database.open()
    await _begin(database)
    with pytest.raises(Crash):
        await _put(Process(database, CrashBefore(3)))
    await database.close()

    await store.open()
    found = (await store.files.holders("user", Page())).items
    lines = await store.check()
    await store.close()

    assert [(one.holder, one.bytes_kept, one.files_kept) for one in found] == [("ada", 91, 2), ("eve", 60, 2)]
    assert lines == []
