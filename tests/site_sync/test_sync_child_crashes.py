"""A child that dies between any two steps, and what its next process makes of that.

The store stops answering before, or just after, the n-th change; the process is thrown away,
and another one begins with what the store has.  Whatever n is, every task is complete in
the end, was told so once, and nothing is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from site_harness import LARGE, task
from sync_harness import Fault, Pair, open_pair

from iceprod.errors import Unavailable
from iceprod.model.federation import ErrandStatus
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.task import Outcome
from iceprod.store.base import DatasetFilter, Store

JOBS = 3
_CHANGES = (
    ("datasets", "add"),
    ("datasets", "add_classes"),
    ("datasets", "materialise"),
    ("datasets", "update"),
    ("errands", "add"),
    ("errands", "end"),
    ("outbox", "add"),
    ("outbox", "done"),
    ("tasks", "move"),
)


class Crash(Exception):
    """The process is gone."""


@contextmanager
def crashing(store: Store, at: int, *, is_done: bool) -> Iterator[list[str]]:
    """Let the ``at``-th change, and every later one, fail; the first all the same done if ``is_done``."""
    made: list[str] = []

    def guarded(name: str, change: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def attempt(*args: Any, **more: Any) -> Any:
            made.append(name)
            if len(made) < at:
                return await change(*args, **more)
            if len(made) == at and is_done:
                await change(*args, **more)
            raise Crash

        return attempt

    for part, name in _CHANGES:
        repository = getattr(store, part)
        setattr(repository, name, guarded(f"{part}.{name}", getattr(repository, name)))
    try:
        yield made
    finally:
        for part, name in _CHANGES:
            delattr(getattr(store, part), name)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child, with some jobs to do."""
    async with open_pair(tmp_path) as made:
        await made.north.submit(task("a"), task("b", "a"), njobs=JOBS)
        yield made


async def to_the_end(pair: Pair) -> None:
    """Let both go on until everything is done."""
    await pair.parent.taking.repair()
    await pair.renew()
    pilot = await pair.south.pilot()
    for _ in range(2 * JOBS + 2):
        await pair.take()
        await pair.south.run_all(pilot)
        await pair.tell()


async def check(pair: Pair) -> None:
    """Every task was completed once, and nothing is left over."""
    (dataset,) = (await pair.north.store.datasets.select(DatasetFilter(), Page(10))).items
    assert await pair.north.counts(dataset) == {TaskStatus.COMPLETE: 2 * JOBS}
    for place in range(2 * JOBS):
        task_id = f"{dataset.dataset_id}-{place // 2}-{place % 2}"
        attempts = await pair.north.store.tasks.attempts(task_id)
        assert [a.outcome for a in attempts].count(Outcome.FINISHED) == 1, task_id
    assert (await pair.south.store.outbox.backlog("north")).waiting == 0
    errands = await pair.errands()
    assert (errands.get(ErrandStatus.OPEN, 0), errands[ErrandStatus.ENDED]) == (0, 2 * JOBS)
    statuses = await pair.south.statuses(await pair.mirror())
    assert set(statuses) <= {TaskStatus.COMPLETE, TaskStatus.SUSPENDED}


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
async def test_a_child_that_dies_while_it_takes_tasks_loses_none(pair: Pair, at: int, is_done: bool) -> None:
    with crashing(pair.south.store, at, is_done=is_done) as made, suppress(Crash):
        await pair.take()
    assert len(made) >= min(at, 5), made
    await pair.restart_south()
    await to_the_end(pair)
    await check(pair)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
async def test_a_child_that_dies_while_it_reports_says_everything_once(
    pair: Pair, at: int, is_done: bool
) -> None:
    await pair.take()
    pilot = await pair.south.pilot()
    claimed = await pair.south.claim(pilot, LARGE, max_tasks=2)
    with crashing(pair.south.store, at, is_done=is_done), suppress(Crash):
        for one in claimed:
            await pair.south.finish(pilot, one.task)
            await pair.tell()
    await pair.restart_south()
    # The pilot repeats what it was not answered, and what nobody wants any more it drops.
    for one in claimed:
        with suppress(Exception):
            await pair.south.finish(pilot, one.task)
    await to_the_end(pair)
    await check(pair)


async def test_a_pilot_that_dies_with_its_child_makes_no_second_end(pair: Pair) -> None:
    """The end was told, and nobody is left to say so here: the task waits, but is not run again."""
    await pair.take()
    pilot = await pair.south.pilot()
    claimed = (await pair.south.claim(pilot, LARGE))[0]
    with crashing(pair.south.store, 2, is_done=False), suppress(Crash):
        await pair.south.finish(pilot, claimed.task)
    await pair.restart_south()
    await pair.tell()
    await pair.south.services.pilots.gone(pilot.id, "lost with its machine")
    assert (await pair.south.task(claimed.task.task_id)).status is TaskStatus.WAITING
    await to_the_end(pair)
    assert (await pair.south.task(claimed.task.task_id)).status is TaskStatus.SUSPENDED
    await check(pair)


async def test_an_answer_that_is_lost_is_no_loss(pair: Pair) -> None:
    pair.wire.then("site.pull", Fault.UNANSWERED)
    with suppress(Exception):
        await pair.take()
    await to_the_end(pair)
    await check(pair)


@pytest.mark.expects_logs
async def test_what_cannot_be_kept_goes_back_before_more_is_taken(pair: Pair) -> None:
    pair.wire.then("site.dataset", Fault.LOST)
    with pytest.raises(Unavailable):
        await pair.take()
    assert await pair.errands() == {}
    await pair.take()
    assert await pair.errands() == {ErrandStatus.OPEN: JOBS}
