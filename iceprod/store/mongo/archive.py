"""The records of a MongoDB store, for copying."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from iceprod import ids
from iceprod.model.dataset import Dataset
from iceprod.model.federation import DeadLetter, Errand, Peer
from iceprod.model.file import FileRecord, OriginCredential, Quota, Usage
from iceprod.model.pilot import Pilot
from iceprod.model.task import Attempt
from iceprod.model.user import Token, User
from iceprod.store.archive import (
    COPY_MARK,
    IDENTITY,
    NAMES,
    Archive,
    ConfigRecord,
    JobRecord,
    Key,
    Kind,
    LogRecord,
    OperationRecord,
    Record,
    ValueRecord,
)
from iceprod.store.base import AuditEntry, TaskClass, ValueRepository
from iceprod.store.mongo import archive_read
from iceprod.store.mongo.accounts import token_document, user_document
from iceprod.store.mongo.audit import audit_document
from iceprod.store.mongo.client import Database, Document
from iceprod.store.mongo.context import Context
from iceprod.store.mongo.credentials import credential_document
from iceprod.store.mongo.documents import (
    attempt_document,
    class_document,
    config_document,
    dataset_document,
    job_document,
    task_document,
    task_key,
)
from iceprod.store.mongo.federation import (
    errand_document,
    fill_sequence,
    letter_document,
    operation_document,
    peer_document,
)
from iceprod.store.mongo.files import file_document
from iceprod.store.mongo.logs import log_document
from iceprod.store.mongo.pilots import pilot_document
from iceprod.store.mongo.recount import fill_counters
from iceprod.store.mongo.states import States
from iceprod.store.mongo.stored import fill_stored
from iceprod.store.mongo.usage import quota_document, usage_document

_GRAPH_VERSION: Final = 1
"""That of a dataset as it is written first; all its jobs are in line with it."""


class MongoArchive(Archive):
    """Each page is a query or a few, each call that writes a bulk of replacements by ``_id``."""

    def __init__(self, database: Database, context: Context, values: ValueRepository) -> None:
        self._database = database
        self._context = context
        self._values = values

    async def identity(self) -> str:
        """See the port."""
        return await self._values.put_new(IDENTITY, ids.new_id())

    async def count(self, kind: Kind) -> int:
        """See the port."""
        return await archive_read.count(self._database, kind)

    async def read(self, kind: Kind, after: Key | None, limit: int) -> list[Record]:
        """See the port."""
        return await archive_read.read(self._database, kind, after, limit)

    async def write(self, kind: Kind, records: Sequence[Record]) -> None:
        """See the port."""
        form = _FORMS[kind]
        collection = self._database.collection(NAMES[kind])
        await collection.put_all([form(record) for record in records])

    async def finish(self) -> None:
        """See the port."""
        context, needed_by = self._context, defaultdict[str, list[str]](list)
        last = 0
        async for part in archive_read.numbers(self._database, 0, ("needs",)):
            last = int(part[-1]["number"])
            for dataset in part:
                for needed in dataset["needs"]:
                    needed_by[needed].append(dataset["_id"])
        await context.sequences.put({"_id": "datasets", "number": last})
        async for part in archive_read.numbers(self._database, 0):
            for dataset in part:
                await fill_counters(context, dataset["_id"], needed_by=sorted(needed_by[dataset["_id"]]))
        await fill_stored(context)
        await fill_sequence(context)
        self._forget()

    async def clear(self) -> None:
        """See the port."""
        for kind in reversed(Kind):
            collection = self._database.collection(NAMES[kind])
            await collection.delete(archive_read.CONTENT.get(kind, {}))
        await self._context.sequences.delete({})
        await self._context.stored.delete({})
        self._forget()

    async def mark(self) -> str | None:
        """See the port."""
        return await self._values.get(COPY_MARK)

    async def set_mark(self, text: str | None) -> None:
        """See the port."""
        if text is not None:
            await self._values.put(COPY_MARK, text)
        else:
            await self._database.collection(NAMES[Kind.VALUE]).delete({"_id": COPY_MARK})

    def _forget(self) -> None:
        """What was remembered of datasets is no longer so."""
        self._context.states = States(self._context.datasets)


def _dataset(record: Record) -> Document:
    return dataset_document(cast(Dataset, record.value))


def _config(record: Record) -> Document:
    value = cast(ConfigRecord, record.value)
    return config_document(value.dataset_id, value.version, value.text)


def _class(record: Record) -> Document:
    return class_document(cast(TaskClass, record.value), int(record.key[0]))


def _job(record: Record) -> Document:
    value = cast(JobRecord, record.value)
    tasks = [task_document(task) for task in value.tasks]
    return job_document(value.job, int(record.key[0]), tasks, graph_version=_GRAPH_VERSION)


def _attempt(record: Record) -> Document:
    number, job, task = (int(part) for part in record.key[:3])
    return attempt_document(cast(Attempt, record.value), task_key(number, job, task))


def _pilot(record: Record) -> Document:
    return pilot_document(cast(Pilot, record.value))


def _user(record: Record) -> Document:
    return user_document(cast(User, record.value))


def _token(record: Record) -> Document:
    return token_document(cast(Token, record.value))


def _log(record: Record) -> Document:
    value = cast(LogRecord, record.value)
    return log_document(value.info, value.data)


def _audit(record: Record) -> Document:
    # Keys of new entries begin with nanoseconds since the epoch, and so come after these.
    return audit_document(f"{int(record.key[0]):020d}.copied", cast(AuditEntry, record.value))


def _value(record: Record) -> Document:
    value = cast(ValueRecord, record.value)
    return {"_id": value.name, "text": value.text, "fence": 0}


def _file(record: Record) -> Document:
    return file_document(cast(FileRecord, record.value), revision="copied")


def _usage(record: Record) -> Document:
    return usage_document(cast(Usage, record.value))


def _quota(record: Record) -> Document:
    return quota_document(cast(Quota, record.value))


def _credential(record: Record) -> Document:
    return credential_document(cast(OriginCredential, record.value))


def _peer(record: Record) -> Document:
    return peer_document(cast(Peer, record.value))


def _errand(record: Record) -> Document:
    return errand_document(cast(Errand, record.value))


def _operation(record: Record) -> Document:
    value = cast(OperationRecord, record.value)
    if value.reason is None or value.buried_at is None:
        return operation_document(value.number, value.operation)
    return letter_document(DeadLetter(value.number, value.operation, value.reason, value.buried_at))


_FORMS: Final[Mapping[Kind, Callable[[Record], Document]]] = {
    Kind.DATASET: _dataset,
    Kind.CONFIG: _config,
    Kind.CLASS: _class,
    Kind.JOB: _job,
    Kind.ATTEMPT: _attempt,
    Kind.PILOT: _pilot,
    Kind.USER: _user,
    Kind.TOKEN: _token,
    Kind.LOG: _log,
    Kind.AUDIT: _audit,
    Kind.VALUE: _value,
    Kind.FILE: _file,
    Kind.USAGE: _usage,
    Kind.QUOTA: _quota,
    Kind.CREDENTIAL: _credential,
    Kind.PEER: _peer,
    Kind.ERRAND: _errand,
    Kind.OPERATION: _operation,
}
