"""Looking through all records of a store for what refers to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from iceprod.errors import ConflictError
from iceprod.model.dataset import Dataset
from iceprod.model.principal import PrincipalKind
from iceprod.model.user import Token
from iceprod.store import canonical
from iceprod.store.archive import JobRecord, Kind, Record, Records
from iceprod.store.base import TaskClass
from iceprod.store.canonical import Digest, Sum
from iceprod.store.copying import Progress, pages, silent

_MOST = 100
_PEOPLE = frozenset({PrincipalKind.USER, PrincipalKind.ADMIN})


@dataclass(frozen=True, slots=True)
class Checked:
    """What there is of each kind, and what is wrong, a line each.

    Of very many faults only the first are told; ``faults`` is their number.
    """

    sums: Mapping[Kind, Sum]
    problems: tuple[str, ...]
    faults: int


async def check(records: Records, *, progress: Progress = silent) -> Checked:
    """Read everything once; nothing may change meanwhile."""
    look, sums = _Look(), {}
    for kind in Kind:
        sums[kind] = await _check(kind, records, look, progress)
        look.end_of(kind)
    return Checked(sums, tuple(look.problems), look.faults)


async def _check(kind: Kind, records: Records, look: _Look, progress: Progress) -> Sum:
    digest, total = Digest(), await records.count(kind)
    progress("check", kind, 0, total)
    try:
        async for part in pages(kind, records):
            for record in part:
                digest.add(canonical.encode(kind, record.value))
                look.at(kind, record)
            progress("check", kind, digest.count, total)
        if digest.count < total:
            look.tell(f"{kind}: {total - digest.count} of {total} belong to nothing")
    except ConflictError as error:
        look.tell(f"{kind}: {error.message}")
    return digest.sum()


@dataclass(slots=True)
class _Known:
    """A dataset, and what was seen of it."""

    dataset: Dataset
    configs: set[int] = field(default_factory=set)
    jobs: int = 0
    kept: set[int] = field(default_factory=set)  # of a dataset of which some were forgotten: their indices

    def meet(self, index: int) -> bool:
        """A job comes; whether no more are missing before it than were forgotten."""
        removed = self.dataset.jobs_removed
        follows = self.jobs <= index <= self.jobs + removed
        self.jobs += 1
        if removed:
            self.kept.add(index)
        return follows

    def has(self, index: int) -> bool:
        """Whether a job was met."""
        return index in self.kept if self.dataset.jobs_removed else index < self.jobs


class _Look:
    """What has been seen so far, kind after kind."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.faults = 0
        self._datasets: dict[int, _Known] = {}
        self._classes: set[int] = set()
        self._users: set[str] = set()
        self._ids: set[str] = set()
        self._at: Mapping[Kind, Callable[[Record], None]] = {
            Kind.DATASET: self._dataset,
            Kind.CONFIG: self._config,
            Kind.CLASS: self._class,
            Kind.JOB: self._job,
            Kind.ATTEMPT: self._of_task,
            Kind.USER: self._user,
            Kind.TOKEN: self._token,
            Kind.LOG: self._of_task,
            Kind.FILE: self._file,
            Kind.CREDENTIAL: self._credential,
        }

    def tell(self, problem: str) -> None:
        """Note one thing that is wrong."""
        self.faults += 1
        if len(self.problems) < _MOST:
            self.problems.append(problem)

    def at(self, kind: Kind, record: Record) -> None:
        """Look at a record."""
        if kind in self._at:
            self._at[kind](record)

    def end_of(self, kind: Kind) -> None:
        """Say what should have been among the records of a kind."""
        for number, known in self._datasets.items():
            dataset = known.dataset
            if kind is Kind.CONFIG and dataset.config_version not in known.configs:
                self.tell(f"dataset {number} has no configuration {dataset.config_version}")
            wanted = dataset.jobs_made - dataset.jobs_removed
            if kind is Kind.JOB and known.jobs != wanted:
                self.tell(f"dataset {number} has {known.jobs} jobs, not {wanted} as it says")

    def _dataset(self, record: Record) -> None:
        self._datasets[int(record.key[0])] = _Known(cast(Dataset, record.value))

    def _config(self, record: Record) -> None:
        known = self._datasets.get(int(record.key[0]))
        if known is None:
            self.tell(f"configuration {_place(record)} is of no dataset")
        else:
            known.configs.add(int(record.key[1]))

    def _class(self, record: Record) -> None:
        self._classes.add(cast(TaskClass, record.value).class_id)
        if int(record.key[0]) not in self._datasets:
            self.tell(f"class {_place(record)} is of no dataset")

    def _job(self, record: Record) -> None:
        known = self._datasets.get(int(record.key[0]))
        if known is None:
            self.tell(f"job {_place(record)} is of no dataset")
            return
        if not known.meet(int(record.key[1])):
            self.tell(f"job {_place(record)} follows no other")
        value = cast(JobRecord, record.value)
        if [task.task_index for task in value.tasks] != list(range(len(value.tasks))) or not value.tasks:
            self.tell(f"job {_place(record)} lacks tasks")
        if {task.class_id for task in value.tasks} - self._classes:
            self.tell(f"job {_place(record)} has tasks of a class that does not exist")

    def _of_task(self, record: Record) -> None:
        known = self._datasets.get(int(record.key[0]))
        if known is None or not known.has(int(record.key[1])):
            kind = "log" if len(record.key) > 4 else "attempt"
            self.tell(f"{kind} {_place(record)} is of no task")

    def _user(self, record: Record) -> None:
        self._users.add(str(record.key[0]))

    def _token(self, record: Record) -> None:
        token = cast(Token, record.value)
        if token.kind in _PEOPLE and token.subject not in self._users:
            self.tell(f"a token is of the user {token.subject!r}, who does not exist")

    def _file(self, record: Record) -> None:
        if not self._ids:
            self._ids = {"", *(known.dataset.dataset_id for known in self._datasets.values())}
        if record.key[0] not in self._ids:
            self.tell(f"file {_place(record)} is of a dataset that does not exist")

    def _credential(self, record: Record) -> None:
        user, origin = record.key
        if user and user not in self._users:
            self.tell(f"a credential for {origin} is of the user {user!r}, who does not exist")


def _place(record: Record) -> str:
    return "/".join(map(str, record.key))
