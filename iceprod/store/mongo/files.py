"""The catalogue of files in MongoDB."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from iceprod.model.file import FileRecord, Replica, Stored
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.files import FileFilter, FileRepository
from iceprod.store.holdings import (
    LAST,
    Holder,
    Tally,
    checksums_of,
    holders,
    merged,
    replicas_of,
    text_of,
    with_replicas,
    without_replica,
)
from iceprod.store.mongo.client import (
    ASCENDING,
    DeleteOne,
    Document,
    IndexModel,
    InsertOne,
    ReplaceOne,
    Write,
)
from iceprod.store.mongo.context import Context, begun, contend
from iceprod.store.mongo.stored import count, key_of, mark, recount_stored, settle

_ORDER = [("name", ASCENDING), ("dataset_id", ASCENDING)]


def _index(name: str, *fields: str) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], name=name)


INDEXES = {
    "files": (
        _index("dataset", "dataset_id", "name"),
        _index("name", "name", "dataset_id"),
        _index("job", "dataset_id", "job_index", "name"),
        _index("task", "dataset_id", "task_index", "name"),
        _index("sha256", "sha256", "name", "dataset_id"),
        _index("owner", "owner", "name", "dataset_id"),
        _index("group", "group", "name", "dataset_id"),
    ),
    "stored": (_index("holder", "kind", "holder"), _index("marks", "marks")),
}

Files = Mapping[str, FileRecord]
Step = Callable[[Files], Mapping[str, FileRecord | None]]
"""From the files that there are, by key, those to be written; None for one to be forgotten."""


class MongoFiles(FileRepository):
    """``files`` by dataset and name, each with a ``revision``: the change that wrote it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._left: set[Holder] = set()

    async def put(self, files: Sequence[FileRecord]) -> list[bool]:
        """See the port."""
        keys = [file_key(record.dataset_id, record.name) for record in files]
        known: set[str] = set()

        def step(former: Files) -> dict[str, FileRecord | None]:
            known.update(former)
            found: dict[str, FileRecord | None] = {}
            for key, record in zip(keys, files, strict=True):
                found[key] = merged(record, found.get(key) or former.get(key))
            return found

        await self._change(keys, step)
        answers = []
        for key in keys:
            answers.append(key not in known)
            known.add(key)
        return answers

    async def get(self, dataset_id: str, name: str) -> FileRecord | None:
        """See the port."""
        found = await self._context.files.find_one({"_id": file_key(dataset_id, name)})
        return None if found is None else file_of(found)

    async def select(self, wanted: FileFilter, page: Page) -> Slice[FileRecord]:
        """See the port."""
        cursors.checked(page)
        after = None if page.cursor is None else cursors.decode(page.cursor, tuple[str, str])
        runs = await asyncio.gather(
            *(
                self._context.files.find(_where(wanted, run, after), sort=_ORDER, limit=page.limit + 1)
                for run in wanted.runs()
            )
        )
        by_place = {(d["name"], d["dataset_id"]): d for run in runs for d in run}
        places = sorted(by_place)
        items = tuple(file_of(by_place[place]) for place in places[: page.limit])
        more = len(places) > page.limit
        return Slice(items, cursors.encode(*places[page.limit - 1]) if more else None)

    async def add_replica(self, dataset_id: str, name: str, replica: Replica) -> bool:
        """See the port."""

        def step(former: Files) -> dict[str, FileRecord | None]:
            return {
                key: replace(record, replicas=with_replicas(record.replicas, replica))
                for key, record in former.items()
            }

        return bool(await self._change([file_key(dataset_id, name)], step))

    async def drop_replica(self, dataset_id: str, name: str, url: str) -> bool:
        """See the port."""

        def step(former: Files) -> dict[str, FileRecord | None]:
            found: dict[str, FileRecord | None] = {}
            for key, record in former.items():
                left = without_replica(record.replicas, url)
                if left != record.replicas:
                    found[key] = replace(record, replicas=left) if left else None
            return found

        return bool(await self._change([file_key(dataset_id, name)], step))

    async def delete(self, dataset_id: str, names: Sequence[str]) -> int:
        """See the port."""
        keys = [file_key(dataset_id, name) for name in dict.fromkeys(names)]
        return await self._change(keys, _forget)

    async def stored(self, kind: str, holder: str) -> Stored:
        """See the port."""
        found = await self._context.stored.find_one({"_id": key_of((kind, holder))})
        return Stored(kind, holder) if found is None else _stored(found)

    async def holders(self, kind: str, page: Page) -> Slice[Stored]:
        """See the port."""
        cursors.checked(page)
        (after,) = ("",) if page.cursor is None else cursors.decode(page.cursor, tuple[str])
        where = {"kind": kind, "holder": {"$gt": after}, "files": {"$gt": 0}}
        found = await self._context.stored.find(where, sort=[("holder", ASCENDING)], limit=page.limit + 1)
        items = tuple(_stored(document) for document in found[: page.limit])
        return Slice(items, cursors.encode(items[-1].holder) if len(found) > page.limit else None)

    async def recount(self) -> int:
        """See the port."""
        return await self._context.whole(recount_stored(self._context))

    async def _change(self, keys: Sequence[str], step: Step) -> int:
        """Do what ``step`` says with the files of ``keys``; how many were written or forgotten."""
        return await self._context.whole(self._changed(keys, step)) if keys else 0

    async def _changed(self, keys: Sequence[str], step: Step) -> int:
        await self._repair_left()
        change = _Change(self._context, step)
        try:
            await change.make(keys)
        except BaseException:  # what has been written and what not is in the documents
            self._left |= change.marked
            raise
        return change.number

    async def _repair_left(self) -> None:
        """Count what this process could not while the database was away."""
        while self._left:
            holder = min(self._left)
            await count(self._context, holder)
            self._left.discard(holder)


