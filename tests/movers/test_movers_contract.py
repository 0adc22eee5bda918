"""What every mover promises, shown with its real server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import hashlib
import random
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import psutil
import pytest

from iceprod.errors import (
    AccessDenied,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Outgoing, Span
from tests.movers.cutting import Harm, relay
from tests.movers.place import FULL_BYTES, Place

MIB = 1024 * 1024
ODD_NAMES = [
    "with space",
    "ünïcode €",
    "100% sure",
    "a+b&c=d;e,f",
    "hash#mark?query",
    "-dash",
    "it's",
    "[x]{y}~",
]


def noise(size: int, *, seed: int = 4) -> bytes:
    return random.Random(seed).randbytes(size)


async def pieces_of(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def outgoing(data: bytes, **more: object) -> Outgoing:
    return Outgoing(len(data), pieces_of(data), **more)  # type: ignore[arg-type]


async def fetched(place: Place, location: Location, span: Span = WHOLE) -> bytes:
    async with place.mover.fetch(location, place.access, span=span) as incoming:
        data = b"".join([piece async for piece in reading(incoming)])
        assert incoming.offset == span.offset
        assert incoming.length in (None, len(data))
        return data


async def reading(incoming) -> AsyncIterator[bytes]:
    while piece := await incoming.read():
        assert len(piece) <= MIB
        yield piece


def kept(place: Place, name: str, data: bytes) -> Location:
    """A file that is there already."""
    path = place.folder / name
    path.write_bytes(data)
    path.chmod(0o644)
    return place.at(name)


def open_things() -> tuple[int, int]:
    """Descriptors and connections of this process."""
    gc.collect()
    me = psutil.Process()
    return me.num_fds(), len([each for each in me.net_connections() if each.status == "ESTABLISHED"])


@pytest.mark.parametrize("size", [0, 1, 1000, 8 * MIB + 1])
async def test_what_is_put_is_fetched(place: Place, size: int) -> None:
    data = noise(size)

    await place.mover.put(place.at("hits.i3"), place.access, outgoing(data))

    assert (place.folder / "hits.i3").read_bytes() == data
    assert await fetched(place, place.at("hits.i3")) == data
    facts = await place.mover.stat(place.at("hits.i3"), place.access)
    assert facts.size_bytes == size
    assert not facts.is_directory


async def test_putting_again_replaces(place: Place) -> None:
    location = kept(place, "hits.i3", noise(MIB))

    await place.mover.put(location, place.access, outgoing(b"newer"))

    assert (place.folder / "hits.i3").read_bytes() == b"newer"
    assert [each.name for each in place.folder.iterdir()] == ["hits.i3"]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_are_names_like_any(place: Place, name: str) -> None:
    if not (name.isascii() or place.takes_any_name):
        with pytest.raises(InputError):
            await place.mover.put(place.at(name), place.access, outgoing(b"elsewhere"))
        assert list(place.folder.iterdir()) == []
        return
    await place.mover.put(place.at(name), place.access, outgoing(name.encode()))

    assert [each.name for each in place.folder.iterdir()] == [name]
    assert await fetched(place, place.at(name)) == name.encode()
    assert (await place.mover.stat(place.at(name), place.access)).size_bytes == len(name.encode())
    if place.can_list:
        assert [each.name async for each in place.mover.list(place.root, place.access, limit=9)] == [name]
    if place.can_delete:
        await place.mover.delete(place.at(name), place.access)
        assert list(place.folder.iterdir()) == []


@pytest.mark.parametrize(
    "span",
    [Span(1000, 5000), Span(MIB), Span(2 * MIB - 1), Span(0, 1), Span(1, 1), Span(MIB, 10 * MIB), Span(7, 0)],
    ids=str,
)
async def test_a_part_is_just_that_part(place: Place, span: Span) -> None:
    data = noise(2 * MIB)
    location = kept(place, "hits.i3", data)

    got = await fetched(place, location, span)

    end = None if span.length is None else span.offset + span.length
    assert got == data[span.offset : end]


async def test_a_part_knows_the_facts_of_the_whole(place: Place) -> None:
    location = kept(place, "hits.i3", noise(MIB))
    facts = await place.mover.stat(location, place.access)

    async with place.mover.fetch(location, place.access, span=Span(1000, 5)) as incoming:
        assert incoming.facts.is_same(facts)
        assert incoming.facts.size_bytes in (None, MIB)


async def test_a_part_at_the_very_end_is_empty_and_behind_it_an_error(place: Place) -> None:
    location = kept(place, "hits.i3", noise(1000))

    assert await fetched(place, location, Span(1000)) == b""
    with pytest.raises(InputError):
        await fetched(place, location, Span(1001))


async def test_a_fetch_is_resumed_where_it_was_left(place: Place) -> None:
    data = noise(6 * MIB)
    location = kept(place, "hits.i3", data)
    async with place.mover.fetch(location, place.access) as incoming:
        first = await incoming.read()
        first += await incoming.read()
        facts = incoming.facts

    async with place.mover.fetch(location, place.access, span=Span(len(first))) as incoming:
        assert incoming.facts.is_same(facts)
        rest = b"".join([piece async for piece in reading(incoming)])

    assert first + rest == data


async def test_other_contents_are_told_apart(place: Place) -> None:
    location = kept(place, "hits.i3", noise(1000))
    former = await place.mover.stat(location, place.access)
    kept(place, "hits.i3", noise(1001))

    assert not (await place.mover.stat(location, place.access)).is_same(former)


async def test_a_fetch_that_is_left_frees_everything(place: Place) -> None:
    location = kept(place, "hits.i3", noise(6 * MIB))
    await fetched(place, location)
    await place.mover.close()
    again = dataclasses.replace(place, mover=type(place.mover)())
    before = open_things()

    async with again.mover.fetch(location, place.access) as incoming:
        assert await incoming.read()
    with pytest.raises(ZeroDivisionError):
        async with again.mover.fetch(location, place.access) as incoming:
            raise ZeroDivisionError
    await again.mover.close()
    await settled(lambda: open_things() <= before)


async def test_a_fetch_that_is_cancelled_frees_everything(place: Place) -> None:
    location = kept(place, "hits.i3", noise(6 * MIB))
    await fetched(place, location)
    await place.mover.close()
    again = dataclasses.replace(place, mover=type(place.mover)())
    before = open_things()
    tasks = [asyncio.create_task(fetched(again, location)) for _ in range(5)]
    for task, turns in zip(tasks, (0, 1, 5, 25, 125), strict=True):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(each, asyncio.CancelledError | bytes) for each in results)
    await again.mover.close()
    await settled(lambda: open_things() <= before)


async def settled(condition) -> None:
    """Let the loop finish what was let go of."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0)
    assert condition()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: Outgoing(len(data) + 1, pieces_of(data)),
        lambda data: Outgoing(len(data) - 1, pieces_of(data)),
        lambda data: outgoing(data, checksums={"sha512": hashlib.sha512(b"other").hexdigest()}),
        lambda data: outgoing(data, checksums={"adler32": "00000001"}),
    ],
    ids=["short", "long", "sha512", "adler32"],
)
async def test_a_body_that_is_not_what_was_said_is_not_put(place: Place, wrong) -> None:
    location = kept(place, "hits.i3", b"former")

    with pytest.raises(InputError):
        await place.mover.put(location, place.access, wrong(noise(3 * MIB)))

    await unharmed(place)


