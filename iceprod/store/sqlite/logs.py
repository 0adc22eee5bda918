"""Logs of tasks, the audit trail and the site's own small documents in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from iceprod.errors import NotFoundError
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.base import AuditEntry, AuditRepository, LogInfo, LogRepository, ValueRepository
from iceprod.store.sqlite.keys import LAST_KEY, Numbers
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer


class SqliteLogs(LogRepository):
    """Logs beside their tasks, by the same key."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction], numbers: Numbers) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = numbers

    def _key(self, task_id: str) -> int | None:
        return self._reader.now(lambda connection: self._numbers.task(connection, task_id))

    async def put(self, info: LogInfo, data: bytes) -> None:
        """See the port."""
        key = self._key(info.task_id)
        if key is None:
            raise NotFoundError("task", info.task_id)
        values = (key, info.attempt, info.name, info.size_bytes, info.uploaded_at, data)

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?)", values)

        await self._writer.run(operation)

    async def get(self, task_id: str, attempt: int, name: str) -> bytes | None:
        """See the port."""
        key = self._key(task_id)

        def query(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT data FROM logs WHERE key = ? AND attempt = ? AND name = ?", (key, attempt, name)
            ).fetchone()
            return None if row is None else row[0]

        return await self._reader.run(query)

    async def of_task(self, task_id: str) -> list[LogInfo]:
        """See the port."""
        key = self._key(task_id)
        sql = "SELECT attempt, name, size_bytes, uploaded_at FROM logs WHERE key = ? ORDER BY attempt, name"
        found = await self._reader.run(lambda connection: connection.execute(sql, (key,)).fetchall())
        return [LogInfo(task_id, *row) for row in found]


class SqliteAudit(AuditRepository):
    """The audit trail, in the order of its entries' arrival."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def add(self, entry: AuditEntry) -> None:
        """See the port."""
        detail = msgspec.json.encode(entry.detail).decode()
        values = (entry.at, entry.principal, entry.action, entry.target, detail)

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.execute(
                "INSERT INTO audit (at, principal, action, target, detail) VALUES (?, ?, ?, ?, ?)", values
            )

        await self._writer.run(operation)

    async def select(self, target: str | None, page: Page) -> Slice[AuditEntry]:
        """See the port."""
        cursors.checked(page)
        before = cursors.number_of(page, LAST_KEY)
        clause, values = ("", ()) if target is None else (" AND target = ?", (target,))
        sql = (
            "SELECT id, at, principal, action, target, detail FROM audit"
            f" WHERE id < ?{clause} ORDER BY id DESC LIMIT ?"
        )
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (before, *values, page.limit + 1)).fetchall()
        )
        items = tuple(_entry(row) for row in found[: page.limit])
        return Slice(items, cursors.encode(found[page.limit - 1][0]) if len(found) > page.limit else None)


def _entry(row: Sequence[Any]) -> AuditEntry:
    _, at, principal, action, target, detail = row
    return AuditEntry(at, principal, action, target, msgspec.json.decode(detail))


class SqliteValues(ValueRepository):
    """Small documents by name."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def get(self, name: str) -> str | None:
        """See the port."""
        row = self._reader.now(
            lambda connection: connection.execute("SELECT text FROM vals WHERE name = ?", (name,)).fetchone()
        )
        return None if row is None else row[0]

    async def put(self, name: str, text: str, *, fence: int = 0) -> bool:
        """See the port."""
        upsert = (
            "INSERT INTO vals (name, text, fence) VALUES (?1, ?2, ?3) ON CONFLICT (name)"
            " DO UPDATE SET text = ?2, fence = ?3 WHERE fence <= ?3"
        )

        def operation(transaction: SqliteTransaction) -> bool:
            return transaction.connection.execute(upsert, (name, text, fence)).rowcount > 0

        return await self._writer.run(operation)

    async def put_new(self, name: str, text: str) -> str:
        """See the port."""

        def operation(transaction: SqliteTransaction) -> str:
            connection = transaction.connection
            connection.execute("INSERT OR IGNORE INTO vals (name, text) VALUES (?, ?)", (name, text))
            return str(connection.execute("SELECT text FROM vals WHERE name = ?", (name,)).fetchone()[0])

        return await self._writer.run(operation)
