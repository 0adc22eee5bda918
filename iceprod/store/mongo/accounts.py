"""Users and credentials in MongoDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from iceprod.errors import AlreadyExists
from iceprod.model.paging import Page, Slice
from iceprod.model.principal import PrincipalKind
from iceprod.model.user import Token, User
from iceprod.store import cursors
from iceprod.store.base import AccountRepository
from iceprod.store.mongo.client import ASCENDING, DESCENDING, Database, Document, IndexModel

INDEXES = {
    "tokens": (
        IndexModel([("kind", ASCENDING), ("subject", ASCENDING), ("created_at", DESCENDING)], name="subject"),
        IndexModel([("expires_at", ASCENDING)], name="expiry"),
        IndexModel([("certificate", ASCENDING)], name="certificate"),
    ),
}


class MongoAccounts(AccountRepository):
    """``users`` by name, ``tokens`` by digest."""

    def __init__(self, database: Database) -> None:
        self._users = database.collection("users")
        self._tokens = database.collection("tokens")

    async def add_user(self, user: User) -> bool:
        """See the port."""
        try:
            await self._users.insert(user_document(user))
        except AlreadyExists:
            return False
        return True

    async def put_user(self, user: User) -> bool:
        """See the port."""
        return await self._users.replace({"_id": user.name}, user_document(user))

    async def user(self, name: str) -> User | None:
        """See the port."""
        found = await self._users.find_one({"_id": name})
        return None if found is None else user_of(found)

    async def users(self, page: Page) -> Slice[User]:
        """See the port."""
        cursors.checked(page)
        (after,) = ("",) if page.cursor is None else cursors.decode(page.cursor, tuple[str])
        found = await self._users.find(
            {"_id": {"$gt": after}}, sort=[("_id", ASCENDING)], limit=page.limit + 1
        )
        items = tuple(user_of(document) for document in found[: page.limit])
        return Slice(items, cursors.encode(items[-1].name) if len(found) > page.limit else None)

    async def add_token(self, token: Token) -> None:
        """See the port."""
        await self._tokens.put(token_document(token))

    async def token(self, digest: str) -> Token | None:
        """See the port."""
        found = await self._tokens.find_one({"_id": digest})
        return None if found is None else token_of(found)

    async def tokens(self, kind: PrincipalKind, subject: str) -> list[Token]:
        """See the port."""
        found = await self._tokens.find(
            {"kind": kind.value, "subject": subject}, sort=[("created_at", DESCENDING)]
        )
        return [token_of(document) for document in found]

    async def certificates(self, page: Page) -> Slice[Token]:
        """See the port."""
        cursors.checked(page)
        (after,) = ("",) if page.cursor is None else cursors.decode(page.cursor, tuple[str])
        found = await self._tokens.find(
            {"certificate": {"$gt": after}}, sort=[("certificate", ASCENDING)], limit=page.limit + 1
        )
        items = tuple(token_of(document) for document in found[: page.limit])
        return Slice(items, cursors.encode(items[-1].certificate) if len(found) > page.limit else None)

    async def drop_tokens(self, digests: Sequence[str]) -> int:
        """See the port."""
        return await self._tokens.delete({"_id": {"$in": list(digests)}}) if digests else 0

    async def drop_expired_tokens(self, now: float) -> int:
        """See the port."""
        # A token for ever has null here, which is less than no number.
        return await self._tokens.delete({"expires_at": {"$lte": now}})


def user_document(user: User) -> Document:
    """A user as it is stored."""
    return _document(user, key="name")


def user_of(document: Document) -> User:
    """A user from its document."""
    return msgspec.convert({**document, "name": document["_id"]}, User)


def token_document(token: Token) -> Document:
    """A credential as it is stored."""
    return _document(token, key="digest")


def token_of(document: Document) -> Token:
    """A credential from its document."""
    return msgspec.convert({**document, "digest": document["_id"]}, Token)


def _document(value: Any, *, key: str) -> Document:
    document: Document = msgspec.to_builtins(value, order="deterministic")
    return {"_id": document.pop(key), **document}
