"""The driver: the one file that imports it, so that another driver is a change of this file.

Motor passes each call to a thread that uses PyMongo's blocking client.  What differs between
it and PyMongo's own asynchronous client stays inside `Collection` and `Database`
(docs/adr/0015-motor-and-its-successor.md).

Reads ask the primary for what a majority has, and writes return when a majority has them in
its journal: nothing is seen or answered that a failover could take back.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from pymongo import (
    ASCENDING,
    DESCENDING,
    DeleteMany,
    DeleteOne,
    IndexModel,
    InsertOne,
    ReplaceOne,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
)
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError, WriteConcernError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from iceprod.errors import AlreadyExists, StoreUnavailable
from iceprod.store.mongo.failures import DUPLICATE, refusal, wrong_url
from iceprod.store.mongo.link import Link

# How many calls may be under way; the driver reads it when it is imported.
_THREADS: Final = int(os.environ.setdefault("MOTOR_MAX_WORKERS", "32"))

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection  # noqa: E402 - see above

__all__ = [
    "ASCENDING",
    "DESCENDING",
    "Bulk",
    "Collection",
    "Database",
    "DeleteMany",
    "DeleteOne",
    "Document",
    "IndexModel",
    "InsertOne",
    "ReplaceOne",
    "UpdateMany",
    "UpdateOne",
    "Write",
]

Document = dict[str, Any]
Filter = Mapping[str, Any]
Fields = Mapping[str, Any] | Sequence[str]
Sort = Sequence[tuple[str, int]]
Write = InsertOne[Document] | UpdateOne | UpdateMany | ReplaceOne[Document] | DeleteOne | DeleteMany

DEFAULT_DATABASE: Final = "iceprod"
_WRITE_S: Final = 10.0
_ONE_MESSAGE: Final = 10_000  # documents; else the first message has 101, and what is left takes another
_OPTIONS: Final[dict[str, Any]] = {
    "appname": "iceprod",
    "serverSelectionTimeoutMS": 2_000,
    # Also for the driver's monitor: a server from which it has not heard for so long counts as gone,
    # and all calls under way are broken off.  A busy one may well take some seconds.
    "connectTimeoutMS": 8_000,
    "socketTimeoutMS": 20_000,
    "heartbeatFrequencyMS": 1_000,  # so often is a server looked for that went away
    "maxPoolSize": _THREADS,
}
"""What holds unless the URL says otherwise."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """What a bulk of writes did; ``duplicates`` are the places of those that a unique key refused."""

    matched: int
    modified: int
    inserted: int
    upserted: int
    deleted: int
    duplicates: frozenset[int]


class Collection:
    """One collection.

    All methods raise `StoreUnavailable` when the server does not answer or cannot do it now,
    and `AlreadyExists` when a unique key refuses what is written.
    """

    __slots__ = ("_link", "_raw", "name")

    def __init__(self, raw: AsyncIOMotorCollection[Document], link: Link) -> None:
        self._raw = raw
        self._link = link
        self.name: str = raw.name

    async def find_one(self, where: Filter, fields: Fields | None = None) -> Document | None:
        """The document that matches, with those fields only if any are named."""
        return await self._link.run(lambda: self._raw.find_one(where, fields))

    async def find(
        self, where: Filter, fields: Fields | None = None, *, sort: Sort | None = None, limit: int = 0
    ) -> list[Document]:
        """The documents that match; all of them if ``limit`` is 0."""
        return await self._link.run(
            lambda: self._raw.find(
                where, fields, sort=sort, limit=limit, batch_size=limit or _ONE_MESSAGE
            ).to_list(None)
        )

    async def scan(
        self, where: Filter, fields: Fields | None = None, *, sort: Sort | None = None, batch: int = 500
    ) -> AsyncIterator[list[Document]]:
        """The documents that match, in parts of up to ``batch``: for what may not fit into memory."""
        cursor = self._raw.find(where, fields, sort=sort, batch_size=batch)
        try:
            while part := await self._link.run(lambda: cursor.to_list(batch)):
                yield part
        finally:
            await self._link.run(cursor.close)

    async def aggregate(self, pipeline: Sequence[Filter]) -> list[Document]:
        """The results of a pipeline."""
        return await self._link.run(lambda: self._raw.aggregate(list(pipeline)).to_list(None))

    async def count(self, where: Filter, *, most: int | None = None) -> int:
        """How many documents match; with ``most``, no more are looked at."""
        bound: dict[str, Any] = {} if most is None else {"limit": most}
        return await self._link.run(lambda: self._raw.count_documents(where, **bound))

    async def insert(self, document: Document) -> None:
        """Add a document."""
        await self._link.run(lambda: self._raw.insert_one(document))

    async def insert_missing(self, documents: Sequence[Document]) -> int:
        """Add those documents whose keys are not taken; how many."""
        return (await self.bulk([InsertOne(document) for document in documents], ordered=False)).inserted

    async def put(self, document: Document) -> None:
        """Keep a document in place of the one with its ``_id``, if there is one."""
        where = {"_id": document["_id"]}
        try:
            await self.replace(where, document, upsert=True)
        except AlreadyExists:
            # Two callers who both found none: the other was first, so there is one now.
            await self.replace(where, document, upsert=True)

    async def put_all(self, documents: Sequence[Document]) -> None:
        """Keep documents in place of those with their ``_id``, in few messages."""
        left = list(documents)
        while left:
            writes = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in left]
            done = await self.bulk(writes, ordered=False)
            # Another caller added the same meanwhile: now there is one to replace.
            left = [left[place] for place in sorted(done.duplicates)]

    async def replace(self, where: Filter, document: Document, *, upsert: bool = False) -> bool:
        """Put a document in the place of the one that matches; whether one did, or was added."""
        done = await self._link.run(lambda: self._raw.replace_one(where, document, upsert=upsert))
        return done.matched_count > 0 or done.upserted_id is not None

    async def update(self, where: Filter, change: Filter, *, upsert: bool = False) -> bool:
        """Change the document that matches; whether one did, or was added."""
        done = await self._link.run(lambda: self._raw.update_one(where, change, upsert=upsert))
        return done.matched_count > 0 or done.upserted_id is not None

    async def update_many(self, where: Filter, change: Filter) -> int:
        """Change all documents that match; how many did."""
        done = await self._link.run(lambda: self._raw.update_many(where, change))
        return done.matched_count

    async def change(
        self,
        where: Filter,
        change: Filter,
        *,
        fields: Fields | None = None,
        sort: Sort | None = None,
        upsert: bool = False,
        before: bool = False,
    ) -> Document | None:
        """Change the first document that matches; as it is then (or was ``before``), None if none did."""
        side = ReturnDocument.BEFORE if before else ReturnDocument.AFTER
        return await self._link.run(
            lambda: self._raw.find_one_and_update(
                where, change, projection=fields, sort=sort, upsert=upsert, return_document=side
            )
        )

    async def delete(self, where: Filter) -> int:
        """Remove all documents that match; how many there were."""
        done = await self._link.run(lambda: self._raw.delete_many(where))
        return done.deleted_count

    async def bulk(self, writes: Sequence[Write], *, ordered: bool = True) -> Bulk:
        """Several writes in few messages.

        What a unique key refuses is told as ``duplicates``; ordered writes end there.
        """
        if not writes:
            return Bulk(0, 0, 0, 0, 0, frozenset())
        try:
            done = await self._link.run(lambda: self._bulk(writes, ordered=ordered))
        except AlreadyExists:  # the driver tells one that failed alone in its own way
            return Bulk(0, 0, 0, 0, 0, frozenset({0}))
        return _bulk_of(done)

    async def _bulk(self, writes: Sequence[Write], *, ordered: bool) -> Filter:
        try:
            return (await self._raw.bulk_write(list(writes), ordered=ordered)).bulk_api_result
        except BulkWriteError as error:
            details = error.details
            others = [e for e in details.get("writeErrors", []) if e.get("code") != DUPLICATE]
            if others:
                raise OperationFailure(
                    str(others[0].get("errmsg")), others[0].get("code"), others[0]
                ) from error
            if details.get("writeConcernErrors"):
                problem = details["writeConcernErrors"][0]
                raise WriteConcernError(str(problem.get("errmsg")), problem.get("code"), problem) from error
            return details

    async def missing_indexes(self, wanted: Sequence[IndexModel]) -> list[IndexModel]:
        """Those that are not there."""
        present = [_keys(index) for index in (await self._link.run(self._raw.index_information)).values()]
        return [index for index in wanted if _keys(index.document) not in present]

    async def ensure_indexes(self, wanted: Sequence[IndexModel]) -> None:
        """Create those that are not there, and wait until they are built."""
        for index in await self.missing_indexes(wanted):
            # One by one: FerretDB breaks off when another process has made one of several.
            await self._link.run(functools.partial(self._raw.create_indexes, [index]))


class Database:
    """A database of a server, or of several that stand for one another.

    ``listeners`` are PyMongo's, which see every command: for tests and measurements.
    """

    def __init__(self, url: str, *, listeners: Sequence[Any] = ()) -> None:
        self._url = url
        self._listeners = listeners
        self._client: AsyncIOMotorClient[Document] | None = None
        self._link: Link | None = None
        self.where = _where(url)
        self.name = DEFAULT_DATABASE

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigError: the URL is wrong, or the server refuses its name and password.
            StoreUnavailable: no server answers.
        """
        client = _client(self._url, self._listeners)
        self.name = client.get_default_database(DEFAULT_DATABASE).name
        try:
            # Authenticates; and the database of the URL is the one that the user has rights for.
            await client[self.name].command("ping")
        except PyMongoError as error:
            client.close()
            raise refusal(error, self.where) from error
        self._client = client
        self._link = Link(functools.partial(_is_there, client), where=self.where, at_once=_THREADS)

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None and self._link is not None:
            self._link.is_closed = True
            self._client.close()
        self._client = self._link = None

    def collection(self, name: str) -> Collection:
        """A collection, which need not exist yet."""
        client, link = self._parts()
        raw = client[self.name].get_collection(
            name,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", wtimeout=int(_WRITE_S * 1000), j=True),
        )
        return Collection(raw, link)

    async def collection_names(self) -> list[str]:
        """Which collections there are."""
        client, link = self._parts()
        return await link.run(client[self.name].list_collection_names)

    async def drop(self) -> None:
        """Remove the database with all that is in it."""
        client, link = self._parts()
        await link.run(lambda: client.drop_database(self.name))

    def _parts(self) -> tuple[AsyncIOMotorClient[Document], Link]:
        if self._client is None or self._link is None:
            raise StoreUnavailable("the store is not open")
        return self._client, self._link


