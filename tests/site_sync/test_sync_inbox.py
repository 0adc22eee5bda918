"""What becomes of what children report."""

from __future__ import annotations

import asyncio

import pytest
from lending_harness import Child, failed, finished, join, leases, logged, returned, said
from site_harness import ADMIN, ALICE, Site, task

from iceprod.errors import AccessDenied, StoreUnavailable
from iceprod.model.federation import OperationKind, holder_of
from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.task import Outcome
from iceprod.services import logs
from iceprod.site_sync.messages import Statement

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}


async def audited(site: Site) -> list[dict]:
    """What the audit trail says of reports and renewals, newest first."""
    found = await site.store.audit.select(None, Page())
    return [dict(entry.detail) for entry in found.items if entry.action in ("site.report", "site.renew")]


async def test_a_task_that_a_child_finished_is_complete(site: Site):
    dataset = await site.submit(task("a"), task("b", "a"))
    west = await join(site)
    (lent,) = await west.pull(5)
    site.advance(100.0)

    assert await west.results(finished(lent, time_used=90.0, resources={"cpu": 2.0})) == ["applied"]

    (attempt,) = await site.store.tasks.attempts(lent.task_id)
    assert (attempt.outcome, attempt.pilot_id, attempt.hostname) == (
        Outcome.FINISHED,
        holder_of("west"),
        "node1",
    )
    assert (attempt.walltime_s, attempt.usage) == (90.0, {"cpu": 2.0})
    assert await site.statuses(dataset) == [TaskStatus.COMPLETE, TaskStatus.WAITING]
    (after,) = await west.pull(5)
    assert await west.results(finished(after)) == ["applied"]
    assert (await site.dataset(dataset)).status is JobStatus.COMPLETE
    assert await site.counts(dataset) == {TaskStatus.COMPLETE: 2}
    assert await audited(site) == []


async def test_what_was_said_before_changes_nothing(site: Site):
    dataset = await site.submit(task("a", **TINY), njobs=3)
    west = await join(site)
    a, b, c = await west.pull(3)
    message = [said("started", a), logged(a, "hi"), finished(a), failed(b), returned(c)]
    assert await west.results(*message) == ["applied"] * 5
    before = await site.counts(dataset), await site.store.tasks.attempts(b.task_id)

    again = await west.results(*message)

    assert again == ["repeated", "applied", "repeated", "repeated", "repeated"]
    assert (await site.counts(dataset), await site.store.tasks.attempts(b.task_id)) == before
    assert await audited(site) == []


async def test_a_statement_twice_in_a_message_counts_once(site: Site):
    await site.submit()
    west = await join(site)
    (lent,) = await west.pull()

    assert await west.results(finished(lent), finished(lent), failed(lent), returned(lent)) == [
        "applied",
        "repeated",
        "lost",
        "lost",
    ]
    assert len(await site.store.tasks.attempts(lent.task_id)) == 1


async def test_a_failure_is_tried_again_as_the_parents_rules_say(site: Site):
    await site.submit()
    west = await join(site)
    seen = []
    for _ in range(20):
        lent = await west.pull()
        if not lent:
            site.advance(3600.0)
            await site.services.tasks.release_due()
            continue
        assert await west.results(failed(lent[0])) == ["applied"]
        seen.append((await site.task(lent[0].task_id)).status)
        if seen[-1] is TaskStatus.FAILED:
            break

    assert len(seen) > 1
    assert seen[-1] is TaskStatus.FAILED
    attempts = await site.store.tasks.attempts(lent[0].task_id)
    assert {attempt.outcome for attempt in attempts} == {Outcome.FAILED}
    assert attempts[0].summary == "the program ended with code 1"


async def test_requirements_grow_up_to_the_largest_slot_of_any_site(site: Site):
    await site.submit(task("a", memory=2.0))
    await site.pilot()
    west = await join(site)
    (lent,) = await west.pull(memory=500.0)

    overuse = failed(lent, kind="overuse", resource="memory", resources={"memory": 60.0})
    assert await west.results(overuse) == ["applied"]
    site.advance(3600.0)
    await site.services.tasks.release_due()

    assert await west.pull(memory=59.0) == []
    (again,) = await west.pull(memory=500.0)
    assert again.requirements.memory > 60.0


async def test_what_is_given_back_is_handed_out_again(site: Site):
    await site.submit()
    west = await join(site)
    (lent,) = await west.pull()

    assert await west.results(returned(lent, "no room")) == ["applied"]

    after = await site.task(lent.task_id)
    assert (after.status, after.failures, after.evictions) == (TaskStatus.WAITING, 0, 1)
    (attempt,) = await site.store.tasks.attempts(lent.task_id)
    assert (attempt.outcome, attempt.summary) == (Outcome.EVICTED, "no room")
    assert len(await site.claim(await site.pilot())) == 1


