"""The values that pass between the agent and a running task."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from iceprod.model.federation import Original
from iceprod.model.resources import Resources


def host() -> dict[str, str]:
    """This machine's name and domain, as reports spell them."""
    hostname, _, domain = _name().partition(".")
    return {"hostname": hostname, "domain": domain}


@functools.cache
def _name() -> str:
    return socket.gethostname()


def resources_from_format(raw: Mapping[str, Any]) -> Resources:
    """Read resources as the RPC contract spells them, where hours are called ``time``."""
    return Resources(
        cpu=float(raw.get("cpu", 1)),
        gpu=float(raw.get("gpu", 0)),
        memory=float(raw.get("memory", 1)),
        disk=float(raw.get("disk", 1)),
        time_h=float(raw.get("time", 1)),
    )


@dataclass(frozen=True, slots=True)
class Assignment:
    """One task as `pilot.claim` hands it out; ``token`` opens the files of its job.

    A task of another site has with ``stands_for`` what it is called there.
    """

    task_id: str
    lease_id: str
    dataset_id: str
    dataset: int
    job: int
    task_index: int
    name: str = ""
    lease_s: float = 300.0
    token: str = field(default="", repr=False)
    jobs_submitted: int = 1
    debug: bool = False
    config_version: int = 1
    resources: Resources = field(default_factory=Resources)
    stands_for: Original | None = None

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any]) -> Assignment:
        """Read one entry of a claim's answer; KeyError or ValueError if it is none."""
        return cls(
            task_id=str(raw["task_id"]),
            lease_id=str(raw["lease_id"]),
            dataset_id=str(raw["dataset_id"]),
            dataset=int(raw.get("dataset", 0)),
            job=int(raw["job"]),
            task_index=int(raw["task_index"]),
            name=str(raw.get("name", "")),
            lease_s=float(raw.get("lease_s", 300.0)),
            token=str(raw.get("token", "")),
            jobs_submitted=int(raw.get("jobs_submitted", 1)),
            debug=bool(raw.get("debug", False)),
            config_version=int(raw.get("config_version", 1)),
            resources=resources_from_format(raw.get("resources", {})),
            stands_for=_original_from_wire(raw.get("stands_for")),
        )

    @property
    def named(self) -> Original:
        """What the configuration is evaluated with; the server knows the task by other names."""
        return self.stands_for or Original(
            dataset_id=self.dataset_id,
            dataset=self.dataset,
            task_id=self.task_id,
            job=self.job,
            task_index=self.task_index,
            name=self.name,
            jobs_submitted=self.jobs_submitted,
        )

    @property
    def lease(self) -> dict[str, str]:
        """The two parameters that every call about this attempt carries."""
        return {"task_id": self.task_id, "lease_id": self.lease_id}


def _original_from_wire(raw: Mapping[str, Any] | None) -> Original | None:
    if raw is None:
        return None
    return Original(
        dataset_id=str(raw["dataset_id"]),
        dataset=int(raw["dataset"]),
        task_id=str(raw["task_id"]),
        job=int(raw["job"]),
        task_index=int(raw["task_index"]),
        name=str(raw["name"]),
        jobs_submitted=int(raw["jobs_submitted"]),
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not complete.

    ``kind`` is one of exit, signal, overuse, transfer, config and internal; ``summary`` one
    line for people.
    """

    kind: str
    summary: str
    exit_code: int | None = None
    signal: int | None = None
    resource: str | None = None
    stderr_tail: str = ""

    def to_wire(self) -> dict[str, Any]:
        """As the ``error`` of `pilot.fail`, without what is not known."""
        raw = {
            "kind": self.kind,
            "summary": self.summary[:2000],
            "exit_code": self.exit_code,
            "signal": self.signal,
            "resource": self.resource,
            "stderr_tail": self.stderr_tail,
        }
        return {key: value for key, value in raw.items() if value is not None}


class TaskFailure(Exception):
    """Ends the running of a task from wherever it is; never leaves this package."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended, and what it took.

    ``used`` is in the units of `Resources`, with the peak of memory and disk.
    """

    failure: Failure | None
    time_used_s: float
    used: Resources
    task_stats: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)

    def stats(self) -> dict[str, Any]:
        """What a report of either kind says about the attempt."""
        return {
            **host(),
            "time_used": round(self.time_used_s, 3),
            "resources": self.used.to_format(),
            "task_stats": dict(self.task_stats),
        }

    def call(self, assignment: Assignment) -> tuple[str, dict[str, Any]]:
        """The method and parameters that report this result."""
        if self.failure is None:
            return "pilot.finish", {**assignment.lease, "stats": self.stats()}
        return "pilot.fail", {**assignment.lease, "error": {**self.stats(), **self.failure.to_wire()}}
