"""The store in MongoDB, which several server processes may share.

Nothing here but `MongoStore` is for other rooms.
"""

from __future__ import annotations

from iceprod.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
