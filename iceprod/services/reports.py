"""Reports: what anybody may ask about the datasets of this site, without touching them.

They read counters wherever there are some.  What lists tasks or configurations is cut at a
limit and goes on after the last id of the answer before, so that no caller makes the site
read a million rows for one answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import JobStatus, TaskStatus
from iceprod.model.paging import MAX_PAGE, Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Attempt, Outcome, Task
from iceprod.services.authorization import check
from iceprod.services.bulletin import Draft, Sample
from iceprod.services.catalogue import Catalogue
from iceprod.store.base import DatasetFilter, Store, TaskFilter

MAX_TASKS: Final = 10_000
"""Most task ids in one answer."""
MAX_CONFIGS: Final = 100
"""Most configurations in one answer."""
MAX_CONFIG_BYTES: Final = 16_000_000
"""Length of the configurations in one answer; a single one may be longer."""
MAX_DATASETS: Final = 20_000
"""Most datasets that one report looks at, newest first."""
_SAMPLES: Final = 200
"""Attempts per kind of task from which a mean use is taken."""
_HISTORY: Final = 2 * 24 * 60
_SITE_ID: Final = "site.id"
_GRAPHS: Final = "reports.graphs"
_PASSING: Final = frozenset({TaskStatus.IDLE, TaskStatus.WAITING, TaskStatus.COMPLETE})


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the next process needs of the graphs: points, and tasks done by dataset at the last."""

    history: list[Sample]
    done: dict[str, int]


