"""What was moved for whom, and how much may be kept, in MongoDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iceprod.model.file import Quota, Usage
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.files import UsageFilter, UsageRepository
from iceprod.store.holdings import days, usage_of, usage_place
from iceprod.store.mongo.client import ASCENDING, DESCENDING, Database, Document, IndexModel, UpdateOne

INDEXES = {
    "usage": (
        IndexModel([("user", ASCENDING), ("_id", DESCENDING)], name="user"),
        IndexModel([("dataset_id", ASCENDING), ("_id", DESCENDING)], name="dataset"),
    ),
    "quotas": (IndexModel([("kind", ASCENDING), ("holder", ASCENDING)], name="holder"),),
}


class MongoUsage(UsageRepository):
    """``usage``, a document for each day and flow; ``quotas`` beside them."""

    def __init__(self, database: Database) -> None:
        self._usage = database.collection("usage")
        self._quotas = database.collection("quotas")

    async def add(self, usage: Sequence[Usage]) -> None:
        """See the port."""
        left = [_addition(one) for one in usage]
        while left:
            done = await self._usage.bulk(left, ordered=False)
            # Another caller added the same meanwhile: now there is one to add to.
            left = [left[place] for place in sorted(done.duplicates)]

    async def select(self, wanted: UsageFilter, page: Page) -> Slice[Usage]:
        """See the port."""
        cursors.checked(page)
        first, end = days(wanted.since, wanted.until)
        if page.cursor is not None:
            end = min(end, *cursors.decode(page.cursor, tuple[str]))
        asked = {"user": wanted.user, "dataset_id": wanted.dataset_id}
        where: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
        where["_id"] = {"$gte": first, "$lt": end}
        found = await self._usage.find(where, sort=[("_id", DESCENDING)], limit=page.limit + 1)
        items = tuple(used(document) for document in found[: page.limit])
        more = len(found) > page.limit
        return Slice(items, cursors.encode(found[page.limit - 1]["_id"]) if more else None)

    async def quotas(self) -> list[Quota]:
        """See the port."""
        order = [("kind", ASCENDING), ("holder", ASCENDING)]
        return [
            quota_of(document) for document in await self._quotas.find({"kind": {"$gte": ""}}, sort=order)
        ]

    async def set_quota(self, quota: Quota) -> None:
        """See the port."""
        document = quota_document(quota)
        if quota.bytes_most is None and quota.files_most is None:
            await self._quotas.delete({"_id": document["_id"]})
        else:
            await self._quotas.put(document)


def _addition(usage: Usage) -> UpdateOne:
    document = usage_document(usage)
    added = {"bytes": document.pop("bytes"), "transfers": document.pop("transfers")}
    where = {"_id": document.pop("_id")}
    return UpdateOne(where, {"$inc": added, "$set": document}, upsert=True)


def usage_document(usage: Usage) -> Document:
    """A day's use as it is stored."""
    return {
        "_id": usage_place(usage),
        "user": usage.flow.user,
        "dataset_id": usage.flow.dataset_id,
        "bytes": usage.bytes_moved,
        "transfers": usage.transfers,
    }


def used(document: Document) -> Usage:
    """A day's use from its document."""
    return usage_of(document["_id"], document["bytes"], document["transfers"])


def quota_document(quota: Quota) -> Document:
    """A limit as it is stored."""
    return {
        "_id": f"{quota.kind}:{quota.holder}",
        "kind": quota.kind,
        "holder": quota.holder,
        "bytes_most": quota.bytes_most,
        "files_most": quota.files_most,
    }


def quota_of(document: Document) -> Quota:
    """A limit from its document."""
    return Quota(
        document["kind"],
        document["holder"],
        _whole(document["bytes_most"]),
        _whole(document["files_most"]),
    )


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