async def test_a_right_checksum_is_no_hindrance(place: Place) -> None:
    data = noise(MIB)
    checksums = {"sha512": hashlib.sha512(data).hexdigest(), "adler32": f"{zlib.adler32(data):08x}"}

    await place.mover.put(place.at("hits.i3"), place.access, outgoing(data, checksums=checksums))

    assert (place.folder / "hits.i3").read_bytes() == data


async def test_a_put_whose_source_fails_changes_nothing(place: Place) -> None:
    location = kept(place, "hits.i3", b"former")

    async def failing() -> AsyncIterator[bytes]:
        yield noise(2 * MIB)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await place.mover.put(location, place.access, Outgoing(4 * MIB, failing()))

    await unharmed(place)


async def test_a_put_that_is_cancelled_changes_nothing(place: Place) -> None:
    location = kept(place, "hits.i3", b"former")
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield noise(MIB)
        yield noise(MIB)
        begun.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(place.mover.put(location, place.access, Outgoing(4 * MIB, endless())))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await unharmed(place)


async def unharmed(place: Place) -> None:
    """The former file is there, and nothing else."""
    async with asyncio.timeout(10):
        while [each.name for each in place.folder.iterdir()] != ["hits.i3"]:
            await asyncio.sleep(0)
    assert (place.folder / "hits.i3").read_bytes() == b"former"


