"""Tasks of a parent, from its store through a pilot of the child and back."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from site_harness import ADMIN, CRASH, task
from sync_harness import Pair, open_pair

from iceprod.errors import ConflictError, LeaseLost
from iceprod.model.federation import ErrandStatus
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Outcome
from iceprod.services.reporting import Report
from iceprod.services.task_reach import TaskReach


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child."""
    async with open_pair(tmp_path) as made:
        yield made


def packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode())).decode()


async def test_a_task_is_taken_run_and_reported(pair: Pair) -> None:
    dataset = await pair.north.submit(task("gen", cpu=2, memory=4), task("sim", "gen"))
    await pair.take()
    assert (await pair.one_of_north()).pilot_id == "site:south"
    pilot = await pair.south.pilot(hostname="worker")
    (claimed,) = await pair.south.claim(pilot)
    (told,) = await pair.south.services.handout.tasks([claimed])
    assert told.stands_for is not None
    assert told.stands_for.task_id == f"{dataset.dataset_id}-0-0"
    assert (told.stands_for.name, told.stands_for.dataset) == ("gen", dataset.number)
    assert (claimed.requirements.resources.cpu, claimed.requirements.resources.memory) == (2, 4)
    lease = claimed.task.task_id, claimed.task.lease_id
    await pair.south.services.tasks.processing(pilot, *lease)
    await pair.south.services.logs.put(pilot, *lease, name="stdout", data=packed("hello\n"))
    await pair.south.finish(pilot, claimed.task, walltime_s=60.0, hostname="worker", stats={"events": 7})
    await pair.tell()
    assert await pair.north.statuses(dataset) == [TaskStatus.COMPLETE, TaskStatus.WAITING]
    (attempt,) = await pair.north.store.tasks.attempts(f"{dataset.dataset_id}-0-0")
    assert (attempt.outcome, attempt.hostname, attempt.walltime_s) == (Outcome.FINISHED, "worker", 60.0)
    assert attempt.stats == {"events": 7}
    log = await pair.north.services.logs.read(ADMIN, f"{dataset.dataset_id}-0-0", "stdout")
    assert log.text == "hello\n"
    assert await pair.errands() == {ErrandStatus.ENDED: 1}


async def test_one_mirror_stands_for_all_tasks_of_a_dataset(pair: Pair) -> None:
    dataset = await pair.north.submit(task("a"), task("b", "a"), njobs=3, description="cosmic rays")
    pilot = await pair.south.pilot()
    for _ in range(2):
        await pair.take()
        await pair.south.run_all(pilot)
        await pair.tell()
    assert set(await pair.north.statuses(dataset)) == {TaskStatus.COMPLETE}
    mirror = await pair.mirror()
    assert (mirror.owner, mirror.group, mirror.source) == (
        "alice@north",
        "@north",
        f"north/{dataset.dataset_id}",
    )
    assert (mirror.jobs_made, mirror.jobs_wanted, mirror.description) == (6, 6, "cosmic rays")
    assert await pair.south.counts(mirror) == {TaskStatus.COMPLETE: 6}


async def test_a_failed_attempt_ends_here_and_is_judged_by_the_parent(pair: Pair) -> None:
    await pair.north.submit()
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    failed, retry_at = await pair.south.fail(pilot, held, CRASH, hostname="worker")
    assert (failed.status, retry_at) == (TaskStatus.FAILED, None)
    await pair.tell()
    again = await pair.one_of_north()
    assert (again.status, again.failures) == (TaskStatus.WAITING, 1)
    (attempt,) = await pair.north.store.tasks.attempts(again.task_id)
    assert (attempt.outcome, attempt.summary, attempt.hostname) == (Outcome.FAILED, CRASH.summary, "worker")
    await pair.take()
    assert await pair.errands() == {ErrandStatus.ENDED: 1, ErrandStatus.OPEN: 1}


async def test_what_a_pilot_gives_up_waits_here_for_another(pair: Pair) -> None:
    await pair.north.submit()
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    await pair.south.services.tasks.release(pilot, held.task_id, held.lease_id, "evicted")
    assert (await pair.south.task(held.task_id)).status is TaskStatus.WAITING
    assert (await pair.south.store.outbox.backlog("north")).waiting == 0


async def test_a_task_that_the_parent_suspends_is_stopped_and_not_reported(pair: Pair) -> None:
    dataset = await pair.north.submit()
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    await pair.hear()  # the first answer tells of everything
    await pair.north.services.datasets.suspend(ADMIN, dataset.dataset_id)
    await pair.hear()
    assert (await pair.south.task(held.task_id)).status is TaskStatus.SUSPENDED
    assert await pair.errands() == {ErrandStatus.LOST: 1}
    pulse = await pair.south.services.pilots.heartbeat(pilot, [(held.task_id, held.lease_id)])
    assert pulse.lost == (held.task_id,)
    with pytest.raises(LeaseLost):
        await pair.south.finish(pilot, held)
    assert (await pair.south.store.outbox.backlog("north")).waiting == 0


async def test_a_changed_dataset_is_followed(pair: Pair) -> None:
    dataset = await pair.north.submit(task("only"), njobs=2)
    await pair.take()
    await pair.hear()
    changed = '{"version": 3, "tasks": [{"name": "only", "trays": [{"modules": [{"src": "new.sh"}]}]}]}'
    await pair.north.services.datasets.update_config(
        ADMIN, dataset.dataset_id, changed, description="better", version=1
    )
    await pair.north.services.datasets.set_priority(ADMIN, dataset.dataset_id, 0.9)
    await pair.hear()
    mirror = await pair.mirror()
    assert (mirror.config_version, mirror.description, mirror.priority) == (2, "better", 0.9)
    assert await pair.south.store.datasets.config(mirror.dataset_id, 2) == changed


