"""What becomes of tasks at the hands of pilots and of people."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from site_harness import ADMIN, ALICE, BOB, CRASH, LARGE, Site, ids, task, user

from iceprod.errors import AccessDenied, LeaseLost, NotFoundError
from iceprod.model.failures import Failure, FailureKind
from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.resources import Offer, Resources
from iceprod.model.task import Outcome
from iceprod.services.reporting import Report

BROKEN_TRANSFER = Failure(FailureKind.TRANSFER, "could not fetch the input")
BAD_CONFIG = Failure(FailureKind.CONFIG, "no such class")
TOO_MUCH_MEMORY = Failure(FailureKind.OVERUSE, "used 3 GB of 2 GB", resource="memory")


async def test_a_finished_task_completes_its_job_and_dataset(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    await site.finish(pilot, held, hostname="n1", walltime_s=12.5, usage={"cpu": 1.0}, stats={"events": 7})
    assert await site.statuses(dataset) == [TaskStatus.COMPLETE]
    assert (await site.dataset(dataset)).status is JobStatus.COMPLETE
    (attempt,) = await site.services.tasks.attempts(ALICE, held.task_id)
    assert (attempt.outcome, attempt.hostname, attempt.walltime_s) == (Outcome.FINISHED, "n1", 12.5)
    assert (attempt.usage, attempt.stats) == ({"cpu": 1.0}, {"events": 7})


async def test_a_task_is_released_when_all_that_it_needs_is_complete(site: Site):
    dataset = await site.submit(task("a"), task("b"), task("c", "a", "b"))
    pilot = await site.pilot()
    first, second = [one.task for one in await site.claim(pilot, max_tasks=2)]
    await site.finish(pilot, first)
    assert (await site.statuses(dataset))[2] is TaskStatus.IDLE
    await site.finish(pilot, second)
    assert (await site.statuses(dataset))[2] is TaskStatus.WAITING


async def test_finishing_again_changes_nothing(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    await site.finish(pilot, held)
    await site.finish(pilot, held)
    assert len(await site.services.tasks.attempts(ALICE, held.task_id)) == 1
    assert await site.counts(dataset) == {TaskStatus.COMPLETE: 1}


async def test_a_lease_that_was_lost_is_refused(site: Site):
    dataset = await site.submit()
    first, second = await site.pilot(), await site.pilot()
    held = await site.one(first)
    await site.services.tasks.evict([(held.task_id, held.lease_id)], "lease ran out")
    again = await site.one(second)
    with pytest.raises(LeaseLost, match="no longer held by this lease"):
        await site.finish(first, held)
    with pytest.raises(LeaseLost):
        await site.fail(first, held)
    with pytest.raises(LeaseLost):
        await site.services.tasks.processing(first, held.task_id, held.lease_id)
    await site.finish(second, again)
    assert await site.counts(dataset) == {TaskStatus.COMPLETE: 1}


async def test_a_pilot_cannot_speak_for_a_task_of_another(site: Site):
    await site.submit()
    holder, other = await site.pilot(), await site.pilot()
    held = await site.one(holder)
    with pytest.raises((LeaseLost, NotFoundError)):
        await site.services.tasks.finish(other, held.task_id, None, Report())
    with pytest.raises(LeaseLost):
        await site.services.tasks.finish(other, held.task_id, "made-up", Report())


async def test_a_task_token_is_good_for_its_own_attempt_only(site: Site):
    await site.submit(njobs=2)
    pilot = await site.pilot()
    one, two = [claimed.task for claimed in await site.claim(pilot, max_tasks=2)]
    payload = Principal(PrincipalKind.TASK, one.task_id, lease_id=one.lease_id)
    with pytest.raises(NotFoundError):
        await site.services.tasks.finish(payload, two.task_id, None, Report())
    stale = replace(payload, lease_id="former")
    with pytest.raises(LeaseLost):
        await site.services.tasks.finish(stale, one.task_id, None, Report())
    await site.services.tasks.finish(payload, one.task_id, None, Report())
    assert (await site.task(one.task_id)).status is TaskStatus.COMPLETE


async def test_a_program_that_fails_is_tried_three_times(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    seen = [(await site.fail(pilot, await site.one(pilot)))[0].status for _ in range(3)]
    assert seen == [TaskStatus.WAITING, TaskStatus.WAITING, TaskStatus.FAILED]
    assert (await site.dataset(dataset)).status is JobStatus.ERRORS
    assert await site.claim(pilot) == ()


async def test_a_wrong_configuration_is_not_tried_again(site: Site):
    await site.submit()
    pilot = await site.pilot()
    failed, retry_at = await site.fail(pilot, await site.one(pilot), BAD_CONFIG)
    assert (failed.status, retry_at) == (TaskStatus.FAILED, None)


async def test_a_broken_transfer_is_tried_again_after_a_growing_pause(site: Site):
    await site.submit()
    pilot = await site.pilot()
    pauses = []
    for _ in range(9):
        held = await site.one(pilot)
        failed, retry_at = await site.fail(pilot, held, BROKEN_TRANSFER)
        assert (failed.status, retry_at is not None) == (TaskStatus.IDLE, True)
        pauses.append(retry_at - site.clock())
        site.clock.advance(pauses[-1] - 1)
        assert await site.services.tasks.release_due() == 0, "a second too early"
        site.clock.advance(1)
        assert await site.services.tasks.release_due() == 1
    assert pauses == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert (await site.fail(pilot, await site.one(pilot), BROKEN_TRANSFER))[0].status is TaskStatus.FAILED


async def test_each_class_of_failure_has_its_own_limit(site: Site):
    await site.submit()
    pilot = await site.pilot()
    for failure in (CRASH, CRASH, BROKEN_TRANSFER, BROKEN_TRANSFER, BROKEN_TRANSFER):
        failed, _ = await site.fail(pilot, await site.one(pilot), failure)
        assert failed.status is not TaskStatus.FAILED
        site.clock.advance(3600)
        await site.services.tasks.release_due()
    assert (await site.fail(pilot, await site.one(pilot), CRASH))[0].status is TaskStatus.FAILED


async def test_after_a_reset_the_tries_count_from_the_beginning(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    for _ in range(3):
        await site.fail(pilot, await site.one(pilot))
    await site.services.datasets.reset(ALICE, dataset.dataset_id)
    failed, _ = await site.fail(pilot, await site.one(pilot))
    assert (failed.status, failed.failures) == (TaskStatus.WAITING, 1)


async def test_a_site_has_rules_of_its_own(site_with):
    rule = {"name": "full", "phrases": ["No space left"], "limit": 2, "backoff_s": 100.0}
    site = await site_with(failures={"rules": [rule]})
    await site.submit()
    pilot = await site.pilot()
    full = Failure(FailureKind.EXIT, "ended with 1", exit_code=1, stderr_tail="cp: No space left on device")
    failed, retry_at = await site.fail(pilot, await site.one(pilot), full)
    assert (failed.status, retry_at) == (TaskStatus.IDLE, site.clock() + 100)
    site.clock.advance(100)
    await site.services.tasks.release_due()
    failed, _ = await site.fail(pilot, await site.one(pilot), full)
    assert failed.status is TaskStatus.FAILED
    attempts = await site.services.tasks.attempts(ALICE, failed.task_id)
    assert [a.failure_class for a in attempts] == ["full", "full"]


async def test_a_dataset_that_is_debugged_keeps_a_failed_task_for_inspection(site: Site):
    dataset = await site.submit(debug=True)
    pilot = await site.pilot()
    failed, _ = await site.fail(pilot, await site.one(pilot))
    assert failed.status is TaskStatus.SUSPENDED
    assert (await site.dataset(dataset)).status is JobStatus.SUSPENDED
    assert await site.claim(pilot) == ()
    await site.services.tasks.change(ALICE, TaskEvent.RESUMED, [failed.task_id])
    assert ids(await site.claim(pilot)) == [failed.task_id]


async def test_after_overuse_a_task_asks_for_half_as_much_again_as_it_used(site: Site):
    await site.submit(task("a", memory=2.0))
    pilot = await site.pilot()
    await site.fail(pilot, await site.one(pilot), TOO_MUCH_MEMORY, usage={"memory": 3.0})
    assert await site.claim(pilot, Offer(Resources(memory=4.4))) == ()
    (claimed,) = await site.claim(pilot, Offer(Resources(memory=4.5)))
    assert claimed.requirements.resources.memory == 4.5


async def test_a_request_never_grows_beyond_the_largest_slot(site: Site):
    await site.submit(task("a", memory=20.0))
    pilot = await site.pilot()
    await site.fail(pilot, await site.one(pilot), TOO_MUCH_MEMORY, usage={"memory": 30.0})
    (claimed,) = await site.claim(pilot)
    assert claimed.requirements.resources.memory == LARGE.resources.memory


async def test_a_request_grows_to_what_tasks_of_its_kind_really_use(site: Site):
    await site.submit(task("a", memory=2.0), njobs=31)
    pilot = await site.pilot()
    for number in range(30):
        await site.finish(pilot, await site.one(pilot), usage={"memory": 2.0 + number / 10})
    await site.fail(pilot, await site.one(pilot), TOO_MUCH_MEMORY, usage={"memory": 2.2})
    (claimed,) = await site.claim(pilot)
    assert claimed.requirements.resources.memory == pytest.approx(4.6), "nine of ten used no more"


async def test_only_the_task_that_overused_asks_for_more(site: Site):
    await site.submit(task("a", memory=2.0), njobs=2)
    pilot = await site.pilot()
    await site.fail(pilot, await site.one(pilot), TOO_MUCH_MEMORY, usage={"memory": 3.0})
    small = Offer(Resources(memory=2.0))
    assert len(await site.claim(pilot, small, max_tasks=5)) == 1


async def test_the_history_of_growth_stays_visible(site: Site):
    await site.submit(task("a", memory=2.0))
    pilot = await site.pilot()
    held = await site.one(pilot)
    await site.fail(pilot, held, TOO_MUCH_MEMORY, usage={"memory": 3.0})
    (attempt,) = await site.services.tasks.attempts(ALICE, held.task_id)
    assert (attempt.failure_class, attempt.usage) == ("overuse", {"memory": 3.0})


async def test_an_eviction_does_not_count_as_a_failure(site: Site):
    await site.submit()
    pilot = await site.pilot()
    for _ in range(10):
        held = await site.one(pilot)
        await site.services.tasks.release(pilot, held.task_id, held.lease_id, "node goes down")
    task_ = await site.task(held.task_id)
    assert (task_.status, task_.failures, task_.evictions) == (TaskStatus.WAITING, 0, 10)


async def test_failing_again_with_the_same_lease_changes_nothing(site: Site):
    await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    await site.fail(pilot, held)
    again, retry_at = await site.fail(pilot, held)
    assert (again.failures, retry_at) == (1, None)


async def test_a_task_that_is_suspended_while_it_runs_is_lost_to_its_pilot(site: Site):
    await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    assert await site.services.tasks.is_wanted(pilot, held.task_id)
    assert await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, [held.task_id]) == 1
    assert not await site.services.tasks.is_wanted(pilot, held.task_id)
    pulse = await site.services.pilots.heartbeat(pilot, [(held.task_id, held.lease_id)])
    assert pulse.lost == (held.task_id,)
    with pytest.raises(LeaseLost):
        await site.finish(pilot, held)
    (attempt,) = await site.services.tasks.attempts(ALICE, held.task_id)
    assert attempt.outcome is Outcome.STOPPED


async def test_resetting_leaves_alone_what_is_well(site: Site):
    dataset = await site.submit(njobs=4)
    pilot = await site.pilot()
    done, failed, running = [await site.one(pilot) for _ in range(3)]
    await site.finish(pilot, done)
    await site.fail(pilot, failed, BAD_CONFIG)
    every = [f"{dataset.dataset_id}-{job}-0" for job in range(4)]
    assert await site.services.tasks.change(ALICE, TaskEvent.RESET, every) == 1
    assert await site.statuses(dataset) == [
        TaskStatus.COMPLETE,
        TaskStatus.WAITING,
        TaskStatus.PROCESSING,
        TaskStatus.WAITING,
    ]
    assert running.task_id == every[2]


async def test_a_hard_reset_of_a_task_holds_what_depends_on_it(site: Site):
    dataset = await site.submit(task("a"), task("b", "a"))
    pilot = await site.pilot()
    first = await site.one(pilot)
    await site.finish(pilot, first)
    await site.services.tasks.change(ALICE, TaskEvent.HARD_RESET, [first.task_id])
    assert await site.statuses(dataset) == [TaskStatus.WAITING, TaskStatus.IDLE]
    assert ids(await site.claim(pilot, max_tasks=5)) == [first.task_id]
    await site.counts(dataset)


async def test_only_the_owner_and_administrators_change_tasks(site: Site):
    dataset = await site.submit()
    held = f"{dataset.dataset_id}-0-0"
    with pytest.raises(AccessDenied):
        await site.services.tasks.change(BOB, TaskEvent.SUSPENDED, [held])
    assert await site.services.tasks.change(ADMIN, TaskEvent.SUSPENDED, [held]) == 1


async def test_a_task_that_does_not_exist_is_not_found(site: Site):
    for name in ("nothing", "a-0-0", "-0-0", "a-0", "a-00-0", "a-0-99999999"):
        with pytest.raises(NotFoundError, match="no task"):
            await site.services.tasks.get(user("carol"), name)


async def test_bulk_changes_take_many_tasks(site: Site):
    dataset = await site.submit(njobs=1500)
    every = [f"{dataset.dataset_id}-{job}-0" for job in range(1500)]
    assert await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, every) == 1500
    assert await site.counts(dataset) == {TaskStatus.SUSPENDED: 1500}
    assert await site.services.tasks.change_dataset(TaskEvent.RESUMED, dataset.dataset_id) == 1500


async def test_the_token_of_an_attempt_that_is_over_reads_nothing(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    services, payload = site.services, Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
    await services.tasks.get(payload, held.task_id)
    await services.pilots.config(payload, dataset.dataset_id, 1)
    await site.finish(pilot, held)
    for asked in (
        services.tasks.get(payload, held.task_id),
        services.logs.of_task(payload, held.task_id),
        services.logs.read(payload, held.task_id, "stdout"),
        services.pilots.config(payload, dataset.dataset_id, 1),
    ):
        with pytest.raises(LeaseLost):
            await asked


async def test_who_does_not_hold_a_task_makes_no_requirement_grow(site: Site):
    dataset = await site.submit(task("a", memory=2))
    held = await site.one(await site.pilot())
    other = await site.pilot()
    used = Report(usage={"memory": 3.0})
    with pytest.raises(LeaseLost):
        await site.services.pilots.fail(other, held.task_id, "made-up", TOO_MUCH_MEMORY, used)
    assert len(await site.store.datasets.classes(dataset.dataset_id)) == 1


async def test_others_get_their_turn_while_many_tasks_are_looked_at(site: Site):
    dataset = await site.submit(njobs=1500)
    names = [f"{dataset.dataset_id}-{job}-0" for job in (*range(1500), 9999)]
    turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(turn.set)
    with pytest.raises(NotFoundError):  # the last one: until then nothing but looking was done
        await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, names)
    assert turn.is_set()


async def test_a_task_that_is_named_often_is_changed_once(site: Site):
    await site.submit()
    held = await site.one(await site.pilot())
    assert await site.services.tasks.change(ALICE, TaskEvent.HARD_RESET, [held.task_id] * 50_000) == 1
