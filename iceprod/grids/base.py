"""The port to a batch system: what the services may ask of it, whichever one it is.

Promises that every adapter keeps and ``tests/grids/test_grids_contract.py`` checks:

* After `Grid.submit` has returned, the grid job carries on whatever becomes of this
  process; a later process finds it again through `Grid.jobs`.
* A call that raises has submitted nothing that it does not show in `Grid.jobs`.
* A grid job that has ended stays ended, and is either reported so or absent.
* The pilot's secret is in no argument vector, log or file that others may read.

Errors: `iceprod.errors.GridUnavailable` when the system does not answer (the same call may
succeed later), `iceprod.errors.InputError` when it answers that it will not take this job
(it would refuse it again).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from iceprod.model.resources import Offer, Resources

GridJobId = NewType("GridJobId", str)
"""What the batch system knows a pilot as; unique within one grid for ever."""

TOKEN_VARIABLE = "ICEPROD_PILOT_TOKEN"  # noqa: S105 - the name of a variable, no secret
"""The environment variable in which a pilot finds its secret."""


class GridState(StrEnum):
    """How a grid job is, for all batch systems alike."""

    QUEUED = "queued"  # the batch system has not started it yet
    RUNNING = "running"
    ENDED = "ended"  # of itself, or because we asked
    FAILED = "failed"  # with an error, or ended by the batch system
    UNKNOWN = "unknown"  # the system gave a state that the adapter does not know


FINAL = frozenset({GridState.ENDED, GridState.FAILED})


@dataclass(frozen=True, slots=True)
class GridReport:
    """How one grid job is, and why in the batch system's words if that is worth telling."""

    state: GridState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GridSettings:
    """One ``[[grids]]`` section of the settings.

    The resources are the largest slot that one pilot may get, on the local grid also all that
    its pilots get together; None lets the adapter find out.
    """

    name: str
    kind: str = "local"
    cpu: float | None = None
    gpu: float | None = None
    memory: float | None = None  # GB
    disk: float | None = None  # GB
    time: float = 24.0  # hours that one pilot may last
    os: str = ""  # what its nodes are, for tasks that ask for one
    site: str = ""
    max_pilots: int = 10  # in all
    max_queued: int = 5  # of these, how many may wait for their start
    idle_s: float = 60.0  # a pilot without work ends after this long
    options: Mapping[str, str] = field(default_factory=dict)  # for one kind only: partition, account


@dataclass(frozen=True, slots=True)
class GridSpec:
    """One pilot to submit: who it is, where it reports, and what it gets."""

    pilot_id: str
    secret: str = field(repr=False)
    url: str
    offer: Offer
    idle_s: float


@dataclass(frozen=True, slots=True)
class GridDescription:
    """What a grid can run.

    ``largest`` is the largest slot that one pilot may get.  ``free`` is what is left of
    machines that are ours alone, where anything not given to a pilot stands idle; None
    where a batch system shares its machines among many and a pilot should ask for what
    its tasks need.  ``jobs`` counts grid jobs that have not ended.
    """

    name: str
    kind: str
    largest: Offer
    free: Resources | None
    jobs: int


class Grid(ABC):
    """One configured batch queue.  All methods are called from one event loop."""

    name: str
    poll_s: float = 15.0
    """How old an answer of this grid may become before it is asked again, seconds."""
    is_machine_bound: bool = False
    """Whether it knows the grid jobs of its own machine only; those of another are not gone."""

    async def open(self, changed: Callable[[], None]) -> None:  # noqa: B027 - most have nothing to do
        """Get ready.  ``changed`` may be called whenever the state of a grid job has changed."""

    async def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of everything but the grid jobs, which carry on."""

    @abstractmethod
    async def submit(self, spec: GridSpec) -> GridJobId:
        """Hand a pilot to the batch system.

        Raises:
            GridUnavailable: the system does not answer, or is full for now.
            InputError: the system refuses such a job.
        """

    @abstractmethod
    async def jobs(self) -> Mapping[GridJobId, str]:
        """Every job of ours that has not ended, with the id of its pilot."""

    @abstractmethod
    async def poll(self, ids: Collection[GridJobId]) -> Mapping[GridJobId, GridReport]:
        """How some grid jobs are; one that the system does not know any more is absent."""

    @abstractmethod
    async def cancel(self, job_id: GridJobId) -> None:
        """Ask for the end of a grid job, running or not; `poll` tells when it has ended.

        Asking again, or for a job that has ended or was never there, changes nothing.
        """

    @abstractmethod
    async def describe(self) -> GridDescription:
        """What this grid can run, and what of it is left."""


def pilot_arguments(spec: GridSpec, *, grid: str, work_dir: str) -> Sequence[str]:
    """The pilot's command line after its program; its secret travels in `TOKEN_VARIABLE`."""
    have = spec.offer.resources
    options = {
        "url": spec.url,
        "grid": grid,
        "cpu": _number(have.cpu),
        "gpu": _number(have.gpu),
        "memory": _number(have.memory),
        "disk": _number(have.disk),
        "time": _number(have.time_h),
        "idle-time": _number(spec.idle_s),
        "work-dir": work_dir,
        "os": spec.offer.os,
        "site": spec.offer.site,
    }
    return [part for name, value in options.items() if value for part in (f"--{name}", value)]


def _number(value: float) -> str:
    """All digits that matter; a whole number without a point, as a count of GPUs must be."""
    return str(int(value)) if value == int(value) else repr(value)
