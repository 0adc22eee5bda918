"""What is particular to copying MongoDB stores."""

from __future__ import annotations

import pymongo
import pytest

from iceprod.errors import ConflictError
from iceprod.store.checking import check
from iceprod.store.copying import copy
from iceprod.store.mongo import MongoStore
from iceprod.store.mongo.documents import config_document
from iceprod.store.sqlite import SqliteStore

pytestmark = pytest.mark.mongo


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