def _forget(former: Files) -> dict[str, FileRecord | None]:
    return dict.fromkeys(former)


class _Change:
    """One change of some files: read, mark, write unless somebody else was quicker, settle."""

    def __init__(self, context: Context, step: Step) -> None:
        self._context = context
        self._step = step
        self._batch = context.new_batch()
        self._tally: Tally | None = Tally()
        self.marked: set[Holder] = set()
        self.number = 0

    async def make(self, keys: Sequence[str]) -> None:
        left, tries = set(keys), 0
        while left:
            if tries:
                await contend(tries)
            with begun() if tries else contextlib.nullcontext():
                left = await self._try(left)
            tries += 1
        with begun():
            await settle(self._context, self._batch, self.marked, self._tally)

    async def _try(self, keys: set[str]) -> set[str]:
        """Write once; the keys of those that somebody else has changed in between."""
        files = self._context.files
        documents = {d["_id"]: d for d in await files.find({"_id": {"$in": sorted(keys)}})}
        former = {key: file_of(document) for key, document in documents.items()}
        after = self._step(former)
        if not after:
            return set()
        await self._mark(former, after)
        writes = [self._write(key, record, documents.get(key)) for key, record in after.items()]
        done = await files.bulk(writes, ordered=False)
        took = done.matched + done.inserted + done.deleted
        with begun():
            missed = set() if took == len(writes) else await self._missed(after)
        if missed or took != len(writes):
            # The server tells how many, and one that was written may have been replaced since.
            self._tally = None
        elif self._tally is not None:
            for key, record in after.items():
                self._tally.change(former.get(key), record)
        self.number += len(after) - len(missed)
        return missed

    async def _mark(self, former: Files, after: Mapping[str, FileRecord | None]) -> None:
        concerned = set()
        for key, record in after.items():
            one, other = former.get(key), record
            if _kept(one) != _kept(other):
                concerned |= {holder for file in (one, other) if file is not None for holder in holders(file)}
        new = concerned - self.marked
        self.marked |= new
        await mark(self._context, self._batch, new)

    def _write(self, key: str, record: FileRecord | None, former: Document | None) -> Write:
        if former is None:
            assert record is not None  # noqa: S101 - a step forgets only what there is
            return InsertOne(file_document(record, revision=self._batch))
        unchanged = {"_id": key, "revision": former["revision"]}
        if record is None:
            return DeleteOne(unchanged)
        return ReplaceOne(unchanged, file_document(record, revision=self._batch))

    async def _missed(self, after: Mapping[str, FileRecord | None]) -> set[str]:
        found = await self._context.files.find({"_id": {"$in": sorted(after)}}, ("revision",))
        revisions = {document["_id"]: document["revision"] for document in found}
        return {
            key
            for key, record in after.items()
            if (key in revisions if record is None else revisions.get(key) != self._batch)
        }


def _kept(record: FileRecord | None) -> tuple[str, str, str, int] | None:
    """What the counters know of a file."""
    if record is None or not record.is_here:
        return None
    return record.owner, record.group, record.dataset_id, record.size_bytes


def _where(wanted: FileFilter, run: Mapping[str, str | int], after: tuple[str, str] | None) -> dict[str, Any]:
    name: dict[str, str] = {"$gte": wanted.prefix}
    if wanted.prefix:
        name["$lt"] = wanted.prefix + LAST
    where: dict[str, Any] = {**run, "name": name}
    if after is not None and after >= (wanted.prefix, ""):
        name["$gte"] = after[0]
        where["$or"] = [{"name": {"$gt": after[0]}}, {"dataset_id": {"$gt": after[1]}}]
    return where


def _stored(document: Document) -> Stored:
    size_bytes, files = (int(document.get(name, 0)) for name in ("bytes", "files"))
    return Stored(document["kind"], document["holder"], size_bytes, files)


def file_key(dataset_id: str, name: str) -> str:
    """The key of a file's document."""
    return f"{dataset_id}/{name}"


def file_document(record: FileRecord, *, revision: str) -> Document:
    """A file as it is stored; checksums and replicas as JSON, for names may be anything there."""
    return {
        "_id": file_key(record.dataset_id, record.name),
        "revision": revision,
        "dataset_id": record.dataset_id,
        "name": record.name,
        "size_bytes": record.size_bytes,
        "sha256": record.checksums["sha256"],
        "owner": record.owner,
        "group": record.group,
        "created_at": record.created_at,
        "job_index": record.job_index,
        "task_index": record.task_index,
        "checksums": text_of(record.checksums),
        "replicas": text_of(record.replicas),
        "here": record.is_here,
    }


def file_of(document: Document) -> FileRecord:
    """A file from its document."""
    job, task = document["job_index"], document["task_index"]
    return FileRecord(
        document["dataset_id"],
        document["name"],
        int(document["size_bytes"]),
        checksums_of(document["checksums"]),
        document["owner"],
        document["group"],
        document["created_at"],
        None if job is None else int(job),
        None if task is None else int(task),
        replicas_of(document["replicas"]),
    )