async def test_a_child_hears_nothing_of_what_it_gave_back_itself(site: Site):
    await site.submit()
    west = await join(site)
    (lent,) = await west.pull()
    await west.listen()

    await west.say(returned(lent))

    assert not (await west.listen()).taken


async def test_logs_are_kept_with_their_attempt_also_when_they_come_late(site: Site):
    await site.submit(task("a", **TINY), njobs=2)
    west = await join(site)
    a, b = await west.pull(2)

    assert await west.results(finished(a), logged(a, "in the same message")) == ["applied"] * 2
    assert await west.results(logged(a, "afterwards", "stderr")) == ["applied"]
    await west.say(returned(b))
    (again,) = await west.pull()
    assert await west.results(logged(b, "of an attempt that was given up"), logged(again, "new")) == [
        "lost",
        "applied",
    ]

    async def text(task_id: str, name: str = "stdout") -> tuple[str, int]:
        part = await site.services.logs.read(ALICE, task_id, name)
        return part.text, part.attempt

    assert await text(a.task_id) == ("in the same message", 1)
    assert await text(a.task_id, "stderr") == ("afterwards", 1)
    assert await text(again.task_id) == ("new", 2)


# -- what can't be applied -----------------------------------------------------------------


@pytest.mark.parametrize("event", [TaskEvent.RESET, TaskEvent.HARD_RESET, TaskEvent.SUSPENDED])
async def test_what_was_taken_away_is_lost(site: Site, event: TaskEvent):
    dataset = await site.submit(task("a", **TINY), njobs=4)
    west = await join(site)
    lent = await west.pull(4)
    if event is TaskEvent.RESET:
        await site.services.datasets.suspend(ALICE, dataset.dataset_id)
    change = {
        TaskEvent.RESET: site.services.datasets.reset,
        TaskEvent.HARD_RESET: site.services.datasets.hard_reset,
        TaskEvent.SUSPENDED: site.services.datasets.suspend,
    }[event]
    await change(ALICE, dataset.dataset_id)
    before = await site.statuses(dataset)

    outcomes = await west.say(finished(lent[0]), failed(lent[1]), returned(lent[2]), logged(lent[3], "x"))

    assert {outcome.result for outcome in outcomes} == {"lost"}
    assert await site.statuses(dataset) == before
    (entry,) = await audited(site)
    assert (entry["lost"], entry["refused"], entry["leases_of_others"]) == (4, 0, 0)
    assert site.services.federation.inbox.results == {("west", "lost"): 4}


async def test_who_lost_a_task_cannot_end_the_attempt_of_who_has_it(site: Site):
    await site.submit()
    west, east = await join(site, "west"), await join(site, "east")
    (former,) = await west.pull()
    site.advance(3 * 3600.0 + 1)
    await site.services.leases.expire()
    site.advance(site.settings.scheduling.lease_s + 1)
    await site.services.leases.expire()
    (present,) = await east.pull()

    assert await west.results(finished(former), failed(former), returned(former)) == [
        "lost",
        "lost",
        "repeated",
    ]

    assert (await site.task(present.task_id)).lease_id == present.lease_id
    assert await east.results(finished(present)) == ["applied"]


async def test_leases_of_others_are_refused_and_audited(site: Site):
    await site.submit(task("a", **TINY), njobs=6)
    west, east = await join(site, "west"), await join(site, "east")
    lent = await west.pull(4)
    await west.say(finished(lent[3]))
    held = await site.one(await site.pilot())
    of_pilot = Statement("x", OperationKind.FINISHED, held.task_id, held.lease_id)

    stolen = [finished(lent[0]), failed(lent[1]), returned(lent[2]), logged(lent[0], "x"), finished(lent[3])]
    outcomes = await east.say(*stolen, said("started", lent[0]), of_pilot)

    assert {outcome.result for outcome in outcomes} == {"refused"}
    assert [(await site.task(one.task_id)).status for one in lent[:3]] == [TaskStatus.PROCESSING] * 3
    assert (await audited(site))[0]["leases_of_others"] == 7
    assert await east.renew(*leases(lent[:3])) == [one.lease_id for one in lent[:3]]
    assert (await audited(site))[0] == {"leases_of_others": 3}
    assert await west.renew(*leases(lent[:3])) == []


