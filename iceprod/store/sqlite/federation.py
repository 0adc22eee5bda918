"""Other sites in SQLite: peers, errands and the outbox."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

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
from iceprod.store.sqlite.keys import LAST_KEY
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

PUT_PEER: Final = "INSERT OR REPLACE INTO peers (role, name, body) VALUES (?, ?, ?)"
ERRAND_COLUMNS: Final = (
    "task_id, parent, parent_task_id, lease_id, token, original, taken_at, status, ended_at"
)
LETTER_COLUMNS: Final = "number, peer, operation_id, kind, task_id, lease_id, at, body, reason, buried_at"
OPERATION_COLUMNS: Final = "peer, operation_id, kind, task_id, lease_id, at, body"
_FEW: Final = 64  # rows by key that the loop may read itself

_ADD_ERRAND: Final = (
    f"INSERT INTO errands ({ERRAND_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id) DO NOTHING"
)
_ERRANDS: Final = f"SELECT {ERRAND_COLUMNS} FROM errands"
_END: Final = "UPDATE errands SET status = ?, ended_at = ? WHERE task_id = ? AND status = 'open'"
_REOPEN: Final = "UPDATE errands SET status = 'open', ended_at = 0 WHERE task_id = ? AND status = 'ended'"
_CLOSED: Final = f"{_ERRANDS} WHERE status != 'open' AND ended_at < ? ORDER BY ended_at LIMIT ?"
_FORGET: Final = "DELETE FROM errands WHERE status != 'open' AND task_id IN (SELECT value FROM json_each(?))"
_ADD_OPERATION: Final = (
    f"INSERT INTO outbox ({OPERATION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (peer, operation_id) DO NOTHING"
)
_BURY: Final = "UPDATE outbox SET reason = ?, buried_at = ? WHERE number = ? AND peer = ? AND reason IS NULL"
_LETTER: Final = f"SELECT {OPERATION_COLUMNS} FROM outbox WHERE number = ? AND reason IS NOT NULL"
_DISCARD: Final = "DELETE FROM outbox WHERE number = ? AND reason IS NOT NULL"
_BACKLOG: Final = (
    "SELECT"
    " (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE peer = :peer AND reason IS NULL LIMIT :most)),"
    " (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE peer = :peer AND reason IS NOT NULL LIMIT :most)),"
    " (SELECT at FROM outbox WHERE peer = :peer AND reason IS NULL ORDER BY number LIMIT 1)"
)


class SqlitePeers(PeerRepository):
    """A peer is a JSON document by role and name."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, peer: Peer) -> None:
        """See the port."""
        values = peer_row(peer)
        await self._writer.run(lambda transaction: transaction.connection.execute(PUT_PEER, values) and None)

    async def update(
        self, role: PeerRole, name: str, patch: PeerPatch, *, expected: PeerStatus | None = None
    ) -> Peer | None:
        """See the port."""

        def operation(transaction: SqliteTransaction) -> Peer | None:
            former = _peer(transaction.connection, role, name)
            if former is None or former.status is not (expected or former.status):
                return None
            changed = replace(former, **patch.changes())
            transaction.connection.execute(PUT_PEER, peer_row(changed))
            return changed

        return await self._writer.run(operation)

    async def get(self, role: PeerRole, name: str) -> Peer | None:
        """See the port."""
        return self._reader.now(lambda connection: _peer(connection, role, name))

    async def all(self) -> list[Peer]:
        """See the port."""
        sql = "SELECT body FROM peers ORDER BY role, name"
        found = self._reader.now(lambda connection: connection.execute(sql).fetchall())
        return [read_peer(body) for (body,) in found]

    async def drop(self, role: PeerRole, name: str) -> bool:
        """See the port."""
        sql = "DELETE FROM peers WHERE role = ? AND name = ?"
        return await self._writer.run(
            lambda transaction: transaction.connection.execute(sql, (role, name)).rowcount > 0
        )


