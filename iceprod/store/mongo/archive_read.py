"""Documents as records for copying, a page at a time, each by the index of its key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from iceprod.model.federation import PeerRole
from iceprod.store.archive import (
    NAMES,
    OWN_VALUES,
    ConfigRecord,
    JobRecord,
    Key,
    Kind,
    LogRecord,
    OperationRecord,
    Record,
    Value,
    ValueRecord,
    page,
)
from iceprod.store.mongo.accounts import token_of, user_of
from iceprod.store.mongo.audit import entry_of
from iceprod.store.mongo.client import ASCENDING, Collection, Database, Document
from iceprod.store.mongo.credentials import credential_of
from iceprod.store.mongo.documents import (
    DATASET_FIELDS,
    JOB_BITS,
    TASK_BITS,
    attempt_of,
    class_of,
    config_key,
    dataset_of,
    job_key,
    job_of,
    task_key,
    tasks_of,
)
from iceprod.store.mongo.federation import NUMBERED, errand_of, operation_of, peer_key, peer_of
from iceprod.store.mongo.files import file_of
from iceprod.store.mongo.logs import info_of
from iceprod.store.mongo.pilots import pilot_of
from iceprod.store.mongo.places import places
from iceprod.store.mongo.usage import quota_of, used

CONTENT: Final[Mapping[Kind, Document]] = {Kind.VALUE: {"_id": {"$nin": sorted(OWN_VALUES)}}}
"""Which documents are content; all where nothing is said."""
_BATCH: Final = 50
_DATASETS: Final = 200

T = TypeVar("T")

Reading = Callable[[Database, Key | None, int], Awaitable[list[Record]]]


async def read(database: Database, kind: Kind, after: Key | None, limit: int) -> list[Record]:
    """See `Records.read`."""
    return await _READINGS[kind](database, after, limit)


async def count(database: Database, kind: Kind) -> int:
    """See `Records.count`."""
    return await database.collection(NAMES[kind]).count(CONTENT.get(kind, {}))


async def numbers(
    database: Database, first: int, fields: Sequence[str] = ()
) -> AsyncIterator[list[Document]]:
    """Datasets from a number on, in order, with some of their fields."""
    where = {"number": {"$gte": first}}
    datasets = database.collection("datasets")
    async for part in datasets.scan(
        where, ("number", *fields), sort=[("number", ASCENDING)], batch=_DATASETS
    ):
        yield part


async def _datasets(database: Database, after: Key | None, limit: int) -> list[Record]:
    where = {"number": {"$gt": after[0] if after else 0}}
    found = await database.collection("datasets").find(
        where, DATASET_FIELDS, sort=[("number", ASCENDING)], limit=limit
    )
    return [Record((int(document["number"]),), dataset_of(document)) for document in found]


async def _configs(database: Database, after: Key | None, limit: int) -> list[Record]:
    """Of each dataset the versions up to its own, whose keys are known without looking."""
    taken: list[Record] = []
    async for part in numbers(database, int(after[0]) if after else 0, ("config_version",)):
        places = [place for place in _versions(part) if after is None or place[0] > after]
        for start in range(0, len(places), _BATCH):
            taken += await _configs_at(database, dict(places[start : start + _BATCH]))
            if (full := _full(taken, limit, _weight)) is not None:
                return full
    return taken


def _versions(datasets: Sequence[Document]) -> Iterator[tuple[tuple[int, int], str]]:
    """Keys and document keys of the configurations of datasets."""
    for dataset in datasets:
        for version in range(1, int(dataset["config_version"]) + 1):
            yield (int(dataset["number"]), version), config_key(dataset["_id"], version)


async def _configs_at(database: Database, places: Mapping[tuple[int, int], str]) -> list[Record]:
    found = await database.collection("configs").find({"_id": {"$in": list(places.values())}})
    by_name = {document["_id"]: document for document in found}
    return [
        Record(place, ConfigRecord(by_name[name]["dataset_id"], place[1], by_name[name]["text"]))
        for place, name in places.items()
        if name in by_name
    ]


async def _classes(database: Database, after: Key | None, limit: int) -> list[Record]:
    found = await _following(database.collection("classes"), ("number", "class_id"), after, limit)
    return [Record((int(d["number"]), int(d["class_id"])), class_of(d)) for d in found]


async def _jobs(database: Database, after: Key | None, limit: int) -> list[Record]:
    where = {"key": {"$gt": job_key(int(after[0]), int(after[1])) if after else -1}}
    fields = ("key", "status", "status_changed_at", "tasks")
    jobs = database.collection("jobs")
    found = await _page(jobs, where, "key", limit, fields=fields, weight=lambda job: 1 + len(job["tasks"]))
    return [_job(document) for document in found]


def _job(document: Document) -> Record:
    key = _place(int(document["key"]), JOB_BITS)
    return Record(key, JobRecord(job_of(document), tuple(tasks_of(document))))


async def _attempts(database: Database, after: Key | None, limit: int) -> list[Record]:
    start: Key | None = None
    if after is not None:
        number, job, task, attempt = (int(part) for part in after)
        start = (task_key(number, job, task), attempt)
    found = await _following(database.collection("attempts"), ("key", "attempt"), start, limit)
    return [
        Record((*_task_place(int(document["key"])), int(document["attempt"])), attempt_of(document))
        for document in found
    ]


async def _logs(database: Database, after: Key | None, limit: int) -> list[Record]:
    """Dataset by dataset, each by the keys of its logs, which sort like its tasks."""
    logs, taken = database.collection("logs"), list[Record]()
    async for part in numbers(database, int(after[0]) if after else 0):
        for dataset in part:
            number, (first, last) = int(dataset["number"]), places(dataset["_id"])
            if after and number == after[0]:
                job, task, attempt = (int(place) for place in after[1:4])
                first = f"{first}{job:09d}-{task:04d}:{attempt:06d}:{after[4]}"
            where = {"_id": {"$gt": first, "$lt": last}}
            found = await _page(
                logs, where, "_id", limit - len(taken), weight=lambda log: 1 + len(log["data"]) // 256
            )
            taken += [_log(number, document) for document in found]
            if (full := _full(taken, limit, _weight)) is not None:
                return full
    return taken


def _log(number: int, document: Document) -> Record:
    info = info_of(document)
    _, job, task = info.task_id.rsplit("-", 2)
    key = (number, int(job), int(task), info.attempt, info.name)
    return Record(key, LogRecord(info, bytes(document["data"])))


async def _pilots(database: Database, after: Key | None, limit: int) -> list[Record]:
    return await _named(database, Kind.PILOT, pilot_of, after, limit)


async def _users(database: Database, after: Key | None, limit: int) -> list[Record]:
    return await _named(database, Kind.USER, user_of, after, limit)


async def _tokens(database: Database, after: Key | None, limit: int) -> list[Record]:
    return await _named(database, Kind.TOKEN, token_of, after, limit)


async def _audit(database: Database, after: Key | None, limit: int) -> list[Record]:
    return await _named(database, Kind.AUDIT, entry_of, after, limit)


async def _values(database: Database, after: Key | None, limit: int) -> list[Record]:
    def value(document: Document) -> ValueRecord:
        return ValueRecord(document["_id"], document["text"])

    return await _named(database, Kind.VALUE, value, after, limit)


async def _files(database: Database, after: Key | None, limit: int) -> list[Record]:
    found = await _following(database.collection("files"), ("dataset_id", "name"), after, limit, first="")
    return [Record((d["dataset_id"], d["name"]), file_of(d)) for d in found]


async def _usage(database: Database, after: Key | None, limit: int) -> list[Record]:
    return await _named(database, Kind.USAGE, used, after, limit)


async def _quotas(database: Database, after: Key | None, limit: int) -> list[Record]:
    found = await _following(database.collection("quotas"), ("kind", "holder"), after, limit, first="")
    return [Record((d["kind"], d["holder"]), quota_of(d)) for d in found]


async def _credentials(database: Database, after: Key | None, limit: int) -> list[Record]:
    found = await _following(database.collection("credentials"), ("user", "origin"), after, limit, first="")
    return [Record((d["user"], d["origin"]), credential_of(d)) for d in found]


async def _peers(database: Database, after: Key | None, limit: int) -> list[Record]:
    start = peer_key(PeerRole(str(after[0])), str(after[1])) if after else ""
    found = await database.collection("peers").find(
        {"_id": {"$gt": start}}, sort=[("_id", ASCENDING)], limit=limit
    )
    return [Record((d["role"], d["name"]), peer_of(d)) for d in found]


async def _errands(database: Database, after: Key | None, limit: int) -> list[Record]:
    return await _named(database, Kind.ERRAND, errand_of, after, limit)


async def _operations(database: Database, after: Key | None, limit: int) -> list[Record]:
    where = {**NUMBERED, "number": {"$gt": after[0] if after else 0}}
    outbox = database.collection("outbox")
    found = await _page(outbox, where, "number", limit, weight=lambda d: 1 + len(d["body"]) // 256)
    return [
        Record(
            (int(d["number"]),),
            OperationRecord(int(d["number"]), operation_of(d), d.get("reason"), d.get("buried_at")),
        )
        for d in found
    ]


async def _named(
    database: Database, kind: Kind, form: Callable[[Document], Value], after: Key | None, limit: int
) -> list[Record]:
    """Records whose key is that of the document."""
    condition = {**CONTENT.get(kind, {}).get("_id", {}), "$gt": after[0] if after else ""}
    collection = database.collection(NAMES[kind])
    found = await collection.find({"_id": condition}, sort=[("_id", ASCENDING)], limit=limit)
    return [Record((document["_id"],), form(document)) for document in found]


async def _following(
    collection: Collection, fields: tuple[str, str], after: Key | None, limit: int, *, first: int | str = 0
) -> list[Document]:
    """Documents after a key of two fields, those with the same first field before others.

    ``first`` is the least that the first field may be.
    """
    one, two = fields
    order = [(one, ASCENDING), (two, ASCENDING)]
    found: list[Document] = []
    if after is not None:
        where = {one: after[0], two: {"$gt": after[1]}}
        found = await collection.find(where, sort=order, limit=limit)
    if len(found) < limit:
        where = {one: {"$gte": first} if after is None else {"$gt": after[0]}}
        found += await collection.find(where, sort=order, limit=limit - len(found))
    return found


async def _page(
    collection: Collection,
    where: Document,
    order: str,
    limit: int,
    *,
    weight: Callable[[Document], int],
    fields: Sequence[str] | None = None,
) -> list[Document]:
    """A page of documents of very different sizes."""
    taken: list[Document] = []
    async for part in collection.scan(where, fields, sort=[(order, ASCENDING)], batch=min(limit, _BATCH)):
        taken += part
        if (full := _full(taken, limit, weight)) is not None:
            return full
    return taken


def _full(taken: list[T], limit: int, weight: Callable[[T], int]) -> list[T] | None:
    """The page that ``taken`` has become; None if there is room for more."""
    kept = page(taken, weight)[:limit]
    return kept if len(taken) >= limit or len(kept) < len(taken) else None


def _weight(record: Record) -> int:
    value = record.value
    if isinstance(value, LogRecord):
        return 1 + len(value.data) // 256
    return 1 + len(value.text) // 256 if isinstance(value, ConfigRecord) else 1


def _place(key: int, bits: int) -> tuple[int, int]:
    return key >> bits, key & ((1 << bits) - 1)


def _task_place(key: int) -> tuple[int, int, int]:
    job, task = _place(key, TASK_BITS)
    return (*_place(job, JOB_BITS), task)


_READINGS: Final[Mapping[Kind, Reading]] = {
    Kind.DATASET: _datasets,
    Kind.CONFIG: _configs,
    Kind.CLASS: _classes,
    Kind.JOB: _jobs,
    Kind.ATTEMPT: _attempts,
    Kind.PILOT: _pilots,
    Kind.USER: _users,
    Kind.TOKEN: _tokens,
    Kind.LOG: _logs,
    Kind.AUDIT: _audit,
    Kind.VALUE: _values,
    Kind.FILE: _files,
    Kind.USAGE: _usage,
    Kind.QUOTA: _quotas,
    Kind.CREDENTIAL: _credentials,
    Kind.PEER: _peers,
    Kind.ERRAND: _errands,
    Kind.OPERATION: _operations,
}
