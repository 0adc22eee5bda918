"""Duties that one process has, and news of one another, in MongoDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from iceprod.errors import AlreadyExists
from iceprod.store.base import Hold, Message, Sharing
from iceprod.store.mongo.client import ASCENDING, Database, Document, InsertOne

_KEPT: Final = 2000
"""How many messages of a sender stay; the port promises a thousand."""
_PRUNED_EVERY: Final = 250


class MongoSharing(Sharing):
    """``duties`` by name; ``news`` by sender and number, and the number of the newest in ``heads``.

    Messages are written before the head tells of them: whoever reads up to the head finds
    no gap.  Who has read it all asks for the heads only, one small document for each process.
    """

    def __init__(self, database: Database) -> None:
        self._duties = database.collection("duties")
        self._news = database.collection("news")
        self._heads = database.collection("heads")
        self._pruned: dict[str, int] = {}

    async def hold(self, name: str) -> Hold | None:
        """See the port."""
        found = await self._duties.find_one({"_id": name})
        return None if found is None else _hold(found)

    async def take(self, name: str, holder: str, *, expected: Hold | None) -> Hold | None:
        """See the port."""
        if expected is None:
            first = {"_id": name, "holder": holder, "fence": 1, "beat": 1}
            try:
                await self._duties.insert(first)
            except AlreadyExists:
                return None
            return _hold(first)
        found = await self._duties.change(
            {**_held(expected), "beat": expected.beat},
            {"$set": {"holder": holder}, "$inc": {"fence": 1, "beat": 1}},
        )
        return None if found is None else _hold(found)

    async def beat(self, hold: Hold) -> Hold | None:
        """See the port."""
        found = await self._duties.change(_held(hold), {"$inc": {"beat": 1}})
        return None if found is None else _hold(found)

    async def release(self, hold: Hold) -> None:
        """See the port."""
        await self._duties.update(_held(hold), {"$set": {"holder": ""}, "$inc": {"beat": 1}})

    async def publish(self, messages: Sequence[Message]) -> None:
        """See the port."""
        if not messages:
            return
        sender, number = messages[-1].sender, messages[-1].number
        # Called again after an error it finds some of them there, the very same.
        await self._news.bulk([InsertOne(_document(message)) for message in messages], ordered=False)
        change = {"$max": {"number": number}}
        try:
            await self._heads.update({"_id": sender}, change, upsert=True)
        except AlreadyExists:
            await self._heads.update({"_id": sender}, change)
        await self._prune(sender, number - _KEPT)

    async def heads(self) -> dict[str, int]:
        """See the port."""
        return {head["_id"]: int(head["number"]) for head in await self._heads.find({})}

    async def since(self, seen: Mapping[str, int], limit: int) -> list[Message]:
        """See the port."""
        heads = await self.heads()
        fresh = [
            {"_id": {"$gt": _key(sender, seen.get(sender, 0)), "$lte": _key(sender, head)}}
            for sender, head in heads.items()
            if head > seen.get(sender, 0)
        ]
        if not fresh:
            return []
        where: dict[str, Any] = {"$or": fresh} if len(fresh) > 1 else fresh[0]
        found = await self._news.find(where, sort=[("_id", ASCENDING)], limit=limit)
        return [Message(d["sender"], int(d["number"]), bytes(d["body"])) for d in found]

    async def forget(self, senders: Sequence[str]) -> None:
        """See the port."""
        await self._heads.delete({"_id": {"$in": list(senders)}})
        for sender in senders:
            await self._news.delete({"_id": {"$gte": _key(sender, 0), "$lte": _key(sender, _LAST)}})
            self._pruned.pop(sender, None)

    async def _prune(self, sender: str, last: int) -> None:
        """Drop the sender's messages up to ``last``, now and then."""
        if last - self._pruned.get(sender, 0) >= _PRUNED_EVERY:
            await self._news.delete({"_id": {"$gte": _key(sender, 0), "$lte": _key(sender, last)}})
            self._pruned[sender] = last


_DIGITS: Final = 15
_LAST: Final = 10**_DIGITS - 1


def _key(sender: str, number: int) -> str:
    """Orders the messages of a sender by number."""
    return f"{sender}:{number:0{_DIGITS}d}"


def _document(message: Message) -> Document:
    return {
        "_id": _key(message.sender, message.number),
        "sender": message.sender,
        "number": message.number,
        "body": message.body,
    }


def _held(hold: Hold) -> Document:
    """The guard: a fence has one holder, who may have given it up."""
    return {"_id": hold.name, "holder": hold.holder, "fence": hold.fence}


def _hold(document: Document) -> Hold:
    return Hold(document["_id"], document["holder"], int(document["fence"]), int(document["beat"]))
