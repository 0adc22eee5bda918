"""Several processes on one MongoDB database, each with what it remembers."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mongo_content import seen
from mongo_faults import Overtake, Process
from store_samples import make
from test_store_machine import FIRST, SECOND, Pair, steps_of_histories

from iceprod.model.lifecycle import TaskEvent
from iceprod.model.task import Ended, Lease, Move, Outcome
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.effects import carry_out

pytestmark = pytest.mark.mongo

E = TaskEvent
_STEPS = 8


@pytest.fixture
async def database(mongo_url: str) -> AsyncIterator[Database]:
    opened = Database(mongo_url)
    await opened.open()
    yield opened
    await opened.close()


class _InTurns:
    """A repository of several processes: each call goes to the next of them."""

    def __init__(self, repositories: list[Any]) -> None:
        self._turns = itertools.cycle(repositories)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._turns), name)


class _Processes:
    """A store whose calls go to one process after the other."""

    def __init__(self, processes: list[Process]) -> None:
        self.datasets = _InTurns([process.datasets for process in processes])
        self.jobs = _InTurns([process.jobs for process in processes])
        self.tasks = _InTurns([process.tasks for process in processes])


def test_two_processes_in_turns_do_what_one_would_do(mongo_url: str):
    numbers = itertools.count()
    database = Database(mongo_url)

    with asyncio.Runner() as runner:
        runner.run(database.open())
        processes: Any = _Processes([Process(database), Process(database)])

        async def history(steps: list[tuple[str, Any]]) -> None:
            number = next(numbers)
            pair = await Pair.make(processes, {FIRST: f"a{number}", SECOND: f"b{number}"})
            for name in (FIRST, SECOND):
                await pair.step("make", (name, 2), now=2.0)
            for now, (kind, what) in enumerate(steps, start=3):
                await pair.step(kind, what, now=float(now))
            await pair.compare()

        @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
        @given(st.lists(steps_of_histories, max_size=30))
        def check(steps: list[tuple[str, Any]]) -> None:
            runner.run(history(steps))

        try:
            check()
        finally:
            runner.run(database.close())


async def test_processes_that_compete_get_each_task_once_and_count_it_once(database: Database):
    processes = [Process(database) for _ in range(3)]
    graph = ((), (0,), (0,))
    await make(processes[0], "a", depends=graph, jobs_wanted=3)
    await make(processes[1], "b", depends=graph, external=((("a", 0),), (), (("a", 1),)), jobs_wanted=3)

    claims = await asyncio.gather(*(_compete(process, seed) for seed, process in enumerate(processes)))

    found = await seen(database)
    tasks = [task for job in found["jobs"] for task in job["tasks"]]
    assert sum(claims) == sum(task["attempt"] for task in tasks) > 0
    assert await processes[0].datasets.recount("a") == []
    assert await processes[1].datasets.recount("b") == []


class _Repair(Overtake):
    """Another process repairs just before counters are changed."""

    def concerns(self, name: str, args: Sequence[Any]) -> bool:
        return name == "change" and any(field.startswith("applied.") for field in args[0])


async def test_batches_that_meet_a_repair_do_not_shut_out_one_another(database: Database):
    other = Process(database)
    repairs = [_Repair(2, deed=lambda: carry_out(other.context, "a")) for _ in range(2)]
    processes = [Process(database, repair) for repair in repairs]
    await make(other, "a", depends=((),), jobs_wanted=12)
    for number, process in enumerate(processes):  # which knows the epoch from now on
        await process.tasks.move([_move(f"a-{number}-0", E.SUSPENDED, "")], now=9.0)
    before = (await _document(database))["epoch"]

    moves = [_move(f"a-{number}-0", E.CLAIMED, "L") for number in range(2, 12)]
    claimed = [processes[n % 2].tasks.move([move], now=10.0) for n, move in enumerate(moves)]
    results = await asyncio.gather(*claimed)

    assert all(moved is not None for (moved,) in results)
    assert all(repair.is_met for repair in repairs)
    assert (await _document(database))["epoch"] == before + len(repairs)
    assert await other.datasets.recount("a") == []


async def _document(database: Database) -> dict[str, Any]:
    found = await database.collection("datasets").find_one({"_id": "a"})
    assert found is not None
    return found


async def _compete(process: Process, seed: int) -> int:
    """Move tasks here and there as fast as possible; how many claims were granted."""
    chance, claims = random.Random(seed), 0
    lease = f"L{seed}"
    for step in range(_STEPS):
        moves = []
        for _ in range(4):
            event = chance.choice([E.CLAIMED] * 3 + [E.FINISHED] * 4 + [E.HARD_RESET, E.SUSPENDED, E.RESUMED])
            name = f"{chance.choice('ab')}-{chance.randrange(3)}-{chance.randrange(3)}"
            moves.append(_move(name, event, lease))
        results = await process.tasks.move(moves, now=10.0 + step)
        claims += sum(
            moved is not None and move.event is E.CLAIMED for move, moved in zip(moves, results, strict=True)
        )
    return claims


def _move(name: str, event: TaskEvent, lease: str) -> Move:
    if event is E.CLAIMED:
        return Move(name, event, lease=Lease(lease, "p", 90.0))
    if event is E.FINISHED:
        return Move(name, event, lease_id=lease, ended=Ended(Outcome.FINISHED))
    return Move(name, event)