async def test_what_an_administrator_suspends_here_is_handed_back(pair: Pair) -> None:
    dataset = await pair.north.submit()
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    tasks, datasets = pair.south.services.tasks, pair.south.services.datasets
    with pytest.raises(ConflictError):
        await tasks.change(ADMIN, TaskEvent.HARD_RESET, [held.task_id])
    with pytest.raises(ConflictError):
        await datasets.suspend(ADMIN, held.dataset_id)
    assert await tasks.change(ADMIN, TaskEvent.SUSPENDED, [held.task_id]) == 1
    await pair.tell()
    assert await pair.north.statuses(dataset) == [TaskStatus.WAITING]
    assert await pair.errands() == {ErrandStatus.ENDED: 1}


async def test_a_task_whose_errand_is_over_is_never_handed_out(pair: Pair) -> None:
    await pair.north.submit()
    await pair.take()
    mirror = await pair.mirror()
    task_id = f"{mirror.dataset_id}-0-0"
    await pair.south.store.errands.end([task_id], ErrandStatus.LOST, now=1.0)
    pilot = await pair.south.pilot()
    assert await pair.south.claim(pilot) == ()
    assert (await pair.south.task(task_id)).status is TaskStatus.SUSPENDED


async def test_old_pilots_get_the_options_of_the_original(pair: Pair) -> None:
    dataset = await pair.north.submit(task("gen"), task("sim", "gen"), njobs=2)
    pilot = await pair.south.pilot()
    await pair.take()
    await pair.south.run_all(pilot)
    await pair.tell()
    await pair.take()
    (claimed, *_) = await pair.south.claim(pilot, max_tasks=2)
    (config,) = await pair.south.services.handout.legacy_configs([claimed])
    options = config["options"]
    assert (options["dataset_id"], options["job"], options["task"]) == (dataset.dataset_id, 0, 1)
    assert options["task_id"] == claimed.task.task_id
    assert claimed.task.dataset_id in options["job_temp"]


async def test_a_report_that_comes_twice_is_told_once(pair: Pair) -> None:
    await pair.north.submit()
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    await pair.south.services.tasks.processing(pilot, held.task_id, held.lease_id)
    for _ in range(2):
        await pair.south.services.pilots.finish(pilot, held.task_id, held.lease_id, Report())
    await pair.tell()
    (message,) = [message for method, message in pair.wire.said if method == "site.report"]
    assert [each["kind"] for each in message["operations"]] == ["started", "finished"]


async def test_what_waits_here_for_too_long_goes_back(pair: Pair) -> None:
    dataset = await pair.north.submit(njobs=3)
    await pair.take()
    pilot = await pair.south.pilot()
    running = await pair.south.one(pilot)
    patience_s = pair.south.settings.federation.patience_s
    returning = pair.south.services.federation.returning
    assert await returning.look() == 0
    pair.south.advance(patience_s + 1)
    assert await returning.look() == 2
    await pair.tell()
    assert (await pair.south.task(running.task_id)).status is TaskStatus.PROCESSING
    assert sorted(await pair.north.statuses(dataset)) == ["processing", "waiting", "waiting"]
    assert await pair.errands() == {ErrandStatus.OPEN: 1, ErrandStatus.ENDED: 2}


async def test_a_task_reaches_what_it_names_at_its_own_site(pair: Pair) -> None:
    entry = {"movement": "input", "type": "permanent", "remote": "gsiftp://data/in.$(job).i3"}
    await pair.north.submit({**task("only"), "data": [entry]}, njobs=3)
    await pair.take()
    pilot = await pair.south.pilot()
    found, errands = set(), pair.south.services.federation.errands
    reach = TaskReach(pair.south.store, pair.south.services.catalogue, foreign=errands)
    for one in await pair.south.claim(pilot, max_tasks=3):
        caller = Principal(PrincipalKind.TASK, one.task.task_id, lease_id=one.task.lease_id)
        found |= {str(location) for location in (await reach.of(caller)).inputs}
    assert {name.rpartition("/")[2] for name in found} == {"in.0.i3", "in.1.i3", "in.2.i3"}
    reach.close()
    await pair.south.store.errands.end([one.task.task_id], ErrandStatus.LOST, now=1.0)
    reach = TaskReach(pair.south.store, pair.south.services.catalogue, foreign=errands)
    with pytest.raises(LeaseLost):
        await reach.of(caller)
    reach.close()


async def test_a_log_that_comes_behind_the_end_is_told_all_the_same(pair: Pair) -> None:
    dataset = await pair.north.submit()
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    await pair.south.finish(pilot, held)
    await pair.tell()
    assert await pair.errands() == {ErrandStatus.ENDED: 1}
    await pair.south.services.logs.put(
        pilot, held.task_id, held.lease_id, name="stdout", data=packed("late\n")
    )
    await pair.tell()
    log = await pair.north.services.logs.read(ADMIN, f"{dataset.dataset_id}-0-0", "stdout")
    assert log.text == "late\n"
    assert await pair.errands() == {ErrandStatus.ENDED: 1}