class Reports:
    """Figures about the datasets that a caller may see; for strangers, the public ones."""

    def __init__(self, store: Store, *, clock: Clock, catalogue: Catalogue, draft: Draft) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._draft = draft
        self._history: deque[Sample] = deque(maxlen=2 * _HISTORY)
        self._done: dict[str, int] | None = None  # by dataset, at the last sample

    async def site_id(self) -> str:
        """The name that this site has given itself at its first start."""
        return await self._store.values.put_new(_SITE_ID, ids.new_id())

    async def load(self) -> None:
        """Take over the graphs as the holder of the duties kept them last."""
        kept = await self._store.values.get(_GRAPHS)
        if kept is not None:
            found = msgspec.json.decode(kept, type=_Kept)
            self._history = deque(found.history, maxlen=2 * _HISTORY)
            self._done = found.done

    def sampled_elsewhere(self, points: Iterable[Sample]) -> None:
        """The holder of the duties has added points."""
        self._history.extend(points)

    async def sample(self, *, fence: int = 0) -> None:
        """Note how many tasks are under way and how many were completed since; a duty, each minute.

        Everybody may look at the graphs, so only public datasets are counted.
        """
        counts: dict[TaskStatus, int] = {}
        done: dict[str, int] = {}
        for dataset in await self._store.datasets.active():
            if dataset.public:
                tasks = await self._tasks_of(dataset.dataset_id)
                done[dataset.dataset_id] = tasks.get(TaskStatus.COMPLETE, 0)
                _add(counts, tasks)
        now = self._clock()
        under_way = {str(status): n for status, n in counts.items() if status not in _PASSING}
        completions = {"completions": await self._completed_since(done)}
        points = [Sample("active_tasks", under_way, now), Sample("completed_tasks", completions, now)]
        kept = _Kept([*self._history, *points][-2 * _HISTORY :], done)
        document = msgspec.json.encode(kept).decode()
        if await self._store.values.put(_GRAPHS, document, fence=fence):
            self._history.extend(points)
            self._done = done
            self._draft.sampled(points)

    async def _completed_since(self, done: dict[str, int]) -> int:
        """Tasks completed since the last sample, also in datasets that are not active any more."""
        before = self._done
        if before is None:
            return 0
        left = before.keys() - done.keys()
        ended = {name: (await self._tasks_of(name)).get(TaskStatus.COMPLETE, 0) for name in left}
        return sum(max(0, n - before.get(name, 0)) for name, n in (done | ended).items())

    def graphs(self, principal: Principal, *, minutes: float) -> list[Sample]:
        """The samples of the last ``minutes``, oldest first."""
        check(principal, "report.read")
        start = self._clock() - 60 * minutes
        return [sample for sample in self._history if sample.at >= start]

    async def counts(self, principal: Principal, dataset_id: str | None = None) -> dict[TaskStatus, int]:
        """How many tasks stand where, of one dataset or of all."""
        if dataset_id is not None:
            return await self._tasks_of((await self.dataset(principal, dataset_id)).dataset_id)
        counts: dict[TaskStatus, int] = {}
        async for dataset in self._datasets(principal):
            _add(counts, await self._tasks_of(dataset.dataset_id))
        return counts

    async def dataset(self, principal: Principal, dataset_id: str) -> Dataset:
        """One dataset.

        Raises:
            NotFoundError: there is none, or the caller may not see it.
        """
        check(principal, "report.read")
        dataset = await self._catalogue.get(dataset_id)
        visible = _visible_to(principal)
        if visible is None or dataset.public or dataset.owner == visible[0] or dataset.group in visible[1]:
            return dataset
        raise NotFoundError("dataset", dataset_id)

    async def task(self, principal: Principal, task_id: str) -> Task:
        """One task of a dataset that the caller may see.

        Raises:
            NotFoundError: there is none, or the caller may not see it.
        """
        task = await self._store.tasks.get(task_id)
        if task is None:
            raise NotFoundError("task", task_id)
        await self.dataset(principal, task.dataset_id)
        return task

    async def attempts(self, principal: Principal, task_id: str) -> list[Attempt]:
        """The ended attempts of a task, first to last."""
        await self.task(principal, task_id)
        return await self._store.tasks.attempts(task_id)

    async def by_status(self, principal: Principal, status: JobStatus) -> list[str]:
        """Ids of the datasets in a status, newest first."""
        return [d.dataset_id async for d in self._datasets(principal, DatasetFilter(status=status))]

    async def config_text(self, principal: Principal, dataset_id: str) -> str:
        """The configuration as it was submitted."""
        dataset = await self.dataset(principal, dataset_id)
        text = await self._store.datasets.config(dataset_id, dataset.config_version)
        return text or ""

    async def config(self, principal: Principal, dataset_id: str) -> dict[str, Any]:
        """The configuration, read."""
        dataset = await self.dataset(principal, dataset_id)
        return await self._catalogue.config(dataset_id, dataset.config_version)

    async def all_configs(
        self, principal: Principal, *, after: str | None, limit: int
    ) -> dict[str, dict[str, Any]]:
        """Configurations by dataset, newest first, older than dataset ``after``."""
        last = (await self.dataset(principal, after)).number if after else None
        found: dict[str, dict[str, Any]] = {}
        room = MAX_CONFIG_BYTES
        async for dataset in self._datasets(principal):
            if len(found) >= min(limit, MAX_CONFIGS):
                break
            if last is None or dataset.number < last:
                config, size = await self._catalogue.sized_config(dataset.dataset_id, dataset.config_version)
                room -= size
                if found and room < 0:
                    break
                found[dataset.dataset_id] = config
        return found

    async def task_ids(
        self, principal: Principal, dataset_id: str, *, after: str | None, limit: int
    ) -> list[str]:
        """Ids of a dataset's tasks in order, after that task."""
        await self.dataset(principal, dataset_id)
        every = frozenset(TaskStatus)
        return await self._store.tasks.ids(dataset_id, every, after, min(limit, MAX_TASKS))

    async def tasks_by_name(self, principal: Principal, name: str, *, limit: int) -> list[str]:
        """Ids of the tasks of that name, of the newest datasets first."""
        found: list[str] = []
        async for dataset in self._datasets(principal):
            for index, known in enumerate(dataset.task_names):
                if known == name:
                    await self._gather(dataset, index, None, found, min(limit, MAX_TASKS))
        return found

    async def tasks_by_requirements(self, principal: Principal, text: str, *, limit: int) -> list[str]:
        """Ids of the tasks whose requirements, as JSON text, contain ``text``, newest datasets first."""
        found: list[str] = []
        async for dataset in self._datasets(principal):
            for index, classes in (await self._matching(dataset, text)).items():
                await self._gather(dataset, index, classes, found, min(limit, MAX_TASKS))
        return found

    async def completion(self, principal: Principal, dataset_id: str) -> float:
        """The part of a dataset's tasks that are complete, from 0 to 1."""
        return await self._completion(await self.dataset(principal, dataset_id))

    async def all_completion(self, principal: Principal) -> dict[str, float]:
        """The same for every dataset."""
        found = self._datasets(principal)
        return {dataset.dataset_id: await self._completion(dataset) async for dataset in found}

    async def cpu_gpu_usage(self, principal: Principal, dataset_id: str) -> tuple[float, float]:
        """Mean cores and GPUs that complete tasks used, by the latest attempts of each kind."""
        dataset = await self.dataset(principal, dataset_id)
        progress = await self._store.datasets.progress(dataset_id)
        total, cpu, gpu = 0, 0.0, 0.0
        for index, counts in enumerate(progress.tasks):
            complete = counts.get(TaskStatus.COMPLETE, 0)
            recent = await self._store.tasks.recent_attempts(dataset.dataset_id, index, _SAMPLES)
            used = [attempt.usage for attempt in recent if attempt.outcome is Outcome.FINISHED]
            if complete and used:
                total += complete
                cpu += complete * sum(usage.get("cpu", 0.0) for usage in used) / len(used)
                gpu += complete * sum(usage.get("gpu", 0.0) for usage in used) / len(used)
        return (cpu / total, gpu / total) if total else (0.0, 0.0)

    async def _datasets(
        self, principal: Principal, wanted: DatasetFilter | None = None
    ) -> AsyncIterator[Dataset]:
        """The datasets that the caller may see, newest first."""
        check(principal, "report.read")
        wanted = wanted or DatasetFilter()
        narrowed = DatasetFilter(wanted.status, wanted.owner, wanted.group, _visible_to(principal))
        cursor: str | None = None
        for _ in range(MAX_DATASETS // MAX_PAGE):
            found = await self._store.datasets.select(narrowed, Page(MAX_PAGE, cursor))
            for dataset in found.items:
                yield dataset
            cursor = found.next
            if cursor is None:
                return
            await asyncio.sleep(0)

    async def _tasks_of(self, dataset_id: str) -> dict[TaskStatus, int]:
        return (await self._store.datasets.progress(dataset_id)).all_tasks

    async def _completion(self, dataset: Dataset) -> float:
        total = dataset.jobs_wanted * len(dataset.task_names)
        done = (await self._tasks_of(dataset.dataset_id)).get(TaskStatus.COMPLETE, 0)
        return done / total if total else 0.0

    async def _matching(self, dataset: Dataset, text: str) -> dict[int, frozenset[int]]:
        """The kinds of tasks, and the classes of each, whose requirements contain ``text``."""
        found: dict[int, frozenset[int]] = {}
        for known in await self._store.datasets.classes(dataset.dataset_id):
            if text in known.requirements.to_json():
                found[known.task_index] = found.get(known.task_index, frozenset()) | {known.class_id}
        return found

    async def _gather(
        self, dataset: Dataset, index: int, classes: frozenset[int] | None, found: list[str], limit: int
    ) -> None:
        """Add ids of one kind of task to ``found`` until that has ``limit``."""
        cursor: str | None = None
        while len(found) < limit:
            wanted = TaskFilter(task_index=index)
            part = await self._store.tasks.select(dataset.dataset_id, wanted, Page(MAX_PAGE, cursor))
            matching = (t.task_id for t in part.items if classes is None or t.class_id in classes)
            found.extend(list(matching)[: limit - len(found)])
            cursor = part.next
            if cursor is None:
                return


def _visible_to(principal: Principal) -> tuple[str, frozenset[str]] | None:
    """User name and groups that a report is narrowed to; None for everything."""
    if principal.is_admin:
        return None
    if principal.kind is PrincipalKind.USER:
        return principal.id, principal.groups
    return "", frozenset()


def _add(total: dict[TaskStatus, int], counts: dict[TaskStatus, int]) -> None:
    for status, number in counts.items():
        total[status] = total.get(status, 0) + number
