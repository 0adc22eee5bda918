"""What is said of an attempt that has ended, by a pilot or a site."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from iceprod.model.failures import Failure, FailureKind
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.resources import bounded
from iceprod.model.task import Ended, Move, Outcome, Task
from iceprod.model.values import value

MAX_STATS = 1_000_000
"""Longest statistics of one attempt, in bytes of JSON."""

Text = Annotated[str, msgspec.Meta(max_length=65536)]
Name = Annotated[str, msgspec.Meta(max_length=253)]


@value
class Report:
    """What an attempt took.

    ``usage`` is in the units of `Resources` under the names of the dataset format (time in
    hours); ``stats`` is kept as given.
    """

    hostname: str = ""
    walltime_s: float = 0.0
    usage: dict[str, float] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)

    def ended(self, outcome: Outcome, *, failure_class: str = "", summary: str = "") -> Ended:
        """The record of the attempt."""
        # By position, as below: a message of a site brings a thousand of them.
        return Ended(outcome, self.hostname, failure_class, summary, self.walltime_s, self.usage, self.stats)


@value
class Ending:
    """How ``holder`` says that the attempt with a lease ended.

    It went well, or without a ``report`` is given back for ``reason``.
    """

    task_id: str
    lease_id: str
    holder: str
    report: Report | None = None
    reason: str = ""

    def is_of(self, task: Task) -> bool:
        """Whether a task is run by who says so, and with this lease."""
        return (
            task.status is TaskStatus.PROCESSING
            and task.lease_id == self.lease_id
            and task.pilot_id == self.holder
        )

    def to_move(self) -> Move:
        """What it does to the task, if it is run so."""
        if self.report is not None:
            event, ended = TaskEvent.FINISHED, self.report.ended(Outcome.FINISHED)
        else:
            event, ended = TaskEvent.EVICTED, Ended(Outcome.EVICTED, summary=self.reason)
        return Move(self.task_id, event, self.lease_id, self.holder, ended=ended)


class StatsParameter(msgspec.Struct, frozen=True):
    """What an attempt used: seconds, and resources in cores, GPUs, GB and hours."""

    hostname: Name = ""
    domain: Name = ""
    time_used: float = 0.0
    resources: dict[str, float] = {}
    task_stats: dict[str, Any] = {}

    def to_report(self) -> Report:
        """As the services want it."""
        return Report(
            f"{self.hostname}.{self.domain}" if self.domain else self.hostname,
            bounded(self.time_used),
            {name: bounded(amount) for name, amount in self.resources.items()},
            _bounded_stats(self.task_stats),
        )


def _bounded_stats(stats: dict[str, Any]) -> dict[str, Any]:
    """What a task says of itself; too much of it is dropped, which must not cost the task its completion."""
    if stats and len(msgspec.json.encode(stats)) > MAX_STATS:
        return {"dropped": f"longer than {MAX_STATS} bytes"}
    return stats


@dataclass(frozen=True, slots=True)
class ErrorParameter:
    """Why an attempt failed, and what it used."""

    kind: FailureKind
    summary: Text = ""
    exit_code: int | None = None
    signal: int | None = None
    resource: str = ""
    stderr_tail: Text = ""
    hostname: Name = ""
    domain: Name = ""
    time_used: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    task_stats: dict[str, Any] = field(default_factory=dict)

    def to_failure(self) -> Failure:
        """The failure itself."""
        return Failure(
            kind=self.kind,
            summary=self.summary,
            exit_code=self.exit_code,
            signal=self.signal,
            resource=self.resource,
            stderr_tail=self.stderr_tail,
        )

    def to_report(self) -> Report:
        """What it used."""
        stats = StatsParameter(self.hostname, self.domain, self.time_used, self.resources, self.task_stats)
        return stats.to_report()