def _is_there(client: AsyncIOMotorClient[Document]) -> bool:
    """Whether the driver's monitor knows a server that takes writes."""
    description: Any = client.topology_description  # the driver declares it as a method
    return bool(description.has_writable_server())


def _keys(index: Filter) -> list[tuple[str, Any]]:
    """The fields of an index in their order, as the server or the driver writes them."""
    key = index["key"]
    return [(str(name), kind) for name, kind in (key.items() if isinstance(key, Mapping) else key)]


def _bulk_of(result: Filter) -> Bulk:
    """What the server says of a bulk."""
    return Bulk(
        matched=result.get("nMatched", 0),
        modified=result.get("nModified", 0),
        inserted=result.get("nInserted", 0),
        upserted=result.get("nUpserted", 0),
        deleted=result.get("nRemoved", 0),
        duplicates=frozenset(error["index"] for error in result.get("writeErrors", ())),
    )


def _client(url: str, listeners: Sequence[Any]) -> AsyncIOMotorClient[Document]:
    """A client for a URL, whose own options win over ours."""
    given = {name.lower() for name, _ in parse_qsl(without_secrets(url).partition("?")[2])}
    options = {name: value for name, value in _OPTIONS.items() if name.lower() not in given}
    try:
        return AsyncIOMotorClient(url, **options, event_listeners=list(listeners))
    except (PyMongoError, ValueError, TypeError) as error:
        raise wrong_url(url, error) from None


def _where(url: str) -> str:
    """The servers' addresses, without name and password."""
    return without_secrets(url).partition("://")[2].partition("/")[0].partition("?")[0]


def without_secrets(url: str) -> str:
    """A URL without name and password, divided as the driver does it.

    Parsers of other URLs end the name and password at a ``/``, ``?`` or ``#`` in them, and
    repeat them in what they complain.
    """
    scheme, between, rest = url.partition("://")
    return scheme + between + rest.rpartition("@")[2]
