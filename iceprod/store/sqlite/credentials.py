"""Secrets for origins in SQLite; they come and go encrypted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from iceprod.model.file import OriginCredential
from iceprod.store.files import CredentialRepository
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

SEALED_COLUMNS: Final = "origin, user, kind, sealed, created_at, expires_at, note"
PUT_SEALED: Final = f"INSERT OR REPLACE INTO credentials ({SEALED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_SELECT: Final = f"SELECT {SEALED_COLUMNS} FROM credentials"


class SqliteCredentials(CredentialRepository):
    """A row for each user and origin."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, credential: OriginCredential) -> None:
        """See the port."""
        values = sealed_row(credential)
        await self._writer.run(
            lambda transaction: transaction.connection.execute(PUT_SEALED, values) and None
        )

    async def get(self, origin: str, user: str) -> OriginCredential | None:
        """See the port."""
        sql = f"{_SELECT} WHERE user = ? AND origin = ?"
        row = self._reader.now(lambda connection: connection.execute(sql, (user, origin)).fetchone())
        return None if row is None else OriginCredential(*row)

    async def of_user(self, user: str) -> list[OriginCredential]:
        """See the port."""
        return await self._all(f"{_SELECT} WHERE user = ? ORDER BY origin", (user,))

    async def expiring(self, before: float, limit: int) -> list[OriginCredential]:
        """See the port."""
        return await self._all(f"{_SELECT} WHERE expires_at < ? ORDER BY expires_at LIMIT ?", (before, limit))

    async def delete(self, origin: str, user: str) -> bool:
        """See the port."""
        sql = "DELETE FROM credentials WHERE user = ? AND origin = ?"
        return await self._writer.run(
            lambda transaction: transaction.connection.execute(sql, (user, origin)).rowcount > 0
        )

    async def _all(self, sql: str, values: Sequence[Any]) -> list[OriginCredential]:
        found = await self._reader.run(lambda connection: connection.execute(sql, values).fetchall())
        return [OriginCredential(*row) for row in found]


def sealed_row(credential: OriginCredential) -> tuple[Any, ...]:
    """The ``SEALED_COLUMNS`` of a secret."""
    return (
        credential.origin,
        credential.user,
        credential.kind,
        credential.sealed,
        credential.created_at,
        credential.expires_at,
        credential.note,
    )
