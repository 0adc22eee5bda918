"""Datasets in MongoDB: what was submitted, its counters and its classes."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, TypeVar

from iceprod.errors import AlreadyExists, ConflictError, StoreUnavailable
from iceprod.model.dataset import Dataset, Progress
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page, Slice
from iceprod.model.task import MAX_JOBS
from iceprod.store import cursors
from iceprod.store.base import (
    DatasetConfig,
    DatasetFilter,
    DatasetPatch,
    DatasetRepository,
    Drift,
    Materialised,
    TaskClass,
)
from iceprod.store.mongo.client import ASCENDING, DESCENDING, Document, InsertOne
from iceprod.store.mongo.context import Context, contend
from iceprod.store.mongo.documents import (
    DATASET_FIELDS,
    LAST_KEY,
    LAST_NUMBER,
    WAITING,
    class_document,
    class_of,
    config_key,
    dataset_document,
    dataset_of,
    graph_text,
    job_counts,
    job_place,
    needed_datasets,
    sites_document,
    task_counts,
)
from iceprod.store.mongo.effects import OWES
from iceprod.store.mongo.pending import Making, complete, pending, rolled_up, starting, without_pending
from iceprod.store.mongo.recount import recount
from iceprod.store.mongo.removal import remove, remove_jobs

T = TypeVar("T")

_RUNNING: Final = (JobStatus.PROCESSING.value, JobStatus.SUSPENDED.value)
# A job with a failed task is in errors even while others of its tasks are still to run.
_ACTIVE: Final[Sequence[Document]] = (
    {"status": {"$in": list(_RUNNING)}},
    {"unfinished": {"$gt": 0}, "status": JobStatus.ERRORS.value},
    {"pending.id": {"$gt": ""}},
)
_MOST_OWING: Final = 1000


class MongoDatasets(DatasetRepository):
    """``datasets`` by id with their counters, ``configs`` by id and version, ``classes``."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._datasets = context.datasets

    async def add(self, dataset: Dataset, config: str) -> Dataset:
        """See the port."""
        return await self._context.whole(self._noting(dataset.dataset_id, self._add(dataset, config)))

    async def get(self, dataset_id: str) -> Dataset | None:
        """See the port."""
        found = await self._datasets.find_one({"_id": dataset_id}, DATASET_FIELDS)
        return None if found is None else dataset_of(found)

    async def find(self, number: int) -> Dataset | None:
        """See the port."""
        if not 0 < number <= LAST_NUMBER:
            return None
        found = await self._datasets.find_one({"number": number}, DATASET_FIELDS)
        return None if found is None else dataset_of(found)

    async def select(self, wanted: DatasetFilter, page: Page) -> Slice[Dataset]:
        """See the port."""
        cursors.checked(page)
        where = {"number": {"$lt": cursors.number_of(page, LAST_KEY)}, **_condition(wanted)}
        found = await self._datasets.find(
            where, DATASET_FIELDS, sort=[("number", DESCENDING)], limit=page.limit + 1
        )
        items = tuple(map(dataset_of, found[: page.limit]))
        return Slice(items, cursors.encode(items[-1].number) if len(found) > page.limit else None)

    async def active(self) -> list[Dataset]:
        """See the port; also those for which a process that ended has left something undone.

        So the audit comes to them, whatever their status is.
        """
        found = [d for where in _ACTIVE for d in await self._datasets.find(where, DATASET_FIELDS)]
        known = {document["_id"] for document in found}
        owing = await self._context.jobs.find({"owing": OWES}, ("_id",), limit=_MOST_OWING)
        left = {place[0] for job in owing if (place := job_place(job["_id"])) is not None} - known
        if left:
            found += await self._datasets.find({"_id": {"$in": sorted(left)}}, DATASET_FIELDS)
        by_number = {document["number"]: dataset_of(document) for document in found}
        return [by_number[number] for number in sorted(by_number)]

    async def config(self, dataset_id: str, version: int) -> str | None:
        """See the port."""
        if not 0 < version <= LAST_KEY:
            return None
        found = await self._context.configs.find_one({"_id": config_key(dataset_id, version)})
        if found is None:  # perhaps it is about to be kept
            document = await self._datasets.find_one({"_id": dataset_id}, ("pending",)) or {}
            found = document.get("pending", {}).get("config")
        return None if found is None or found["version"] != version else str(found["text"])

    async def update(self, dataset_id: str, patch: DatasetPatch, *, now: float) -> Dataset | None:
        """See the port."""
        changes = {name: value for name, value in asdict(patch).items() if value is not None}
        if patch.sites is not None:
            changes["sites"] = sites_document(patch.sites)
        tries = 0
        while (document := await self._datasets.find_one({"_id": dataset_id})) is not None:
            wanted = rolled_up({**document, **changes}, now=now)
            fields = {
                name: wanted[name]
                for name in (*changes, "status", "status_changed_at")
                if wanted[name] != document.get(name)
            }
            if not fields:
                return dataset_of(document)
            changed = await self._datasets.change(
                {"_id": dataset_id, "version": document["version"]}, {"$set": fields, "$inc": {"version": 1}}
            )
            if changed is not None:
                return dataset_of(changed)
            await contend(tries)
            tries += 1
        return None

    async def set_config(
        self, dataset_id: str, config: DatasetConfig, *, expected_version: int, now: float
    ) -> Dataset | None:
        """See the port."""
        return await self._context.whole(
            self._noting(
                dataset_id, self._set_config(dataset_id, config, expected_version=expected_version, now=now)
            )
        )

    async def materialise(
        self, dataset_id: str, first_job: int, class_ids: Sequence[Sequence[int]], *, now: float
    ) -> Materialised | None:
        """See the port."""
        making = Making.of(first_job, class_ids)
        making_them = self._materialise(dataset_id, making, len(class_ids), now=now)
        return await self._context.whole(self._noting(dataset_id, making_them))

    async def remove_jobs(self, dataset_id: str, jobs: Sequence[int], *, now: float) -> int:
        """See the port."""
        if not jobs:
            return 0
        removing = remove_jobs(self._context, dataset_id, sorted(set(jobs)), now=now)
        return await self._context.whole(self._noting(dataset_id, removing))

    async def remove(self, dataset_id: str) -> bool:
        """See the port."""
        return await self._context.whole(self._noting(dataset_id, remove(self._context, dataset_id)))

    async def progress(self, dataset_id: str) -> Progress:
        """See the port."""
        found = await self._datasets.find_one({"_id": dataset_id}, ("jobs", "tasks"))
        return Progress() if found is None else Progress(job_counts(found), task_counts(found))

    async def add_classes(self, classes: Sequence[TaskClass]) -> None:
        """See the port."""
        states = await self._context.states.load({given.dataset_id for given in classes})
        documents = [class_document(given, states[given.dataset_id].number) for given in classes]
        await self._context.classes.bulk([InsertOne(document) for document in documents], ordered=False)

    async def classes(self, dataset_id: str | None = None) -> list[TaskClass]:
        """See the port."""
        if dataset_id is None:
            numbers = [dataset.number for dataset in await self.active()]
        else:
            state = await self._context.states.get(dataset_id)
            numbers = [] if state is None else [state.number]
        if not numbers:
            return []
        found = await self._context.classes.find(
            {"number": {"$in": numbers}}, sort=[("number", ASCENDING), ("class_id", ASCENDING)]
        )
        return [class_of(document) for document in found]

    async def recount(self, dataset_id: str) -> list[Drift]:
        """See the port; also carries out what a process that ended has left undone."""
        return await self._context.whole(recount(self._context, dataset_id))

    async def _noting(self, dataset_id: str, change: Coroutine[Any, Any, T]) -> T:
        """The result of a change of several writes; what of it could not be done is done later."""
        try:
            return await change
        except StoreUnavailable:
            self._context.left.add(dataset_id)
            raise

    async def _add(self, dataset: Dataset, config: str) -> Dataset:
        name = dataset.dataset_id
        taken = AlreadyExists(f"there is a dataset {name} already")
        if await self._datasets.find_one({"_id": name}, ("_id",)) is not None:
            raise taken
        sequence = await self._context.sequences.change(
            {"_id": "datasets"}, {"$inc": {"number": 1}}, upsert=True
        )
        if sequence is None:
            raise LookupError("the sequence of datasets gave no number")
        kept = replace(dataset, number=int(sequence["number"]))
        document = dataset_document(kept)
        document["pending"] = pending(
            self._context, now=dataset.created_at, config=(dataset.config_version, config), link=True
        )
        try:
            await self._datasets.insert(document)
        except AlreadyExists:
            raise taken from None
        await complete(self._context, document)
        return kept

    async def _set_config(
        self, dataset_id: str, config: DatasetConfig, *, expected_version: int, now: float
    ) -> Dataset | None:
        tries = 0
        while (document := await without_pending(self._context, dataset_id)) is not None:
            if document["config_version"] != expected_version:
                return None
            changed = await self._datasets.change(
                {"_id": dataset_id, "version": document["version"]},
                self._new_config(document, config, now=now),
            )
            if changed is not None:
                await complete(self._context, changed)
                return dataset_of(changed)
            await contend(tries)
            tries += 1
        return None

    def _new_config(self, document: Document, config: DatasetConfig, *, now: float) -> Document:
        """The change that makes ``config`` the next version, and says what is to follow."""
        version = document["config_version"] + 1
        before = dataset_of(document)
        is_other = (config.depends, config.external) != (before.depends, before.external)
        graph = graph_text(config.task_names, config.depends, config.external)
        more = len(config.task_names) - len(document["tasks"])
        return {
            "$set": {
                "config_version": version,
                "graph": graph,
                "graph_version": document["graph_version"] + (graph != document["graph"]),
                "needs": needed_datasets(config.external),
                "tasks": document["tasks"] + [{}] * max(0, more),
                "pending": pending(
                    self._context, now=now, config=(version, config.text), link=is_other, settle=is_other
                ),
            },
            "$inc": {"version": 1},
        }

    async def _materialise(
        self, dataset_id: str, making: Making, number: int, *, now: float
    ) -> Materialised | None:
        tries = 0
        while (document := await without_pending(self._context, dataset_id)) is not None:
            if document["jobs_made"] != making.first:
                return None
            if making.first + number > MAX_JOBS:
                raise ConflictError(f"a dataset has at most {MAX_JOBS} jobs")
            changed = await self._datasets.change(
                {"_id": dataset_id, "version": document["version"]},
                self._more_jobs(document, making, number, now=now),
            )
            if changed is not None:
                released = await complete(self._context, changed)
                return Materialised(dataset_of(changed), tuple(released))
            await contend(tries)
            tries += 1
        return None

    def _more_jobs(self, document: Document, making: Making, number: int, *, now: float) -> Document:
        """The change that counts new jobs and their tasks, and says that they are to be made."""
        starts = starting(document)
        ready: dict[str, int] = {}
        for times, row in making.rows:
            for status, class_id in zip(starts, row, strict=True):
                if status == WAITING:
                    ready[f"ready.{class_id}"] = ready.get(f"ready.{class_id}", 0) + times
        jobs = dict(document["jobs"])
        jobs[JobStatus.PROCESSING.value] = jobs.get(JobStatus.PROCESSING.value, 0) + number
        after = rolled_up({**document, "jobs": jobs, "jobs_made": making.first + number}, now=now)
        return {
            "$set": {
                **{name: after[name] for name in ("status", "status_changed_at", "jobs_made")},
                "pending": pending(self._context, now=now, making=making),
            },
            "$inc": {
                "version": 1,
                "jobs.processing": number,
                "unfinished": number * len(starts),
                **{f"tasks.{index}.{status}": number for index, status in enumerate(starts)},
                **ready,
            },
        }


def _condition(wanted: DatasetFilter) -> dict[str, Any]:
    where: dict[str, Any] = {}
    if wanted.status is not None:
        where["status"] = wanted.status.value
    if wanted.owner is not None:
        where["owner"] = wanted.owner
    if wanted.group is not None:
        where["group"] = wanted.group
    if wanted.visible_to is not None:
        user, groups = wanted.visible_to
        where["$or"] = [{"public": True}, {"owner": user}, {"group": {"$in": sorted(groups)}}]
    return where