async def test_what_is_not_there_is_not_found(place: Place) -> None:
    with pytest.raises(NotFoundError):
        await fetched(place, place.at("missing"))
    with pytest.raises(NotFoundError):
        await place.mover.stat(place.at("missing"), place.access)
    with pytest.raises(NotFoundError):
        await place.mover.delete(place.at("missing"), place.access)


async def test_what_may_not_be_read_is_refused(place: Place) -> None:
    if place.forbidden is None:
        pytest.skip("nothing is forbidden to whoever runs this")
    with pytest.raises(AccessDenied):
        await fetched(place, place.forbidden)


async def test_a_full_disk_is_told_and_nothing_is_left(place: Place) -> None:
    if place.full is None:
        pytest.skip("a small file system can only be mounted by root")
    location = place.full.child(f"{place.folder.name}.i3")

    with pytest.raises(Unavailable) as raised:
        await place.mover.put(location, place.access, outgoing(noise(FULL_BYTES + MIB)))

    assert raised.value.detail.get("reason") == "storage_full" or isinstance(raised.value, TransferFailed)
    with pytest.raises(NotFoundError):
        await place.mover.stat(location, place.access)


@pytest.fixture
def memory_in_use() -> Iterator[Callable[[], int]]:
    """Tells how many bytes are held that were asked for since the test began.

    What the process has from the system says little: it has served thousands of tests before.
    """

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield held
    tracemalloc.stop()


async def test_a_slow_reader_costs_no_memory(place: Place, memory_in_use: Callable[[], int]) -> None:
    path = place.folder / "large.i3"
    with path.open("wb") as file:
        file.truncate(place.large_bytes)
    path.chmod(0o644)
    small = kept(place, "small.i3", noise(1000))
    done, most = 0, 0
    for _ in range(8):
        # So that threads and their memory are there already.
        await place.mover.stat(small, place.access)
    await fetched(place, small)
    before = memory_in_use()
    async with place.mover.fetch(place.at("large.i3"), place.access) as incoming:
        for turn in range(40):
            done += len(await incoming.read())
            if turn < 5:
                # Meanwhile the rest might come: others are served for as long as they like.
                for _ in range(6):
                    await place.mover.stat(small, place.access)
            if turn % 5 == 0:
                most = max(most, memory_in_use() - before)
        async for piece in reading(incoming):
            done += len(piece)
        most = max(most, memory_in_use() - before)

    assert done == place.large_bytes
    assert most < 50 * MIB, f"{most / MIB:.0f} MiB more"


@pytest.mark.parametrize("harm", [Harm.CUT, Harm.RESET, Harm.STALL])
async def test_a_file_that_is_cut_is_an_error(place: Place, harm: Harm) -> None:
    if place.port is None:
        pytest.skip("there is no connection to be cut")
    data = noise(4 * MIB)
    kept(place, "hits.i3", data)
    got = bytearray()

    async def fetch(there: Place) -> None:
        access = dataclasses.replace(there.access, stall_timeout_s=0.5)
        async with there.mover.fetch(there.at("hits.i3"), access) as incoming:
            async for piece in reading(incoming):
                got.extend(piece)

    async with relay(place.port, harm, after=2 * MIB) as port:
        begin = asyncio.get_running_loop().time()
        with pytest.raises(TransferFailed) as raised:
            await fetch(place.by(port))
        # Neither waiting for more, nor for an orderly end, nor having blocked the loop.
        assert asyncio.get_running_loop().time() - begin < 10

    assert data.startswith(got)
    assert len(got) < len(data)
    assert raised.value.detail["done_bytes"] == len(got)
    assert "hits.i3" in raised.value.detail["source"]


