"""That reading a MongoDB store for a copy asks only what an index answers, in its order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pymongo
import pytest
from pymongo.monitoring import CommandListener
from store_filled import fill

from iceprod.errors import ConflictError
from iceprod.store.archive import Kind
from iceprod.store.checking import check
from iceprod.store.copying import copy
from iceprod.store.mongo import MongoStore
from iceprod.store.mongo.documents import config_document
from iceprod.store.mongo.migrations import indexes
from iceprod.store.sqlite import SqliteStore

pytestmark = pytest.mark.mongo


class Finds(CommandListener):
    """Keeps what is asked."""

    def __init__(self) -> None:
        self.found: list[Mapping[str, Any]] = []

    def started(self, event) -> None:
        if event.command_name in ("find", "aggregate"):
            self.found.append(event.command)

    def succeeded(self, event) -> None:
        return

    def failed(self, event) -> None:
        return


def keys_of(collection: str) -> list[list[str]]:
    """The fields of the indexes of a collection, each in order."""
    return [["_id"], *([*index.document["key"]] for index in indexes().get(collection, ()))]


async def test_a_page_is_found_by_an_index(mongo_url: str, tmp_path):
    source, finds = SqliteStore(tmp_path / "store.db", synchronous="OFF"), Finds()
    await source.open()
    await fill(source)
    store = MongoStore(mongo_url, listeners=[finds])
    await store.open()
    await copy(source.archive, store.archive)
    wrong = []

    for kind in Kind:
        last = (await store.archive.read(kind, None, 2))[-1].key
        finds.found.clear()
        await store.archive.read(kind, last, 10)
        assert finds.found
        wrong += [command for command in finds.found if not is_indexed(command)]

    assert wrong == []
    await store.close()
    await source.close()


async def test_what_belongs_to_nothing_is_not_left_out_silently(mongo_url: str, tmp_path):
    store, target = MongoStore(mongo_url), SqliteStore(tmp_path / "store.db", synchronous="OFF")
    await store.open()
    await target.open()
    with pymongo.MongoClient(mongo_url) as client:
        client.get_default_database().configs.insert_one(config_document("lost", 1, "{}"))

    checked = await check(store.archive)
    with pytest.raises(ConflictError, match="config: 1 of the source belong to nothing"):
        await copy(store.archive, target.archive)

    assert checked.problems == ("config: 1 of 1 belong to nothing",)
    await store.close()
    await target.close()


def is_indexed(command: Mapping[str, Any]) -> bool:
    """Whether an index begins with what is asked for, and gives the order."""
    asked, order = [*command["filter"]], [*command.get("sort", ())]
    return any(key[: len(asked)] == asked and key[: len(order)] == order for key in keys_of(command["find"]))
