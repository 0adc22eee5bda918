"""The port to the datastore: what services may ask of it, whichever one it is.

Promises that every adapter keeps and ``tests/store/test_store_contract.py`` checks:

* A call that changes something returns after the change is durable, and a call that
  raises has changed nothing, unless the error's detail says ``outcome``: ``unknown``, because
  the datastore was lost before it answered.
* Every change of a task's status is guarded (see `TaskRepository.move`): of several
  callers who want the same move exactly one gets it.
* Counters, job and dataset status follow a task's move so that no reader, and no crash,
  sees one without the other for longer than the repair at start takes.
* Lists are paged and never read more than the page.

All methods raise `iceprod.errors.StoreUnavailable` when the store does not answer or
cannot write (disk full, connection lost).  Instants are seconds since the epoch, UTC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iceprod.model.dataset import Dataset, Progress
from iceprod.model.federation import SiteRules
from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus, TaskStatus
from iceprod.model.paging import Page, Slice
from iceprod.model.pilot import Pilot, PilotPatch, PilotStatus
from iceprod.model.principal import PrincipalKind
from iceprod.model.resources import Requirements
from iceprod.model.task import Attempt, Move, Moved, Outcome, Task
from iceprod.model.user import Token, User
from iceprod.store.federation import FederationStore
from iceprod.store.files import FileStore
from iceprod.store.logs import LogInfo, LogRepository
from iceprod.store.sharing import Hold, Message, Sharing
from iceprod.store.trail import AuditEntry, AuditRepository

if TYPE_CHECKING:
    from iceprod.store.archive import Archive

__all__ = [
    "AccountRepository", "AuditEntry", "AuditRepository", "DatasetConfig", "DatasetFilter", "DatasetPatch",
    "DatasetRepository", "Drift", "Hold", "JobRepository", "LogInfo", "LogRepository", "Materialised",
    "Message", "PilotRepository", "Sharing", "Store", "TaskClass", "TaskFilter", "TaskRepository",
    "ValueRepository",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TaskClass:
    """Tasks that are alike to the scheduler; ``class_id`` is `model.resources.class_id` of the rest."""

    class_id: int
    dataset_id: str
    task_index: int
    requirements: Requirements


@dataclass(frozen=True, slots=True)
class DatasetFilter:
    """Which datasets to list; ``visible_to`` is (user name, groups), None for all."""

    status: JobStatus | None = None
    owner: str | None = None
    group: str | None = None
    visible_to: tuple[str, frozenset[str]] | None = None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks of a dataset to list."""

    status: TaskStatus | None = None
    job_index: int | None = None
    task_index: int | None = None


