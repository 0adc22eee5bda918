"""The audit trail in MongoDB."""

from __future__ import annotations

from typing import Any

import msgspec

from iceprod import clock, ids
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.base import AuditEntry, AuditRepository
from iceprod.store.mongo.client import ASCENDING, DESCENDING, Database, Document, IndexModel

INDEXES = {
    "audit": (IndexModel([("target", ASCENDING), ("_id", DESCENDING)], name="target"),),
}


class Places:
    """Keys that order what one process writes by its arrival, and that of several by their clocks.

    Nanoseconds since the epoch, which never go back within a process, and what tells
    processes apart.
    """

    def __init__(self) -> None:
        self._last = 0
        self._process = ids.new_id()

    def next(self) -> str:
        """A key after all that were given before."""
        self._last = max(self._last + 1, int(clock.now() * 1e9))
        return f"{self._last:020d}.{self._process}"


class MongoAudit(AuditRepository):
    """``audit`` in the order of arrival."""

    def __init__(self, database: Database) -> None:
        self._audit = database.collection("audit")
        self._places = Places()

    async def add(self, entry: AuditEntry) -> None:
        """See the port."""
        await self._audit.insert(audit_document(self._places.next(), entry))

    async def select(self, target: str | None, page: Page) -> Slice[AuditEntry]:
        """See the port."""
        cursors.checked(page)
        where: dict[str, Any] = {} if target is None else {"target": target}
        if page.cursor is not None:
            (before,) = cursors.decode(page.cursor, tuple[str])
            where["_id"] = {"$lt": before}
        found = await self._audit.find(where, sort=[("_id", DESCENDING)], limit=page.limit + 1)
        items = tuple(entry_of(document) for document in found[: page.limit])
        more = len(found) > page.limit
        return Slice(items, cursors.encode(found[page.limit - 1]["_id"]) if more else None)


def audit_document(place: str, entry: AuditEntry) -> Document:
    """An entry as it is stored; its detail as JSON, for keys may be anything there."""
    return {
        "_id": place,
        "at": entry.at,
        "principal": entry.principal,
        "action": entry.action,
        "target": entry.target,
        "detail": msgspec.json.encode(entry.detail).decode(),
    }


def entry_of(document: Document) -> AuditEntry:
    """An entry from its document."""
    return AuditEntry(
        document["at"],
        document["principal"],
        document["action"],
        document["target"],
        msgspec.json.decode(document["detail"]),
    )
