"""What the writer knows of a dataset while it moves its tasks."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field, replace

from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import JobStatus
from iceprod.store.sqlite import rows
from iceprod.store.sqlite.keys import NUMBER_BITS

_MOST = 2000  # datasets remembered; more than are being worked on at a time
_MOST_WANTING = 10_000  # tasks of a dataset of which one need is remembered

_PROCESSING = rows.JOB_CODE[JobStatus.PROCESSING]

Neighbours = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class State:
    """A dataset, its job counters and its place in the graph of tasks.

    ``needs`` and ``dependents`` list, for each task index, tasks as keys of job 0: adding
    the bits of a job index gives that job's. A needed dataset that does not exist has number
    0, which no task has. ``wanting`` is a hint: of tasks, by key, the place of a need that was
    not complete when last looked at.
    """

    dataset: Dataset
    jobs: list[int]
    needs: Neighbours
    dependents: Neighbours
    wanting: dict[int, int] = field(default_factory=dict)

    def remember_wanting(self, key: int, place: int) -> None:
        """Remember the place of a need of a task that is not complete."""
        if len(self.wanting) >= _MOST_WANTING:
            self.wanting.clear()
        self.wanting[key] = place

    def move_job(self, before: int, after: int, *, now: float) -> JobStatus | None:
        """Count a job that changed its status; the dataset's status if that changed too."""
        self.jobs[before] -= 1
        self.jobs[after] += 1
        if self.jobs[_PROCESSING] and self.dataset.status is JobStatus.PROCESSING:
            return None  # as long as a job runs the dataset stays so; the usual case, so no roll-up
        return self.roll_up(now=now)

    def roll_up(self, *, now: float) -> JobStatus | None:
        """Bring the dataset's status up to its counters; the new one if it changed."""
        status = self.dataset.rolled_up(dict(zip(rows.JOB_STATUSES, self.jobs, strict=True)))
        if status is self.dataset.status:
            return None
        self.dataset = replace(self.dataset, status=status, status_changed_at=now)
        return status


class States:
    """The datasets that the writer has met lately; all forgotten when a transaction fails."""

    def __init__(self) -> None:
        self._known: dict[int, State] = {}

    def get(self, connection: sqlite3.Connection, number: int) -> State:
        """The state of an existing dataset."""
        state = self._known.get(number)
        if state is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            state = self._known[number] = _read(connection, number)
        return state

    def forget(self, number: int | None = None) -> None:
        """Read one dataset, or all, afresh when next asked."""
        if number is None:
            self._known.clear()
        else:
            self._known.pop(number, None)

    def __len__(self) -> int:
        return len(self._known)


def read_dataset(connection: sqlite3.Connection, number: int) -> Dataset | None:
    """One dataset by its number."""
    row = connection.execute(
        f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE number = ?", (number,)
    ).fetchone()
    return None if row is None else rows.dataset(row)


def _read(connection: sqlite3.Connection, number: int) -> State:
    dataset = read_dataset(connection, number)
    if dataset is None:
        raise LookupError(f"dataset {number} has tasks but no record")
    jobs = connection.execute(
        "SELECT processing, complete, errors, suspended FROM job_counts WHERE number = ?", (number,)
    ).fetchone()
    return State(dataset, list(jobs), _needs(connection, dataset), _dependents(connection, dataset))


def _needs(connection: sqlite3.Connection, dataset: Dataset) -> Neighbours:
    base = dataset.number << NUMBER_BITS
    internal = [tuple(base | index for index in needs) for needs in dataset.depends]
    if not any(dataset.external):
        return tuple(internal)
    return tuple(
        inner + tuple(_number(connection, other) << NUMBER_BITS | index for other, index in outer)
        for inner, outer in zip(internal, dataset.external, strict=True)
    )


def _number(connection: sqlite3.Connection, dataset_id: str) -> int:
    row = connection.execute("SELECT number FROM datasets WHERE dataset_id = ?", (dataset_id,)).fetchone()
    return 0 if row is None else int(row[0])


def _dependents(connection: sqlite3.Connection, dataset: Dataset) -> Neighbours:
    """Dependents within the dataset, and those of other datasets that name it."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    base = dataset.number << NUMBER_BITS
    for index, needs in enumerate(dataset.depends):
        for needed in needs:
            found[needed].append(base | index)
    for (number,) in connection.execute(
        "SELECT number FROM externals WHERE needed_id = ?", (dataset.dataset_id,)
    ).fetchall():
        other = read_dataset(connection, number)
        for index, outer in enumerate(other.external if other else ()):
            for needed_id, needed in outer:
                if needed_id == dataset.dataset_id:
                    found[needed].append(number << NUMBER_BITS | index)
    return tuple(tuple(found[index]) for index in range(len(dataset.task_names)))