class SqliteErrands(ErrandRepository):
    """A row for each task of another site."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def add(self, errands: Sequence[Errand]) -> None:
        """See the port."""
        values = [errand_row(errand) for errand in errands]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany(_ADD_ERRAND, values)

        await self._writer.run(operation)

    async def of_tasks(self, task_ids: Sequence[str]) -> dict[str, Errand]:
        """See the port."""
        found = await self._named("task_id IN (SELECT value FROM json_each(?))", (), task_ids)
        return {errand.task_id: errand for errand in found}

    async def of_leases(self, parent: str, lease_ids: Sequence[str]) -> dict[str, Errand]:
        """See the port."""
        where = "parent = ? AND lease_id IN (SELECT value FROM json_each(?))"
        return {errand.lease_id: errand for errand in await self._named(where, (parent,), lease_ids)}

    async def open(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        """See the port."""
        return await self._standing(ErrandStatus.OPEN, parent, after, limit)

    async def ended(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        """See the port."""
        return await self._standing(ErrandStatus.ENDED, parent, after, limit)

    async def _standing(
        self, status: ErrandStatus, parent: str, after: str | None, limit: int
    ) -> list[Errand]:
        sql = f"{_ERRANDS} WHERE parent = ? AND status = ? AND task_id > ? ORDER BY task_id LIMIT ?"
        values = (parent, status, after or "", limit)
        found = await self._reader.run(lambda connection: connection.execute(sql, values).fetchall())
        return list(map(read_errand, found))

    async def reopen(self, task_ids: Sequence[str]) -> None:
        """See the port."""
        values = [(task_id,) for task_id in task_ids]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany(_REOPEN, values)

        await self._writer.run(operation)

    async def end(self, task_ids: Sequence[str], status: ErrandStatus, *, now: float) -> list[bool]:
        """See the port."""
        values = [(status, now, task_id) for task_id in task_ids]

        def operation(transaction: SqliteTransaction) -> list[bool]:
            return [transaction.connection.execute(_END, row).rowcount > 0 for row in values]

        return await self._writer.run(operation)

    async def counts(self, parent: str) -> dict[ErrandStatus, int]:
        """See the port."""
        sql = "SELECT status, count(*) FROM errands WHERE parent = ? GROUP BY status"
        found = await self._reader.run(lambda connection: connection.execute(sql, (parent,)).fetchall())
        return {ErrandStatus(status): number for status, number in found}

    async def closed(self, before: float, limit: int) -> list[Errand]:
        """See the port."""
        found = await self._reader.run(
            lambda connection: connection.execute(_CLOSED, (before, limit)).fetchall()
        )
        return list(map(read_errand, found))

    async def forget(self, task_ids: Sequence[str]) -> int:
        """See the port."""
        listed = (_text(list(task_ids)),)
        return await self._writer.run(
            lambda transaction: transaction.connection.execute(_FORGET, listed).rowcount
        )

    async def _named(self, where: str, values: tuple[str, ...], names: Sequence[str]) -> list[Errand]:
        """Errands by a list of names, which is the last value of ``where``; a short one is read at once."""
        if not names:
            return []
        sql, listed = f"{_ERRANDS} WHERE {where}", _text(names)

        def query(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(sql, (*values, listed)).fetchall()

        found = self._reader.now(query) if len(names) <= _FEW else await self._reader.run(query)
        return list(map(read_errand, found))


class SqliteOutbox(OutboxRepository):
    """A row for each operation, numbered in the order of the commits."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def add(self, operations: Sequence[Operation]) -> None:
        """See the port."""
        values = [operation_row(one) for one in operations]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany(_ADD_OPERATION, values)

        await self._writer.run(operation)

    async def next(self, peer: str, after: int, limit: int) -> list[Queued]:
        """See the port."""
        sql = (
            f"SELECT {LETTER_COLUMNS} FROM outbox WHERE peer = ? AND reason IS NULL AND number > ?"
            " ORDER BY number LIMIT ?"
        )
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (peer, after, limit)).fetchall()
        )
        return [Queued(row[0], read_operation(row[1:])) for row in found]

    async def done(self, peer: str, numbers: Sequence[int]) -> None:
        """See the port."""
        sql = "DELETE FROM outbox WHERE number = ? AND peer = ? AND reason IS NULL"
        values = [(number, peer) for number in numbers]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany(sql, values)

        await self._writer.run(operation)

    async def bury(self, peer: str, number: int, reason: str, *, now: float) -> bool:
        """See the port."""
        values = (reason, now, number, peer)
        return await self._writer.run(
            lambda transaction: transaction.connection.execute(_BURY, values).rowcount > 0
        )

    async def dead(self, peer: str | None, page: Page) -> Slice[DeadLetter]:
        """See the port."""
        cursors.checked(page)
        where, values = ("", ()) if peer is None else (" AND peer = ?", (peer,))
        sql = (
            f"SELECT {LETTER_COLUMNS} FROM outbox WHERE reason IS NOT NULL AND number < ?{where}"
            " ORDER BY number DESC LIMIT ?"
        )
        bounds = (cursors.number_of(page, LAST_KEY), *values, page.limit + 1)
        found = await self._reader.run(lambda connection: connection.execute(sql, bounds).fetchall())
        items = tuple(
            DeadLetter(row[0], read_operation(row[1:]), row[8], row[9]) for row in found[: page.limit]
        )
        return Slice(items, cursors.encode(items[-1].number) if len(found) > page.limit else None)

    async def revive(self, number: int) -> bool:
        """See the port."""

        def operation(transaction: SqliteTransaction) -> bool:
            row = transaction.connection.execute(_LETTER, (number,)).fetchone()
            if row is None:
                return False
            transaction.connection.execute(_DISCARD, (number,))
            transaction.connection.execute(_ADD_OPERATION, row)
            return True

        return await self._writer.run(operation)

    async def discard(self, number: int) -> bool:
        """See the port."""
        return await self._writer.run(
            lambda transaction: transaction.connection.execute(_DISCARD, (number,)).rowcount > 0
        )

    async def backlog(self, peer: str) -> Backlog:
        """See the port."""
        found = await self._reader.run(
            lambda connection: connection.execute(_BACKLOG, {"peer": peer, "most": MOST_COUNTED}).fetchone()
        )
        return Backlog(*found)


