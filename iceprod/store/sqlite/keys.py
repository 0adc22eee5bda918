"""Places as whole numbers: a task's key orders by dataset, job and task index."""

from __future__ import annotations

import sqlite3

from iceprod.errors import NotFoundError
from iceprod.model.task import MAX_JOBS, MAX_TASKS, parse_job_id, parse_task_id

TASK_BITS = MAX_TASKS.bit_length() - 1
JOB_BITS = MAX_JOBS.bit_length() - 1
NUMBER_BITS = TASK_BITS + JOB_BITS
TASK_MASK = MAX_TASKS - 1
PLACE_MASK = (1 << NUMBER_BITS) - 1
JOB_MASK = PLACE_MASK & ~TASK_MASK
LAST_KEY = (1 << 63) - 1


def task_key(number: int, job_index: int, task_index: int) -> int:
    """The key of a task of dataset ``number``."""
    return number << NUMBER_BITS | job_index << TASK_BITS | task_index


def job_key(number: int, job_index: int) -> int:
    """The key of a job of dataset ``number``: that of its tasks without the task index."""
    return number << JOB_BITS | job_index


def task_keys(number: int) -> tuple[int, int]:
    """The first and the last key that tasks of a dataset can have."""
    return number << NUMBER_BITS, number << NUMBER_BITS | PLACE_MASK


def kind_key(key: int) -> int:
    """The key of a task's kind, which all jobs of the dataset share."""
    return key >> NUMBER_BITS << TASK_BITS | key & TASK_MASK


def kind_keys(number: int) -> tuple[int, int]:
    """The first and the last key that kinds of tasks of a dataset can have."""
    return number << TASK_BITS, number << TASK_BITS | TASK_MASK


class Numbers:
    """Which dataset has which number, remembered until it has gone: neither is ever given again."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._dataset_id: dict[int, str] = {}

    def number(self, connection: sqlite3.Connection, dataset_id: str) -> int | None:
        """The number of a dataset, or None if there is no such dataset."""
        found = self._number.get(dataset_id)
        if found is None:
            row = connection.execute(
                "SELECT number FROM datasets WHERE dataset_id = ?", (dataset_id,)
            ).fetchone()
            if row is not None:
                found = self._number[dataset_id] = row[0]
        return found

    def forget(self, dataset_id: str) -> None:
        """There is no such dataset any more."""
        self._dataset_id.pop(self._number.pop(dataset_id, 0), None)

    def dataset_id(self, connection: sqlite3.Connection, number: int) -> str:
        """The id of a dataset that is known to exist."""
        found = self._dataset_id.get(number)
        if found is None:
            row = connection.execute("SELECT dataset_id FROM datasets WHERE number = ?", (number,)).fetchone()
            found = self._dataset_id[number] = row[0]
        return found

    def task(self, connection: sqlite3.Connection, task_id: str) -> int | None:
        """The key of a task, or None if there can be no such task."""
        try:
            dataset_id, job_index, task_index = parse_task_id(task_id)
        except NotFoundError:
            return None
        number = self._number.get(dataset_id) or self.number(connection, dataset_id)
        return None if number is None else task_key(number, job_index, task_index)

    def job(self, connection: sqlite3.Connection, job_id: str) -> int | None:
        """The key of a job, or None if there can be no such job."""
        try:
            dataset_id, job_index = parse_job_id(job_id)
        except NotFoundError:
            return None
        number = self.number(connection, dataset_id)
        return None if number is None else job_key(number, job_index)

    def task_id(self, connection: sqlite3.Connection, key: int) -> str:
        """The id of a stored task."""
        dataset_id = self.dataset_id(connection, key >> NUMBER_BITS)
        return f"{dataset_id}-{(key & JOB_MASK) >> TASK_BITS}-{key & TASK_MASK}"
