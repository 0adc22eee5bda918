"""Secrets for origins in MongoDB; they come and go encrypted."""

from __future__ import annotations

from typing import Any, Final

from iceprod.model.file import OriginCredential
from iceprod.store.files import CredentialRepository
from iceprod.store.mongo.client import ASCENDING, Database, Document, IndexModel

INDEXES = {
    "credentials": (
        IndexModel([("user", ASCENDING), ("origin", ASCENDING)], name="user"),
        IndexModel([("expires_at", ASCENDING)], name="expiry"),
    ),
}
_FIELDS: Final = ("origin", "user", "kind", "sealed", "created_at", "expires_at", "note")


class MongoCredentials(CredentialRepository):
    """``credentials`` by user and origin."""

    def __init__(self, database: Database) -> None:
        self._credentials = database.collection("credentials")

    async def put(self, credential: OriginCredential) -> None:
        """See the port."""
        await self._credentials.put(credential_document(credential))

    async def get(self, origin: str, user: str) -> OriginCredential | None:
        """See the port."""
        found = await self._credentials.find_one({"_id": _key(origin, user)})
        return None if found is None else credential_of(found)

    async def of_user(self, user: str) -> list[OriginCredential]:
        """See the port."""
        return [
            credential_of(document)
            for document in await self._credentials.find({"user": user}, sort=[("origin", ASCENDING)])
        ]

    async def expiring(self, before: float, limit: int) -> list[OriginCredential]:
        """See the port."""
        # One that lasts has null here, which is less than no number.
        where = {"expires_at": {"$lt": before}}
        found = await self._credentials.find(where, sort=[("expires_at", ASCENDING)], limit=limit)
        return [credential_of(document) for document in found]

    async def delete(self, origin: str, user: str) -> bool:
        """See the port."""
        return await self._credentials.delete({"_id": _key(origin, user)}) > 0


def credential_document(credential: OriginCredential) -> Document:
    """A secret as it is stored."""
    fields: dict[str, Any] = {name: getattr(credential, name) for name in _FIELDS}
    return {"_id": _key(credential.origin, credential.user), **fields}


def credential_of(document: Document) -> OriginCredential:
    """A secret from its document."""
    fields = {name: document[name] for name in _FIELDS}
    return OriginCredential(**{**fields, "sealed": bytes(fields["sealed"])})


def _key(origin: str, user: str) -> str:
    return f"{origin}/{user}"