def _peer(connection: sqlite3.Connection, role: PeerRole, name: str) -> Peer | None:
    sql = "SELECT body FROM peers WHERE role = ? AND name = ?"
    row = connection.execute(sql, (role, name)).fetchone()
    return None if row is None else read_peer(row[0])


def peer_row(peer: Peer) -> tuple[str, str, str]:
    """The columns of a peer."""
    return peer.role, peer.name, _text(peer)


def read_peer(body: str) -> Peer:
    """A peer from its document."""
    return msgspec.json.decode(body, type=Peer)


def errand_row(errand: Errand) -> tuple[Any, ...]:
    """The ``ERRAND_COLUMNS`` of an errand."""
    return (
        errand.task_id,
        errand.parent,
        errand.parent_task_id,
        errand.lease_id,
        errand.token,
        _text(errand.original),
        errand.taken_at,
        errand.status,
        errand.ended_at,
    )


def read_errand(row: Sequence[Any]) -> Errand:
    """An errand from its ``ERRAND_COLUMNS``."""
    task_id, parent, parent_task_id, lease_id, token, original, taken_at, status, ended_at = row
    return Errand(
        task_id,
        parent,
        parent_task_id,
        lease_id,
        token,
        msgspec.json.decode(original, type=Original),
        taken_at,
        ErrandStatus(status),
        ended_at,
    )


def operation_row(operation: Operation) -> tuple[Any, ...]:
    """The ``OPERATION_COLUMNS`` of an operation."""
    return (
        operation.peer,
        operation.operation_id,
        operation.kind,
        operation.task_id,
        operation.lease_id,
        operation.at,
        _text(operation.body),
    )


def read_operation(row: Sequence[Any]) -> Operation:
    """An operation from its ``OPERATION_COLUMNS``, which others may follow."""
    peer, operation_id, kind, task_id, lease_id, at, body = row[:7]
    decoded: Mapping[str, Any] = msgspec.json.decode(body)
    return Operation(operation_id, peer, OperationKind(kind), task_id, lease_id, at, decoded)


def _text(given: Any) -> str:
    return msgspec.json.encode(given).decode()
