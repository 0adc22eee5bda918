"""The pages of datasets: the list, one dataset, its configuration, jobs and tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from iceprod.model.dataset import Dataset
from iceprod.model.federation import PeerRole, SiteRules
from iceprod.model.job import Job
from iceprod.model.lifecycle import JobStatus, TaskStatus
from iceprod.model.task import Task
from iceprod.server import text
from iceprod.server.handlers.pages.base import PageHandler
from iceprod.server.views import (
    TASK_ORDER,
    Action,
    DatasetRow,
    ProgressView,
    WhyView,
    dataset_actions,
    progress_view,
    title_of,
    why_view,
)
from iceprod.services.authorization import is_allowed
from iceprod.site_sync.seen.whereabouts import Ran
from iceprod.store.base import DatasetFilter, TaskFilter

_DONE = {
    "suspend": "Suspended: {} tasks are held.",
    "resume": "Resumed: {} tasks go on.",
    "reset": "Reset: {} tasks are tried again.",
    "hard_reset": "Hard reset: {} tasks start again.",
}


class Home(PageHandler):
    """``/``."""

    async def get(self) -> None:
        """Go to the datasets."""
        self.redirect("/datasets", status=HTTPStatus.SEE_OTHER)


@dataclass(frozen=True, slots=True)
class ListView:
    """The list of datasets, and how it is narrowed."""

    rows: tuple[DatasetRow, ...]
    statuses: tuple[str, ...]
    status: str
    owner: str
    group: str
    next: str


class DatasetsPage(PageHandler):
    """``/datasets``: all that the caller may see, newest first."""

    section = "datasets"

    async def get(self) -> None:
        """Show a part of the list."""
        status = self.choice("status", JobStatus)
        owner, group = self.argument("owner"), self.argument("group")
        wanted = DatasetFilter(status=status, owner=owner or None, group=group or None)
        found = await self.services.datasets.select(self.principal, wanted, self.page())
        rows = await asyncio.gather(*map(self._row, found.items))
        view = ListView(
            rows=tuple(rows),
            statuses=tuple(JobStatus),
            status=status or "",
            owner=owner,
            group=group,
            next=self.next_address(found.next),
        )
        self.show("datasets", view, title="Datasets")

    async def _row(self, dataset: Dataset) -> DatasetRow:
        report = await self.services.datasets.progress(self.principal, dataset.dataset_id)
        return DatasetRow(report.dataset, title_of(dataset), progress_view(report).tasks)


@dataclass(frozen=True, slots=True)
class Source:
    """The dataset of another site that a mirror stands for; ``address`` is that of its page, if known."""

    site: str
    dataset_id: str
    address: str


@dataclass(frozen=True, slots=True)
class DatasetView:
    """One dataset."""

    dataset: Dataset
    title: str
    progress: ProgressView
    why: WhyView
    ran: tuple[Ran, ...]
    may_run: str
    source: Source | None
    actions: tuple[Action, ...]
    statuses: tuple[str, ...]


class DatasetPage(PageHandler):
    """``/datasets/ID``: what it is, how far it is, and what holds it up."""

    section = "datasets"

    async def get(self, dataset_id: str) -> None:
        """Show it."""
        report = await self.services.datasets.progress(self.principal, dataset_id)
        dataset = report.dataset
        may_act = is_allowed(
            self.principal,
            "dataset.suspend",
            owner=dataset.owner,
            group=dataset.group,
            public=dataset.public,
        )
        why = await self.services.why.dataset(self.principal, dataset_id)
        view = DatasetView(
            dataset=dataset,
            title=title_of(dataset),
            progress=progress_view(report),
            why=why_view(why, dataset.task_names),
            ran=await self.services.sites.whereabouts.of(dataset),
            may_run=_may_run(dataset.sites),
            source=await self._source(dataset),
            actions=dataset_actions(dataset) if may_act else (),
            statuses=TASK_ORDER,
        )
        self.show("dataset", view, title=view.title)

    async def _source(self, dataset: Dataset) -> Source | None:
        if not dataset.is_mirror:
            return None
        site, _, name = dataset.source.partition("/")
        peer = await self.context.store.peers.get(PeerRole.PARENT, site)
        is_web = peer is not None and peer.url.startswith(("http://", "https://"))
        return Source(site, name, f"{peer.url}/datasets/{name}" if peer is not None and is_web else "")


def _may_run(sites: SiteRules) -> str:
    """Where tasks of a dataset may run, in words."""

    def named(names: Sequence[str]) -> str:
        return ", ".join(name or "this site" for name in names)

    if sites.only:
        return f"only at {named(sites.only)}"
    return f"not at {named(sites.never)}" if sites.never else "wherever they fit"


class DatasetAct(PageHandler):
    """``/datasets/ID/VERB``."""

    async def post(self, dataset_id: str) -> None:
        """Do it."""
        datasets, verb = self.services.datasets, self.given["verb"]
        if verb == "truncate":
            dataset = await datasets.truncate(self.principal, dataset_id)
            notice = f"Truncated: it stays at {text.number(dataset.jobs_wanted)} jobs."
        else:
            changed = await getattr(datasets, verb)(self.principal, dataset_id)
            notice = _DONE[verb].format(text.number(changed))
        self.done(notice, f"/datasets/{dataset_id}")


@dataclass(frozen=True, slots=True)
class ConfigView:
    """A dataset's configuration as text."""

    dataset: Dataset
    title: str
    text: str