async def test_a_poison_statement_is_refused_and_in_nobodys_way(site: Site):
    await site.submit(task("a", **TINY), njobs=9)
    west = await join(site)
    lent = await west.pull(9)
    poison = [
        said("finished", lent[0], stats="much"),
        said("failed", lent[1], error={"kind": "boredom"}),
        said("failed", lent[2]),
        said("log", lent[3], name="../../etc/passwd", data=""),
        said("log", lent[4], name="stdout", data="AAAA"),
        said("file", lent[5]),
        said("returned", lent[6], reason=["a"]),
        Statement("x", OperationKind.FINISHED, "no id", "L"),
        Statement("y", OperationKind.FINISHED, "nope-0-0", "L"),
    ]

    outcomes = await west.say(poison[0], finished(lent[7]), *poison[1:], failed(lent[8]))

    assert [outcome.result for outcome in outcomes] == [
        "refused", "applied", "refused", "refused", "refused", "refused", "refused", "refused",
        "lost", "lost", "applied",
    ]  # fmt: skip
    assert all(outcome.reason for outcome in outcomes if outcome.result != "applied")
    assert [(await site.task(one.task_id)).status for one in lent[:7]] == [TaskStatus.PROCESSING] * 7
    (entry,) = await audited(site)
    assert (entry["lost"], entry["refused"], len(entry["some"])) == (2, 7, 5)


async def test_a_log_that_is_too_long_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "MAX_TEXT", 1000)
    await site.submit()
    west = await join(site)
    (lent,) = await west.pull()

    assert await west.results(logged(lent, "x" * 1001), logged(lent, "x" * 999)) == ["refused", "applied"]


@pytest.mark.expects_logs
async def test_one_that_the_store_cannot_take_is_refused_alone(site: Site, monkeypatch: pytest.MonkeyPatch):
    await site.submit(task("a", **TINY), njobs=5)
    west = await join(site)
    lent = await west.pull(5)
    move = site.store.tasks.move

    async def picky(moves, *, now):
        if any(one.ended and one.ended.hostname == "bad" for one in moves):
            raise TypeError("a value of a kind that nobody thought of")
        return await move(moves, now=now)

    monkeypatch.setattr(site.store.tasks, "move", picky)
    statements = [finished(one, hostname="bad" if one is lent[2] else "good") for one in lent]

    assert await west.results(*statements) == ["applied", "applied", "refused", "applied", "applied"]


async def test_nothing_is_answered_while_the_store_is_away(site: Site, monkeypatch: pytest.MonkeyPatch):
    await site.submit(task("a", **TINY), njobs=2)
    west = await join(site)
    a, b = await west.pull(2)

    async def away(moves, *, now):
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(site.store.tasks, "move", away)
        for statement in (finished(a), failed(b)):
            with pytest.raises(StoreUnavailable):
                await west.say(statement)

    assert await west.results(finished(a), failed(b)) == ["applied", "applied"]


async def test_only_children_report(site: Site):
    with pytest.raises(AccessDenied):
        await Child(site, "west").say()
    west = await join(site)
    await site.submit()
    (lent,) = await west.pull()
    await site.services.federation.registry.revoke(ADMIN, "west")
    with pytest.raises(AccessDenied):
        await west.say(finished(lent))
    assert (await site.task(lent.task_id)).status is TaskStatus.WAITING


async def test_a_thousand_are_taken_in_by_one_transaction(site: Site, monkeypatch: pytest.MonkeyPatch):
    dataset = await site.submit(task("a", **TINY), njobs=1000)
    west = await join(site)
    lent = await west.pull(1000)
    calls, move = [], site.store.tasks.move

    async def counted(moves, *, now):
        calls.append(len(moves))
        return await move(moves, now=now)

    monkeypatch.setattr(site.store.tasks, "move", counted)

    assert set(await west.results(*map(finished, lent))) == {"applied"}

    assert calls == [1000]
    assert await site.counts(dataset) == {TaskStatus.COMPLETE: 1000}


async def test_the_same_reports_at_the_same_time_count_once(site: Site):
    dataset = await site.submit(task("a", **TINY), njobs=50)
    west = await join(site)
    lent = await west.pull(50)
    message = [*map(finished, lent[:25]), *map(failed, lent[25:])]

    answers = await asyncio.gather(*(west.results(*message) for _ in range(4)))

    for results in zip(*answers, strict=True):
        assert sorted(results) == ["applied", "repeated", "repeated", "repeated"]
    assert (await site.counts(dataset))[TaskStatus.COMPLETE] == 25


async def test_how_a_child_stands_is_known(site: Site):
    west = await join(site)
    await west.say(waiting=7, lag_s=3.5, dead=2)

    (known,) = await site.services.federation.registry.all(ADMIN)
    state = known.state
    assert (state.contact_at, state.waiting, state.lag_s, state.dead) == (site.clock(), 7, 3.5, 2)
