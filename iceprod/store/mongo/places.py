"""Keys that order what belongs to tasks as the tasks are ordered, which their ids do not."""

from __future__ import annotations

from iceprod.errors import NotFoundError
from iceprod.model.task import parse_task_id


def place(task_id: str) -> str:
    """A text that sorts the tasks of a dataset by job and task index; no two tasks share one."""
    try:
        dataset_id, job_index, task_index = parse_task_id(task_id)
    except NotFoundError:
        return task_id  # the id of no task, and so the place of none
    return f"{dataset_id}-{job_index:09d}-{task_index:04d}"


def places(dataset_id: str) -> tuple[str, str]:
    """Texts before and after the places of all tasks of a dataset."""
    return f"{dataset_id}-", f"{dataset_id}."
