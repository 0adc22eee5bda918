"""Other sites in MongoDB: peers, errands and the outbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from iceprod import ids
from iceprod.errors import AlreadyExists
from iceprod.model.federation import (
    Backlog,
    DeadLetter,
    Errand,
    ErrandStatus,
    Operation,
    OperationKind,
    Original,
    Peer,
    PeerRole,
    PeerStatus,
    Queued,
)
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.federation import (
    MOST_COUNTED,
    ErrandRepository,
    OutboxRepository,
    PeerPatch,
    PeerRepository,
)
from iceprod.store.mongo.client import (
    ASCENDING,
    DESCENDING,
    Database,
    Document,
    IndexModel,
    InsertOne,
    UpdateOne,
)
from iceprod.store.mongo.context import Context, begun, together
from iceprod.store.mongo.documents import LAST_KEY

_UP: Final = ASCENDING

INDEXES = {
    "errands": (
        IndexModel([("parent", _UP), ("lease_id", _UP)], name="lease"),
        IndexModel([("parent", _UP), ("status", _UP), ("_id", _UP)], name="status"),
        IndexModel([("ended_at", _UP)], name="ended", sparse=True),
    ),
    "outbox": (
        IndexModel([("peer", _UP), ("dead", _UP), ("number", _UP)], name="peer"),
        IndexModel([("dead", _UP), ("number", _UP)], name="dead"),
    ),
}
OUTBOX: Final = "outbox"
"""The collection, and the sequence that numbers what is in it."""

NUMBERED: Final[Document] = {"dead": {"$in": [False, True]}}
"""The condition that all of the outbox meets, in two runs of an index that are ordered by number."""

_OPEN: Final = ErrandStatus.OPEN.value
_ERRAND_FIELDS: Final = ("parent", "parent_task_id", "lease_id", "token", "taken_at")
_OPERATION_FIELDS: Final = ("operation_id", "peer", "task_id", "lease_id", "at")


class MongoPeers(PeerRepository):
    """``peers`` by role and name."""

    def __init__(self, database: Database) -> None:
        self._peers = database.collection("peers")

    async def put(self, peer: Peer) -> None:
        """See the port."""
        await self._peers.put(peer_document(peer))

    async def update(
        self, role: PeerRole, name: str, patch: PeerPatch, *, expected: PeerStatus | None = None
    ) -> Peer | None:
        """See the port."""
        where = {"_id": peer_key(role, name)}
        if expected is not None:
            where["status"] = expected.value
        changes = patch.changes()
        # No server takes a change of nothing.
        found = await (
            self._peers.change(where, {"$set": changes}) if changes else self._peers.find_one(where)
        )
        return None if found is None else peer_of(found)

    async def get(self, role: PeerRole, name: str) -> Peer | None:
        """See the port."""
        found = await self._peers.find_one({"_id": peer_key(role, name)})
        return None if found is None else peer_of(found)

    async def all(self) -> list[Peer]:
        """See the port."""
        found = await self._peers.find({"_id": {"$gt": ""}}, sort=[("_id", ASCENDING)])
        return list(map(peer_of, found))

    async def drop(self, role: PeerRole, name: str) -> bool:
        """See the port."""
        return await self._peers.delete({"_id": peer_key(role, name)}) > 0


class MongoErrands(ErrandRepository):
    """``errands`` by the task that stands for them."""

    def __init__(self, context: Context) -> None:
        self._errands = context.errands

    async def add(self, errands: Sequence[Errand]) -> None:
        """See the port."""
        await self._errands.insert_missing([errand_document(errand) for errand in errands])

    async def of_tasks(self, task_ids: Sequence[str]) -> dict[str, Errand]:
        """See the port."""
        found = await self._all({"_id": {"$in": sorted(set(task_ids))}}) if task_ids else []
        return {errand.task_id: errand for errand in found}

    async def of_leases(self, parent: str, lease_ids: Sequence[str]) -> dict[str, Errand]:
        """See the port."""
        where = {"parent": parent, "lease_id": {"$in": sorted(set(lease_ids))}}
        return {errand.lease_id: errand for errand in (await self._all(where) if lease_ids else [])}

    async def open(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        """See the port."""
        return await self._standing(ErrandStatus.OPEN, parent, after, limit)

    async def ended(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        """See the port."""
        return await self._standing(ErrandStatus.ENDED, parent, after, limit)

    async def _standing(
        self, status: ErrandStatus, parent: str, after: str | None, limit: int
    ) -> list[Errand]:
        where = {"parent": parent, "status": status.value, "_id": {"$gt": after or ""}}
        found = await self._errands.find(where, sort=[("_id", ASCENDING)], limit=limit)
        return list(map(errand_of, found))

    async def reopen(self, task_ids: Sequence[str]) -> None:
        """See the port."""
        change = {"$set": {"status": _OPEN}, "$unset": {"ended_at": "", "closed_by": ""}}
        ended = ErrandStatus.ENDED.value
        if task_ids:
            writes = [UpdateOne({"_id": task_id, "status": ended}, change) for task_id in task_ids]
            await self._errands.bulk(writes, ordered=False)

    async def end(self, task_ids: Sequence[str], status: ErrandStatus, *, now: float) -> list[bool]:
        """See the port."""
        closed = await self._close(list(dict.fromkeys(task_ids)), status, now=now)
        found = []
        for task_id in task_ids:
            found.append(task_id in closed)
            closed.discard(task_id)  # one that is named twice is closed once
        return found

    async def counts(self, parent: str) -> dict[ErrandStatus, int]:
        """See the port."""
        group = {"$group": {"_id": "$status", "sum": {"$sum": 1}}}
        found = await self._errands.aggregate([{"$match": {"parent": parent}}, group])
        return {ErrandStatus(one["_id"]): int(one["sum"]) for one in found}

    async def closed(self, before: float, limit: int) -> list[Errand]:
        """See the port."""
        where = {"ended_at": {"$lt": before}}
        found = await self._errands.find(where, sort=[("ended_at", ASCENDING)], limit=limit)
        return list(map(errand_of, found))

    async def forget(self, task_ids: Sequence[str]) -> int:
        """See the port."""
        where = {"_id": {"$in": sorted(set(task_ids))}, "status": {"$ne": _OPEN}}
        return await self._errands.delete(where) if task_ids else 0

    async def _all(self, where: Document) -> list[Errand]:
        return list(map(errand_of, await self._errands.find(where)))

    async def _close(self, task_ids: Sequence[str], status: ErrandStatus, *, now: float) -> set[str]:
        """Which of these were open and have been closed here.

        The server tells how many; if that is neither all nor none, a mark in the documents
        tells which.
        """
        mark = ids.new_id()
        change = {"$set": {"status": status.value, "ended_at": now, "closed_by": mark}}
        writes = [UpdateOne({"_id": task_id, "status": _OPEN}, change) for task_id in task_ids]
        done = await self._errands.bulk(writes, ordered=False)
        if done.matched in (0, len(task_ids)):
            return set(task_ids) if done.matched else set()
        with begun():
            found = await self._errands.find({"_id": {"$in": list(task_ids)}}, ("closed_by",))
        return {one["_id"] for one in found if one.get("closed_by") == mark}


class MongoOutbox(OutboxRepository):
    """``outbox`` by peer and operation, numbered from one sequence.

    A call takes its numbers first and writes then.  So what it queues comes behind all that was
    queued by calls that had returned before; two that run at the same time may show up the
    other way round.
    """

    def __init__(self, context: Context) -> None:
        self._outbox = context.outbox
        self._sequences = context.sequences

    async def add(self, operations: Sequence[Operation]) -> None:
        """See the port."""
        left = list({operation_key(one): one for one in reversed(operations)}.values())[::-1]
        if not left:
            return
        last = await self._take_numbers(len(left))
        numbered = zip(range(last - len(left) + 1, last + 1), left, strict=True)
        documents = [operation_document(number, operation) for number, operation in numbered]
        with begun():
            await self._insert(documents)

    async def next(self, peer: str, after: int, limit: int) -> list[Queued]:
        """See the port."""
        where = {"peer": peer, "dead": False, "number": {"$gt": after}}
        found = await self._outbox.find(where, sort=[("number", ASCENDING)], limit=limit)
        return [Queued(int(one["number"]), operation_of(one)) for one in found]

    async def done(self, peer: str, numbers: Sequence[int]) -> None:
        """See the port."""
        if numbers:
            await self._outbox.delete({"peer": peer, "dead": False, "number": {"$in": list(numbers)}})

    async def bury(self, peer: str, number: int, reason: str, *, now: float) -> bool:
        """See the port."""
        change = {"$set": {"dead": True, "reason": reason, "buried_at": now}}
        return await self._outbox.update({"peer": peer, "dead": False, "number": number}, change)

    async def dead(self, peer: str | None, page: Page) -> Slice[DeadLetter]:
        """See the port."""
        cursors.checked(page)
        where: dict[str, Any] = {} if peer is None else {"peer": peer}
        where |= {"dead": True, "number": {"$lt": cursors.number_of(page, LAST_KEY)}}
        found = await self._outbox.find(where, sort=[("number", DESCENDING)], limit=page.limit + 1)
        items = tuple(map(letter_of, found[: page.limit]))
        return Slice(items, cursors.encode(items[-1].number) if len(found) > page.limit else None)

    async def revive(self, number: int) -> bool:
        """See the port."""
        where = {"dead": True, "number": number}
        if await self._outbox.find_one(where, ("_id",)) is None:
            return False
        change = {
            "$set": {"dead": False, "number": await self._take_numbers(1)},
            "$unset": {"reason": "", "buried_at": ""},
        }
        return await self._outbox.update(where, change)

    async def discard(self, number: int) -> bool:
        """See the port."""
        return await self._outbox.delete({"dead": True, "number": number}) > 0

    async def backlog(self, peer: str) -> Backlog:
        """See the port."""
        waiting, dead = {"peer": peer, "dead": False}, {"peer": peer, "dead": True}
        number, buried, first = await together(
            self._outbox.count(waiting, most=MOST_COUNTED),
            self._outbox.count(dead, most=MOST_COUNTED),
            self._outbox.find(waiting, ("at",), sort=[("number", ASCENDING)], limit=1),
        )
        return Backlog(number, buried, first[0]["at"] if first else None)

    async def _take_numbers(self, number: int) -> int:
        """Numbers that nobody else gets; the last of them."""
        where, change = {"_id": OUTBOX}, {"$inc": {"number": number}}
        try:
            found = await self._sequences.change(where, change, upsert=True)
        except AlreadyExists:  # two callers who both found none: the other was first
            found = await self._sequences.change(where, change)
        if found is None:
            raise LookupError("the sequence of the outbox gave no number")
        return int(found["number"])

    async def _insert(self, documents: Sequence[Document]) -> None:
        """Insert those that are not there, in order, so that none is there without those before it."""
        left = list(documents)
        while left:
            done = await self._outbox.bulk([InsertOne(document) for document in left])
            if not done.duplicates:
                return
            left = left[min(done.duplicates) + 1 :]
            keys = [document["_id"] for document in left]
            taken = {one["_id"] for one in await self._outbox.find({"_id": {"$in": keys}}, ("_id",))}
            left = [document for document in left if document["_id"] not in taken]


async def fill_sequence(context: Context) -> None:
    """Let numbers go on after the highest in the outbox."""
    last = await context.outbox.find(NUMBERED, ("number",), sort=[("number", DESCENDING)], limit=1)
    await context.sequences.put({"_id": OUTBOX, "number": int(last[0]["number"]) if last else 0})


def peer_document(peer: Peer) -> Document:
    """A peer as it is stored."""
    document: Document = msgspec.to_builtins(peer)
    return {"_id": peer_key(peer.role, peer.name), **document}


def peer_of(document: Mapping[str, Any]) -> Peer:
    """A peer from its document."""
    return msgspec.convert(document, Peer)


def peer_key(role: PeerRole, name: str) -> str:
    """The key of a peer's document, by which role and name are in order."""
    return f"{role.value}:{name}"


