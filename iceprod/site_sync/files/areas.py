"""Which errands have files here."""

from __future__ import annotations

from collections.abc import Sequence

from iceprod.model.task import parse_task_id
from iceprod.services.files import JOB_TEMP, FileService
from iceprod.services.sweeping import Sweep


async def with_files(files: FileService, task_ids: Sequence[str]) -> set[str]:
    """The tasks in the area of whose job something is kept here: stored by them, or fetched for them."""
    sweep = Sweep(files.tree)

    def look() -> set[str]:
        return {each for each in task_ids if sweep.names(*_area(each))}

    return await files.run(look)


def _area(task_id: str) -> tuple[str, str, str]:
    dataset_id, job, _ = parse_task_id(task_id)
    return JOB_TEMP, dataset_id, str(job)
