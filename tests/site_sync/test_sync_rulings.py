"""The rules of what becomes of a statement: every standing of a task, every kind of statement."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iceprod.model.federation import ENDINGS, OperationKind, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.task import Attempt, Outcome, Task
from iceprod.site_sync.as_parent.rulings import Result, Ruling, rule, rule_by_record

K, R = OperationKind, Result
WEST, EAST = holder_of("west"), holder_of("east")
STATED = [kind for kind in K if kind is not K.FILE]

kinds = st.sampled_from(STATED)
holders = st.sampled_from([WEST, EAST])
leases = st.sampled_from(["L1", "L2", "L3"])


def task(status: TaskStatus = TaskStatus.PROCESSING, lease_id: str = "L1", holder: str = WEST) -> Task:
    return Task("d-0-0", "d", 0, 0, status, 0.0, 1, attempt=3, lease_id=lease_id, pilot_id=holder)


def attempt(outcome: Outcome, lease_id: str = "L1", holder: str = WEST) -> Attempt:
    return Attempt("d-0-0", 3, lease_id, holder, "", 0.0, 1.0, outcome)


def decide(kind: K, *, lease_id: str, holder: str, now: Task | None, record: list[Attempt]) -> Ruling:
    """Both rules, as they are used."""
    return rule(kind, holder=holder, lease_id=lease_id, task=now) or rule_by_record(
        kind, holder=holder, lease_id=lease_id, task=now, attempts=record
    )


@given(kinds)
def test_who_holds_a_task_is_believed(kind: K):
    found = decide(kind, lease_id="L1", holder=WEST, now=task(), record=[])
    assert (found.result, found.attempt) == (R.APPLIED, 3)


@given(kinds, st.sampled_from(TaskStatus), st.sampled_from(Outcome), st.booleans())
def test_nobody_may_speak_of_what_is_anothers(kind: K, status: TaskStatus, outcome: Outcome, is_last: bool):
    now = task(status, "L1" if is_last else "L9", WEST)
    record = [] if status is TaskStatus.PROCESSING and is_last else [attempt(outcome)]
    found = decide(kind, lease_id="L1", holder=EAST, now=now, record=record)
    assert found.result is R.REFUSED
    assert found.is_foreign


@given(kinds, st.sampled_from(Outcome))
def test_of_an_attempt_that_ended_only_logs_of_its_own_end_are_news(kind: K, outcome: Outcome):
    now = task(TaskStatus.WAITING)
    found = decide(kind, lease_id="L1", holder=WEST, now=now, record=[attempt(outcome)]).result
    by_own_word = outcome in (Outcome.FINISHED, Outcome.FAILED)
    same = {K.FINISHED: Outcome.FINISHED, K.FAILED: Outcome.FAILED, K.RETURNED: Outcome.EVICTED}
    if kind is K.LOG:
        assert found is (R.APPLIED if by_own_word else R.LOST)
    elif kind is K.STARTED:
        assert found is (R.REPEATED if by_own_word else R.LOST)
    else:
        assert found is (R.REPEATED if same[kind] is outcome else R.LOST)


@given(kinds, holders, leases, st.none() | st.builds(task, st.sampled_from(TaskStatus), leases, holders))
def test_nothing_is_applied_without_its_lease(kind: K, holder: str, lease_id: str, now: Task | None):
    found = decide(kind, lease_id=lease_id, holder=holder, now=now, record=[])
    is_held = now is not None and now.status is TaskStatus.PROCESSING and now.lease_id == lease_id
    if not (is_held and now.pilot_id == holder):
        assert found.result in (R.LOST, R.REFUSED)
        assert found.reason


tasks = st.builds(task, st.sampled_from(TaskStatus), leases, holders)
records = st.lists(st.builds(attempt, st.sampled_from(Outcome), leases, holders), max_size=1)


@given(kinds, holders, leases, st.none() | tasks, records)
def test_who_does_not_hold_a_task_hears_the_same_by_the_record_alone(
    kind: K, holder: str, lease_id: str, now: Task | None, record: list[Attempt]
):
    if now and now.lease_id == lease_id:
        record = (
            [] if now.status is TaskStatus.PROCESSING else [attempt(Outcome.FAILED, lease_id, now.pilot_id)]
        )
    both = decide(kind, lease_id=lease_id, holder=holder, now=now, record=record if now else [])
    if both.result is not R.APPLIED or record:
        alone = rule_by_record(
            kind, holder=holder, lease_id=lease_id, task=now, attempts=record if now else []
        )
        assert alone == both


def test_files_are_not_stated():
    found = rule(K.FILE, holder=WEST, lease_id="L1", task=task())
    assert found is not None
    assert found.result is R.REFUSED
    assert K.FILE not in ENDINGS
