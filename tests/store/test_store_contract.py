"""What every store promises about datasets, jobs and the moves of tasks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from store_samples import CHAIN, claim, class_of, dataset, finish, make, make_jobs, move, pages, run

from iceprod.errors import AlreadyExists, QueryError
from iceprod.model.dataset import Progress
from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.resources import Requirements, Resources
from iceprod.model.task import Ended, Lease, Move, Outcome
from iceprod.store.base import DatasetConfig, DatasetFilter, DatasetPatch, Store, TaskClass, TaskFilter

E, T, J = TaskEvent, TaskStatus, JobStatus


async def statuses(store: Store, *task_ids: str) -> list[TaskStatus]:
    found = [await store.tasks.get(task_id) for task_id in task_ids]
    assert all(found)
    return [task.status for task in found if task]


async def dataset_status(store: Store, dataset_id: str = "d") -> JobStatus:
    found = await store.datasets.get(dataset_id)
    assert found
    return found.status


async def job_status(store: Store, job_id: str) -> JobStatus:
    found = await store.jobs.get(job_id)
    assert found
    return found.status


# -- datasets ------------------------------------------------------------------------------


async def test_a_dataset_comes_back_as_it_was_given(store: Store):
    given = dataset(
        depends=CHAIN,
        external=((("other", 1),), (), ()),
        description="all µ",
        group="physics",
        priority=0.25,
        always_active=True,
        jobs_immutable=True,
        debug=True,
        public=False,
        retain_until=9e9,
    )

    added = await store.datasets.add(given, '{"tasks": []}')

    assert added == replace(given, number=added.number)
    assert await store.datasets.get("d") == added
    assert await store.datasets.find(added.number) == added
    assert await store.datasets.config("d", 1) == '{"tasks": []}'


async def test_unknown_things_are_none_or_empty(store: Store):
    assert await store.datasets.get("nope") is None
    assert await store.datasets.find(10**30) is None
    assert await store.datasets.config("nope", 1) is None
    assert await store.datasets.update("nope", DatasetPatch(priority=1.0), now=1.0) is None
    assert await store.datasets.materialise("nope", 0, [[1]], now=1.0) is None
    assert await store.datasets.progress("nope") == Progress()
    assert await store.datasets.classes("nope") == []
    assert await store.datasets.recount("nope") == []
    assert await store.jobs.get("nope-0") is None
    assert await store.jobs.get("garbage") is None
    assert await store.tasks.get("nope-0-0") is None
    assert await store.tasks.get("a b c") is None
    assert await store.tasks.ids_of_jobs(["nope-0", "garbage", "d-1-0"]) == []
    assert await store.tasks.attempts("nope-0-0") == []
    assert await store.tasks.move([Move("nope-0-0", E.CLAIMED), Move("", E.CLAIMED)], now=1.0) == [None, None]
    assert await store.tasks.renew([("nope-0-0", "L")], until=1.0) == [False]


async def test_numbers_ascend_and_ids_are_unique(store: Store):
    first = await store.datasets.add(dataset("a"), "{}")
    second = await store.datasets.add(dataset("b"), "{}")

    with pytest.raises(AlreadyExists):
        await store.datasets.add(dataset("a"), "{}")
    third = await store.datasets.add(dataset("c"), "{}")

    assert 0 < first.number < second.number < third.number


async def test_datasets_are_listed_newest_first_by_what_is_wanted(store: Store):
    for name, fields in {
        "a": {},
        "b": {"owner": "bob", "group": "physics", "public": False},
        "c": {"status": J.COMPLETE, "group": "physics"},
        "d": {"owner": "bob", "public": False},
    }.items():
        await store.datasets.add(dataset(name, **fields), "{}")

    async def names(**wanted):
        found = await pages(store.datasets.select, DatasetFilter(**wanted), limit=2)
        return "".join(item.dataset_id for page in found for item in page)

    assert await names() == "dcba"
    assert await names(status=J.COMPLETE) == "c"
    assert await names(owner="bob") == "db"
    assert await names(group="physics") == "cb"
    assert await names(group="physics", owner="bob", status=J.PROCESSING) == "b"
    assert await names(visible_to=("ada", frozenset())) == "ca"
    assert await names(visible_to=("ada", frozenset({"physics", "x"}))) == "cba"
    assert await names(visible_to=("bob", frozenset())) == "dcba"


async def test_active_datasets_are_those_with_work_or_jobs_to_make(store: Store):
    await make(store, "done", jobs_wanted=1)
    await make(store, "all-made".replace("-", ""), jobs_wanted=1)
    await make(store, "held", jobs_wanted=1)
    await make(store, "half", jobs_wanted=1, depends=((), ()))
    await make(store, "dead", jobs_wanted=1)
    await store.datasets.add(dataset("new"), "{}")
    await run(store, "done-0-0")
    await store.datasets.update("held", DatasetPatch(suspended=True), now=3.0)
    for task_id in ("half-0-0", "dead-0-0"):
        await claim(store, task_id)
        await move(store, task_id, E.FAILED, lease_id="L")

    assert await dataset_status(store, "half") is J.ERRORS
    assert [item.dataset_id for item in await store.datasets.active()] == ["allmade", "held", "half", "new"]


async def test_an_update_changes_what_it_names_and_rolls_up(store: Store):
    await make(store, jobs_wanted=3, jobs=1, description="x")
    await run(store, "d-0-0")

    changed = await store.datasets.update(
        "d", DatasetPatch(description="", priority=0.9, debug=True), now=30.0
    )
    assert changed == await store.datasets.get("d")
    assert changed
    assert (changed.description, changed.priority, changed.debug, changed.jobs_wanted) == ("", 0.9, True, 3)
    assert changed.status_changed_at == 1.0

    changed = await store.datasets.update("d", DatasetPatch(truncated=True), now=31.0)
    assert changed
    assert (changed.status, changed.status_changed_at) == (J.COMPLETE, 31.0)
    for patch, status in (
        (DatasetPatch(truncated=False), J.PROCESSING),
        (DatasetPatch(jobs_wanted=1), J.COMPLETE),
        (DatasetPatch(always_active=True), J.PROCESSING),
        (DatasetPatch(suspended=True), J.SUSPENDED),
        (DatasetPatch(suspended=False, always_active=False), J.COMPLETE),
    ):
        changed = await store.datasets.update("d", patch, now=32.0)
        assert changed
        assert changed.status is status
        assert await dataset_status(store) is status


async def test_a_config_is_replaced_only_by_who_knows_the_version(store: Store):
    await store.datasets.add(dataset(), "one")
    config = DatasetConfig("two", ("x", "y"), ((), (0,)), ((), (("other", 0),)))

    assert await store.datasets.set_config("d", config, expected_version=2, now=3.0) is None
    changed = await store.datasets.set_config("d", config, expected_version=1, now=3.0)
    assert await store.datasets.set_config("d", config, expected_version=1, now=3.0) is None

    assert changed == await store.datasets.get("d")
    assert changed
    assert (changed.config_version, changed.task_names, changed.depends) == (2, ("x", "y"), ((), (0,)))
    assert [await store.datasets.config("d", version) for version in (1, 2, 3)] == ["one", "two", None]
    assert len((await store.datasets.progress("d")).tasks) == 2


async def test_unclaimed_tasks_follow_a_changed_graph(store: Store):
    await make(store, depends=((), (0,), ()), jobs_wanted=1)
    names, external = ("t0", "t1", "t2"), ((), (), ())

    await store.datasets.set_config(
        "d", DatasetConfig("{}", names, ((), (), (0,)), external), expected_version=1, now=3.0
    )

    assert await statuses(store, "d-0-0", "d-0-1", "d-0-2") == [T.WAITING, T.WAITING, T.IDLE]
    (moved,) = await run(store, "d-0-0")
    assert moved
    assert moved.released == (("d-0-2", class_of(2)),)
    assert await store.datasets.recount("d") == []


async def test_classes_are_kept_once(store: Store):
    await make(store, "a", jobs_wanted=1)
    await make(store, "b", jobs_wanted=1)
    big = Requirements(Resources(cpu=8, memory=2.5), os=("RHEL_7_x86_64",), site="north")
    classes = [TaskClass(1, "a", 0, Requirements()), TaskClass(2, "a", 0, big), TaskClass(3, "b", 0, big)]

    await store.datasets.add_classes(classes)
    await store.datasets.add_classes([replace(classes[0], task_index=1), classes[2]])

    assert await store.datasets.classes("a") == classes[:2]
    assert await store.datasets.classes() == classes
    await run(store, "a-0-0")
    assert await store.datasets.classes() == classes[2:]


# -- materialisation -------------------------------------------------------------------------


async def test_new_jobs_wait_where_nothing_holds_them(store: Store):
    added = await store.datasets.add(dataset(depends=CHAIN, jobs_wanted=3), "{}")

    made = await make_jobs(store, added, 0, 2)

    assert made
    assert made.dataset.jobs_made == 2
    assert made.released == (("d-0-0", class_of(0)), ("d-1-0", class_of(0)))
    assert await store.datasets.get("d") == made.dataset
    assert await store.datasets.progress("d") == Progress(
        {J.PROCESSING: 2}, ({T.WAITING: 2}, {T.IDLE: 2}, {T.IDLE: 2})
    )
    task = await store.tasks.get("d-1-2")
    assert task
    assert (task.status, task.class_id, task.job_index, task.task_index) == (T.IDLE, class_of(2), 1, 2)
    assert (task.attempt, task.lease_id, task.status_changed_at) == (0, "", 2.0)


async def test_jobs_are_made_once(store: Store):
    added = await store.datasets.add(dataset(jobs_wanted=4), "{}")

    made = await asyncio.gather(*(make_jobs(store, added, 0, 2) for _ in range(3)))

    assert [result is None for result in made].count(False) == 1
    assert await make_jobs(store, added, 1, 1) is None
    assert await make_jobs(store, added, 3, 1) is None
    assert await make_jobs(store, added, 2, 2) is not None
    assert await store.datasets.progress("d") == Progress({J.PROCESSING: 4}, ({T.WAITING: 4},))


# -- moves -------------------------------------------------------------------------------------


async def test_a_claim_gives_lease_and_attempt(store: Store):
    await make(store)

    moved = await claim(store, "d-0-0", lease="L1", pilot="p1", until=70.0, now=10.0)

    assert moved
    assert (moved.before, moved.released, moved.held, moved.job, moved.dataset) == (
        T.WAITING,
        (),
        (),
        None,
        None,
    )
    task = moved.task
    assert (task.status, task.attempt, task.lease_id) == (T.PROCESSING, 1, "L1")
    assert (task.pilot_id, task.lease_until, task.status_changed_at) == ("p1", 70.0, 10.0)
    assert await store.tasks.get("d-0-0") == task
    assert await store.tasks.held_by("p1") == [task]
    assert await store.tasks.held_by("p2") == []


async def test_what_a_holder_has_is_read_in_parts_and_counted(store: Store):
    for name in "de":
        await make(store, name, jobs_wanted=5)
    for task_id in ("d-0-0", "d-3-0", "d-4-0", "e-1-0"):
        await claim(store, task_id, lease=f"L{task_id}", pilot="site:w")
    await claim(store, "e-2-0", lease="other", pilot="site:o")
    await finish(store, "d-4-0", lease="Ld-4-0")

    read: list[str] = []
    while part := await store.tasks.held_after("site:w", read[-1] if read else None, 2):
        read += [task.task_id for task in part]

    assert sorted(read) == ["d-0-0", "d-3-0", "e-1-0"]
    assert [await store.tasks.count_held(holder) for holder in ("site:w", "site:o", "p")] == [3, 1, 0]
    assert await store.tasks.held_of("site:w", ["d", "e", "nope"]) == {"d", "e"}
    assert await store.tasks.held_of("site:o", ["d", "e"]) == {"e"}
    assert await store.tasks.held_after("site:w", "nope-0-0", 2) == []


async def test_what_other_sites_have_ended_is_counted_by_dataset(store: Store):
    for name in "de":
        await make(store, name, jobs_wanted=5)
    for task_id, site in {"d-0-0": "w.x", "d-1-0": "w.x", "d-2-0": "w.x", "d-3-0": "o", "e-0-0": "o"}.items():
        await claim(store, task_id, lease=f"L{task_id}", pilot=f"site:{site}")
    await claim(store, "d-4-0", lease="Ld-4-0", pilot="p")

    for task_id in ("d-0-0", "d-1-0", "d-4-0", "e-0-0"):
        await finish(store, task_id, lease=f"L{task_id}")
    failed = Ended(Outcome.FAILED)
    await move(store, "d-3-0", E.RETRIED, lease_id="Ld-3-0", ended=failed, now=20.0)

    assert await store.tasks.ended_at_sites("d") == {"o": {Outcome.FAILED: 1}, "w.x": {Outcome.FINISHED: 2}}
    assert await store.tasks.ended_at_sites("e") == {"o": {Outcome.FINISHED: 1}}
    assert await store.tasks.ended_at_sites("nope") == {}
    assert [await store.tasks.count_held("site:w.x", name) for name in ("d", "e", "nope")] == [1, 0, 0]


async def test_tasks_are_read_together(store: Store):
    await make(store, jobs_wanted=3)

    found = await store.tasks.among(["d-2-0", "d-0-0", "d-7-0", "nope-0-0", "no id"])

    assert found == {task_id: await store.tasks.get(task_id) for task_id in ("d-0-0", "d-2-0")}
    assert await store.tasks.among([]) == {}


async def test_one_of_many_claimants_gets_a_task(store: Store):
    await make(store)

    won = await asyncio.gather(*(claim(store, "d-0-0", lease=f"L{i}") for i in range(20)))

    (winner,) = [moved for moved in won if moved]
    assert await store.tasks.get("d-0-0") == winner.task
    assert winner.task.attempt == 1


async def test_one_of_two_claimants_gets_each_task_of_many(store: Store):
    await make(store, jobs_wanted=50)

    async def grab(lease: str) -> int:
        moves = [Move(f"d-{job}-0", E.CLAIMED, lease=Lease(lease, lease, 9.0)) for job in range(50)]
        results = [await store.tasks.move(moves[i : i + 7], now=3.0) for i in range(0, 50, 7)]
        return sum(moved is not None for result in results for moved in result)

    won = await asyncio.gather(grab("A"), grab("B"))

    assert sum(won) == 50
    assert [len(await store.tasks.held_by(lease)) for lease in "AB"] == won
    assert await store.datasets.recount("d") == []


async def test_the_last_task_completes_job_and_dataset(store: Store):
    await make(store, depends=CHAIN, jobs_wanted=2)

    first, second, third = await run(store, "d-0-0", "d-0-1", "d-0-2")

    assert first
    assert second
    assert third
    assert first.released == (("d-0-1", class_of(1)),)
    assert second.released == (("d-0-2", class_of(2)),)
    assert (first.job, second.job, third.job, third.dataset) == (None, None, J.COMPLETE, None)
    job = await store.jobs.get("d-0")
    assert job
    assert (job.status, job.status_changed_at, job.job_index) == (J.COMPLETE, 20.0, 0)
    *_, last = await run(store, "d-1-0", "d-1-1", "d-1-2")
    assert last
    assert (last.job, last.dataset) == (J.COMPLETE, J.COMPLETE)
    assert await dataset_status(store) is J.COMPLETE
    assert await store.datasets.progress("d") == Progress({J.COMPLETE: 2}, ({T.COMPLETE: 2},) * 3)


async def test_a_lease_in_the_hands_of_another_guards_nothing(store: Store):
    await make(store)
    await claim(store, "d-0-0", lease="L", pilot="site:west")

    assert await move(store, "d-0-0", E.FINISHED, lease_id="L", holder="site:east") is None
    assert await store.tasks.attempts("d-0-0") == []

    moved = await move(store, "d-0-0", E.FINISHED, lease_id="L", holder="site:west")
    assert moved
    assert moved.task.status is T.COMPLETE


async def test_a_late_or_repeated_call_changes_nothing(store: Store):
    await make(store)
    await claim(store, "d-0-0", lease="L1")
    await move(store, "d-0-0", E.EVICTED, lease_id="L1", ended=Ended(Outcome.EVICTED))
    await claim(store, "d-0-0", lease="L2")

    assert await finish(store, "d-0-0", lease="L1") is None
    assert await store.tasks.renew([("d-0-0", "L1"), ("d-0-0", "L2")], until=500.0) == [False, True]
    assert await finish(store, "d-0-0", lease="L2") is not None
    kept = await store.tasks.get("d-0-0")
    assert await finish(store, "d-0-0", lease="L2") is None
    assert await move(store, "d-0-0", E.FAILED, lease_id="L2") is None
    assert await claim(store, "d-0-0", lease="L3") is None
    assert await store.tasks.renew([("d-0-0", "L2")], until=900.0) == [False]

    assert await store.tasks.get("d-0-0") == kept
    assert kept
    assert (kept.status, kept.lease_id, kept.lease_until, kept.attempt) == (T.COMPLETE, "L2", 500.0, 2)
    assert len(await store.tasks.attempts("d-0-0")) == 2


async def test_moves_of_one_call_see_each_other(store: Store):
    await make(store, depends=CHAIN)
    lease = Lease("L", "p", 9.0)

    moved = await store.tasks.move(
        [
            Move("d-0-0", E.CLAIMED, lease=lease),
            Move("d-0-0", E.CLAIMED, lease=lease),
            Move("d-0-0", E.FINISHED, lease_id="L"),
            Move("d-0-1", E.CLAIMED, lease=lease),
        ],
        now=3.0,
    )

    assert [found is not None for found in moved] == [True, False, True, True]


async def test_failures_and_evictions_are_counted(store: Store):
    await make(store)
    seen = []
    for event, fields in (
        (E.RETRIED, {"class_id": 7}),
        (E.EVICTED, {}),
        (E.DEFERRED, {"release_at": 50.0}),
        (E.FAILED, {}),
    ):
        await claim(store, "d-0-0")
        moved = await move(store, "d-0-0", event, lease_id="L", now=20.0, **fields)
        assert moved
        task = moved.task
        seen.append((task.status, task.failures, task.evictions, task.class_id, task.release_at))
        if event is E.DEFERRED:
            assert await claim(store, "d-0-0") is None
            assert await move(store, "d-0-0", E.RELEASED, now=49.9) is None
            assert await move(store, "d-0-0", E.RELEASED, now=50.0) is not None

    assert seen == [
        (T.WAITING, 1, 0, 7, None),
        (T.WAITING, 1, 1, 7, None),
        (T.IDLE, 2, 1, 7, 50.0),
        (T.FAILED, 3, 1, 7, None),
    ]
    assert await job_status(store, "d-0") is J.ERRORS
    moved = await move(store, "d-0-0", E.RESET)
    assert moved
    assert (moved.task.status, moved.task.failures, moved.task.evictions, moved.job) == (
        T.WAITING,
        0,
        0,
        J.PROCESSING,
    )
    assert moved.released == (("d-0-0", 7),)
    assert moved.task.attempt == 4


async def test_what_waits_in_a_batch_system_is_claimed_or_handed_back(store: Store):
    await make(store)

    assert await move(store, "d-0-0", E.QUEUED)
    handed_back = await move(store, "d-0-0", E.EVICTED)
    assert handed_back
    assert (handed_back.before, handed_back.task.evictions) == (T.QUEUED, 0)
    assert handed_back.released == (("d-0-0", class_of(0)),)
    await move(store, "d-0-0", E.QUEUED)
    claimed = await claim(store, "d-0-0")

    assert claimed
    assert claimed.before is T.QUEUED
    assert await store.tasks.attempts("d-0-0") == []


async def test_attempts_are_recorded_as_they_end(store: Store):
    await make(store, jobs_wanted=3)
    await claim(store, "d-0-0", lease="L1", pilot="p1", now=10.0)
    failed = Ended(Outcome.FAILED, "node1", "exit", "exit code 3", 9.5, {"cpu": 1.5}, {"seed": [1, "x"]})
    await move(store, "d-0-0", E.RETRIED, lease_id="L1", ended=failed, now=20.0)
    await claim(store, "d-0-0", lease="L2", pilot="p2", now=30.0)
    await finish(store, "d-0-0", lease="L2", now=40.0)
    await claim(store, "d-1-0", now=41.0)
    await finish(store, "d-1-0", now=42.0)

    first, second = await store.tasks.attempts("d-0-0")

    assert (first.task_id, first.attempt, first.lease_id, first.pilot_id) == ("d-0-0", 1, "L1", "p1")
    assert (first.started_at, first.ended_at, first.outcome) == (10.0, 20.0, Outcome.FAILED)
    assert (first.hostname, first.failure_class, first.summary) == ("node1", "exit", "exit code 3")
    assert (first.walltime_s, first.usage, first.stats) == (9.5, {"cpu": 1.5}, {"seed": [1, "x"]})
    assert (second.attempt, second.lease_id, second.outcome) == (2, "L2", Outcome.FINISHED)
    recent = await store.tasks.recent_attempts("d", 0, 2)
    assert [(a.task_id, a.attempt) for a in recent] == [("d-1-0", 1), ("d-0-0", 2)]
    assert recent[1] == second
    assert len(await store.tasks.recent_attempts("d", 0, 10)) == 3
    assert await store.tasks.recent_attempts("d", 1, 10) == []
    assert await store.tasks.recent_attempts("nope", 0, 10) == []


@pytest.mark.parametrize("event", [E.SUSPENDED, E.HARD_RESET])
async def test_a_user_takes_a_task_from_its_pilot(store: Store, event: TaskEvent):
    await make(store)
    await claim(store, "d-0-0", now=10.0)

    moved = await move(store, "d-0-0", event, now=15.0)

    assert moved
    assert moved.before is T.PROCESSING
    (attempt,) = await store.tasks.attempts("d-0-0")
    assert (attempt.outcome, attempt.started_at, attempt.ended_at) == (Outcome.STOPPED, 10.0, 15.0)
    assert await store.tasks.renew([("d-0-0", "L")], until=900.0) == [False]
    assert await finish(store, "d-0-0") is None
    assert await store.tasks.held_by("p") == []


async def test_a_suspended_task_suspends_its_job_until_resumed(store: Store):
    await make(store, jobs_wanted=1)

    suspended = await move(store, "d-0-0", E.SUSPENDED)
    assert suspended
    assert (suspended.job, suspended.dataset) == (J.SUSPENDED, J.SUSPENDED)
    assert await store.tasks.ready_counts() == {}
    resumed = await move(store, "d-0-0", E.RESUMED)

    assert resumed
    assert (resumed.job, resumed.dataset) == (J.PROCESSING, J.PROCESSING)
    assert resumed.released == (("d-0-0", class_of(0)),)


# -- dependencies -------------------------------------------------------------------------------


async def test_dependents_of_a_reset_task_are_held(store: Store):
    await make(store, depends=((), (0,), (0,), (0,), (0,)), jobs_wanted=1)
    await run(store, "d-0-0", "d-0-2")
    await claim(store, "d-0-3", lease="L3")
    await move(store, "d-0-4", E.QUEUED)

    moved = await move(store, "d-0-0", E.HARD_RESET)

    assert moved
    assert moved.released == (("d-0-0", class_of(0)),)
    assert moved.held == (("d-0-1", class_of(1)),)
    ids = [f"d-0-{index}" for index in range(5)]
    assert await statuses(store, *ids) == [T.WAITING, T.IDLE, T.COMPLETE, T.PROCESSING, T.QUEUED]
    # A pilot that hands its task back now, hands it to nobody.
    evicted = await move(store, "d-0-3", E.EVICTED, lease_id="L3")
    assert evicted
    assert (evicted.task.status, evicted.released) == (T.IDLE, ())
    (finished,) = await run(store, "d-0-0")
    assert finished
    assert dict(finished.released) == {"d-0-1": class_of(1), "d-0-3": class_of(3)}
    assert await store.datasets.recount("d") == []


async def test_a_back_off_outlasts_the_dependencies(store: Store):
    await make(store, depends=((), (0,)), jobs_wanted=1)
    await run(store, "d-0-0")
    await claim(store, "d-0-1")
    await move(store, "d-0-1", E.DEFERRED, lease_id="L", release_at=60.0)
    await move(store, "d-0-0", E.HARD_RESET)

    (finished,) = await run(store, "d-0-0")
    assert finished
    assert finished.released == ()
    assert [task.task_id for task in await store.tasks.due(60.0, 5)] == ["d-0-1"]
    await move(store, "d-0-0", E.HARD_RESET)

    assert await move(store, "d-0-1", E.RELEASED, now=61.0) is None
    assert await store.tasks.due(70.0, 5) == []
    (finished,) = await run(store, "d-0-0")
    assert finished
    assert finished.released == (("d-0-1", class_of(1)),)


async def test_a_reset_ends_a_back_off(store: Store):
    await make(store)
    await claim(store, "d-0-0")
    await move(store, "d-0-0", E.DEFERRED, lease_id="L", release_at=60.0)
    await move(store, "d-0-0", E.SUSPENDED)

    resumed = await move(store, "d-0-0", E.RESUMED, now=50.0)
    assert resumed
    assert (resumed.task.status, resumed.task.release_at) == (T.IDLE, 60.0)
    reset = await move(store, "d-0-0", E.HARD_RESET, now=50.0)

    assert reset
    assert (reset.task.status, reset.task.release_at) == (T.WAITING, None)


async def test_tasks_wait_for_the_same_job_of_another_dataset(store: Store):
    await make(store, "a", jobs_wanted=2)
    await run(store, "a-0-0")
    b = await store.datasets.add(dataset("b", external=((("a", 0),),), jobs_wanted=3), "{}")

    made = await make_jobs(store, b, 0, 3)

    assert made
    assert made.released == (("b-0-0", class_of(0)),)
    (finished,) = await run(store, "a-1-0")
    assert finished
    assert finished.released == (("b-1-0", class_of(0)),)
    reset = await move(store, "a-0-0", E.HARD_RESET)
    assert reset
    assert reset.held == (("b-0-0", class_of(0)),)
    assert await statuses(store, "b-0-0", "b-1-0", "b-2-0") == [T.IDLE, T.WAITING, T.IDLE]
    assert await store.datasets.recount("b") == []


async def test_tasks_may_wait_for_a_dataset_that_is_yet_to_come(store: Store):
    await make(store, "b", external=((("a", 0),),), jobs_wanted=1)
    assert await statuses(store, "b-0-0") == [T.IDLE]

    await make(store, "a", jobs_wanted=1)
    (finished,) = await run(store, "a-0-0")

    assert finished
    assert finished.released == (("b-0-0", class_of(0)),)


async def test_a_new_config_changes_which_datasets_are_waited_for(store: Store):
    await make(store, "a", jobs_wanted=2)
    await make(store, "b", jobs_wanted=2)
    await run(store, "a-0-0")

    waiting_for = DatasetConfig("{}", ("t0",), ((),), ((("a", 0),),))
    await store.datasets.set_config("b", waiting_for, expected_version=1, now=3.0)
    assert await statuses(store, "b-0-0", "b-1-0") == [T.WAITING, T.IDLE]
    (finished,) = await run(store, "a-1-0")
    assert finished
    assert finished.released == (("b-1-0", class_of(0)),)
    free = replace(waiting_for, external=((),))
    await store.datasets.set_config("b", free, expected_version=2, now=3.0)
    reset = await move(store, "a-1-0", E.HARD_RESET)

    assert reset
    assert reset.held == ()


# -- lists ---------------------------------------------------------------------------------------


async def test_tasks_are_listed_in_pages_by_what_is_wanted(store: Store):
    await make(store, depends=((), (0,)), jobs_wanted=5)
    await make(store, "other", depends=((), (0,)), jobs_wanted=5)
    await run(store, "d-1-0", "d-3-0")

    async def names(limit: int = 3, **wanted):
        found = await pages(store.tasks.select, "d", TaskFilter(**wanted), limit=limit)
        assert all(len(page) <= limit for page in found)
        return [task.task_id for page in found for task in page]

    assert await names() == [f"d-{job}-{index}" for job in range(5) for index in range(2)]
    assert await names(status=T.COMPLETE) == ["d-1-0", "d-3-0"]
    assert await names(status=T.IDLE, limit=1) == ["d-0-1", "d-2-1", "d-4-1"]
    assert await names(job_index=3) == ["d-3-0", "d-3-1"]
    assert await names(job_index=3, status=T.WAITING, limit=1) == ["d-3-1"]
    assert await names(task_index=1, limit=2) == [f"d-{job}-1" for job in range(5)]
    assert await names(task_index=1, status=T.WAITING, limit=1) == ["d-1-1", "d-3-1"]
    assert await names(job_index=2, task_index=1) == ["d-2-1"]
    assert await names(job_index=9) == []
    assert await names(task_index=7) == []
    assert await names(status=T.FAILED) == []


async def test_jobs_are_listed_in_pages(store: Store):
    await make(store, jobs_wanted=5)
    await make(store, "other")
    await run(store, "d-1-0", "d-3-0")

    assert [[job.job_id for job in page] for page in await pages(store.jobs.select, "d", None, limit=2)] == [
        ["d-0", "d-1"],
        ["d-2", "d-3"],
        ["d-4"],
    ]
    complete = await pages(store.jobs.select, "d", J.COMPLETE, limit=1)
    assert [page[0].job_id for page in complete] == ["d-1", "d-3"]
    assert await store.tasks.ids_of_jobs(["d-2"]) == ["d-2-0"]


async def test_the_tasks_of_jobs_are_named_job_by_job(store: Store):
    await make(store, jobs=3, depends=CHAIN)
    assert await store.tasks.ids_of_jobs([]) == []
    assert await store.tasks.ids_of_jobs(["d-2", "d-7", "d-0"]) == [
        *("d-2-0", "d-2-1", "d-2-2"),
        *("d-0-0", "d-0-1", "d-0-2"),
    ]


async def test_ids_come_in_order_after_a_task(store: Store):
    await make(store, depends=((), (0,)), jobs_wanted=3)
    await run(store, "d-1-0")
    both = frozenset({T.WAITING, T.IDLE})

    assert await store.tasks.ids("d", both, None, 10) == ["d-0-0", "d-0-1", "d-1-1", "d-2-0", "d-2-1"]
    assert await store.tasks.ids("d", both, "d-0-1", 2) == ["d-1-1", "d-2-0"]
    assert await store.tasks.ids("d", frozenset({T.COMPLETE}), None, 10) == ["d-1-0"]
    assert await store.tasks.ids("d", frozenset(), None, 10) == []
    assert await store.tasks.ids("nope", both, None, 10) == []


async def test_ready_tasks_come_oldest_first_of_one_class(store: Store):
    await make(store, "a", jobs_wanted=12)
    await make(store, "b", depends=((), ()), jobs_wanted=1)
    await run(store, "a-2-0")
    await claim(store, "a-4-0")

    assert await store.tasks.ready_counts() == {class_of(0): 11, class_of(1): 1}
    assert await store.tasks.ready(class_of(0), None, 3) == ["a-0-0", "a-1-0", "a-3-0"]
    assert await store.tasks.ready(class_of(0), "a-3-0", 3) == ["a-5-0", "a-6-0", "a-7-0"]
    assert (await store.tasks.ready(class_of(0), "a-8-0", 500))[-2:] == ["a-11-0", "b-0-0"]
    assert await store.tasks.ready(class_of(1), None, 3) == ["b-0-1"]
    assert await store.tasks.ready(999, None, 3) == []


async def test_suspended_datasets_are_not_ready(store: Store):
    added = await store.datasets.add(dataset("a", jobs_wanted=1), "{}")
    await store.datasets.materialise("a", 0, [[1]], now=2.0)
    await store.datasets.add(dataset("b", jobs_wanted=1), "{}")
    await store.datasets.materialise("b", 0, [[2]], now=2.0)

    await store.datasets.update(added.dataset_id, DatasetPatch(suspended=True), now=3.0)
    assert await store.tasks.ready_counts() == {2: 1}
    await store.datasets.update(added.dataset_id, DatasetPatch(suspended=False), now=3.0)

    assert await store.tasks.ready_counts() == {1: 1, 2: 1}


async def test_expired_leases_and_due_tasks_are_found_first_things_first(store: Store):
    await make(store, jobs_wanted=6)
    for job, until in enumerate((50.0, 40.0, 60.0)):
        await claim(store, f"d-{job}-0", until=until)
    for job, at in ((3, 30.0), (4, 20.0), (5, 90.0)):
        await claim(store, f"d-{job}-0")
        await move(store, f"d-{job}-0", E.DEFERRED, lease_id="L", release_at=at, now=11.0)

    assert [task.task_id for task in await store.tasks.expired(60.0, 9)] == ["d-1-0", "d-0-0"]
    assert [task.task_id for task in await store.tasks.expired(60.0, 1)] == ["d-1-0"]
    assert [task.task_id for task in await store.tasks.due(30.0, 9)] == ["d-4-0", "d-3-0"]
    await store.tasks.renew([("d-1-0", "L")], until=80.0)
    assert [task.task_id for task in await store.tasks.expired(60.0, 9)] == ["d-0-0"]


async def test_a_cursor_of_no_list_is_refused(store: Store):
    await make(store, jobs_wanted=3)
    other = (await store.pilots.select(frozenset(), Page())).next
    assert other is None

    for cursor in ("", "x", "é", "AAAA", "WzFd" * 500, "W10", "WyJhIl0", "Wy0xXQ", "WzEuNV0", "W1sxXV0"):
        with pytest.raises(QueryError):
            await store.tasks.select("d", TaskFilter(), Page(cursor=cursor))
        with pytest.raises(QueryError):
            await store.datasets.select(DatasetFilter(), Page(cursor=cursor))
    for limit in (0, -1, 501):
        with pytest.raises(QueryError):
            await store.jobs.select("d", None, Page(limit=limit))


# -- the store as a whole --------------------------------------------------------------------------


async def test_the_store_answers_and_finds_no_damage(store: Store):
    await make(store, depends=CHAIN)
    await run(store, "d-0-0")

    await store.ping()

    assert await store.check() == []


async def test_a_backup_holds_everything(store: Store, tmp_path: Path):
    await make(store, depends=CHAIN)

    size = await store.backup(tmp_path / "copy")

    assert (tmp_path / "copy").stat().st_size == size > 0
    with pytest.raises(AlreadyExists):
        await store.backup(tmp_path / "copy")


async def test_a_cancelled_caller_leaves_the_store_well(store: Store):
    await make(store)
    waiting = asyncio.ensure_future(claim(store, "d-0-0"))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await claim(store, "d-1-0") is not None
    assert await store.datasets.recount("d") == []
