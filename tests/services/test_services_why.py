"""Why is this task not running?  In plain words, by the scheduler's own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lending_harness import join
from site_harness import ALICE, CRASH, LARGE, SMALL, Site, config, task

from iceprod.errors import NotFoundError
from iceprod.model.failures import Failure, FailureKind
from iceprod.model.federation import SiteRules
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.principal import ANONYMOUS
from iceprod.model.resources import Offer, Resources
from iceprod.services.slots import GridSlot
from iceprod.services.why import Explanation


async def _why(site: Site, task_id: str) -> Explanation:
    return await site.services.why.task(ALICE, task_id)


async def test_without_pilots_and_grids_nothing_can_run_a_task(site: Site):
    dataset = await site.submit()
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert why.sentences == (
        "It waits for a slot with 1 core, 1 GB of memory, 1 GB of disk and 1 h of wall time.",
        "No pilot is running and no grid is configured, so nothing can run it.",
    )


async def test_each_requirement_is_named_with_the_number_of_pilots_that_it_excludes(site: Site):
    dataset = await site.submit(task("a", memory=16.0, gpu=1))
    for _ in range(2):
        await site.pilot(SMALL)
    await site.pilot(LARGE)
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert "All 3 pilots cannot run it: needs 1 GPU, offered none." in why.sentences
    assert "2 of 3 pilots cannot run it: needs 16 GB of memory, offered 4." in why.sentences
    assert not any(verdict.fits for verdict in why.verdicts)


async def test_the_nearest_slot_is_named_with_what_it_lacks(site: Site):
    dataset = await site.submit(task("a", memory=16.0, gpu=1))
    await site.pilot(SMALL, hostname="small.example.org")
    near = await site.pilot(LARGE, hostname="large.example.org")
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert why.sentences[-1] == f"Nearest is large.example.org ({near.id}): needs 1 GPU, offered none."


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"cpu": 9}, "needs 9 cores, offered 8"),
        ({"memory": 33.0}, "needs 33 GB of memory, offered 32"),
        ({"disk": 101.0}, "needs 101 GB of disk, offered 100"),
        ({"time": 49.0}, "needs 49 h of wall time, offered 48"),
        (
            {"os": ["RHEL_7_x86_64", "RHEL_8_x86_64"]},
            "needs operating system RHEL_7_x86_64 or RHEL_8_x86_64, offered none",
        ),
        ({"site": "madison"}, "needs site madison, offered none"),
    ],
)
async def test_every_kind_of_requirement_is_told(site: Site, wanted: dict, sentence: str):
    dataset = await site.submit(document=config(task("a", **wanted), version=3.1))
    await site.pilot()
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert f"The only pilot cannot run it: {sentence}." in why.sentences


async def test_grids_are_judged_like_pilots(site: Site):
    dataset = await site.submit(task("a", memory=8.0))
    site.services.slots.set_grids([GridSlot("local", Offer(Resources(cpu=4, memory=4.0)))])
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert "No pilot is running." in why.sentences
    assert "The only grid cannot run it: needs 8 GB of memory, offered 4." in why.sentences
    (verdict,) = why.verdicts
    assert (verdict.kind, verdict.name, verdict.fits) == ("grid", "local", False)


async def test_a_task_that_something_fits_is_told_its_place_in_line(site: Site):
    await site.submit(task("a"), njobs=3, priority=0.9)
    dataset = await site.submit(task("a"), njobs=2, priority=0.1)
    await site.pilot()
    why = await _why(site, f"{dataset.dataset_id}-1-0")
    assert why.sentences[-1] == (
        "Something fits it; by share and priority 3 tasks of 1 other kind go first, "
        "and 2 tasks of its own kind wait."
    )
    assert all(verdict.fits for verdict in why.verdicts)


async def test_its_start_is_estimated_where_a_rate_is_known(site: Site):
    await site.submit(task("a"), njobs=20, priority=0.9)
    dataset = await site.submit(task("a"), njobs=10, priority=1.0)
    pilot = await site.pilot()
    await site.services.datasets.progress(ALICE, dataset.dataset_id)
    for _ in range(2):
        site.clock.advance(10)
        await site.finish(pilot, await site.one(pilot))
    await site.services.datasets.progress(ALICE, dataset.dataset_id)
    await site.services.datasets.set_priority(ALICE, dataset.dataset_id, 0.1)
    why = await _why(site, f"{dataset.dataset_id}-5-0")
    assert why.sentences[-1].endswith("At the present rate it starts in about 200 s.")


async def test_a_task_that_waits_for_another_names_it(site: Site):
    dataset = await site.submit(task("a"), task("b", "a"))
    why = await _why(site, f"{dataset.dataset_id}-0-1")
    assert why.sentences == (f"It needs task {dataset.dataset_id}-0-0, which is waiting.",)


async def test_a_task_that_waits_for_another_dataset_names_that(site: Site):
    first = await site.submit(task("generate"), njobs=2, fill=False)
    second = await site.submit(task("filter", f"{first.dataset_id}.0"), njobs=2)
    why = await _why(site, f"{second.dataset_id}-1-0")
    assert why.sentences == (f"It needs job 1 of dataset {first.dataset_id}, not made yet.",)


async def test_a_task_after_a_failure_tells_when_it_is_tried_again_and_why(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot(hostname="n7")
    broken = Failure(FailureKind.TRANSFER, "gsiftp://far/file: no route")
    await site.fail(pilot, await site.one(pilot), broken, hostname="n7.example.org")
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert why.sentences == (
        "After a failure it is tried again at 2023-11-14T22:13:50.000Z.",
        "Its last failure (transfer, on n7.example.org): gsiftp://far/file: no route",
    )


async def test_a_failed_task_tells_its_last_failure(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    for _ in range(3):
        await site.fail(pilot, await site.one(pilot), replace(CRASH, summary="module clsim ended with 1"))
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert why.sentences == (
        "It failed 3 times and is not tried again. Reset it to try anew.",
        "Its last failure (program, on an unknown host): module clsim ended with 1",
    )


async def test_a_running_and_a_complete_task_say_so(site: Site):
    dataset = await site.submit()
    pilot = await site.pilot()
    held = await site.one(pilot)
    assert (await _why(site, held.task_id)).sentences == (f"It is running on pilot {pilot.id}, attempt 1.",)
    await site.finish(pilot, held)
    assert (await _why(site, f"{dataset.dataset_id}-0-0")).sentences == ("It is complete.",)


async def test_a_suspended_task_says_so(site: Site):
    dataset = await site.submit()
    await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, [f"{dataset.dataset_id}-0-0"])
    why = await _why(site, f"{dataset.dataset_id}-0-0")
    assert why.sentences == ("It is suspended. Resume it to let it run.",)


async def test_a_dataset_explains_each_kind_of_its_tasks(site: Site):
    dataset = await site.submit(task("hits"), task("clsim", gpu=1), task("filter", "hits"), njobs=2)
    await site.pilot()
    why = await site.services.why.dataset(ALICE, dataset.dataset_id)
    assert "Task hits: 2 waiting." in why.sentences
    assert "Task filter: 2 idle." in why.sentences
    assert "Task clsim: The only pilot cannot run it: needs 1 GPU, offered none." in why.sentences
    assert any(s.startswith("Task hits: Something fits it") for s in why.sentences)


async def test_a_dataset_with_many_sets_of_requirements_is_told_briefly(site: Site):
    dataset = await site.submit(task("a", gpu=1, memory="$eval(1+$(job))"), njobs=10)
    await site.pilot()
    why = await site.services.why.dataset(ALICE, dataset.dataset_id)
    assert sum("It waits for a slot with 1 core, 1 GPU" in s for s in why.sentences) == 3
    assert why.sentences[-1] == "Task a: 7 more sets of requirements."


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (0, "Something fits it; by share and priority it is next, and 1 task of its own kind waits."),
        (
            1,
            "Something fits it; by share and priority 1 task of 1 other kind goes first, "
            "and 1 task of its own kind waits.",
        ),
    ],
)
async def test_one_is_not_told_like_many(site: Site, others: int, sentence: str):
    for _ in range(others):
        await site.submit(task("a"), priority=0.9)
    dataset = await site.submit(task("a"), priority=0.1)
    await site.pilot()
    assert (await _why(site, f"{dataset.dataset_id}-0-0")).sentences[-1] == sentence


async def test_a_dataset_that_is_suspended_or_complete_says_so(site: Site):
    dataset = await site.submit()
    await site.services.datasets.suspend(ALICE, dataset.dataset_id)
    why = await site.services.why.dataset(ALICE, dataset.dataset_id)
    assert why.sentences[0] == "The dataset is suspended; resume it to let it run."
    await site.services.datasets.resume(ALICE, dataset.dataset_id)
    await site.run_all(await site.pilot())
    why = await site.services.why.dataset(ALICE, dataset.dataset_id)
    assert why.sentences[0] == "The dataset is complete."


async def test_a_dataset_tells_that_jobs_remain_to_be_made(site_with):
    site = await site_with(scheduling={"buffer_tasks": 10})
    dataset = await site.submit(njobs=1000)
    why = await site.services.why.dataset(ALICE, dataset.dataset_id)
    assert "10 of 1000 jobs were made; more are made as these get done." in why.sentences


async def test_who_may_not_see_a_task_learns_nothing_of_it(site: Site):
    dataset = await site.submit()
    with pytest.raises(Exception, match="credential"):
        await site.services.why.task(ANONYMOUS, f"{dataset.dataset_id}-0-0")
    with pytest.raises(NotFoundError):
        await site.services.why.task(ALICE, "nothing-0-0")


async def test_tasks_that_run_elsewhere_say_where(site: Site):
    west = await join(site)
    await site.pilot(SMALL)
    dataset = await site.submit(task("a", memory=16.0), njobs=2)
    await site.services.datasets.set_sites(ALICE, dataset.dataset_id, SiteRules(only=("west",)))
    await west.pull(0)

    explained = await site.services.why.dataset(ALICE, dataset.dataset_id)

    text = " ".join(explained.sentences)
    assert "runs only at west." in text
    assert "The only pilot cannot run it: needs site west, offered this site." in text
    assert [(v.kind, v.name, v.fits) for v in explained.verdicts if v.fits] == [("site", "west", True)]
    (lent,) = await west.pull()
    lent_now = await site.services.why.task(ALICE, lent.task_id)
    assert lent_now.sentences == ("It was lent to site west, attempt 1.",)


async def test_slots_of_other_sites_are_looked_at(site: Site):
    for name in ("west", "east"):
        await (await join(site, name)).pull(1, memory=4.0)
    dataset = await site.submit(task("a", memory=16.0))
    await site.services.datasets.set_sites(ALICE, dataset.dataset_id, SiteRules(never=("east",)))

    text = " ".join((await site.services.why.dataset(ALICE, dataset.dataset_id)).sentences)

    assert "Its dataset runs never at east." in text
    assert "All 2 slots of other sites cannot run it: needs 16 GB of memory, offered 4." in text
    assert "1 of 2 slots of other sites cannot run it: needs site other than east, offered east." in text
