"""Datasets that stand for those of other sites.

Their jobs have one task each and are made as tasks are lent, never by the materialiser.  A
mirror's id follows from what it stands for (``PARENT/ID``), so that there is one of each at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import AlreadyExists, ConflictError, FormatError
from iceprod.formats.dataset import loads
from iceprod.model.config import options_for
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Original
from iceprod.model.lifecycle import JobStatus
from iceprod.model.requirements import requirements_of
from iceprod.model.resources import Requirements
from iceprod.model.values import value
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.materialise import CHUNK_TASKS, task_class
from iceprod.services.scheduling import Scheduler, Transitions
from iceprod.store.base import DatasetConfig, DatasetPatch, Store

MOST_JOBS: Final = CHUNK_TASKS
"""Jobs that are made in one step."""
_TASK: Final = "task"
_DROPPED: Final = "mirror-dropped/"
"""The value of that name, with what it stood for behind, is the id of the last mirror that was dropped."""
_GRAPH: Final[tuple[tuple[()], ...]] = ((),)


@value
class Facts:
    """What another site says of a dataset of its own."""

    owner: str
    group: str
    description: str = ""
    priority: float = 0.5
    debug: bool = False


class Mirrors:
    """Makes mirrors, keeps them as their datasets are, and makes their jobs."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        scheduler: Scheduler,
        transitions: Transitions,
        events: Events,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._transitions = transitions
        self._events = events

    async def find(self, source: str) -> Dataset | None:
        """The mirror of a dataset, as the store has it."""
        return await self._store.datasets.get(await self._id(source))

    async def drop(self, mirror: Dataset) -> bool:
        """Forget a mirror that has no jobs; what comes of its dataset later gets another one."""
        if await self._id(mirror.source) == mirror.dataset_id:
            await self._store.values.put(_DROPPED + mirror.source, mirror.dataset_id)
        return await self._store.datasets.remove(mirror.dataset_id)

    async def _id(self, source: str) -> str:
        """The id of the mirror of a dataset: after one was dropped another one, for none is used again."""
        dropped = await self._store.values.get(_DROPPED + source)
        return ids.derived_id(f"{source} {dropped}" if dropped else source)

    async def make(self, source: str, facts: Facts, config: str) -> Dataset:
        """A new mirror, or that which somebody else made at the same time.

        Raises:
            FormatError: the configuration can't be read here.
        """
        await asyncio.to_thread(loads, config.encode())
        now, site = self._clock(), source.partition("/")[0]
        made = Dataset(
            dataset_id=await self._id(source),
            number=0,
            owner=f"{facts.owner}@{site}",
            group=f"@{site}",
            status=JobStatus.PROCESSING,
            created_at=now,
            status_changed_at=now,
            jobs_wanted=0,
            task_names=(_TASK,),
            depends=_GRAPH,
            external=_GRAPH,
            description=facts.description,
            priority=facts.priority,
            truncated=True,  # there are as many jobs as were made, and nobody makes more of himself
            jobs_immutable=True,
            debug=facts.debug,
            source=source,
        )
        try:
            made = await self._store.datasets.add(made, config)
        except AlreadyExists:
            return await self._existing(made.dataset_id)
        self._catalogue.put(made)
        self._events.publish(Event(EventKind.DATASET_CREATED, made.dataset_id))
        return made

    async def refresh(self, dataset: Dataset, facts: Facts, config: str | None = None) -> Dataset:
        """Bring a mirror up to what is said of its dataset, with this configuration if one is given.

        Raises:
            FormatError: the configuration can't be read here.
        """
        if config is not None:
            dataset = await self._set_config(dataset, config)
        now = facts.description, facts.priority, facts.debug
        if now != (dataset.description, dataset.priority, dataset.debug):
            dataset = await self._patch(
                dataset,
                DatasetPatch(description=facts.description, priority=facts.priority, debug=facts.debug),
            )
        return dataset

    async def make_jobs(self, dataset: Dataset, wanted: Sequence[Requirements]) -> bool:
        """Make jobs behind those of ``dataset``, `MOST_JOBS` at most, each with a task that asks for that.

        False, and nothing made, if there are more by now than ``dataset`` says.
        """
        classes = [task_class(dataset.dataset_id, 0, each) for each in wanted]
        new = {each.class_id: each for each in classes if not self._scheduler.knows(each.class_id)}
        if new:
            await self._store.datasets.add_classes(list(new.values()))
            self._scheduler.learn(list(new.values()))
        made = await self._store.datasets.materialise(
            dataset.dataset_id, dataset.jobs_made, [[each.class_id] for each in classes], now=self._clock()
        )
        if made is None:
            return False
        self._catalogue.put(made.dataset)
        self._transitions.materialised(made.released, dataset.dataset_id)
        await self._patch(made.dataset, DatasetPatch(jobs_wanted=made.dataset.jobs_made))
        return True

    async def requirements(self, dataset: Dataset, original: Original) -> Requirements:
        """What a task asks for by its configuration; the least if that can't be told."""
        config = await self._catalogue.config(dataset.dataset_id, dataset.config_version)
        try:
            return requirements_of(config, original.task_index, _options(original, dataset))
        except FormatError:
            return Requirements()

    async def _set_config(self, dataset: Dataset, config: str) -> Dataset:
        if config == await self._store.datasets.config(dataset.dataset_id, dataset.config_version):
            return dataset
        await asyncio.to_thread(loads, config.encode())
        new = DatasetConfig(config, dataset.task_names, dataset.depends, dataset.external)
        changed = await self._store.datasets.set_config(
            dataset.dataset_id, new, expected_version=dataset.config_version, now=self._clock()
        )
        if changed is None:
            raise ConflictError(f"dataset {dataset.dataset_id} was changed at the same time")
        return self._noted(changed)

    async def _patch(self, dataset: Dataset, patch: DatasetPatch) -> Dataset:
        changed = await self._store.datasets.update(dataset.dataset_id, patch, now=self._clock())
        return self._noted(changed or dataset)

    def _noted(self, dataset: Dataset) -> Dataset:
        self._scheduler.dataset_changed(dataset)
        return dataset

    async def _existing(self, dataset_id: str) -> Dataset:
        self._catalogue.forget(dataset_id)
        return await self._catalogue.get(dataset_id)


def _options(original: Original, dataset: Dataset) -> dict[str, Any]:
    return options_for(
        dataset_id=original.dataset_id,
        dataset=original.dataset,
        job=original.job,
        jobs_submitted=original.jobs_submitted,
        task_id=original.task_id,
        task=original.task_index,
        debug=dataset.debug,
    )
