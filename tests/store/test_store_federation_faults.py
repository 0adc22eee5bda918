"""Whatever happens between two writes to MongoDB, what is said again is in the outbox once, and in order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from mongo_faults import Crash, CrashBefore, CrashWithin, Fate, GoAway, LoseAnswer, Overtake, Process
from store_samples import errand, operation

from iceprod.errors import StoreUnavailable
from iceprod.model.federation import ErrandStatus
from iceprod.model.paging import Page
from iceprod.store.mongo.client import Database

pytestmark = pytest.mark.mongo

SAID = ["file", "known", "log", "end"]
ENDED, LOST = ErrandStatus.ENDED, ErrandStatus.LOST


@pytest.fixture
async def database(mongo_url: str) -> AsyncIterator[Database]:
    found = Database(mongo_url)
    await found.open()
    yield found
    await found.close()


async def _begin(database: Database) -> None:
    """The same before each try: one operation that waits, and a dead letter with number 2."""
    process = Process(database)
    for collection in (process.context.outbox, process.context.errands, process.context.sequences):
        await collection.delete({})
    await process.outbox.add([operation("known"), operation("dead")])
    await process.outbox.bury("north", 2, "why", now=5.0)
    await process.errands.add([errand(n) for n in range(3)])


async def _waiting(process: Process) -> list[str]:
    return [one.operation.operation_id for one in await process.outbox.next("north", 0, 100)]


async def _letters(process: Process) -> list[str]:
    found = await process.outbox.dead(None, Page())
    return [letter.operation.operation_id for letter in found.items]


async def _say(process: Process) -> None:
    await process.outbox.add([operation(name) for name in SAID])


async def _revive(process: Process) -> None:
    await process.outbox.revive(2)


async def _play(
    database: Database, story: Callable[[Process], Awaitable[None]], fate: Fate
) -> Process | None:
    """Begin again, with a fate; the process that has met it, or None if it met none."""
    await _begin(database)
    process = Process(database, fate)
    with contextlib.suppress(Crash, StoreUnavailable):
        await story(process)
    return process if fate.is_met else None


@pytest.mark.parametrize("fate", [CrashBefore, CrashWithin, LoseAnswer, GoAway])
async def test_what_is_said_again_is_queued_once_and_in_order(database: Database, fate: type[Fate]):
    at = 1
    while await _play(database, _say, fate(at)):
        process = Process(database)
        # None of a call is there without those before it: a file is told before the end that needs it.
        before = [name for name in await _waiting(process) if name != "known"]
        assert before == ["file", "log", "end"][: len(before)]

        await _say(process)

        assert await _waiting(process) == ["known", "file", "log", "end"]
        assert await _letters(process) == ["dead"]
        at += 1
    assert at > 1


@pytest.mark.parametrize("fate", [CrashBefore, LoseAnswer, GoAway])
async def test_a_letter_that_is_revived_is_never_gone_or_twice(database: Database, fate: type[Fate]):
    at = 1
    while await _play(database, _revive, fate(at)):
        process = Process(database)
        assert sorted([*await _waiting(process), *await _letters(process)]) == ["dead", "known"]

        await _revive(process)

        assert await _waiting(process) == ["known", "dead"]
        assert await _letters(process) == []
        at += 1
    assert at > 2


async def test_of_two_processes_that_say_the_same_it_is_queued_once(database: Database):
    async def deed() -> None:
        await _say(Process(database))

    at = 1
    while process := await _play(database, _say, Overtake(at, deed=deed)):
        assert sorted(await _waiting(process)) == sorted(SAID)
        at += 1
    assert at > 2


async def test_what_another_process_queues_meanwhile_shows_up_from_the_start(database: Database):
    read: list[int] = []

    async def deed() -> None:
        other = Process(database)
        await other.outbox.add([operation("quick")])
        read.extend(one.number for one in await other.outbox.next("north", 0, 100))

    process = await _play(database, _say, Overtake(2, deed=deed))

    assert process
    assert await process.outbox.next("north", read[-1], 100) == []
    assert await _waiting(process) == ["known", "file", "log", "end", "quick"]


async def test_a_letter_is_revived_by_one_of_two_processes(database: Database):
    other: list[bool] = []

    async def deed() -> None:
        other.append(await Process(database).outbox.revive(2))

    for at in (1, 2):
        await _begin(database)
        process = Process(database, Overtake(at, deed=deed))
        assert not await process.outbox.revive(2)
        assert await _waiting(process) == ["known", "dead"]
    assert other == [True, True]


async def test_an_errand_is_closed_by_one_of_two_processes(database: Database):
    other: list[bool] = []

    async def deed() -> None:
        other.extend(await Process(database).errands.end(["m-0-0", "m-2-0"], LOST, now=7.0))

    await _begin(database)
    process = Process(database, Overtake(1, deed=deed))

    assert await process.errands.end(["m-0-0", "m-1-0"], ENDED, now=8.0) == [False, True]
    assert other == [True, True]
    found = await process.errands.of_tasks([f"m-{n}-0" for n in range(3)])
    assert [found[f"m-{n}-0"].status for n in range(3)] == [LOST, ENDED, LOST]
    assert [found[f"m-{n}-0"].ended_at for n in range(3)] == [7.0, 8.0, 7.0]


async def test_closing_again_after_an_answer_was_lost_changes_nothing(database: Database):
    await _begin(database)
    with pytest.raises(StoreUnavailable):
        await Process(database, LoseAnswer(1)).errands.end(["m-0-0"], ENDED, now=7.0)

    process = Process(database)
    assert await process.errands.end(["m-0-0"], LOST, now=8.0) == [False]
    assert (await process.errands.of_tasks(["m-0-0"]))["m-0-0"].status is ENDED
