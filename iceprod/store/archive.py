"""The port for copying: the whole content of a store as records that no adapter has a form of its own for.

What can be derived is not among the records: counters, indexes, sequences; `Archive.finish`
makes them anew.  Two stores with equal records are the same to every service.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from iceprod.model.dataset import Dataset
from iceprod.model.federation import Errand, Operation, Peer
from iceprod.model.file import FileRecord, OriginCredential, Quota, Usage
from iceprod.model.job import Job
from iceprod.model.pilot import Pilot
from iceprod.model.task import Attempt, Task
from iceprod.model.user import Token, User
from iceprod.store.base import AuditEntry, LogInfo, TaskClass

T = TypeVar("T")

Key = tuple[int | str, ...]
"""Orders the records of a kind, the same way in every store."""

COPY_MARK = "store.copy"
IDENTITY = "store.identity"
OWN_VALUES = frozenset({"ping", COPY_MARK, IDENTITY})
"""Names of documents that are about the store itself, and therefore no content of it."""

PAGE_WEIGHT = 8_000
"""About so many tasks, or this many times 256 bytes, are read at a time."""


class Kind(StrEnum):
    """What there is to copy, in an order in which nothing comes before what it refers to."""

    DATASET = "dataset"  # key: number
    CONFIG = "config"  # number, version
    CLASS = "class"  # number, class id
    JOB = "job"  # number, job index; with its tasks
    ATTEMPT = "attempt"  # number, job index, task index, attempt
    PILOT = "pilot"  # pilot id
    USER = "user"  # name
    TOKEN = "token"  # noqa: S105 - digest
    LOG = "log"  # number, job index, task index, attempt, name
    AUDIT = "audit"  # to be read: what the store orders them by; to be written: 1, 2, 3, …
    VALUE = "value"  # name
    FILE = "file"  # dataset id, name
    USAGE = "usage"  # day and flow in one text: `store.holdings.usage_place`
    QUOTA = "quota"  # kind, holder
    CREDENTIAL = "credential"  # user, origin
    PEER = "peer"  # role, name
    ERRAND = "errand"  # task id
    OPERATION = "operation"  # number


NAMES: Mapping[Kind, str] = {
    Kind.DATASET: "datasets",
    Kind.CONFIG: "configs",
    Kind.CLASS: "classes",
    Kind.JOB: "jobs",
    Kind.ATTEMPT: "attempts",
    Kind.PILOT: "pilots",
    Kind.USER: "users",
    Kind.TOKEN: "tokens",
    Kind.LOG: "logs",
    Kind.AUDIT: "audit",
    Kind.VALUE: "vals",
    Kind.FILE: "files",
    Kind.USAGE: "usage",
    Kind.QUOTA: "quotas",
    Kind.CREDENTIAL: "credentials",
    Kind.PEER: "peers",
    Kind.ERRAND: "errands",
    Kind.OPERATION: "outbox",
}
"""What the table or the collection of a kind is called, in every store."""


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """A configuration as submitted."""

    dataset_id: str
    version: int
    text: str


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job and its tasks, in order."""

    job: Job
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A log with its text, compressed (zlib)."""

    info: LogInfo
    data: bytes


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """A small document of the site.

    Not the fence that it was written under: that is of the leases of one store, and in
    another one the first holder of a duty could not write.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """An operation that waits for its peer or, if there is a ``reason``, a dead letter."""

    number: int
    operation: Operation
    reason: str | None = None
    buried_at: float | None = None


Value = (
    Dataset
    | ConfigRecord
    | TaskClass
    | JobRecord
    | Attempt
    | Pilot
    | User
    | Token
    | LogRecord
    | AuditEntry
    | ValueRecord
    | FileRecord
    | Usage
    | Quota
    | OriginCredential
    | Peer
    | Errand
    | OperationRecord
)


@dataclass(frozen=True, slots=True)
class Record:
    """One record with its place in the order of its kind."""

    key: Key
    value: Value


class Records(ABC):
    """Something that holds records: a store, or a file that was made from one."""

    @abstractmethod
    async def identity(self) -> str:
        """Tells this content from that of any other store; the same for as long as it exists."""

    @abstractmethod
    async def count(self, kind: Kind) -> int:
        """How many records of a kind there are."""

    @abstractmethod
    async def read(self, kind: Kind, after: Key | None, limit: int) -> list[Record]:
        """The next records after a key, in order; as many as are worth a page, none at the end.

        Each record is whole, but two calls see two moments: whoever wants all records as of
        one keeps the store from being used meanwhile.

        Raises:
            ConflictError: a record belongs to a dataset that does not exist.
        """


class Archive(Records):
    """The records of a store, and how to fill an empty one."""

    @abstractmethod
    async def write(self, kind: Kind, records: Sequence[Record]) -> None:
        """Keep records in place of those with the same keys; repeating it changes nothing.

        What they refer to has been written before.
        """

    @abstractmethod
    async def finish(self) -> None:
        """Derive from the records whatever the store keeps beside them; may be repeated."""

    @abstractmethod
    async def clear(self) -> None:
        """Drop every record, and what was derived from them."""

    @abstractmethod
    async def mark(self) -> str | None:
        """The note of a copy that is under way into this store; None if there is none.

        A store that has one is no site's yet.
        """

    @abstractmethod
    async def set_mark(self, text: str | None) -> None:
        """Keep that note, or drop it."""


def page(found: Iterable[T], weight: Callable[[T], int]) -> list[T]:
    """The first of ``found`` that make a page by their weight; one at least, if there is any."""
    taken: list[T] = []
    total = 0
    for item in found:
        taken.append(item)
        total += weight(item)
        if total >= PAGE_WEIGHT:
            break
    return taken