@dataclass(frozen=True, slots=True)
class DatasetPatch:
    """What to change in a dataset; None leaves a field as it is."""

    description: str | None = None
    priority: float | None = None
    jobs_wanted: int | None = None
    truncated: bool | None = None
    suspended: bool | None = None
    always_active: bool | None = None
    jobs_immutable: bool | None = None
    debug: bool | None = None
    sites: SiteRules | None = None


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """A configuration as submitted, and the task graph that was read from it."""

    text: str
    task_names: tuple[str, ...]
    depends: tuple[tuple[int, ...], ...]
    external: tuple[tuple[tuple[str, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Materialised:
    """The dataset after some jobs were made, and the new tasks that may be claimed, with classes."""

    dataset: Dataset
    released: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """A counter that differed from what it counts."""

    dataset_id: str
    what: str
    stored: int
    counted: int


class DatasetRepository(ABC):
    """Datasets, their configurations and their counters."""

    @abstractmethod
    async def add(self, dataset: Dataset, config: str) -> Dataset:
        """Keep a new dataset; returns it with the ``number`` that it was given."""

    @abstractmethod
    async def get(self, dataset_id: str) -> Dataset | None:
        """One dataset."""

    @abstractmethod
    async def find(self, number: int) -> Dataset | None:
        """One dataset by the number that people use."""

    @abstractmethod
    async def select(self, wanted: DatasetFilter, page: Page) -> Slice[Dataset]:
        """Datasets, newest first."""

    @abstractmethod
    async def active(self) -> list[Dataset]:
        """Every dataset that still has work or jobs to make, suspended ones included."""

    @abstractmethod
    async def config(self, dataset_id: str, version: int) -> str | None:
        """The configuration's text, as submitted."""

    @abstractmethod
    async def update(self, dataset_id: str, patch: DatasetPatch, *, now: float) -> Dataset | None:
        """Change some fields and roll the status up; None if there is no such dataset."""

    @abstractmethod
    async def set_config(
        self, dataset_id: str, config: DatasetConfig, *, expected_version: int, now: float
    ) -> Dataset | None:
        """Make ``config`` the next version; None unless the version was the expected one.

        Idle and waiting tasks follow a changed task graph at once.
        """

    @abstractmethod
    async def materialise(
        self, dataset_id: str, first_job: int, class_ids: Sequence[Sequence[int]], *, now: float
    ) -> Materialised | None:
        """Make jobs ``first_job`` and following, one per row of ``class_ids`` (one id per task).

        Guarded: None, and nothing made, unless ``first_job`` is the dataset's ``jobs_made``.
        """

    @abstractmethod
    async def remove_jobs(self, dataset_id: str, jobs: Sequence[int], *, now: float) -> int:
        """Forget some hundreds of jobs by their index, with their tasks, attempts and logs; how many.

        A job of which a task may still run stays.  For datasets that no other one needs, and of
        whose ended tasks nobody wants another run: what follows from a job is not undone.  Its
        index is never given again.
        """

    @abstractmethod
    async def remove(self, dataset_id: str) -> bool:
        """Forget a dataset that has no jobs, or none any more; False if it has, or there is none.

        For datasets that no other one needs.  Its id must never be used again: it is remembered for good.
        """

    @abstractmethod
    async def progress(self, dataset_id: str) -> Progress:
        """How many jobs and tasks stand where, in constant time."""

    @abstractmethod
    async def add_classes(self, classes: Sequence[TaskClass]) -> None:
        """Keep classes; those known already stay as they are."""

    @abstractmethod
    async def classes(self, dataset_id: str | None = None) -> list[TaskClass]:
        """The classes of a dataset, or of every dataset that still has work."""

    @abstractmethod
    async def recount(self, dataset_id: str) -> list[Drift]:
        """Count afresh, correct what differed, and tell it."""


class JobRepository(ABC):
    """Jobs; their status follows their tasks, so there is nothing to write."""

    @abstractmethod
    async def get(self, job_id: str) -> Job | None:
        """One job."""

    @abstractmethod
    async def select(self, dataset_id: str, status: JobStatus | None, page: Page) -> Slice[Job]:
        """Jobs of a dataset in the order of their index."""


class TaskRepository(ABC):
    """Tasks, the moves between their statuses, and the record of their attempts."""

    @abstractmethod
    async def get(self, task_id: str) -> Task | None:
        """One task."""

    @abstractmethod
    async def among(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Those of some hundreds of tasks that exist, by id."""

    @abstractmethod
    async def select(self, dataset_id: str, wanted: TaskFilter, page: Page) -> Slice[Task]:
        """Tasks of a dataset in the order of job and task index."""

    @abstractmethod
    async def move(self, moves: Sequence[Move], *, now: float) -> list[Moved | None]:
        """Carry out each move whose guard holds; None for each that changed nothing.

        The guard: the task stands where `model.lifecycle.SOURCES` lets the event happen and,
        if the move names a lease, is held by that lease, which is the named holder's if there is
        one.  Together with the task move:

        * the counters of its dataset, the status of its job and of its dataset;
        * the tasks that depend on it: released when it completes and nothing else holds
          them, held again when it was complete and is not any more;
        * an attempt, when the move has ``ended``, or takes a processing task from its pilot
          (suspended, reset: recorded as `Outcome.STOPPED`);
        * ``attempt`` + 1 when claimed; ``failures`` + 1 when retried, deferred or failed;
          ``evictions`` + 1 when evicted from processing; both 0, and no back-off any more,
          when reset.

        A task that lands in idle is released at once if its dependencies are complete and
        its back-off is over at ``now``; one that lands in waiting is held if something that
        it depends on is not complete (it was reset meanwhile).  `TaskEvent.RELEASED` asks
        the same of its task: unless the back-off is over and all dependencies are complete
        it answers None, and a back-off that is over is forgotten, so that the task is no
        longer `due` but waits for its dependencies alone.  The lease of an ended attempt
        stays readable on the task, but guards nothing.
        """

    @abstractmethod
    async def renew(self, leases: Sequence[tuple[str, str]], *, until: float) -> list[bool]:
        """Extend (task id, lease id) pairs; False for each that is not held by that lease."""

    @abstractmethod
    async def held_by(self, pilot_id: str) -> list[Task]:
        """The tasks that a pilot is processing."""

    @abstractmethod
    async def held_after(self, holder: str, after: str | None, limit: int) -> list[Task]:
        """As `held_by` in parts, for a site that holds thousands: in an order of their own, after one."""

    @abstractmethod
    async def count_held(self, holder: str, dataset_id: str | None = None) -> int:
        """How many tasks, of a dataset or of all, a pilot or site is processing."""

    @abstractmethod
    async def ended_at_sites(self, dataset_id: str) -> dict[str, dict[Outcome, int]]:
        """How many attempts at tasks of a dataset other sites have ended, by site and outcome.

        In constant time: counted as attempts are recorded.
        """

    @abstractmethod
    async def held_of(self, holder: str, dataset_ids: Sequence[str]) -> set[str]:
        """The datasets, of some, of which a pilot or site is processing tasks."""

    @abstractmethod
    async def expired(self, before: float, limit: int) -> list[Task]:
        """Processing tasks whose lease ended before that instant."""

    @abstractmethod
    async def due(self, now: float, limit: int) -> list[Task]:
        """Idle tasks whose back-off is over."""

    @abstractmethod
    async def ready_counts(self) -> dict[int, int]:
        """How many tasks are waiting in each class that has any, whose dataset is not suspended."""

    @abstractmethod
    async def ready(self, class_id: int, after: str | None, limit: int) -> list[str]:
        """Ids of a class's waiting tasks, oldest (lowest job) first, after that task id."""

    @abstractmethod
    async def ids(
        self, dataset_id: str, statuses: frozenset[TaskStatus], after: str | None, limit: int
    ) -> list[str]:
        """Ids of a dataset's tasks in some statuses, in order, after that task id."""

    @abstractmethod
    async def ids_of_jobs(self, job_ids: Sequence[str]) -> list[str]:
        """Ids of all tasks of those jobs that exist, job by job as they are named."""

    @abstractmethod
    async def attempts(self, task_id: str) -> list[Attempt]:
        """The ended attempts of a task, first to last."""

    @abstractmethod
    async def recent_attempts(self, dataset_id: str, task_index: int, limit: int) -> list[Attempt]:
        """The newest ended attempts of all tasks of a kind."""


class PilotRepository(ABC):
    """Pilots."""

    @abstractmethod
    async def put(self, pilots: Sequence[Pilot]) -> None:
        """Keep pilots, new or in place of what was kept."""

    @abstractmethod
    async def update(self, patches: Sequence[PilotPatch]) -> list[Pilot | None]:
        """Do what `PilotPatch.applied_to` says, so that of patches from several callers none is lost.

        How each pilot is afterwards; None for one that is not known.
        """

    @abstractmethod
    async def get(self, pilot_id: str) -> Pilot | None:
        """One pilot."""

    @abstractmethod
    async def select(self, statuses: frozenset[PilotStatus], page: Page) -> Slice[Pilot]:
        """Pilots in some statuses, newest first."""


class AccountRepository(ABC):
    """Users and credentials."""

    @abstractmethod
    async def add_user(self, user: User) -> bool:
        """Keep a new user; False if the name is taken."""

    @abstractmethod
    async def put_user(self, user: User) -> bool:
        """Change a user; False if there is none of that name."""

    @abstractmethod
    async def user(self, name: str) -> User | None:
        """One user."""

    @abstractmethod
    async def users(self, page: Page) -> Slice[User]:
        """Users by name."""

    @abstractmethod
    async def add_token(self, token: Token) -> None:
        """Keep a credential's digest."""

    @abstractmethod
    async def token(self, digest: str) -> Token | None:
        """One credential, whether expired or not."""

    @abstractmethod
    async def tokens(self, kind: PrincipalKind, subject: str) -> list[Token]:
        """The credentials of one subject, newest first."""

    @abstractmethod
    async def certificates(self, page: Page) -> Slice[Token]:
        """The credentials that are client certificates, by their ``certificate``."""

    @abstractmethod
    async def drop_tokens(self, digests: Sequence[str]) -> int:
        """Forget credentials; how many there were."""

    @abstractmethod
    async def drop_expired_tokens(self, now: float) -> int:
        """Forget every credential that has expired."""


class ValueRepository(ABC):
    """A few small documents of the site itself (its signing key, the share tree, decayed usage)."""

    @abstractmethod
    async def get(self, name: str) -> str | None:
        """One document."""

    @abstractmethod
    async def put(self, name: str, text: str, *, fence: int = 0) -> bool:
        """Keep a document in place of the former.

        False, and nothing kept, if the former was written under a higher fence (see `Hold`):
        the caller is no longer the one whose business this is.
        """

    @abstractmethod
    async def put_new(self, name: str, text: str) -> str:
        """Keep a document unless there is one; returns the one kept."""


class Store(FileStore, FederationStore, ABC):
    """A datastore: opened once per process, shared by all services.

    ``archive`` is the whole content, for copying; ``sharing`` is None for a store that only
    one server process may use.
    """

    datasets: DatasetRepository
    jobs: JobRepository
    tasks: TaskRepository
    pilots: PilotRepository
    accounts: AccountRepository
    logs: LogRepository
    audit: AuditRepository
    values: ValueRepository
    archive: Archive
    sharing: Sharing | None = None

    @abstractmethod
    async def open(self) -> None:
        """Connect, migrate to the present schema, repair what a crash left behind."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what has been accepted, then disconnect."""

    @abstractmethod
    async def ping(self) -> None:
        """Do the smallest read and write that prove the store works."""

    @abstractmethod
    async def check(self) -> list[str]:
        """Look for damage without changing anything; one line each, empty if there is none."""

    @abstractmethod
    async def backup(self, target: Path) -> int:
        """Copy everything, consistently and while in use, to one new file; its size in bytes."""
