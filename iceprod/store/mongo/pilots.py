"""Pilots in MongoDB."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from iceprod import ids
from iceprod.model.paging import Page, Slice
from iceprod.model.pilot import Pilot, PilotPatch, PilotStatus
from iceprod.store import cursors
from iceprod.store.base import PilotRepository
from iceprod.store.mongo.client import ASCENDING, DESCENDING, Database, Document, IndexModel, ReplaceOne

INDEXES = {
    "pilots": (
        IndexModel([("status", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)], name="newest"),
    ),
}


class MongoPilots(PilotRepository):
    """``pilots`` by id."""

    def __init__(self, database: Database) -> None:
        self._pilots = database.collection("pilots")

    async def put(self, pilots: Sequence[Pilot]) -> None:
        """See the port."""
        await self._pilots.put_all([pilot_document(pilot) for pilot in pilots])

    async def update(self, patches: Sequence[PilotPatch]) -> list[Pilot | None]:
        """See the port."""
        own: dict[str, list[PilotPatch]] = {}
        for patch in patches:
            own.setdefault(patch.pilot_id, []).append(patch)
        # A patch that counts nothing may be applied twice, so many of those go in one bulk,
        # which tells how many found their pilot unchanged, but not which.
        counting = {name: given for name, given in own.items() if any(p.finished or p.failed for p in given)}
        plain = {name: given for name, given in own.items() if name not in counting}
        pilots = await self._patch_all(plain)
        found = await asyncio.gather(*(self._patch(name, given) for name, given in counting.items()))
        pilots.update(zip(counting, found, strict=True))
        return [pilots.get(patch.pilot_id) for patch in patches]

    async def _patch_all(self, own: Mapping[str, list[PilotPatch]]) -> dict[str, Pilot | None]:
        """Patch pilots until nobody has changed one in between."""
        pilots: dict[str, Pilot | None] = {}
        left = list(own)
        while left:
            writes = []
            for document in await self._pilots.find({"_id": {"$in": left}}):
                pilot = pilot_of(document)
                pilots[pilot.pilot_id] = changed = _patched(pilot, own[pilot.pilot_id])
                if changed != pilot:
                    writes.append(ReplaceOne(_unchanged(document), pilot_document(changed)))
            done = await self._pilots.bulk(writes, ordered=False)
            left = [] if done.matched == len(writes) else left
        return pilots

    async def _patch(self, pilot_id: str, patches: Sequence[PilotPatch]) -> Pilot | None:
        """Patch one pilot, exactly once."""
        while (document := await self._pilots.find_one({"_id": pilot_id})) is not None:
            changed = _patched(pilot_of(document), patches)
            if await self._pilots.replace(_unchanged(document), pilot_document(changed)):
                return changed
        return None

    async def get(self, pilot_id: str) -> Pilot | None:
        """See the port."""
        found = await self._pilots.find_one({"_id": pilot_id})
        return None if found is None else pilot_of(found)

    async def select(self, statuses: frozenset[PilotStatus], page: Page) -> Slice[Pilot]:
        """See the port."""
        cursors.checked(page)
        start = None if page.cursor is None else cursors.decode(page.cursor, tuple[float, str])
        # One run of the index for each status: no server has to sort all that there are.
        runs = await asyncio.gather(*(self._newest(status, start, page.limit + 1) for status in statuses))
        found = sorted((document for run in runs for document in run), key=_place, reverse=True)
        items = tuple(pilot_of(document) for document in found[: page.limit])
        following = cursors.encode(*_place(found[page.limit - 1])) if len(found) > page.limit else None
        return Slice(items, following)

    async def _newest(
        self, status: PilotStatus, start: tuple[float, str] | None, limit: int
    ) -> list[Document]:
        where: dict[str, Any] = {"status": status.value}
        if start is not None:
            created_at, pilot_id = start
            where["created_at"] = {"$lte": created_at}
            where["$or"] = [{"created_at": {"$lt": created_at}}, {"_id": {"$lt": pilot_id}}]
        order = [("created_at", DESCENDING), ("_id", DESCENDING)]
        return await self._pilots.find(where, sort=order, limit=limit)


def pilot_document(pilot: Pilot) -> Document:
    """A pilot as it is stored, under a new ``revision``."""
    document: Document = msgspec.to_builtins(pilot)
    return {"_id": document.pop("pilot_id"), "revision": ids.new_id(), **document}


def pilot_of(document: Mapping[str, Any]) -> Pilot:
    """A pilot from its document."""
    return msgspec.convert({**document, "pilot_id": document["_id"]}, Pilot)


def _patched(pilot: Pilot, patches: Sequence[PilotPatch]) -> Pilot:
    for patch in patches:
        pilot = patch.applied_to(pilot)
    return pilot


def _unchanged(document: Document) -> Document:
    """The guard: the pilot as it was read."""
    return {"_id": document["_id"], "revision": document["revision"]}


def _place(document: Document) -> tuple[float, str]:
    return document["created_at"], document["_id"]
