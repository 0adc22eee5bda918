"""Datasets: submitted, edited, steered and looked at by people."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import ConflictError, FormatError, InputError, NotFoundError, VersionMismatch
from iceprod.formats.dataset import Document, read
from iceprod.model.dataset import Dataset, Progress
from iceprod.model.federation import ANYWHERE, PeerRole, SiteRules
from iceprod.model.graph import ExternalTask, task_graph
from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.paging import Page, Slice
from iceprod.model.principal import Principal
from iceprod.model.task import MAX_JOBS, parse_job_id
from iceprod.services.authorization import check, check_object, is_allowed, visible_to
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.foreign import check_own
from iceprod.services.materialise import Materialiser
from iceprod.services.rates import Rates
from iceprod.services.scheduling import Scheduler
from iceprod.services.tasks import ACTIONS, BULK, TaskService
from iceprod.store.base import AuditEntry, DatasetConfig, DatasetFilter, DatasetPatch, Store

MAX_DESCRIPTION = 10_000


@dataclass(frozen=True, slots=True)
class Submission:
    """A dataset to be made: ``config`` is JSON or YAML text, kept as it is."""

    config: str
    njobs: int
    description: str = ""
    group: str = ""
    priority: float = 0.5
    debug: bool = False
    format: str = "json"
    sites: SiteRules = ANYWHERE


@dataclass(frozen=True, slots=True)
class Remark:
    """Something in a configuration that its author should look at."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted dataset, and what was noticed about its configuration."""

    dataset: Dataset
    warnings: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a dataset is; ``rate_per_s`` is of completed tasks, None where nothing is known yet."""

    dataset: Dataset
    progress: Progress
    rate_per_s: float | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Graph:
    """A task graph whose needs of other datasets are known to exist; see `Dataset`."""

    names: tuple[str, ...]
    depends: tuple[tuple[int, ...], ...]
    external: tuple[tuple[tuple[str, int], ...], ...]


class DatasetService:
    """Everything that is done to datasets and, through them, to their jobs."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        catalogue: Catalogue,
        scheduler: Scheduler,
        materialiser: Materialiser,
        tasks: TaskService,
        rates: Rates,
        events: Events,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._materialiser = materialiser
        self._tasks = tasks
        self._rates = rates
        self._events = events

    async def submit(self, principal: Principal, submission: Submission) -> Submitted:
        """Accept a dataset; its jobs are made later, as room for them comes.

        Raises:
            InputError: a number is out of range.
            FormatError: the configuration is wrong; ``fields`` says where.
            AccessDenied: the group is none of the caller's.
        """
        check(principal, "dataset.submit")
        _check_njobs(submission.njobs)
        _check_priority(submission.priority)
        if len(submission.description) > MAX_DESCRIPTION:
            raise InputError(f"the description may have {MAX_DESCRIPTION} characters")
        await self._check_sites(submission.sites)
        group = _group(principal, submission.group)
        document = await asyncio.to_thread(read, submission.config, format=submission.format)
        graph = await self._graph(principal, document, submission.njobs)
        now = self._clock()
        dataset = Dataset(
            dataset_id=ids.new_id(),
            number=0,
            owner=principal.id,
            group=group,
            status=JobStatus.PROCESSING,
            created_at=now,
            status_changed_at=now,
            jobs_wanted=submission.njobs,
            task_names=graph.names,
            depends=graph.depends,
            external=graph.external,
            description=submission.description or document.description,
            priority=submission.priority,
            debug=submission.debug,
            sites=submission.sites,
        )
        dataset = await self._store.datasets.add(dataset, document.text)
        self._catalogue.put(dataset)
        await self._audit(principal, "dataset.submit", dataset.dataset_id, njobs=submission.njobs)
        self._materialiser.wake(dataset.dataset_id)
        self._events.publish(Event(EventKind.DATASET_CREATED, dataset.dataset_id))
        return Submitted(dataset, tuple(Remark(path, text) for path, text in document.remarks))

    async def get(self, principal: Principal, dataset_id: str) -> Dataset:
        """One dataset.

        Raises:
            NotFoundError: there is none, or the caller may not see it.
        """
        return await self._checked(principal, "dataset.get", dataset_id)

    async def select(self, principal: Principal, wanted: DatasetFilter, page: Page) -> Slice[Dataset]:
        """The datasets that the caller may see, newest first."""
        narrowed = DatasetFilter(wanted.status, wanted.owner, wanted.group, visible_to(principal))
        return await self._store.datasets.select(narrowed, page)

    async def config(self, principal: Principal, dataset_id: str) -> dict[str, Any]:
        """The present configuration."""
        dataset = await self._checked(principal, "dataset.config", dataset_id)
        return await self._catalogue.config(dataset_id, dataset.config_version)

    async def progress(self, principal: Principal, dataset_id: str) -> ProgressReport:
        """How far a dataset is, how fast it goes, and when it will be done at that rate."""
        dataset = await self._checked(principal, "dataset.progress", dataset_id)
        progress = await self._store.datasets.progress(dataset_id)
        done = progress.all_tasks.get(TaskStatus.COMPLETE, 0)
        rate = self._rates.note(dataset_id, done)
        left = dataset.jobs_wanted * len(dataset.task_names) - done
        eta = left / rate if rate and dataset.status is JobStatus.PROCESSING else None
        return ProgressReport(dataset, progress, rate, eta)

    async def update_config(
        self, principal: Principal, dataset_id: str, config: str, *, description: str | None, version: int
    ) -> Submitted:
        """Replace the configuration; jobs that are made keep their places, so tasks stay as many.

        Raises:
            VersionMismatch: it was edited since version ``version``.
            ConflictError: jobs were made and the number of tasks is another.
        """
        dataset = await self._steered(principal, "dataset.update_config", dataset_id)
        document = await asyncio.to_thread(read, config, format="json")
        graph = await self._graph(principal, document, dataset.jobs_wanted)
        if dataset.jobs_made and len(graph.names) != len(dataset.task_names):
            raise ConflictError(
                f"{dataset.jobs_made} jobs of {len(dataset.task_names)} tasks were made; "
                f"the new configuration has {len(graph.names)} tasks. Submit it as a new dataset."
            )
        new = DatasetConfig(document.text, graph.names, graph.depends, graph.external)
        changed = await self._store.datasets.set_config(
            dataset_id, new, expected_version=version, now=self._clock()
        )
        if changed is None:
            raise VersionMismatch(
                f"the configuration is at version {dataset.config_version}, not {version}: look again",
                version=dataset.config_version,
            )
        await self._scheduler.reconcile()  # tasks may have been released or held by the new graph
        if description is not None:
            changed = await self._patch(dataset_id, DatasetPatch(description=description))
        self._scheduler.dataset_changed(changed)
        if (graph.depends, graph.external) != (dataset.depends, dataset.external):
            # The store has released and held tasks, of which only a look at it tells.
            await self._scheduler.reconcile()
        await self._changed(principal, "dataset.update_config", changed)
        return Submitted(changed, tuple(Remark(path, text) for path, text in document.remarks))

    async def suspend(self, principal: Principal, dataset_id: str) -> int:
        """Hold every unfinished task and make no more jobs; how many tasks that held."""
        await self._steered(principal, "dataset.suspend", dataset_id)
        dataset = await self._patch(dataset_id, DatasetPatch(suspended=True))
        changed = await self._tasks.change_dataset(TaskEvent.SUSPENDED, dataset_id)
        await self._changed(principal, "dataset.suspend", dataset)
        return changed

    async def resume(self, principal: Principal, dataset_id: str) -> int:
        """Let a suspended dataset go on; how many tasks may run again."""
        await self._steered(principal, "dataset.resume", dataset_id)
        dataset = await self._patch(dataset_id, DatasetPatch(suspended=False))
        changed = await self._tasks.change_dataset(TaskEvent.RESUMED, dataset_id)
        await self._changed(principal, "dataset.resume", dataset)
        return changed

    async def reset(self, principal: Principal, dataset_id: str) -> int:
        """Try every failed and suspended task again; how many those are."""
        await self._steered(principal, "dataset.reset", dataset_id)
        dataset = await self._patch(dataset_id, DatasetPatch(suspended=False))
        changed = await self._tasks.change_dataset(TaskEvent.RESET, dataset_id)
        await self._changed(principal, "dataset.reset", dataset)
        return changed

    async def hard_reset(self, principal: Principal, dataset_id: str) -> int:
        """Start every task again, complete ones too; how many those are."""
        await self._steered(principal, "dataset.hard_reset", dataset_id)
        dataset = await self._patch(dataset_id, DatasetPatch(suspended=False))
        changed = await self._tasks.change_dataset(TaskEvent.HARD_RESET, dataset_id)
        await self._changed(principal, "dataset.hard_reset", dataset)
        return changed

    async def truncate(self, principal: Principal, dataset_id: str) -> Dataset:
        """Make no more jobs than were made."""
        dataset = await self._steered(principal, "dataset.truncate", dataset_id)
        patch = DatasetPatch(truncated=True, jobs_wanted=dataset.jobs_made)
        return await self._changed(principal, "dataset.truncate", await self._patch(dataset_id, patch))

    async def extend(self, principal: Principal, dataset_id: str, njobs: int) -> Dataset:
        """Have ``njobs`` jobs in all, more than before.

        Raises:
            ConflictError: the dataset's number of jobs is fixed, or is that large already.
        """
        dataset = await self._steered(principal, "dataset.extend", dataset_id)
        _check_njobs(njobs)
        if dataset.jobs_immutable:
            raise ConflictError("the number of jobs of this dataset may not be changed")
        if njobs <= dataset.jobs_wanted:
            raise ConflictError(f"the dataset has {dataset.jobs_wanted} jobs; give the new total")
        await self._check_needed(dataset, njobs)
        patch = DatasetPatch(jobs_wanted=njobs, truncated=False)
        return await self._changed(principal, "dataset.extend", await self._patch(dataset_id, patch))

    async def set_priority(self, principal: Principal, dataset_id: str, priority: float) -> Dataset:
        """Set the priority among the owner's datasets, from 0 (last) to 1 (first)."""
        await self._steered(principal, "dataset.priority", dataset_id)
        _check_priority(priority)
        patch = DatasetPatch(priority=priority)
        return await self._changed(principal, "dataset.priority", await self._patch(dataset_id, patch))

    async def set_sites(self, principal: Principal, dataset_id: str, rules: SiteRules) -> Dataset:
        """Set at which sites tasks may run; those that are at others already go on there.

        Raises:
            InputError: a site is not known, or is named where it may and where it may not be.
        """
        await self._checked(principal, "dataset.sites", dataset_id)
        await self._check_sites(rules)
        return await self._changed(
            principal, "dataset.sites", await self._patch(dataset_id, DatasetPatch(sites=rules))
        )

    async def jobs(
        self, principal: Principal, dataset_id: str, status: JobStatus | None, page: Page
    ) -> Slice[Job]:
        """Jobs of a dataset in the order of their index."""
        await self._checked(principal, "job.list", dataset_id)
        return await self._store.jobs.select(dataset_id, status, page)

    async def job(self, principal: Principal, job_id: str) -> Job:
        """One job."""
        dataset_id, _ = parse_job_id(job_id)
        await self._checked(principal, "job.get", dataset_id)
        job = await self._store.jobs.get(job_id)
        if job is None:
            raise NotFoundError("job", job_id)
        return job

    async def change_jobs(self, principal: Principal, event: TaskEvent, job_ids: list[str]) -> int:
        """Suspend, resume, reset or hard reset the tasks of jobs; how many tasks that changed."""
        wanted = list(dict.fromkeys(job_ids))
        widest = 1
        for number, job_id in enumerate(wanted, start=1):
            if number % BULK == 0:
                await asyncio.sleep(0)
            dataset_id, _ = parse_job_id(job_id)
            dataset = await self._checked(principal, f"job.{ACTIONS[event]}", dataset_id)
            if event is not TaskEvent.SUSPENDED:
                check_own(dataset)
            widest = max(widest, len(dataset.task_names))
        changed, part = 0, max(1, BULK // widest)  # jobs whose tasks are moved in one transaction
        for start in range(0, len(wanted), part):
            task_ids = await self._store.tasks.ids_of_jobs(wanted[start : start + part])
            changed += await self._tasks.steer(event, task_ids)
        return changed

    async def _check_sites(self, rules: SiteRules) -> None:
        """Refuse rules that somebody made a slip in: tasks would run nowhere, or where they must not."""
        if rules == ANYWHERE:
            return
        known = {"", *(p.name for p in await self._store.peers.all() if p.role is PeerRole.CHILD)}
        for field, names in (("only", rules.only), ("never", rules.never)):
            unknown = next((name for name in names if name not in known), None)
            if unknown is not None:
                message = f"there is no site {unknown[:64]!r} that tasks are lent to"
                raise InputError(message, fields=[{"path": f"/{field}", "message": message}])
        both = sorted(set(rules.only) & set(rules.never))
        if both:
            raise InputError(f"tasks cannot run only and never at {both[0] or 'this site'}")

    async def _graph(self, principal: Principal, document: Document, njobs: int) -> Graph:
        """The task graph, with what it needs of other datasets looked up."""
        graph = task_graph(document.config)
        external = []
        for needs in graph.external:
            found = [await self._external(principal, needed, njobs) for needed in needs]
            external.append(tuple(found))
        return Graph(graph.names, graph.depends, tuple(external))

    async def _external(self, principal: Principal, needed: ExternalTask, njobs: int) -> tuple[str, int]:
        """Dataset and index of a task that every job needs of the same job there."""
        if needed.task is None:
            raise _bad_need(needed, "name a dataset and its task: every job needs the same job there")
        other = await self._store.datasets.get(needed.dataset)
        if other is None and needed.dataset.isdigit() and len(needed.dataset) < 10:
            other = await self._store.datasets.find(int(needed.dataset))
        if other is None or not _may_see(principal, other):
            raise _bad_need(needed, f"there is no dataset {needed.dataset}")
        names = other.task_names
        index = needed.task if isinstance(needed.task, int) else _index(names, needed.task)
        if index is None or not 0 <= index < len(names):
            raise _bad_need(needed, f"dataset {needed.dataset} has the tasks {', '.join(names)}")
        if njobs > other.jobs_wanted:
            raise _bad_need(
                needed, f"dataset {needed.dataset} has {other.jobs_wanted} jobs, this one {njobs}"
            )
        return other.dataset_id, index

    async def _check_needed(self, dataset: Dataset, njobs: int) -> None:
        """Refuse jobs that would wait for ever for a job that no other dataset has."""
        for needed_id in {needed_id for needs in dataset.external for needed_id, _ in needs}:
            other = await self._catalogue.get(needed_id)
            if njobs > other.jobs_wanted:
                raise ConflictError(
                    f"dataset {needed_id}, which this one needs, has {other.jobs_wanted} jobs; "
                    f"extend it before this one gets {njobs}"
                )

    async def _checked(self, principal: Principal, action: str, dataset_id: str) -> Dataset:
        dataset = await self._catalogue.get(dataset_id)
        check_object(
            principal,
            action,
            identifier=dataset_id,
            owner=dataset.owner,
            group=dataset.group,
            public=dataset.public,
        )
        return dataset

    async def _steered(self, principal: Principal, action: str, dataset_id: str) -> Dataset:
        """As `_checked`, for what changes a dataset: one of another site is changed there.

        Raises:
            ConflictError: it is another site's.
        """
        dataset = await self._checked(principal, action, dataset_id)
        check_own(dataset)
        return dataset

    async def _patch(self, dataset_id: str, patch: DatasetPatch) -> Dataset:
        dataset = await self._store.datasets.update(dataset_id, patch, now=self._clock())
        if dataset is None:
            raise NotFoundError("dataset", dataset_id)
        self._scheduler.dataset_changed(dataset)
        return dataset

    async def _changed(self, principal: Principal, action: str, dataset: Dataset) -> Dataset:
        self._catalogue.forget(dataset.dataset_id)
        self._materialiser.wake(dataset.dataset_id)
        await self._audit(principal, action, dataset.dataset_id)
        self._events.publish(Event(EventKind.DATASET_CHANGED, dataset.dataset_id))
        return dataset

    async def _audit(self, principal: Principal, action: str, target: str, **detail: object) -> None:
        entry = AuditEntry(self._clock(), f"{principal.kind}:{principal.id}", action, target, detail)
        await self._store.audit.add(entry)


def _may_see(principal: Principal, dataset: Dataset) -> bool:
    return is_allowed(
        principal, "dataset.get", owner=dataset.owner, group=dataset.group, public=dataset.public
    )


def _index(names: tuple[str, ...], name: str) -> int | None:
    return names.index(name) if name in names else None


def _bad_need(needed: ExternalTask, message: str) -> FormatError:
    return FormatError(
        f"{needed.pointer}: {needed.reference[:100]!r}: {message}",
        fields=[{"path": needed.pointer, "message": message}],
    )


def _check_njobs(njobs: int) -> None:
    if not 1 <= njobs <= MAX_JOBS:
        raise InputError(f"njobs must be between 1 and {MAX_JOBS}, not {njobs}")


def _check_priority(priority: float) -> None:
    if not 0 <= priority <= 1:
        raise InputError(f"priority must be between 0 and 1, not {priority:g}")


def _group(principal: Principal, wanted: str) -> str:
    """The group that a new dataset belongs to."""
    if not wanted:
        return min(principal.groups, default="users")
    if wanted not in principal.groups and not principal.is_admin:
        groups = ", ".join(sorted(principal.groups)) or "none"
        raise InputError(f"you are not in group {wanted!r}; your groups: {groups}")
    return wanted
