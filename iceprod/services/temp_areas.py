"""When files of the temp areas go: a while after whoever needed them was complete."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page
from iceprod.model.task import task_id
from iceprod.services.file_catalogue import FileCatalogue
from iceprod.services.files import DATASET_TEMP, JOB_TEMP, SITE_TEMP, FileService
from iceprod.services.sweeping import Found, Sweep
from iceprod.store.base import Store
from iceprod.store.files import FileFilter

logger = structlog.get_logger(__name__)

_INDEX: Final = re.compile(r"0|[1-9]\d{0,9}")
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class TempLimits:
    """Seconds that files stay after their job or dataset is complete; of the site's, None for ever."""

    job_keep_s: float
    dataset_keep_s: float
    site_keep_s: float | None


@dataclass(frozen=True, slots=True)
class Doomed:
    """What is to go, and why."""

    path: str
    size_bytes: int
    files: int
    reason: str


class TempAreas:
    """Finds what nobody needs any more, and deletes it."""

    def __init__(
        self, store: Store, files: FileService, known: FileCatalogue, *, clock: Clock, limits: TempLimits
    ) -> None:
        self._store = store
        self._files = files
        self._sweep = Sweep(files.tree)
        self._known = known
        self._clock = clock
        self._limits = limits

    async def clean(self, *, is_trial: bool = False, limit: int = 100_000) -> list[Doomed]:
        """Delete what has been lying for long enough, at most ``limit`` things; what that was.

        With ``is_trial`` nothing is deleted.
        """
        gone: list[Doomed] = []
        async for names, reason in self._outlived():
            try:
                gone.append(await self._remove(names, reason, is_trial=is_trial))
            except NotFoundError:  # whoever put it there has taken it away
                continue
            if len(gone) >= limit:
                break
        if gone and not is_trial:
            size = sum(each.size_bytes for each in gone)
            logger.info("temp areas cleaned", places=len(gone), size_bytes=size)
        return gone

    async def _remove(self, names: tuple[str, ...], reason: str, *, is_trial: bool) -> Doomed:
        if is_trial:
            found = await self._files.run(lambda: self._sweep.found(names))
        else:
            found = await self._files.run(lambda: self._sweep.remove(names))
            await self._forget(names)
        return Doomed("/".join(names), found.size_bytes, found.files, reason)

    async def _forget(self, names: tuple[str, ...]) -> None:
        """Take the files out of the catalogue; those that lie elsewhere, too, stay in it."""
        area, *rest = names
        dataset_id = "" if area == SITE_TEMP else rest.pop(0)
        prefix = "/".join([area, *rest])
        while True:
            wanted = FileFilter(dataset_id=dataset_id, prefix=prefix)
            known = await self._store.files.select(wanted, Page(_PAGE))
            mine = [file for file in known.items if f"{file.name}/".startswith(f"{prefix}/")]
            for file in mine:
                path = "/".join([area, *([dataset_id] if dataset_id else []), *file.name.split("/")[1:]])
                await self._known.gone_from_here(dataset_id, file.name, path)
            if known.next is None:
                return

    async def _outlived(self) -> AsyncIterator[tuple[tuple[str, ...], str]]:
        for area in (JOB_TEMP, DATASET_TEMP):
            for dataset_id in await self._names(area):
                async for found in self._of_dataset(area, dataset_id):
                    yield found
        async for found in self._of_site():
            yield found

    async def _of_dataset(self, area: str, dataset_id: str) -> AsyncIterator[tuple[tuple[str, ...], str]]:
        dataset = await self._store.datasets.get(dataset_id)
        if dataset is None:  # it may be another site's that shares this disk
            return
        if dataset.is_mirror:
            async for found in self._of_mirror(area, dataset):
                yield found
        elif self._is_over(dataset.status, dataset.status_changed_at, self._limits.dataset_keep_s):
            yield (area, dataset_id), "the dataset is complete"
        elif area == JOB_TEMP:
            for name in await self._names(area, dataset_id):
                job = await self._store.jobs.get(f"{dataset_id}-{name}") if _INDEX.fullmatch(name) else None
                await asyncio.sleep(0)  # reading by key may not give way
                if job and self._is_over(job.status, job.status_changed_at, self._limits.job_keep_s):
                    yield (area, dataset_id, name), "the job is complete"

    async def _of_mirror(self, area: str, dataset: Dataset) -> AsyncIterator[tuple[tuple[str, ...], str]]:
        """Of another site's dataset: what that site has, or does not want.

        What its tasks are here is no word on that: complete, they may have files that are not
        sent yet, and lost, they never will be complete.
        """
        dataset_id = dataset.dataset_id
        if area == DATASET_TEMP:
            is_idle = await self._is_idle(self._limits.dataset_keep_s, area, dataset_id)
            if is_idle and not await self._has_errands(dataset):
                yield (area, dataset_id), "no task of that site needs it"
            return
        for name in await self._names(area, dataset_id):
            if not _INDEX.fullmatch(name):
                continue
            wanted = task_id(dataset_id, int(name), 0)
            errand = (await self._store.errands.of_tasks([wanted])).get(wanted)
            if errand is None:  # forgotten, so it was over long ago
                is_over = await self._is_idle(self._limits.job_keep_s, area, dataset_id, name)
            else:
                is_open = errand.status is ErrandStatus.OPEN
                is_over = not is_open and self._clock() - errand.ended_at > self._limits.job_keep_s
            if is_over:
                yield (area, dataset_id, name), "the task is its site's again"

    async def _has_errands(self, dataset: Dataset) -> bool:
        """Whether a task of a mirror is run for its site at the moment."""
        first = f"{dataset.dataset_id}-"
        found = await self._store.errands.open(dataset.source.partition("/")[0], first, 1)
        return bool(found) and found[0].task_id.startswith(first)

    async def _is_idle(self, keep_s: float, *names: str) -> bool:
        found = await self._found(*names)
        return found is not None and self._clock() - found.written_at > keep_s

    async def _of_site(self) -> AsyncIterator[tuple[tuple[str, ...], str]]:
        keep_s = self._limits.site_keep_s
        if keep_s is None:
            return
        for name in await self._names(SITE_TEMP):
            if await self._is_idle(keep_s, SITE_TEMP, name):
                yield (SITE_TEMP, name), "nobody has written to it for long"

    async def _found(self, *names: str) -> Found | None:
        try:
            return await self._files.run(lambda: self._sweep.found(names))
        except NotFoundError:
            return None

    async def _names(self, *names: str) -> list[str]:
        return await self._files.run(lambda: self._sweep.names(*names))

    def _is_over(self, status: JobStatus, since: float, keep_s: float) -> bool:
        return status is JobStatus.COMPLETE and self._clock() - since > keep_s
