"""The versions of the schema, and the indexes that every query needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from iceprod.errors import AlreadyExists, ConfigError
from iceprod.store.mongo import accounts, audit, credentials, federation, files, logs, pilots, schema, usage
from iceprod.store.mongo.client import Database, IndexModel

META: Final = "meta"
"""The collection that says what the database is."""
SCHEMA: Final = {"_id": "schema"}
"""The document there that tells the version."""
_APPLICATION: Final = "iceprod"

Migration = Callable[[Database], Awaitable[None]]

MIGRATIONS: Sequence[Migration] = ()
"""What leads from each version to the next; the first leads from 1 to 2.

There are no transactions: a step that is cut off is run again from its beginning, and two
processes may run one at the same time.
"""


def indexes() -> dict[str, Sequence[IndexModel]]:
    """The indexes of each collection that has any besides that of ``_id``."""
    found: dict[str, Sequence[IndexModel]] = {}
    for module in (schema, accounts, audit, logs, pilots, files, usage, credentials, federation):
        found.update(module.INDEXES)
    return found


async def prepare(database: Database) -> None:
    """Bring the database to the present schema.

    Raises:
        ConfigError: it holds something else, or is of a newer release.
    """
    version = await _version(database)
    newest = len(MIGRATIONS) + 1
    if version > newest:
        raise _refused(
            f"the database {database.name!r} at {database.where} has schema {version}, made by a newer"
            f" release; this one knows up to {newest}"
        )
    for number in range(version, newest):
        await MIGRATIONS[number - 1](database)
        await database.collection(META).update(
            {**SCHEMA, "version": number}, {"$set": {"version": number + 1}}
        )
    for name, wanted in indexes().items():
        await database.collection(name).ensure_indexes(wanted)


async def missing_indexes(database: Database) -> list[str]:
    """A line for each index that is not there, without which queries scan."""
    return [
        f"collection {name} has no index {index.document['name']}"
        for name, wanted in indexes().items()
        for index in await database.collection(name).missing_indexes(wanted)
    ]


async def _version(database: Database) -> int:
    """The version of the schema; a new database gets the present one."""
    meta = database.collection(META)
    found = await meta.find_one(SCHEMA)
    if found is None:
        foreign = [name for name in await database.collection_names() if not name.startswith("system.")]
        if set(foreign) - {META}:
            raise _refused(
                f"the database {database.name!r} at {database.where} holds something else"
                f" (the collection {min(foreign)!r}); name one of its own"
            )
        try:
            await meta.insert({**SCHEMA, "application": _APPLICATION, "version": len(MIGRATIONS) + 1})
        except AlreadyExists:
            return await _version(database)  # another process has made it at the same time
        return len(MIGRATIONS) + 1
    if found.get("application") != _APPLICATION:
        raise _refused(f"the database {database.name!r} at {database.where} is another program's")
    return int(found["version"])


def _refused(message: str) -> ConfigError:
    return ConfigError(f"store.url: {message}", fields=[{"path": "store.url", "message": message}])
