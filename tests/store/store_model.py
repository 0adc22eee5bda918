"""What a store must do when tasks move, written down a second time and naively.

Statuses of jobs and datasets, counters and dependencies are derived from the tasks each
time they are asked for, so nothing can drift.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import MOVES, JobStatus, TaskEvent, TaskStatus, roll_up_job
from iceprod.model.task import Attempt, Move, Outcome, Task, task_id

E, T = TaskEvent, TaskStatus


@dataclass
class ModelStore:
    """Datasets, tasks and attempts in dictionaries."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)

    def materialise(self, dataset_id: str, jobs: int, *, now: float) -> set[str]:
        """Make the next jobs; the tasks that may be claimed."""
        dataset = self.datasets[dataset_id]
        made = []
        for job in range(dataset.jobs_made, dataset.jobs_made + jobs):
            for index in range(len(dataset.task_names)):
                task = Task(task_id(dataset_id, job, index), dataset_id, job, index, T.IDLE, now, 100 + index)
                made.append(self._put(task))
        self.datasets[dataset_id] = replace(dataset, jobs_made=dataset.jobs_made + jobs)
        return {task.task_id for task in made if self._settle(task.task_id, now=now) is T.WAITING}

    def move(self, move: Move, *, now: float) -> tuple[Task, set[str], set[str]] | None:
        """The task after the move, what was released by it and what was held."""
        task = self.tasks.get(move.task_id)
        if task is None or (task.status, move.event) not in MOVES:
            return None
        if move.lease_id is not None and (task.status is not T.PROCESSING or task.lease_id != move.lease_id):
            return None
        if move.holder is not None and task.pilot_id != move.holder:
            return None
        if move.event is E.RELEASED and not self._may_release(task, now=now):
            return None
        if task.status is T.PROCESSING:
            self._end(task, move, now=now)
        after = self._put(_changed(task, move, now=now))
        after_status = self._settle(task.task_id, now=now)
        released = {task.task_id} if after_status is T.WAITING else set()
        held = set()
        if (task.status is T.COMPLETE) != (after.status is T.COMPLETE):
            for other in self._dependents(task):
                was = self.tasks[other].status
                status = self._settle(other, now=now)
                if status is not was:
                    (released if status is T.WAITING else held).add(other)
        return self.tasks[task.task_id], released, held

    def counts(self, dataset_id: str) -> tuple[dict[TaskStatus, int], ...]:
        """Tasks of each kind by status."""
        width = len(self.datasets[dataset_id].task_names)
        found = [Counter[TaskStatus]() for _ in range(width)]
        for task in self.of_dataset(dataset_id):
            found[task.task_index][task.status] += 1
        return tuple(dict(counter) for counter in found)

    def jobs(self, dataset_id: str) -> list[JobStatus]:
        """The status of each job."""
        found: dict[int, Counter[TaskStatus]] = {}
        for task in self.of_dataset(dataset_id):
            found.setdefault(task.job_index, Counter())[task.status] += 1
        return [roll_up_job(found[job]) for job in sorted(found)]

    def status(self, dataset_id: str) -> JobStatus:
        """The status of a dataset."""
        return self.datasets[dataset_id].rolled_up(Counter(self.jobs(dataset_id)))

    def of_dataset(self, dataset_id: str) -> list[Task]:
        """All tasks of a dataset in order."""
        found = [task for task in self.tasks.values() if task.dataset_id == dataset_id]
        return sorted(found, key=lambda task: (task.job_index, task.task_index))

    def _put(self, task: Task) -> Task:
        self.tasks[task.task_id] = task
        return task

    def _needs(self, task: Task) -> list[str]:
        dataset = self.datasets[task.dataset_id]
        inner = [task_id(task.dataset_id, task.job_index, i) for i in dataset.depends[task.task_index]]
        outer = [task_id(other, task.job_index, i) for other, i in dataset.external[task.task_index]]
        return inner + outer

    def _met(self, task: Task) -> bool:
        return all(n in self.tasks and self.tasks[n].status is T.COMPLETE for n in self._needs(task))

    def _dependents(self, task: Task) -> list[str]:
        return [other.task_id for other in self.tasks.values() if task.task_id in self._needs(other)]

    def _may_release(self, task: Task, *, now: float) -> bool:
        if task.release_at is not None and task.release_at > now:
            return False
        self._put(replace(task, release_at=None))
        return self._met(task)

    def _settle(self, name: str, *, now: float) -> TaskStatus:
        """Idle or waiting by what the task needs; its status then."""
        task = self.tasks[name]
        if task.status not in (T.IDLE, T.WAITING):
            return task.status
        backing_off = task.release_at is not None and task.release_at > now
        status = T.WAITING if not backing_off and self._met(task) else T.IDLE
        if not backing_off:
            task = replace(task, release_at=None)
        if status is not task.status:
            task = replace(task, status=status, status_changed_at=now)
        return self._put(task).status

    def _end(self, task: Task, move: Move, *, now: float) -> None:
        cut_short = move.event in (E.SUSPENDED, E.RESET, E.HARD_RESET)
        if move.ended is None and not cut_short:
            return
        outcome = move.ended.outcome if move.ended else Outcome.STOPPED
        self.attempts.append(
            Attempt(
                task.task_id,
                task.attempt,
                task.lease_id,
                task.pilot_id,
                "",
                task.status_changed_at,
                now,
                outcome,
            )
        )


def _changed(task: Task, move: Move, *, now: float) -> Task:
    """The task with what the event itself changes."""
    after = replace(task, status=MOVES[task.status, move.event], status_changed_at=now)
    if move.event is E.CLAIMED:
        after = replace(after, attempt=task.attempt + 1)
    elif move.event in (E.RETRIED, E.DEFERRED, E.FAILED):
        after = replace(after, failures=task.failures + 1)
    elif move.event is E.EVICTED and task.status is T.PROCESSING:
        after = replace(after, evictions=task.evictions + 1)
    elif move.event in (E.RESET, E.HARD_RESET):
        after = replace(after, failures=0, evictions=0, release_at=None)
    elif move.event is E.RELEASED:
        after = replace(after, release_at=None)
    if move.lease:
        lease = move.lease
        after = replace(after, lease_id=lease.lease_id, pilot_id=lease.pilot_id, lease_until=lease.until)
    if move.class_id is not None:
        after = replace(after, class_id=move.class_id)
    if move.release_at is not None:
        after = replace(after, release_at=move.release_at)
    return after