async def test_an_encrypted_file_that_is_changed_on_the_way_is_an_error(place: Place) -> None:
    if place.port is None or place.root.scheme not in ("https", "sftp", "gsiftp"):
        pytest.skip("nothing is encrypted")
    kept(place, "hits.i3", noise(4 * MIB))
    async with relay(place.port, Harm.CORRUPT, after=2 * MIB) as port:
        # A library that takes a broken packet for an unfinished one is ended by its silence.
        access = dataclasses.replace(place.access, stall_timeout_s=1.0)
        there = dataclasses.replace(place.by(port), access=access)
        with pytest.raises(TransferFailed):
            await fetched(there, there.at("hits.i3"))


@pytest.mark.parametrize("harm", list(Harm))
async def test_nothing_goes_on_after_a_broken_transfer(place: Place, harm: Harm) -> None:
    if place.port is None:
        pytest.skip("there is no connection to be broken")
    location = kept(place, "hits.i3", noise(4 * MIB))
    await fetched(place, location)
    await place.mover.close()
    again = dataclasses.replace(place, mover=type(place.mover)())
    before = at_work()

    async with relay(place.port, harm, after=2 * MIB) as port:
        access = dataclasses.replace(place.access, stall_timeout_s=0.5)
        there = dataclasses.replace(again.by(port), access=access)
        # What is not encrypted may be changed and nobody knows.
        with contextlib.suppress(TransferFailed):
            await fetched(there, there.at("hits.i3"))
    await again.mover.close()

    async with asyncio.timeout(10):
        while not at_work() <= before:
            await asyncio.sleep(0)


def at_work() -> set[object]:
    """Tasks and threads, but for those of the loop itself, which wait for more."""
    threads = {each for each in threading.enumerate() if not each.name.startswith("asyncio_")}
    return threads | asyncio.all_tasks()


async def test_a_server_that_is_away_is_told(place: Place, unused_tcp_port: int) -> None:
    if place.port is None:
        pytest.skip("there is no server")
    there = place.by(unused_tcp_port)

    with pytest.raises(TransferFailed):
        await place.mover.stat(there.at("hits.i3"), place.access)


async def test_a_directory_is_listed(place: Place) -> None:
    if not place.can_list:
        pytest.skip("there are no listings")
    kept(place, "a.i3", noise(10))
    kept(place, "b.i3", noise(20))
    (place.folder / "inner").mkdir()
    (place.folder / "inner" / "deeper.i3").write_bytes(b"")

    found = {each.name: each.facts async for each in place.mover.list(place.root, place.access, limit=3)}

    assert {name: (facts.size_bytes, facts.is_directory) for name, facts in found.items()} == {
        "a.i3": (10, False),
        "b.i3": (20, False),
        "inner": (None, True),
    }


async def test_a_listing_is_bounded(place: Place) -> None:
    if not place.can_list:
        pytest.skip("there are no listings")
    for number in range(30):
        kept(place, f"{number}.i3", b"")

    with pytest.raises(TooLarge):
        assert [each async for each in place.mover.list(place.root, place.access, limit=29)]
    async with aclosing(place.mover.list(place.root, place.access, limit=30)) as entries:  # type: ignore[type-var]
        async for _ in entries:
            break


async def test_what_is_deleted_is_gone(place: Place) -> None:
    location = kept(place, "hits.i3", b"x")
    place.folder.chmod(0o777)

    await place.mover.delete(location, place.access)

    assert list(place.folder.iterdir()) == []


async def test_many_use_it_at_once(place: Place) -> None:
    async def there_and_back(number: int) -> None:
        data = noise(100_000 + number, seed=number)
        await place.mover.put(place.at(f"{number}.i3"), place.access, outgoing(data))
        assert await fetched(place, place.at(f"{number}.i3")) == data
        assert await fetched(place, place.at(f"{number}.i3"), Span(50_000)) == data[50_000:]

    await asyncio.gather(*(there_and_back(number) for number in range(12)))


async def test_errors_hold_no_secret(place: Place) -> None:
    credential = place.access.credential
    if credential is None:
        pytest.skip("there is no credential")
    with pytest.raises(IceProdError) as raised:
        await fetched(place, place.at("missing"))
    assert credential.secret.decode() not in f"{raised.value!r} {raised.value.detail}"
