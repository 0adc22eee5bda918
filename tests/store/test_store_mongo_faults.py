"""Whatever happens between two writes to MongoDB, the end is that of an undisturbed run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from mongo_content import Content, content, restore, seen
from mongo_faults import (
    Crash,
    CrashBefore,
    CrashWithin,
    Fate,
    GoAway,
    LoseAnswer,
    Overtake,
    OvertakeThenCrash,
    Process,
)
from store_samples import dataset, make, make_jobs

from iceprod.errors import AlreadyExists, StoreUnavailable
from iceprod.model.lifecycle import JobStatus, TaskEvent
from iceprod.model.task import Ended, Lease, Move, Outcome
from iceprod.store.base import DatasetConfig, DatasetPatch
from iceprod.store.mongo import MongoStore
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.recount import repair

pytestmark = pytest.mark.mongo

E = TaskEvent
CHAIN = ((), (0,), ())


@dataclass(frozen=True)
class Run:
    """Two datasets of their own: ``b`` needs tasks of ``a``, job by job."""

    a: str
    b: str

    @property
    def outer(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        return (((self.a, 0),), (), ())

    async def prepare(self, process: Any) -> None:
        await make(process, self.a, depends=CHAIN, jobs_wanted=2)
        await make(process, self.b, depends=CHAIN, external=self.outer, jobs_wanted=2, jobs=1)

    def claim(self, *places: str) -> list[Move]:
        return [Move(self._id(place), E.CLAIMED, lease=Lease("L", "p", 90.0)) for place in places]

    def end(self, event: TaskEvent, *places: str, **fields: Any) -> list[Move]:
        outcome = Outcome.FINISHED if event is E.FINISHED else Outcome.FAILED
        ended = Ended(outcome, stats={"a.b": "$x"})
        return [Move(self._id(place), event, lease_id="L", ended=ended, **fields) for place in places]

    def plain(self, event: TaskEvent, *places: str) -> list[Move]:
        return [Move(self._id(place), event) for place in places]

    def _id(self, place: str) -> str:
        return f"{getattr(self, place[0])}-{place[1:]}"


Step = Callable[[Run, Any], Awaitable[object]]


async def _nothing(run: Run, process: Any) -> None:
    """The datasets as they were made."""


async def _a_running(run: Run, process: Any) -> None:
    await process.tasks.move(run.claim("a0-0", "a1-0", "a1-2"), now=5.0)


async def _a_complete(run: Run, process: Any) -> None:
    await _a_running(run, process)
    await process.tasks.move(run.end(E.FINISHED, "a0-0", "a1-0", "a1-2"), now=6.0)


async def _all_but_one(run: Run, process: Any) -> None:
    await _a_complete(run, process)
    for places in (("a1-1", "a0-1", "a0-2"), ("b0-0",)):
        await process.tasks.move(run.claim(*places), now=7.0)
    await process.tasks.move(run.end(E.FINISHED, "a0-1", "a0-2"), now=8.0)


async def _add(run: Run, process: Any) -> None:
    with contextlib.suppress(AlreadyExists):
        outer = (((run.b, 0),), ((run.a, 2),))
        await process.datasets.add(dataset(f"{run.a}c", depends=((), (0,)), external=outer), "{}")
    with contextlib.suppress(AlreadyExists):
        await process.datasets.add(dataset(f"{run.a}d"), "text")


async def _materialise(run: Run, process: Any) -> None:
    kept = await process.datasets.get(run.b)
    await make_jobs(process, kept, 1, 1)


async def _claim(run: Run, process: Any) -> None:
    await process.tasks.move(run.claim("a0-0", "a1-0", "a1-2", "b0-2"), now=9.0)


async def _finish(run: Run, process: Any) -> None:
    await process.tasks.move(run.end(E.FINISHED, "a0-0", "a1-0", "a1-2"), now=9.0)


async def _finish_last(run: Run, process: Any) -> None:
    await process.tasks.move(run.end(E.FINISHED, "a1-1", "b0-0"), now=9.0)


async def _fail(run: Run, process: Any) -> None:
    moves = [
        *run.end(E.RETRIED, "a0-0", class_id=7),
        *run.end(E.DEFERRED, "a1-0", release_at=50.0),
        *run.end(E.FAILED, "a1-2"),
    ]
    await process.tasks.move(moves, now=9.0)


async def _reset(run: Run, process: Any) -> None:
    await process.tasks.move(run.plain(E.HARD_RESET, "a0-0", "a1-2", "b0-0"), now=9.0)


async def _suspend(run: Run, process: Any) -> None:
    await process.tasks.move(run.plain(E.SUSPENDED, "a0-1", "a1-1", "b0-0"), now=9.0)
    await process.datasets.update(run.a, DatasetPatch(suspended=True), now=9.0)


async def _set_config(run: Run, process: Any) -> None:
    config = DatasetConfig("new", ("x", "y", "z"), ((), (), (0,)), (((run.a, 2),), ((run.a, 0),), ()))
    await process.datasets.set_config(run.b, config, expected_version=1, now=9.0)


async def _renew(run: Run, process: Any) -> None:
    leases = [(f"{run.a}-{place}", "L") for place in ("0-0", "1-0", "1-2")]
    await process.tasks.renew(leases, until=300.0)


STORIES: dict[str, tuple[Step, Step]] = {
    "add": (_nothing, _add),
    "materialise": (_a_complete, _materialise),
    "claim": (_nothing, _claim),
    "finish": (_a_running, _finish),
    "finish_last": (_all_but_one, _finish_last),
    "fail": (_a_running, _fail),
    "reset": (_all_but_one, _reset),
    "suspend": (_a_complete, _suspend),
    "set_config": (_a_complete, _set_config),
    "renew": (_a_running, _renew),
}


@pytest.fixture
async def database(mongo_url: str) -> AsyncIterator[Database]:
    # Without indexes, which take their time to make and which the test server does not use.
    found = Database(mongo_url)
    await found.open()
    yield found
    await found.close()


@dataclass(frozen=True)
class Story:
    """What came before, and how it ends if nothing happens."""

    deed: Step
    before: Content
    end: Content

    @classmethod
    async def tell(cls, database: Database, before: Step, deed: Step) -> Story:
        process = Process(database)
        await RUN.prepare(process)
        await before(RUN, process)
        kept = await content(database)
        await deed(RUN, process)
        return cls(deed, kept, await seen(database))

    async def play(self, database: Database, fate: Fate) -> Process | None:
        """Begin again, with a fate; the process that has met it, or None if it met none."""
        await restore(database, self.before)
        process = Process(database, fate)
        with contextlib.suppress(Crash, StoreUnavailable):
            await self.deed(RUN, process)
        await process.context.drain()
        return process if fate.is_met else None


RUN = Run("a", "b")
WINDING = ("materialise", "finish", "finish_last", "reset", "set_config")


@pytest.mark.parametrize("story", STORIES)
async def test_a_crash_between_two_writes_is_repaired(database: Database, story: str):
    told = await Story.tell(database, *STORIES[story])
    for kind in (CrashBefore, CrashWithin):
        at = 1
        while await told.play(database, kind(at)):
            process = Process(database)
            await repair(process.context)
            await seen(database)
            await told.deed(RUN, process)
            assert await seen(database) == told.end, (kind, at)
            at += 1
        assert at > 1 or kind is CrashWithin


@pytest.mark.parametrize("story", WINDING)
async def test_a_lost_answer_is_made_up_for(database: Database, story: str):
    told = await Story.tell(database, *STORIES[story])
    at = 1
    while process := await told.play(database, LoseAnswer(at)):
        await told.deed(RUN, process)
        await repair(process.context)
        assert await seen(database) == told.end, at
        at += 1


@pytest.mark.parametrize("story", WINDING)
async def test_another_process_repairs_what_is_under_way(database: Database, story: str):
    told = await Story.tell(database, *STORIES[story])

    async def deed() -> None:
        await repair(Process(database).context)

    at = 1
    while await told.play(database, Overtake(at, deed=deed)):
        assert await seen(database) == told.end, at
        at += 1


async def test_a_crash_after_another_process_has_repaired_is_repaired(database: Database):
    told = await Story.tell(database, *STORIES["finish"])

    async def deed() -> None:
        await repair(Process(database).context)

    at, later, played = 1, 1, 0
    while True:
        fate = OvertakeThenCrash(at, deed=deed, later=later)
        if not await told.play(database, fate):
            break
        await deed()
        await seen(database)
        await told.deed(RUN, Process(database))
        assert await seen(database) == told.end, (at, later)
        at, later, played = (at, later + 1, played + 1) if fate.is_over else (at + 1, 1, played)
    assert played > at > 1


@pytest.mark.parametrize("story", WINDING)
async def test_two_processes_that_do_the_same_do_it_once(database: Database, story: str):
    told = await Story.tell(database, *STORIES[story])

    async def deed() -> None:
        await told.deed(RUN, Process(database))

    at = 1
    while await told.play(database, Overtake(at, deed=deed)):
        assert await seen(database) == told.end, at
        at += 1


async def _b_suspended(run: Run, process: Any) -> None:
    await _a_running(run, process)
    await process.tasks.move(run.plain(E.SUSPENDED, "b0-0"), now=6.0)


async def _resume(run: Run, process: Any) -> None:
    await process.tasks.move(run.plain(E.RESUMED, "b0-0"), now=7.0)


async def _add_and_materialise(run: Run, process: Any) -> None:
    outer = (((run.a, 2),), ((run.a, 0),))
    added = await process.datasets.add(dataset("c", depends=((), ()), external=outer), "{}")
    await make_jobs(process, added, 0, 2)


RIVALS: dict[str, tuple[Step, Step]] = {
    "resume": (_b_suspended, _resume),
    "materialise": (_a_running, _materialise),
    "add": (_a_running, _add_and_materialise),
    "set_config": (_a_running, _set_config),
}


@pytest.mark.parametrize("is_late", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("rival", RIVALS)
async def test_no_task_misses_that_what_it_needs_is_complete(database: Database, rival: str, is_late: bool):
    before, change = RIVALS[rival]
    slow, quick = (change, _finish) if is_late else (_finish, change)
    told = await Story.tell(database, before, slow)
    other: Process

    async def deed() -> None:
        await quick(RUN, other)

    at = 1
    while True:
        await restore(database, told.before)
        other = Process(database)
        await other.context.states.load(("a", "b"))  # which are about to change
        process = Process(database, fate := Overtake(at, deed=deed))
        await process.context.states.load(("a", "b"))
        await slow(RUN, process)
        if not fate.is_met:
            return
        await seen(database)
        at += 1


async def test_the_audit_finds_what_a_crash_has_left_on_a_complete_dataset(database: Database):
    dead, process = Process(database, CrashBefore(2)), Process(database)
    await make(process, "a", jobs_wanted=1)
    await process.tasks.move(RUN.claim("a0-0"), now=5.0)
    await process.tasks.move(RUN.end(E.FINISHED, "a0-0"), now=6.0)
    assert await process.datasets.active() == []
    with pytest.raises(Crash):
        await dead.tasks.move(RUN.plain(E.HARD_RESET, "a0-0"), now=7.0)

    (found,) = await process.datasets.active()
    assert found.status is JobStatus.COMPLETE
    assert await process.datasets.recount("a") == []

    (found,) = await process.datasets.active()
    assert found.status is JobStatus.PROCESSING
    await seen(database)


async def test_an_error_tells_that_the_outcome_is_unknown(database: Database):
    """From the first write on: before it, nothing has changed."""
    told = await Story.tell(database, _a_running, _finish)
    at = 1
    while True:
        await restore(database, told.before)
        process = Process(database, fate := GoAway(at))
        with contextlib.suppress(StoreUnavailable):
            await _finish(RUN, process)
            assert not fate.is_met
            return
        assert fate.error.detail == ({} if at == 1 else {"outcome": "unknown"})
        at += 1


@pytest.mark.parametrize("story", ["materialise", "set_config"])
async def test_a_process_ends_what_it_had_begun_before_it_counts_what_waits(database: Database, story: str):
    told = await Story.tell(database, *STORIES[story])
    at = 2
    while process := await told.play(database, GoAway(at)):
        await process.tasks.ready_counts()
        assert await seen(database) == told.end, at
        at += 1
    assert at > 2


async def test_a_store_is_repaired_as_it_is_opened(mongo_url: str):
    store = MongoStore(mongo_url)
    await store.open()
    run = Run("a", "b")
    await run.prepare(store)
    await _a_running(run, store)
    database = Database(mongo_url)
    await database.open()
    with pytest.raises(Crash):
        await _finish(run, Process(database, CrashBefore(2)))
    await database.close()
    await store.close()

    await store.open()
    progress = await store.datasets.progress("a")
    lines = await store.check()
    await store.close()

    assert progress.all_tasks == {"complete": 2, "waiting": 3, "processing": 1}
    assert lines == []
