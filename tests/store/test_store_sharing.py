"""What processes that share a store need: leases on duties, and news of one another.

Two stores on one database stand for two processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from memory_sharing import MemorySharing
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from iceprod.store.base import Hold, Message, Sharing
from iceprod.store.mongo import MongoStore


@pytest.fixture(params=[pytest.param("mongo", marks=pytest.mark.mongo), "memory"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Sharing, Sharing]]:
    """What two processes have of one database, or in tests of memory."""
    if request.param == "memory":
        shared = MemorySharing()
        yield shared, shared
        return
    mongo_url = request.getfixturevalue("mongo_url")
    stores = [MongoStore(mongo_url), MongoStore(mongo_url)]
    async with AsyncExitStack() as stack:
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        yield stores[0].sharing, stores[1].sharing


def news(sender: str, first: int, last: int) -> list[Message]:
    return [Message(sender, number, f"{sender}{number}".encode()) for number in range(first, last + 1)]


# -- duties --------------------------------------------------------------------------------


async def test_one_of_many_takes_a_duty_that_nobody_ever_had(pair: tuple[Sharing, Sharing]):
    one, other = pair
    assert await one.hold("grids") is None

    taken = await asyncio.gather(
        *(sharing.take("grids", f"p{n}", expected=None) for n, sharing in enumerate([one, other] * 4))
    )

    (winner,) = filter(None, taken)
    assert winner.fence == 1
    assert await other.hold("grids") == winner


async def test_one_of_many_takes_over_what_it_saw_silent(pair: tuple[Sharing, Sharing]):
    one, other = pair
    first = await one.take("grids", "p0", expected=None)
    assert first

    taken = await asyncio.gather(
        *(sharing.take("grids", f"p{n}", expected=first) for n, sharing in enumerate([one, other] * 4))
    )

    (winner,) = filter(None, taken)
    assert winner.fence == first.fence + 1
    assert await one.hold("grids") == winner


async def test_a_duty_whose_holder_lives_is_not_taken_over(pair: tuple[Sharing, Sharing]):
    one, other = pair
    seen = await one.take("grids", "p0", expected=None)
    assert seen
    beaten = await one.beat(seen)

    assert beaten == Hold("grids", "p0", seen.fence, seen.beat + 1)
    assert await other.take("grids", "p1", expected=seen) is None
    assert await other.hold("grids") == beaten


async def test_a_former_holder_learns_that_it_is_one(pair: tuple[Sharing, Sharing]):
    one, other = pair
    first = await one.take("grids", "p0", expected=None)
    assert first
    second = await other.take("grids", "p1", expected=first)
    assert second

    assert await one.beat(first) is None
    await one.release(first)

    assert await one.hold("grids") == second
    assert await other.beat(second)


async def test_a_duty_given_up_is_free_at_once_and_its_fence_grows(pair: tuple[Sharing, Sharing]):
    one, other = pair
    first = await one.take("grids", "p0", expected=None)
    assert first

    await one.release(first)

    free = await other.hold("grids")
    assert free
    assert free.holder == ""
    assert await one.beat(first) is None
    assert await other.take("grids", "p1", expected=first) is None
    second = await other.take("grids", "p1", expected=free)
    assert second
    assert (second.holder, second.fence) == ("p1", 2)


async def test_duties_are_apart(pair: tuple[Sharing, Sharing]):
    one, other = pair

    assert await one.take("grids", "p0", expected=None)
    assert await other.take("housekeeping", "p1", expected=None)


# -- news ----------------------------------------------------------------------------------


async def test_news_reach_the_others_in_order(pair: tuple[Sharing, Sharing]):
    one, other = pair
    assert await other.heads() == {}
    assert await other.since({}, 100) == []

    await one.publish(news("a", 1, 12))
    await other.publish(news("b", 1, 2))
    await one.publish(news("a", 13, 14))
    await one.publish([])

    assert await other.heads() == {"a": 14, "b": 2}
    found = await other.since({"a": 9}, 100)
    assert [m for m in found if m.sender == "a"] == news("a", 10, 14)
    assert [m for m in found if m.sender == "b"] == news("b", 1, 2)
    assert await other.since({"a": 14, "b": 2}, 100) == []


async def test_a_late_reader_gets_everything_part_by_part(pair: tuple[Sharing, Sharing]):
    one, other = pair
    await one.publish(news("a", 1, 25))
    await one.publish(news("b", 1, 5))
    seen: dict[str, int] = {}
    read: list[Message] = []

    while part := await other.since(seen, 7):
        assert len(part) <= 7
        read += part
        for message in part:
            assert message.number == seen.get(message.sender, 0) + 1
            seen[message.sender] = message.number

    assert seen == {"a": 25, "b": 5}
    assert sorted(read, key=lambda m: (m.sender, m.number)) == news("a", 1, 25) + news("b", 1, 5)


async def test_a_reader_beside_writers_sees_no_gap(pair: tuple[Sharing, Sharing]):
    one, other = pair

    async def write(sender: str) -> None:
        for first in range(1, 40, 3):
            await one.publish(news(sender, first, first + 2))

    writers = asyncio.gather(write("a"), write("b"), write("c"))
    seen: dict[str, int] = {}
    while seen != {"a": 39, "b": 39, "c": 39}:
        for message in await other.since(seen, 10):
            assert message.number == seen.get(message.sender, 0) + 1
            seen[message.sender] = message.number

    await writers


async def test_news_told_again_after_an_error_are_there_once(pair: tuple[Sharing, Sharing]):
    one, other = pair
    await one.publish(news("a", 1, 3))

    await one.publish(news("a", 2, 5))

    assert await other.since({}, 100) == news("a", 1, 5)


@pytest.mark.mongo
async def test_asking_costs_one_small_read_while_there_are_no_news(mongo_url: str):
    class Commands(CommandListener):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def started(self, event: CommandStartedEvent) -> None:
            self.seen.append(f"{event.command_name} {event.command[event.command_name]}")

        def succeeded(self, event: CommandSucceededEvent) -> None:
            pass

        def failed(self, event: CommandFailedEvent) -> None:
            pass

    commands = Commands()
    store = MongoStore(mongo_url, listeners=[commands])
    await store.open()
    await store.sharing.publish(news("a", 1, 3))
    commands.seen.clear()

    assert await store.sharing.since({"a": 3}, 100) == []
    assert commands.seen == ["find heads"]
    assert len(await store.sharing.since({"a": 1}, 100)) == 2
    assert commands.seen == ["find heads"] * 2 + ["find news"]
    await store.close()


async def test_old_news_are_dropped_but_not_the_last_thousand(pair: tuple[Sharing, Sharing]):
    one, other = pair
    await other.publish(news("b", 1, 1))

    for first in range(1, 3000, 500):
        await one.publish(news("a", first, first + 499))

    kept = [m.number for m in await other.since({"b": 1}, 10_000)]
    assert kept[-1000:] == list(range(2001, 3001))
    assert kept[0] > 1
    assert kept == list(range(kept[0], 3001))
    assert await other.since({"a": 3000}, 10) == news("b", 1, 1)


async def test_what_is_kept_of_processes_that_are_gone_can_be_forgotten(pair: tuple[Sharing, Sharing]):
    one, other = pair
    await one.publish(news("a", 1, 3))
    await one.publish(news("ab", 1, 3))

    await other.forget(["a"])
    await other.forget([])

    assert await one.heads() == {"ab": 3}
    assert await one.since({}, 10) == news("ab", 1, 3)
