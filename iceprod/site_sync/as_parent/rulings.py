"""What becomes of what a child says of a task: the rules, without any store.

A statement is about one lease.  Nothing counts but that: not when it was made, how often, or
after which other one it arrives.  A lease is held from the claim that gave it until its attempt
ended, however that was, and is never given again; so of the statements that would end it one
is applied, and all others find the record of the attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from iceprod.model.federation import OperationKind
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.task import Attempt, Outcome, Task
from iceprod.model.values import value


class Result(StrEnum):
    """What became of a statement."""

    APPLIED = "applied"
    REPEATED = "repeated"  # it was applied before, as far as it matters
    LOST = "lost"  # its lease is over, or was never heard of
    REFUSED = "refused"  # it makes no sense, and never will


@value
class Ruling:
    """What becomes of a statement, and of which attempt of its task it is true."""

    result: Result
    reason: str = ""
    attempt: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether somebody spoke of a lease that is another's."""
        return self.reason == FOREIGN


FOREIGN: Final = "the lease is another's"
UNKNOWN: Final = "no attempt of the task had this lease"
ABSENT: Final = "there is no such task"

_SAYS: Final = {
    OperationKind.FINISHED: Outcome.FINISHED,
    OperationKind.FAILED: Outcome.FAILED,
    OperationKind.RETURNED: Outcome.EVICTED,
}
_OWN_WORD: Final = frozenset({Outcome.FINISHED, Outcome.FAILED})
"""Attempts that ended so have done so by their holder's word."""


def rule(kind: OperationKind, *, holder: str, lease_id: str, task: Task | None) -> Ruling | None:
    """What becomes of a statement by the task as it stands; None if its attempts have to be asked.

    A statement that may be applied is still guarded by its lease when it is.
    """
    if kind is OperationKind.FILE:
        return Ruling(Result.REFUSED, "files are sent to the file store, and not stated")
    if task is None:
        return Ruling(Result.LOST, ABSENT)
    if task.lease_id != lease_id:
        return None
    if task.pilot_id != holder:
        return Ruling(Result.REFUSED, FOREIGN)
    if task.status is TaskStatus.PROCESSING:
        return Ruling(Result.APPLIED, attempt=task.attempt)
    return None


def rule_by_record(
    kind: OperationKind, *, holder: str, lease_id: str, task: Task | None, attempts: Sequence[Attempt]
) -> Ruling:
    """What becomes of a statement by whose lease the holder does not run the task.

    ``attempts`` are those that ended.
    """
    record = next((attempt for attempt in attempts if attempt.lease_id == lease_id), None)
    if record is None:
        return _rule_without_record(holder, lease_id, task)
    if record.pilot_id != holder:
        return Ruling(Result.REFUSED, FOREIGN)
    if kind is OperationKind.LOG and record.outcome in _OWN_WORD:
        # It was on its way when the end was told, and tells more about that.
        return Ruling(Result.APPLIED, attempt=record.attempt)
    if kind is OperationKind.STARTED and record.outcome in _OWN_WORD:
        return Ruling(Result.REPEATED)
    if _SAYS.get(kind) is record.outcome:
        return Ruling(Result.REPEATED)
    return Ruling(Result.LOST, f"the attempt has ended before: {record.outcome}")


def _rule_without_record(holder: str, lease_id: str, task: Task | None) -> Ruling:
    if task is None:
        return Ruling(Result.LOST, ABSENT)
    if task.lease_id == lease_id and task.pilot_id != holder:
        return Ruling(Result.REFUSED, FOREIGN)
    return Ruling(Result.LOST, UNKNOWN)