class ConfigPage(PageHandler):
    """``/datasets/ID/config``."""

    section = "datasets"

    async def get(self, dataset_id: str) -> None:
        """Show it."""
        dataset = await self.services.datasets.get(self.principal, dataset_id)
        config = await self.services.datasets.config(self.principal, dataset_id)
        shown = json.dumps(config, indent=2, ensure_ascii=False)
        self.show("config", ConfigView(dataset, title_of(dataset), shown), title="Configuration")


@dataclass(frozen=True, slots=True)
class JobsView:
    """Jobs of a dataset."""

    dataset: Dataset
    title: str
    rows: tuple[Job, ...]
    statuses: tuple[str, ...]
    status: str
    next: str


class JobsPage(PageHandler):
    """``/datasets/ID/jobs``."""

    section = "datasets"

    async def get(self, dataset_id: str) -> None:
        """Show a part of the list."""
        dataset = await self.services.datasets.get(self.principal, dataset_id)
        status = self.choice("status", JobStatus)
        found = await self.services.datasets.jobs(self.principal, dataset_id, status, self.page())
        view = JobsView(
            dataset=dataset,
            title=title_of(dataset),
            rows=found.items,
            statuses=tuple(JobStatus),
            status=status or "",
            next=self.next_address(found.next),
        )
        self.show("jobs", view, title=f"Jobs of {view.title}")


@dataclass(frozen=True, slots=True)
class TasksView:
    """Tasks of a dataset."""

    dataset: Dataset
    title: str
    rows: tuple[Task, ...]
    statuses: tuple[str, ...]
    status: str
    name: str
    next: str


class TasksPage(PageHandler):
    """``/datasets/ID/tasks``."""

    section = "datasets"

    async def get(self, dataset_id: str) -> None:
        """Show a part of the list."""
        dataset = await self.services.datasets.get(self.principal, dataset_id)
        status, name = self.choice("status", TaskStatus), self.argument("name")
        index = dataset.task_names.index(name) if name in dataset.task_names else None
        wanted = TaskFilter(status=status, task_index=index)
        found = await self.services.tasks.select(self.principal, dataset_id, wanted, self.page())
        view = TasksView(
            dataset=dataset,
            title=title_of(dataset),
            rows=found.items,
            statuses=tuple(TaskStatus),
            status=status or "",
            name=name if index is not None else "",
            next=self.next_address(found.next),
        )
        self.show("tasks", view, title=f"Tasks of {view.title}")
