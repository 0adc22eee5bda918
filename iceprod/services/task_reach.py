"""Which addresses a task may use: those that its dataset's configuration names."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from iceprod.errors import FormatError, InputError, LeaseLost
from iceprod.model.config import options_for
from iceprod.model.dataset import Dataset
from iceprod.model.federation import Original
from iceprod.model.location import Location, parse_location
from iceprod.model.plan import File, Needs, TaskRun, Transfer, expand_task
from iceprod.model.principal import Principal
from iceprod.model.task import Task
from iceprod.services.catalogue import Catalogue
from iceprod.services.foreign import NO_FOREIGN, Foreign
from iceprod.services.holding import held
from iceprod.services.materialise import dataset_number
from iceprod.services.recovering import NEVER, Recovering
from iceprod.store.base import Store

_KEPT: Final = 2000
_KEPT_ADDRESSES: Final = 200_000
"""Most addresses that are remembered, of all tasks together: each takes some 400 bytes."""
_BASES: Final = {"permanent": "data_url", "resource": "resource_url"}


@dataclass(frozen=True, slots=True)
class Reach:
    """The addresses that a task's configuration names, and whose dataset it is of."""

    dataset: Dataset
    inputs: frozenset[Location] = frozenset()
    outputs: frozenset[Location] = frozenset()


class TaskReach:
    """Tells what tasks may reach, by the configuration that they run with."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        *,
        foreign: Foreign = NO_FOREIGN,
        recovering: Recovering = NEVER,
    ) -> None:
        self._store = store
        self._recovering = recovering
        self._catalogue = catalogue
        self._foreign = foreign
        # Evaluation of a large configuration takes longer than the loop may be held up.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reach")
        self._known: OrderedDict[tuple[str, int], tuple[frozenset[Location], frozenset[Location]]] = (
            OrderedDict()
        )
        self._addresses = 0

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def of(self, principal: Principal) -> Reach:
        """What the task that calls may reach.

        Raises:
            AccessDenied, LeaseLost, Unavailable: as `holding.held`.
        """
        task = await held(self._store, principal, recovering=self._recovering)
        dataset = await self._catalogue.get(task.dataset_id)
        inputs, outputs = await self._named(task, dataset, dataset.config_version)
        if dataset.config_version > 1:
            # It may have been changed since the task began, which goes on with the one before.
            former = await self._named(task, dataset, dataset.config_version - 1)
            inputs, outputs = inputs | former[0], outputs | former[1]
        return Reach(dataset, inputs, outputs)

    async def _named(
        self, task: Task, dataset: Dataset, version: int
    ) -> tuple[frozenset[Location], frozenset[Location]]:
        key = (task.task_id, version)
        if key not in self._known:
            config = await self._catalogue.config(dataset.dataset_id, version)
            named = await self._name(task, dataset, config)
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._executor, _addresses, config, named, dataset.debug)
            self._keep(key, found)
            return found
        self._known.move_to_end(key)
        return self._known[key]

    async def _name(self, task: Task, dataset: Dataset, config: Mapping[str, Any]) -> Original:
        """What a task is called where its dataset was made.

        Raises:
            LeaseLost: that is another site, which wants it no more.
        """
        if not dataset.is_mirror:
            return Original(
                dataset_id=dataset.dataset_id,
                dataset=dataset_number(dataset, config),
                task_id=task.task_id,
                job=task.job_index,
                task_index=task.task_index,
                name=dataset.task_names[task.task_index],
                jobs_submitted=dataset.jobs_wanted,
            )
        named = (await self._foreign.originals([task.task_id])).get(task.task_id)
        if named is None:
            raise LeaseLost(f"task {task.task_id} is not wanted any more", task_id=task.task_id)
        return named

    def _keep(self, key: tuple[str, int], found: tuple[frozenset[Location], frozenset[Location]]) -> None:
        if key not in self._known:  # else somebody who asked at the same time was quicker
            self._known[key] = found
            self._addresses += sum(map(len, found))
        while len(self._known) > _KEPT or self._addresses > _KEPT_ADDRESSES:
            _, forgotten = self._known.popitem(last=False)
            self._addresses -= sum(map(len, forgotten))


def _addresses(
    config: Mapping[str, Any], named: Original, debug: bool
) -> tuple[frozenset[Location], frozenset[Location]]:
    """What a task fetches and what it stores; nothing where its configuration can't be evaluated."""
    options = options_for(
        dataset_id=named.dataset_id,
        dataset=named.dataset,
        job=named.job,
        jobs_submitted=named.jobs_submitted,
        task_id=named.task_id,
        task=named.task_index,
        debug=debug,
    )
    try:
        run = expand_task(config, named.task_index, options)
    except FormatError:
        return frozenset(), frozenset()
    files = [file for needs in _needs(run) for file in needs.files if file.transfer is not Transfer.NO]
    fetched = [*(_url(file, run) for file in files if file.is_input), *_programs(run)]
    stored = [_url(file, run) for file in files if file.is_output]
    return frozenset(_located(fetched)), frozenset(_located(stored))


def _needs(run: TaskRun) -> Iterator[Needs]:
    yield run.needs
    for tray in run.trays:
        yield tray.needs
        yield from (module.needs for module in tray.modules)


def _programs(run: TaskRun) -> Iterator[str]:
    """Software, and programs that have addresses."""
    for needs in _needs(run):
        for software in needs.classes:
            file = File(
                local=software.name, remote=software.src, area="resource", is_input=True, is_output=False
            )
            yield _url(file, run)
    yield from (module.src for tray in run.trays for module in tray.modules)


def _url(file: File, run: TaskRun) -> str:
    """The address of a file as the pilot makes it."""
    if "://" in file.remote or file.remote.startswith("file:"):
        return file.remote
    base = run.temp_urls.get(_BASES.get(file.area, file.area), "")
    return f"{base.rstrip('/')}/{file.remote.lstrip('/')}" if base else ""


def _located(urls: list[str]) -> Iterator[Location]:
    for url in urls:
        try:
            yield parse_location(url)
        except InputError:  # a name in a temp area, or nothing that a server could fetch
            continue
