"""Users and credentials in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from iceprod.model.paging import Page, Slice
from iceprod.model.principal import PrincipalKind
from iceprod.model.user import Token, User
from iceprod.store import cursors
from iceprod.store.base import AccountRepository
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

CREDENTIAL_COLUMNS = "digest, kind, subject, created_at, expires_at, label, session, certificate"
_TOKEN = f"SELECT {CREDENTIAL_COLUMNS} FROM tokens"


class SqliteAccounts(AccountRepository):
    """Users as JSON documents by name, credentials by digest."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def _changed(self, sql: str, values: Sequence[Any]) -> int:
        """How many rows a statement changed."""
        return await self._writer.run(
            lambda transaction: transaction.connection.execute(sql, values).rowcount
        )

    async def add_user(self, user: User) -> bool:
        """See the port."""
        return bool(
            await self._changed("INSERT OR IGNORE INTO users VALUES (?, ?)", (user.name, _text(user)))
        )

    async def put_user(self, user: User) -> bool:
        """See the port."""
        return bool(await self._changed("UPDATE users SET body = ? WHERE name = ?", (_text(user), user.name)))

    async def user(self, name: str) -> User | None:
        """See the port."""
        row = self._reader.now(
            lambda connection: connection.execute("SELECT body FROM users WHERE name = ?", (name,)).fetchone()
        )
        return None if row is None else _user(row[0])

    async def users(self, page: Page) -> Slice[User]:
        """See the port."""
        cursors.checked(page)
        (after,) = ("",) if page.cursor is None else cursors.decode(page.cursor, tuple[str])
        sql = "SELECT name, body FROM users WHERE name > ? ORDER BY name LIMIT ?"
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (after, page.limit + 1)).fetchall()
        )
        items = tuple(_user(body) for _, body in found[: page.limit])
        return Slice(items, cursors.encode(items[-1].name) if len(found) > page.limit else None)

    async def add_token(self, token: Token) -> None:
        """See the port."""
        await self._changed(
            f"INSERT OR REPLACE INTO tokens ({CREDENTIAL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            token_row(token),
        )

    async def token(self, digest: str) -> Token | None:
        """See the port."""
        row = self._reader.now(
            lambda connection: connection.execute(f"{_TOKEN} WHERE digest = ?", (digest,)).fetchone()
        )
        return None if row is None else read_token(row)

    async def tokens(self, kind: PrincipalKind, subject: str) -> list[Token]:
        """See the port."""
        sql = f"{_TOKEN} WHERE kind = ? AND subject = ? ORDER BY created_at DESC"
        found = await self._reader.run(lambda connection: connection.execute(sql, (kind, subject)).fetchall())
        return [read_token(row) for row in found]

    async def certificates(self, page: Page) -> Slice[Token]:
        """See the port."""
        cursors.checked(page)
        (after,) = ("",) if page.cursor is None else cursors.decode(page.cursor, tuple[str])
        sql = f"{_TOKEN} WHERE certificate != '' AND certificate > ? ORDER BY certificate LIMIT ?"
        found = await self._reader.run(
            lambda connection: connection.execute(sql, (after, page.limit + 1)).fetchall()
        )
        items = tuple(map(read_token, found[: page.limit]))
        return Slice(items, cursors.encode(items[-1].certificate) if len(found) > page.limit else None)

    async def drop_tokens(self, digests: Sequence[str]) -> int:
        """See the port."""
        return await self._changed(
            "DELETE FROM tokens WHERE digest IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(list(digests)).decode(),),
        )

    async def drop_expired_tokens(self, now: float) -> int:
        """See the port."""
        return await self._changed("DELETE FROM tokens WHERE expires_at <= ?", (now,))


def _text(user: User) -> str:
    return msgspec.json.encode(user, order="deterministic").decode()


def _user(text: str) -> User:
    return msgspec.json.decode(text, type=User)


def token_row(token: Token) -> tuple[Any, ...]:
    """The ``CREDENTIAL_COLUMNS`` of a token."""
    return (
        token.digest,
        token.kind,
        token.subject,
        token.created_at,
        token.expires_at,
        token.label,
        token.session,
        token.certificate,
    )


def read_token(row: Sequence[Any]) -> Token:
    """A token from its ``CREDENTIAL_COLUMNS``."""
    digest, kind, subject, created_at, expires_at, label, session, certificate = row
    return Token(
        digest, PrincipalKind(kind), subject, created_at, expires_at, label, bool(session), certificate
    )