def errand_document(errand: Errand) -> Document:
    """An errand as it is stored; only one that is closed has ``ended_at``, which an index finds."""
    document: Document = {
        "_id": errand.task_id,
        **{name: getattr(errand, name) for name in _ERRAND_FIELDS},
        "original": _text(errand.original),
        "status": errand.status.value,
    }
    return document if errand.status is ErrandStatus.OPEN else {**document, "ended_at": errand.ended_at}


def errand_of(document: Mapping[str, Any]) -> Errand:
    """An errand from its document."""
    return Errand(
        task_id=document["_id"],
        **{name: document[name] for name in _ERRAND_FIELDS},
        original=msgspec.json.decode(document["original"], type=Original),
        status=ErrandStatus(document["status"]),
        ended_at=document.get("ended_at", 0.0),
    )


def operation_key(operation: Operation) -> str:
    """The key of an operation's document."""
    return f"{operation.peer}:{operation.operation_id}"


def operation_document(number: int, operation: Operation) -> Document:
    """An operation as it waits; what is said is kept as JSON, for its names may be anything."""
    return {
        "_id": operation_key(operation),
        "number": number,
        "dead": False,
        "kind": operation.kind.value,
        **{name: getattr(operation, name) for name in _OPERATION_FIELDS},
        "body": _text(operation.body),
    }


def letter_document(letter: DeadLetter) -> Document:
    """A dead letter as it is stored."""
    document = operation_document(letter.number, letter.operation)
    return {**document, "dead": True, "reason": letter.reason, "buried_at": letter.at}


def operation_of(document: Mapping[str, Any]) -> Operation:
    """An operation from its document, or from that of a dead letter."""
    return Operation(
        **{name: document[name] for name in _OPERATION_FIELDS},
        kind=OperationKind(document["kind"]),
        body=msgspec.json.decode(document["body"]),
    )


def letter_of(document: Mapping[str, Any]) -> DeadLetter:
    """A dead letter from its document."""
    return DeadLetter(
        int(document["number"]), operation_of(document), document["reason"], document["buried_at"]
    )


def _text(given: Any) -> str:
    return msgspec.json.encode(given).decode()
