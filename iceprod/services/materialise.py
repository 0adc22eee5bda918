"""Late materialisation: datasets become jobs and tasks as room for them is made.

However many jobs a dataset has, only a bounded buffer of unfinished tasks exists.  Each
chunk of jobs is one guarded transaction that starts where the last one ended, so it can
stop anywhere and resume, and several processes may try at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from iceprod.clock import Clock
from iceprod.errors import InputError, Unavailable
from iceprod.model import resources
from iceprod.model.config import options_for
from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import UNFINISHED
from iceprod.model.requirements import RequirementsPlan
from iceprod.model.resources import Requirements
from iceprod.model.task import task_id
from iceprod.services.catalogue import Catalogue
from iceprod.services.duty import DutyHolder
from iceprod.services.scheduling import Scheduler, Transitions
from iceprod.store.base import AuditEntry, DatasetPatch, Store, TaskClass

CHUNK_TASKS = 1000
"""Tasks made in one transaction: a few milliseconds of the writer's time."""
_TURN_S = 0.002
"""How long expressions are evaluated before the loop gets a turn."""

logger = structlog.get_logger(__name__)


class Materialiser:
    """Keeps every active dataset's buffer filled."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        scheduler: Scheduler,
        transitions: Transitions,
        duty: DutyHolder,
        buffer_tasks: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._transitions = transitions
        self._duty = duty
        self._buffer_tasks = buffer_tasks
        self._unmade: set[str] = set()
        self._wanted = asyncio.Event()

    def wake(self, dataset_id: str) -> None:
        """There may be jobs to make of this dataset."""
        self._unmade.add(dataset_id)
        self._wanted.set()

    def work_done(self, dataset_id: str) -> None:
        """Tasks of a dataset ended; look again if it still has jobs to make."""
        if dataset_id in self._unmade:
            self._wanted.set()

    async def look(self) -> None:
        """Find datasets with jobs to make, also those that the store did not say it has kept; a duty."""
        for dataset in await self._store.datasets.active():
            if dataset.jobs_made < dataset.jobs_wanted and not dataset.is_mirror:
                self.wake(dataset.dataset_id)

    async def run(self) -> None:
        """Fill buffers for ever, whenever there is a reason to look; a duty."""
        self._unmade.clear()
        await self.look()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for dataset_id in list(self._unmade):
                await self._fill_or_log(dataset_id)

    async def _fill_or_log(self, dataset_id: str) -> None:
        try:
            if not await self.fill(dataset_id):
                self._unmade.discard(dataset_id)
        except Unavailable as exc:
            logger.warning("cannot make jobs now", dataset_id=dataset_id, reason=str(exc))
            self._scheduler.doubt()  # they may have been made all the same
            await asyncio.sleep(1.0)
            self._wanted.set()
        except InputError as exc:
            # The requirements of one job cannot be evaluated: the same will happen again.
            logger.warning("cannot make jobs, dataset suspended", dataset_id=dataset_id, reason=str(exc))
            self._unmade.discard(dataset_id)
            await self._give_up(dataset_id, str(exc))

    async def _give_up(self, dataset_id: str, reason: str) -> None:
        if not self._duty.is_holding():
            return
        now = self._clock()
        # Whoever sees that it is suspended shall find the reason.
        await self._store.audit.add(
            AuditEntry(now, "site", "dataset.suspend", dataset_id, {"reason": reason})
        )
        dataset = await self._store.datasets.update(dataset_id, DatasetPatch(suspended=True), now=now)
        if dataset is not None:
            self._scheduler.dataset_changed(dataset)

    async def fill(self, dataset_id: str) -> bool:
        """Make jobs until the buffer is full; whether more remain to be made later."""
        while True:
            dataset = await self._store.datasets.get(dataset_id)
            if dataset is None or dataset.suspended or dataset.jobs_made >= dataset.jobs_wanted:
                return False
            if dataset.is_mirror:  # its jobs are made as they are lent
                return False
            room = await self._room(dataset)
            if room == 0:
                return True
            await self._make(dataset, room)

    async def _room(self, dataset: Dataset) -> int:
        """How many jobs the next chunk may have; 0 until a quarter of the buffer is free."""
        progress = await self._store.datasets.progress(dataset.dataset_id)
        unfinished = sum(n for status, n in progress.all_tasks.items() if status in UNFINISHED)
        free = self._buffer_tasks - unfinished
        if free < max(1, self._buffer_tasks // 4):
            return 0
        per_job = len(dataset.task_names)
        return min(max(1, min(free, CHUNK_TASKS) // per_job), dataset.jobs_wanted - dataset.jobs_made)

    async def _make(self, dataset: Dataset, jobs: int) -> None:
        config = await self._catalogue.config(dataset.dataset_id, dataset.config_version)
        plan = RequirementsPlan(config)
        first, number = dataset.jobs_made, dataset_number(dataset, config)
        rows, classes = await self._class_rows(dataset, number, plan, range(first, first + jobs))
        new = [given for given in classes if not self._scheduler.knows(given.class_id)]
        if new:
            await self._store.datasets.add_classes(new)
            self._scheduler.learn(new)
        made = await self._store.datasets.materialise(
            dataset.dataset_id, dataset.jobs_made, rows, now=self._clock()
        )
        if made is not None:
            self._catalogue.put(made.dataset)
            self._transitions.materialised(made.released, dataset.dataset_id)

    async def _class_rows(
        self, dataset: Dataset, number: int, plan: RequirementsPlan, jobs: range
    ) -> tuple[list[list[int]], list[TaskClass]]:
        known: dict[tuple[int, Requirements], TaskClass] = {}
        rows = []
        loop = asyncio.get_running_loop()
        turn_ends = loop.time() + _TURN_S
        for job in jobs:
            row = []
            for index in range(len(dataset.task_names)):
                requirements = plan.for_task(index, _options(dataset, number, job, index))
                key = (index, requirements)
                if key not in known:
                    known[key] = task_class(dataset.dataset_id, index, requirements)
                row.append(known[key].class_id)
            rows.append(row)
            if loop.time() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = loop.time() + _TURN_S
        return rows, list(known.values())


def dataset_number(dataset: Dataset, config: Mapping[str, Any]) -> int:
    """What ``$(dataset)`` stands for: the number in the configuration, or else the site's own."""
    given = config.get("dataset")
    return given if isinstance(given, int) and given > 0 else dataset.number


def _options(dataset: Dataset, number: int, job: int, index: int) -> dict[str, Any]:
    return options_for(
        dataset_id=dataset.dataset_id,
        dataset=number,
        job=job,
        jobs_submitted=dataset.jobs_wanted,
        task_id=task_id(dataset.dataset_id, job, index),
        task=dataset.task_names[index],
        debug=dataset.debug,
    )


def task_class(dataset_id: str, task_index: int, requirements: Requirements) -> TaskClass:
    """The class of tasks of one kind with the same requirements."""
    return TaskClass(
        class_id=resources.class_id(dataset_id, task_index, requirements),
        dataset_id=dataset_id,
        task_index=task_index,
        requirements=requirements,
    )
