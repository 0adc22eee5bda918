"""The site's own small documents in MongoDB."""

from __future__ import annotations

from iceprod.errors import AlreadyExists
from iceprod.store.base import ValueRepository
from iceprod.store.mongo.client import Database


class MongoValues(ValueRepository):
    """``vals`` by name, each with the fence that it was written under."""

    def __init__(self, database: Database) -> None:
        self._values = database.collection("vals")

    async def get(self, name: str) -> str | None:
        """See the port."""
        found = await self._values.find_one({"_id": name}, ("text",))
        return None if found is None else str(found["text"])

    async def put(self, name: str, text: str, *, fence: int = 0) -> bool:
        """See the port."""
        where = {"_id": name, "fence": {"$lte": fence}}
        change = {"$set": {"text": text, "fence": fence}}
        try:
            return await self._values.update(where, change, upsert=True)
        except AlreadyExists:
            # It stands under a higher fence; or it is new, and another caller was first.
            return await self._values.update(where, change)

    async def put_new(self, name: str, text: str) -> str:
        """See the port."""
        try:
            await self._values.insert({"_id": name, "text": text, "fence": 0})
        except AlreadyExists:
            kept = await self.get(name)
            return text if kept is None else kept
        return text
