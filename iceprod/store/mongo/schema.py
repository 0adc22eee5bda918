"""Which indexes serve which queries, and by what a sharded cluster distributes each collection.

Every filter of this adapter names ``_id`` or a prefix of an index declared here or in the
module of its collection; ``tests/store/test_store_mongo_indexes.py`` proves it from the
commands that are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iceprod.store.mongo.client import ASCENDING, DESCENDING, IndexModel

_UP: Final = ASCENDING

# Queries give dataset and order at once by `key`: the dataset's number and the place within it.
INDEXES: Final[Mapping[str, tuple[IndexModel, ...]]] = {
    "datasets": (
        IndexModel([("number", DESCENDING)], name="number"),
        IndexModel([("status", _UP), ("number", DESCENDING)], name="status"),
        IndexModel([("owner", _UP), ("number", DESCENDING)], name="owner"),
        IndexModel([("group", _UP), ("number", DESCENDING)], name="group"),
        IndexModel([("unfinished", _UP)], name="unfinished"),
        IndexModel([("needs", _UP)], name="needs"),
        IndexModel([("pending.id", _UP)], name="pending", sparse=True),
    ),
    "classes": (IndexModel([("number", _UP), ("class_id", _UP)], name="number"),),
    "jobs": (
        IndexModel([("key", _UP)], name="key"),
        IndexModel([("status", _UP), ("key", _UP)], name="status"),
        IndexModel([("statuses", _UP), ("key", _UP)], name="statuses"),
        IndexModel([("ready", _UP), ("key", _UP)], name="ready"),
        IndexModel([("held", _UP), ("key", _UP)], name="held_in_order"),
        IndexModel([("lease_until", _UP)], name="lease_until", sparse=True),
        IndexModel([("due", _UP)], name="due", sparse=True),
        IndexModel([("owing", _UP), ("key", _UP)], name="owing"),
    ),
    "attempts": (
        IndexModel([("key", _UP), ("attempt", _UP)], name="task"),
        IndexModel(
            [("kind", _UP), ("ended_at", DESCENDING), ("key", DESCENDING), ("attempt", DESCENDING)],
            name="recent",
        ),
    ),
}

SHARD_KEYS: Final[Mapping[str, Mapping[str, object]]] = {
    # All that is written often is found by its `_id`; hashed, it spreads over the shards, and
    # no two shards can hold the same one.  What is not named here stays on one shard.
    "jobs": {"_id": "hashed"},
    "attempts": {"_id": "hashed"},
    "logs": {"_id": "hashed"},
    "files": {"_id": "hashed"},
    "usage": {"_id": "hashed"},
    "errands": {"_id": "hashed"},
    "outbox": {"_id": "hashed"},
}
