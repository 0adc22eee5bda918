"""What is done to a database without opening it as a store."""

from __future__ import annotations

from iceprod.store.mongo.client import Database
from iceprod.store.mongo.migrations import META, SCHEMA


async def version(url: str) -> int:
    """The schema of a store that may be of an older or a newer release; 0 if there is none.

    Raises:
        ConfigError: the URL is wrong, or the server refuses its name and password.
        StoreUnavailable: no server answers.
    """
    database = Database(url)
    await database.open()
    try:
        found = await database.collection(META).find_one(SCHEMA)
    finally:
        await database.close()
    return 0 if found is None else int(found.get("version", 0))


async def drop(url: str) -> None:
    """Remove a database with all that is in it.

    Raises:
        ConfigError, StoreUnavailable: see `version`.
    """
    database = Database(url)
    await database.open()
    try:
        await database.drop()
    finally:
        await database.close()
