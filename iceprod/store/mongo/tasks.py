"""Tasks in MongoDB: they live in the documents of their jobs."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from iceprod.errors import NotFoundError, QueryError
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page, Slice
from iceprod.model.task import MAX_TASKS, Attempt, Move, Moved, Outcome, Task, parse_task_id
from iceprod.store import cursors
from iceprod.store.base import TaskFilter, TaskRepository
from iceprod.store.mongo.client import ASCENDING, DESCENDING, Document
from iceprod.store.mongo.context import Context, begun
from iceprod.store.mongo.documents import (
    PROCESSING,
    TASK_BITS,
    WAITING,
    attempt_of,
    job_key,
    job_place,
    kind_key,
    of_dataset,
    task_key,
    task_of,
    tasks_of,
)
from iceprod.store.mongo.effects import follow
from iceprod.store.mongo.owed import at_sites
from iceprod.store.mongo.recount import repair_left
from iceprod.store.mongo.states import State
from iceprod.store.mongo.work import JobWork
from iceprod.store.mongo.writing import Taken, carry

_FLIPS: Final = frozenset({TaskEvent.FINISHED, TaskEvent.HARD_RESET})
"""What can make a task complete, or not so any more."""
_FIELDS: Final = ("key", "tasks")
_OF_READY: Final = ("key", "tasks.status", "tasks.class_id")
_PART: Final = 256  # jobs read at a time where it cannot be told how many are needed

Place = tuple[str, int, int]  # dataset id, job index, task index
Step = tuple[int, Place, Move]  # where its result belongs
Wave = defaultdict[str, list[Step]]  # by job id


class MongoTasks(TaskRepository):
    """Moves go through `writing.carry`; the rest are reads that each have their index."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, task_id: str) -> Task | None:
        """See the port."""
        place = _place(task_id)
        if place is None:
            return None
        dataset_id, job_index, task_index = place
        found = await self._context.jobs.find_one({"_id": f"{dataset_id}-{job_index}"}, _FIELDS)
        if found is None or task_index >= len(found["tasks"]):
            return None
        return task_of(dataset_id, job_index, found["tasks"][task_index])

    async def among(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """See the port."""
        wanted = {task_id: place for task_id in task_ids if (place := _place(task_id)) is not None}
        jobs = sorted({f"{dataset_id}-{job_index}" for dataset_id, job_index, _ in wanted.values()})
        found: dict[str, Task] = {}
        for start in range(0, len(jobs), _PART):
            part = await self._context.jobs.find({"_id": {"$in": jobs[start : start + _PART]}}, _FIELDS)
            found.update((task.task_id, task) for task in _tasks(part) if task.task_id in wanted)
        return found

    async def select(self, dataset_id: str, wanted: TaskFilter, page: Page) -> Slice[Task]:
        """See the port."""
        cursors.checked(page)
        state = await self._context.states.get(dataset_id)
        if state is None:
            return Slice(())
        after = cursors.number_of(page, -1)
        found: list[Task] = []
        async for task in self._some(state, wanted, after, page.limit + 1):
            found.append(task)
            if len(found) > page.limit:
                last = found[page.limit - 1]
                key = task_key(state.number, last.job_index, last.task_index)
                return Slice(tuple(found[: page.limit]), cursors.encode(key))
        return Slice(tuple(found))

    async def move(self, moves: Sequence[Move], *, now: float) -> list[Moved | None]:
        """See the port.

        A job's moves are written in one go: all of them or none.  When the database goes away in the
        middle of it, this raises with ``outcome: unknown``: some jobs may have been written.  What
        must follow for those is done by this process as soon as it can, or by `repair`; a
        caller who repeats the call is told None for their moves, by the guards.
        """
        await self._repair_left()
        try:
            return await self._context.whole(self._move(moves, now=now))
        except (OverflowError, UnicodeEncodeError) as error:
            raise QueryError("a value is beyond what the store can hold") from error

    async def renew(self, leases: Sequence[tuple[str, str]], *, until: float) -> list[bool]:
        """See the port."""
        results = [False] * len(leases)
        wanted: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for number, (task_id, lease_id) in enumerate(leases):
            place = _place(task_id)
            if place is not None:
                wanted[f"{place[0]}-{place[1]}"].append((number, place[2], lease_id))

        def step(work: JobWork) -> None:
            for number, index, lease_id in wanted[work.job_id]:
                results[number] = work.renew(index, lease_id, until=until)

        async def effects(batch: str, taken: Taken) -> None:
            """Nothing follows."""

        await self._context.whole(carry(self._context, wanted, step, effects))
        return results

    async def held_by(self, pilot_id: str) -> list[Task]:
        """See the port."""
        found = await self._context.jobs.find({"held": pilot_id}, _FIELDS)
        found.sort(key=_key)
        return [task for task in _tasks(found) if _is_held(task, pilot_id)]

    async def held_after(self, holder: str, after: str | None, limit: int) -> list[Task]:
        """See the port."""
        start = await self._after(after)
        if start is None or limit < 1:
            return []
        where = {"held": holder, "key": {"$gte": start >> TASK_BITS}}
        found = await self._context.jobs.find(
            where, _FIELDS, sort=[("key", ASCENDING)], limit=limit + (start > 0)
        )
        return [task for task in _tasks(found, start) if _is_held(task, holder)][:limit]

    async def count_held(self, holder: str, dataset_id: str | None = None) -> int:
        """See the port."""
        where: Document = {"held": holder}
        if dataset_id is not None:
            state = await self._context.states.get(dataset_id)
            if state is None:
                return 0
            where["key"] = of_dataset(state.number)
        found = await self._context.jobs.find(where, ("tasks.status", "tasks.pilot_id"))
        return sum(
            task["status"] == PROCESSING and task["pilot_id"] == holder
            for job in found
            for task in job["tasks"]
        )

    async def ended_at_sites(self, dataset_id: str) -> dict[str, dict[Outcome, int]]:
        """See the port."""
        found = await self._context.datasets.find_one({"_id": dataset_id}, ("at_sites",))
        return at_sites(found or {})

    async def held_of(self, holder: str, dataset_ids: Sequence[str]) -> set[str]:
        """See the port."""
        states = await self._context.states.load(set(dataset_ids))
        found = set()
        for dataset_id, state in states.items():
            where = {"held": holder, "key": of_dataset(state.number)}
            if await self._context.jobs.find_one(where, ("key",)) is not None:
                found.add(dataset_id)
        return found

    async def expired(self, before: float, limit: int) -> list[Task]:
        """See the port."""
        found = await self._first("lease_until", {"$lt": before}, limit)
        late = [t for t in _tasks(found) if t.status == PROCESSING and t.lease_until < before]
        return sorted(late, key=lambda task: task.lease_until)[:limit]

    async def due(self, now: float, limit: int) -> list[Task]:
        """See the port."""
        found = await self._first("due", {"$lte": now}, limit)
        due = [
            (task.release_at, place, task)
            for place, task in enumerate(_tasks(found))
            if task.status is TaskStatus.IDLE and task.release_at is not None and task.release_at <= now
        ]
        return [task for _, _, task in sorted(due, key=lambda one: one[:2])][:limit]

    async def ready_counts(self) -> dict[int, int]:
        """See the port."""
        await self._repair_left()  # until then the counters lag behind
        where = {"unfinished": {"$gt": 0}, "suspended": False}
        counts: defaultdict[int, int] = defaultdict(int)
        for document in await self._context.datasets.find(where, ("ready",)):
            for class_id, number in document["ready"].items():
                counts[int(class_id)] += number
        return {class_id: number for class_id, number in counts.items() if number > 0}

    async def ready(self, class_id: int, after: str | None, limit: int) -> list[str]:
        """See the port."""
        start = await self._after(after)
        if start is None:
            return []
        where = {"ready": class_id, "key": {"$gte": start >> TASK_BITS}}
        found = await self._context.jobs.find(
            where, _OF_READY, sort=[("key", ASCENDING)], limit=limit + (start > 0)
        )
        wanted = (
            f"{job['_id']}-{index}"
            for job in found
            for index, task in enumerate(job["tasks"])
            if task["status"] == WAITING
            and task["class_id"] == class_id
            and job["key"] << TASK_BITS | index >= start
        )
        return list(itertools.islice(wanted, limit))

    async def ids(
        self, dataset_id: str, statuses: frozenset[TaskStatus], after: str | None, limit: int
    ) -> list[str]:
        """See the port."""
        state = await self._context.states.get(dataset_id)
        start = await self._after(after)
        if state is None or start is None or not statuses or limit < 1:
            return []
        found: list[str] = []
        where = {"statuses": {"$in": sorted(status.value for status in statuses)}}
        async for task in self._in_order(state, where, start, limit):
            if task.status in statuses:
                found.append(task.task_id)
                if len(found) == limit:
                    break
        return found

    async def ids_of_jobs(self, job_ids: Sequence[str]) -> list[str]:
        """See the port."""
        known = sorted({job_id for job_id in job_ids if job_place(job_id) is not None})
        tasks: dict[str, int] = {}
        for start in range(0, len(known), _PART):
            where = {"_id": {"$in": known[start : start + _PART]}}
            found = await self._context.jobs.find(where, ("tasks.index",))
            tasks.update((job["_id"], len(job["tasks"])) for job in found)
        return [f"{job_id}-{index}" for job_id in job_ids for index in range(tasks.get(job_id, 0))]

    async def attempts(self, task_id: str) -> list[Attempt]:
        """See the port."""
        place = _place(task_id)
        state = None if place is None else await self._context.states.get(place[0])
        if place is None or state is None:
            return []
        where = {"key": task_key(state.number, *place[1:])}
        return [
            attempt_of(found)
            for found in await self._context.attempts.find(where, sort=[("attempt", ASCENDING)])
        ]

    async def recent_attempts(self, dataset_id: str, task_index: int, limit: int) -> list[Attempt]:
        """See the port."""
        state = await self._context.states.get(dataset_id)
        if state is None or not 0 <= task_index < MAX_TASKS or limit < 1:
            return []
        found = await self._context.attempts.find(
            {"kind": kind_key(state.number, task_index)},
            sort=[("ended_at", DESCENDING), ("key", DESCENDING), ("attempt", DESCENDING)],
            limit=limit,
        )
        return [attempt_of(document) for document in found]

    async def _repair_left(self) -> None:
        """Do what could not be done while the database was away."""
        if self._context.left:
            await self._context.whole(repair_left(self._context))

    async def _move(self, moves: Sequence[Move], *, now: float) -> list[Moved | None]:
        places = [_place(move.task_id) for move in moves]
        steps = [
            (number, place, move)
            for number, (place, move) in enumerate(zip(places, moves, strict=True))
            if place is not None
        ]
        states = await self._context.states.load({place[0] for _, place, _ in steps})
        results: list[Moved | None] = [None] * len(moves)
        for number, wave in enumerate(_waves(steps, states)):
            with begun() if number else contextlib.nullcontext():
                works = await self._carry_out(wave, now=now)
            for work in works:
                for place, moved in work.results.items():
                    results[place] = moved
        return results

    async def _carry_out(self, wave: Wave, *, now: float) -> list[JobWork]:
        def step(work: JobWork) -> None:
            for number, place, move in wave[work.job_id]:
                work.move(number, place[2], move, now=now)

        async def effects(batch: str, taken: Taken) -> None:
            await follow(self._context, batch, taken)

        return await carry(self._context, wave, step, effects)

    async def _first(self, field: str, condition: Document, limit: int) -> list[Document]:
        """The jobs where ``field`` is lowest."""
        if limit < 1:
            return []
        return await self._context.jobs.find(
            {field: condition}, _FIELDS, sort=[(field, ASCENDING)], limit=limit
        )

    async def _after(self, task_id: str | None) -> int | None:
        """The lowest key of a task that comes after this one; None if there is no such dataset."""
        if task_id is None:
            return 0
        place = _place(task_id)
        state = None if place is None else await self._context.states.get(place[0])
        return None if place is None or state is None else task_key(state.number, *place[1:]) + 1

    async def _some(self, state: State, wanted: TaskFilter, after: int, limit: int) -> AsyncIterator[Task]:
        """The tasks that are wanted, in order."""
        where: Document = {}
        start, last = after + 1, None
        if wanted.job_index is not None:
            start = max(start, task_key(state.number, wanted.job_index, 0))
            last = wanted.job_index
        if wanted.status is not None and wanted.job_index is None:
            where["statuses"] = wanted.status.value
            if wanted.task_index is not None:
                where[f"tasks.{wanted.task_index}.status"] = wanted.status.value
        async for task in self._in_order(state, where, start, limit, last_job=last):
            if wanted.status not in (None, task.status):
                continue
            if wanted.task_index in (None, task.task_index):
                yield task

    async def _in_order(
        self, state: State, where: Document, start: int, limit: int, *, last_job: int | None = None
    ) -> AsyncIterator[Task]:
        """The tasks of a dataset's jobs that meet a condition, from a task's key on, read part by part."""
        bounds = of_dataset(state.number)
        bounds["$gte"] = max(bounds["$gte"], start >> TASK_BITS)
        if last_job is not None:
            bounds["$lt"] = min(bounds["$lt"], job_key(state.number, last_job) + 1)
        size = min(limit if where else limit // max(1, len(state.depends)) + 2, _PART)
        while True:
            part = await self._context.jobs.find(
                {**where, "key": dict(bounds)}, _FIELDS, sort=[("key", ASCENDING)], limit=size
            )
            for task in _tasks(part, start):
                yield task
            if len(part) < size:
                return
            bounds["$gte"] = part[-1]["key"] + 1


def _waves(steps: Iterable[Step], states: dict[str, State]) -> Iterable[Wave]:
    """Moves that may be made at once, part by part.

    Where tasks of one dataset need those of another, a move must not go along with an earlier
    one that may settle the same job.
    """
    wave, settled = Wave(list), set[str]()
    for number, place, move in steps:
        state = states.get(place[0])
        if state is None:
            continue
        job_id = f"{place[0]}-{place[1]}"
        targets = {f"{other}-{place[1]}" for other in state.needed_by} if move.event in _FLIPS else set()
        if job_id in settled or targets & settled:
            yield wave
            wave, settled = Wave(list), set()
        wave[job_id].append((number, place, move))
        settled |= targets
    if wave:
        yield wave


def _tasks(jobs: Iterable[Document], start: int = 0) -> list[Task]:
    """The tasks of some jobs in order, from a task's key on."""
    first, skipped = start >> TASK_BITS, start & (MAX_TASKS - 1)
    found: list[Task] = []
    for job in jobs:
        found += tasks_of(job)[skipped:] if job["key"] == first else tasks_of(job)
    return found


def _is_held(task: Task, holder: str) -> bool:
    return task.pilot_id == holder and task.status is TaskStatus.PROCESSING


def _place(task_id: str) -> Place | None:
    try:
        return parse_task_id(task_id)
    except NotFoundError:
        return None


def _key(job: Document) -> int:
    return int(job["key"])
