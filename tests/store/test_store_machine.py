"""Random histories: every store does what the naive model of it does, move by move."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_model import ModelStore
from store_samples import OpenStore, class_of, dataset, pages

from iceprod.model.lifecycle import TaskEvent
from iceprod.model.task import Ended, Lease, Move, Outcome, task_id
from iceprod.store.base import DatasetPatch, Store, TaskFilter

E = TaskEvent
FIRST, SECOND = "a", "b"
GRAPH = ((), (0,), (0, 1), ())
OUTER = {FIRST: ((),) * 4, SECOND: (((FIRST, 1),), (), (), ((FIRST, 0), (FIRST, 3)))}
LEASES = ("L1", "L2")

_places = st.tuples(st.sampled_from((FIRST, SECOND)), st.integers(0, 2), st.integers(0, 3))
# Claims and finishes are drawn more often, else nearly no task would ever complete.
_events = st.sampled_from([*TaskEvent, *[E.CLAIMED] * 6, *[E.FINISHED] * 8])
_moves = st.tuples(
    st.just("move"),
    st.lists(st.tuples(_places, _events, st.sampled_from(LEASES), st.booleans()), min_size=1, max_size=8),
)
steps_of_histories = st.one_of(
    _moves,
    _moves,
    _moves,
    st.tuples(st.just("make"), st.tuples(st.sampled_from((FIRST, SECOND)), st.integers(1, 2))),
    st.tuples(
        st.just("patch"),
        st.tuples(
            st.sampled_from((FIRST, SECOND)),
            st.sampled_from(("suspended", "truncated", "always_active")),
            st.booleans(),
        ),
    ),
    st.tuples(st.just("renew"), st.tuples(_places, st.sampled_from(LEASES))),
)


@dataclass
class Pair:
    """A store and its model; ``names`` are the ids that the two datasets have this time."""

    store: Store
    model: ModelStore
    names: dict[str, str]

    @classmethod
    async def make(cls, store: Store, names: dict[str, str]) -> Pair:
        pair = cls(store, ModelStore(), names)
        for key in (FIRST, SECOND):
            outer = tuple(tuple((names[other], index) for other, index in needs) for needs in OUTER[key])
            given_dataset = dataset(names[key], depends=GRAPH, external=outer, jobs_wanted=3)
            pair.model.datasets[names[key]] = await store.datasets.add(given_dataset, "{}")
        return pair

    async def step(self, kind: str, what: Any, *, now: float) -> None:
        await getattr(self, f"_{kind}")(what, now=now)

    async def _make(self, what: tuple[str, int], *, now: float) -> None:
        name, jobs = self.names[what[0]], what[1]
        first = self.model.datasets[name].jobs_made
        if first + jobs > 3:
            return
        classes = [[class_of(index) for index in range(4)]] * jobs
        assert await self.store.datasets.materialise(name, first + 1, classes, now=now) is None
        made = await self.store.datasets.materialise(name, first, classes, now=now)
        expected = self.model.materialise(name, jobs, now=now)
        assert made is not None
        assert {found for found, _ in made.released} == expected
        assert made.dataset.status is self.model.status(name)

    async def _patch(self, what: tuple[str, str, bool], *, now: float) -> None:
        name = self.names[what[0]]
        fields = {what[1]: what[2]}
        changed = await self.store.datasets.update(name, DatasetPatch(**fields), now=now)
        self.model.datasets[name] = replace(self.model.datasets[name], **fields)  # type: ignore[arg-type]
        assert changed is not None
        assert changed.status is self.model.status(name)

    async def _renew(self, what: tuple[tuple[str, int, int], str], *, now: float) -> None:
        name, lease_id = self._id(what[0]), what[1]
        task = self.model.tasks.get(name)
        held = task is not None and task.status == "processing" and task.lease_id == lease_id
        assert await self.store.tasks.renew([(name, lease_id)], until=now + 50) == [held]
        if task and held:
            self.model.tasks[name] = replace(task, lease_until=now + 50)

    async def _move(self, what: list[tuple[Any, ...]], *, now: float) -> None:
        moves = [self._one(*drawn, now=now) for drawn in what]
        results = await self.store.tasks.move(moves, now=now)
        for move, moved in zip(moves, results, strict=True):
            dataset_id = move.task_id.split("-")[0]
            jobs_before, before = self.model.jobs(dataset_id), self.model.status(dataset_id)
            expected = self.model.move(move, now=now)
            assert (moved is None) == (expected is None)
            if moved is None or expected is None:
                continue
            task, released, held = expected
            assert moved.task == task
            assert ({r for r, _ in moved.released}, {h for h, _ in moved.held}) == (released, held)
            job_before, job = jobs_before[task.job_index], self.model.jobs(dataset_id)[task.job_index]
            assert moved.job is (None if job is job_before else job)
            status = self.model.status(dataset_id)
            assert moved.dataset is (None if status is before else status)

    def _one(self, place: Any, event: TaskEvent, lease_id: str, flag: bool, *, now: float) -> Move:
        name = self._id(place)
        if event is E.CLAIMED:
            return Move(name, event, lease=Lease(lease_id, "p", now + 10))
        if event in (E.FINISHED, E.RETRIED, E.DEFERRED, E.FAILED):
            outcome = Outcome.FINISHED if event is E.FINISHED else Outcome.FAILED
            back_off = now + 3 if event is E.DEFERRED and flag else None
            return Move(name, event, lease_id=lease_id, ended=Ended(outcome), release_at=back_off)
        if event is E.EVICTED and flag:
            return Move(name, event, lease_id=lease_id, ended=Ended(Outcome.EVICTED))
        return Move(name, event)

    def _id(self, place: tuple[str, int, int]) -> str:
        return task_id(self.names[place[0]], place[1], place[2])

    async def compare(self) -> None:
        """Everything that can be read is as the model has it."""
        for name in self.names.values():
            found = await pages(self.store.tasks.select, name, TaskFilter(), limit=5)
            assert [task for page in found for task in page] == self.model.of_dataset(name)
            jobs = await pages(self.store.jobs.select, name, None, limit=2)
            assert [job.status for page in jobs for job in page] == self.model.jobs(name)
            progress = await self.store.datasets.progress(name)
            assert progress.tasks == self.model.counts(name)
            kept = await self.store.datasets.get(name)
            assert kept is not None
            assert kept.status is self.model.status(name)
            assert await self.store.datasets.recount(name) == []
        for name in {attempt.task_id for attempt in self.model.attempts}:
            expected = [attempt for attempt in self.model.attempts if attempt.task_id == name]
            assert await self.store.tasks.attempts(name) == expected


def test_a_store_does_what_its_model_does(
    open_store: OpenStore, tmp_path: Path, request: pytest.FixtureRequest
):
    numbers = itertools.count()
    examples = 12 if request.node.get_closest_marker("mongo") else 120  # there each step takes its time

    with asyncio.Runner() as runner:

        async def opened() -> tuple[Any, Store]:
            context = open_store(tmp_path)
            return context, await context.__aenter__()

        context, store = runner.run(opened())

        async def history(steps: list[tuple[str, Any]]) -> None:
            number = next(numbers)
            pair = await Pair.make(store, {FIRST: f"a{number}", SECOND: f"b{number}"})
            for name in (FIRST, SECOND):
                await pair.step("make", (name, 2), now=2.0)
            for now, (kind, what) in enumerate(steps, start=3):
                await pair.step(kind, what, now=float(now))
            await pair.compare()

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            database=None,
        )
        @given(st.lists(steps_of_histories, max_size=40))
        def check(steps: list[tuple[str, Any]]) -> None:
            runner.run(history(steps))

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))
