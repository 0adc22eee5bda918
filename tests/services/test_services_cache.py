"""Copies of files: one fetch for all, nothing stale, nothing short, nothing of somebody else's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import zlib

import pytest

from iceprod.errors import NotFoundError, TransferFailed
from tests.services.cache_harness import Fake, Remote, opened, read_all, sha512

DATA = random.Random(1).randbytes(50_000)  # fifty pieces


@pytest.fixture
async def place(tmp_path):
    async with opened(tmp_path) as made:
        made.origin.files["a"] = Remote(DATA)
        yield made


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def kept(place, number=1):
    """Wait until so many copies are complete."""
    async with asyncio.timeout(10):
        while place.cache._tasks or len(await place.cache.copies()) < number:
            await asyncio.sleep(0.005)


async def test_a_file_is_fetched_once_and_then_served_from_disk(place):
    first = await place.read("a")
    second = await place.read("a")

    assert first == second == DATA
    assert place.origin.fetches == [("a", 0)]
    await until(place.transfers.ended)
    assert place.transfers.ended()[0].flow.service == "cache"
    assert place.transfers.ended()[0].moved_bytes == len(DATA)


async def test_many_readers_at_once_cause_one_fetch(place):
    found = await asyncio.gather(*(place.read("a") for _ in range(200)))

    assert {sha512(each) for each in found} == {sha512(DATA)}
    assert place.origin.fetches == [("a", 0)]
    assert place.origin.stats == 1


async def test_readers_have_what_came_before_the_rest_comes(place):
    place.origin.gate.clear()
    reading = await place.cache.read(place.wanted("a"))
    waiting = asyncio.create_task(reading.read(40_000, 10))
    await asyncio.sleep(0.02)
    assert not waiting.done()

    place.origin.gate.set()

    assert await waiting == DATA[40_000:40_010]
    assert await reading.read(0, 5) == DATA[:5]
    reading.close()


async def test_checksums_are_those_of_the_bytes(place):
    reading = await place.cache.read(place.wanted("a"))
    copy = await reading.whole()
    reading.close()

    assert copy.checksums == {
        "sha512": sha512(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "md5": hashlib.md5(DATA).hexdigest(),
        "adler32": f"{zlib.adler32(DATA):08x}",
    }


async def test_what_is_not_what_the_origin_says_is_never_whole_for_anyone(place):
    place.origin.files["a"].checksums["adler32"] = "12345678"

    reading = await place.cache.read(place.wanted("a"))
    with pytest.raises(TransferFailed, match="adler32"):
        await read_all(reading)

    assert await place.cache.copies() == []


async def test_right_checksums_of_the_origin_let_the_last_byte_through(place):
    place.origin.files["a"].checksums["adler32"] = f"{zlib.adler32(DATA):x}"

    assert await place.read("a") == DATA


async def test_a_connection_that_broke_is_gone_on_with(place):
    place.origin.cut_at = 20_000

    assert await place.read("a") == DATA
    assert place.origin.fetches == [("a", 0), ("a", 20_000)]


async def test_a_file_that_changes_midway_fails_its_readers_and_comes_anew(place):
    origin = place.origin
    origin.cut_at = 20_000
    reading = await place.cache.read(place.wanted("a"))
    await reading.more_than(15_000)
    origin.files["a"] = Remote(DATA[::-1], version=2)

    with pytest.raises(TransferFailed, match="changed"):
        await read_all(reading)
    assert await place.read("a") == DATA[::-1]


async def test_an_origin_that_stays_away_fails_every_reader(place, monkeypatch):
    monkeypatch.setattr("iceprod.services.cache.fetching._PAUSE_S", 0.001)
    readings = [await place.cache.read(place.wanted("a")) for _ in range(3)]
    await readings[0].more_than(5000)
    place.origin.broken = True

    results = await asyncio.gather(*(read_all(each) for each in readings), return_exceptions=True)

    assert [type(each) for each in results] == [TransferFailed] * 3
    assert results[0].detail["done_bytes"] >= 5000


async def test_another_place_of_the_same_file_helps(place, monkeypatch):
    place.origin.files["b"] = Remote(DATA, version=7)

    assert await place.read("gone", "b") == DATA
    assert place.origin.fetches == [("b", 0)]
    with pytest.raises(NotFoundError):
        await place.read("gone")


async def test_two_places_named_together_are_never_served_as_one_of_them(place):
    place.origin.files["b"] = Remote(b"other")

    assert await place.read("gone", "b") == b"other"
    place.origin.files["gone"] = Remote(DATA)

    assert await place.read("gone") == DATA


async def test_a_stale_copy_is_checked_once_and_kept_if_it_is_right(place):
    await place.read("a")
    await kept(place)
    place.now[0] += 61

    found = await asyncio.gather(*(place.read("a") for _ in range(20)))

    assert set(found) == {DATA}
    assert (place.origin.stats, len(place.origin.fetches)) == (2, 1)
    await place.read("a")
    assert place.origin.stats == 2


async def test_a_copy_of_what_has_changed_is_replaced(place):
    await place.read("a")
    place.origin.files["a"] = Remote(b"new", version=2)
    assert await place.read("a") == DATA  # still fresh
    await kept(place)
    place.now[0] += 61

    assert await place.read("a") == b"new"
    await until(lambda: not place.transfers.live())
    await asyncio.sleep(0.05)
    assert [each.copy.told.size_bytes for each in await place.cache.copies()] == [3]


@pytest.mark.expects_logs
async def test_a_copy_is_served_while_its_origin_does_not_answer(place):
    await place.read("a")
    await kept(place)
    place.now[0] += 61
    place.origin.stat_broken = True

    assert await place.read("a") == DATA


async def test_a_file_that_is_gone_at_the_origin_is_gone(place):
    await place.read("a")
    await kept(place)
    place.now[0] += 61
    del place.origin.files["a"]

    with pytest.raises(NotFoundError):
        await place.read("a")


async def test_one_users_file_is_never_served_to_another(place):
    place.origin.files["a"] = Remote(b"of alice")
    assert await place.read("a", reader="alice") == b"of alice"
    place.origin.files["a"] = Remote(b"of bob", version=2)

    assert await place.read("a", reader="bob", user="bob") == b"of bob"
    assert await place.read("a", reader="alice") == b"of alice"
    # Also where the place that has a credential is not the first.
    mixed = place.wanted("a", "b")
    object.__setattr__(mixed.sources[1].origin, "reader", "alice")
    assert mixed.reader == "alice"


async def test_the_fetch_goes_on_when_who_began_it_leaves(place):
    place.origin.gate.clear()
    first = await place.cache.read(place.wanted("a"))
    second = await place.cache.read(place.wanted("a"))
    first.close()
    place.origin.gate.set()

    assert await read_all(second) == DATA
    assert len(place.origin.fetches) == 1


async def test_a_fetch_that_nobody_reads_ends_and_is_gone_on_with_later(place):
    reading = await place.cache.read(place.wanted("a"))
    await reading.more_than(10_000)
    place.origin.gate.clear()
    reading.close()
    await until(lambda: not place.transfers.live())
    place.origin.gate.set()

    assert await place.read("a") == DATA
    assert len(place.origin.fetches) == 2
    assert place.origin.fetches[1][1] >= 10_000


async def test_a_copy_that_was_closed_a_moment_ago_is_opened_anew(place):
    reading = await place.cache.read(place.wanted("a"))
    fetch = next(iter(place.cache._fetches.values()))
    await read_all(reading)
    await until(lambda: fetch.contents.descriptor < 0)

    assert fetch.readable is None
    assert await place.read("a") == DATA
    assert len(place.origin.fetches) == 1


async def test_an_empty_file_is_kept_too(place):
    place.origin.files["empty"] = Remote(b"")

    assert await place.read("empty") == b""
    reading = await place.cache.read(place.wanted("empty"))
    assert (await reading.whole()).told.size_bytes == 0
    reading.close()


async def test_what_is_too_large_is_not_kept(tmp_path):
    async with opened(tmp_path, max_file_bytes=100) as place:
        place.origin.files["a"] = Remote(DATA)

        assert await place.cache.read(place.wanted("a")) is None


async def test_the_copy_not_read_for_longest_goes_first_but_not_what_is_pinned_or_read(tmp_path):
    async with opened(tmp_path, max_bytes=4000) as place:
        for number in range(4):
            place.origin.files[f"f{number}"] = Remote(bytes([number]) * 1000)
            place.now[0] += 1
            await place.read(f"f{number}")
        await kept(place, 4)
        place.now[0] += 61
        pinned, read = place.wanted("f0"), await place.cache.read(place.wanted("f1"))
        await place.cache.pin(pinned.key)
        place.origin.files["new"] = Remote(bytes(900))

        assert await place.read("new") == bytes(900)
        await until(lambda: not place.transfers.live())
        await kept(place, 4)

        left = {each.copy.url.rpartition("/")[2] for each in await place.cache.copies()}
        assert left == {"f0", "f1", "f3", "new"}
        read.close()
        assert await place.cache.used_bytes() == 3900


@pytest.mark.expects_logs
async def test_without_room_a_file_passes_through(tmp_path):
    async with opened(tmp_path, max_bytes=1000) as place:
        place.origin.files["a"] = Remote(bytes(900))
        place.origin.files["b"] = Remote(bytes(900))
        reading = await place.cache.read(place.wanted("a"))

        assert await place.cache.read(place.wanted("b")) is None
        assert await read_all(reading) == bytes(900)
        assert await place.cache.used_bytes() == 900


@pytest.mark.expects_logs
async def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path):
    free = os.statvfs(tmp_path)
    async with opened(tmp_path, keep_free_bytes=free.f_bavail * free.f_frsize + 10**9) as place:
        place.origin.files["a"] = Remote(DATA)

        assert await place.cache.read(place.wanted("a")) is None


async def test_a_disk_that_gets_full_midway_fails_and_leaves_nothing(place, monkeypatch):
    written = []

    def full(part, data):
        written.append(data)
        if len(written) > 10:
            raise OSError(28, "No space left on device")
        return real(part, data)

    real = __import__("iceprod.services.cache.part", fromlist=["Part"]).Part.write
    monkeypatch.setattr("iceprod.services.cache.part.Part.write", full)
    reading = await place.cache.read(place.wanted("a"))

    with pytest.raises(Exception, match="disk"):
        await read_all(reading)
    await until(lambda: not list(place.cache.folder.parent.glob("coming/*")))
    assert await place.cache.used_bytes() == 0


async def test_an_evicted_copy_is_read_to_its_end(place):
    await place.read("a")
    await kept(place)
    reading = await place.cache.read(place.wanted("a"))

    assert await place.cache.evict(place.wanted("a").key)
    assert await read_all(reading) == DATA
    assert await place.cache.copies() == []
    await place.read("a")
    assert len(place.origin.fetches) == 2


async def test_two_processes_fetch_a_file_once(tmp_path):
    origin = Fake()
    origin.files["a"] = Remote(DATA)
    async with opened(tmp_path, origin) as one, opened(tmp_path, origin) as two:
        found = await asyncio.gather(*(each.read("a") for each in (one, two, one, two)))

        assert set(found) == {DATA}
        assert origin.fetches == [("a", 0)]


async def test_when_one_process_ends_the_other_goes_on_where_it_was(tmp_path):
    origin = Fake()
    origin.files["a"] = Remote(DATA)
    async with opened(tmp_path, origin) as two:
        async with opened(tmp_path, origin) as one:
            leading = await one.cache.read(one.wanted("a"))
            await leading.more_than(10_000)
            origin.gate.clear()
            following = await two.cache.read(two.wanted("a"))
            assert await following.read(0, 100) == DATA[:100]
        origin.gate.set()

        assert await read_all(following) == DATA
        assert len(origin.fetches) == 2
        assert origin.fetches[1][1] >= 10_000
