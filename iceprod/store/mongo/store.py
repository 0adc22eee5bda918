"""The store in a MongoDB database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iceprod import clock
from iceprod.errors import StoreUnavailable
from iceprod.store.archive_file import write_archive
from iceprod.store.base import Store
from iceprod.store.mongo import migrations
from iceprod.store.mongo.accounts import MongoAccounts
from iceprod.store.mongo.archive import MongoArchive
from iceprod.store.mongo.audit import MongoAudit
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.context import Context
from iceprod.store.mongo.credentials import MongoCredentials
from iceprod.store.mongo.datasets import MongoDatasets
from iceprod.store.mongo.federation import MongoErrands, MongoOutbox, MongoPeers
from iceprod.store.mongo.files import MongoFiles
from iceprod.store.mongo.jobs import MongoJobs
from iceprod.store.mongo.logs import MongoLogs
from iceprod.store.mongo.pilots import MongoPilots
from iceprod.store.mongo.recount import damage, repair
from iceprod.store.mongo.sharing import MongoSharing
from iceprod.store.mongo.stored import repair_stored, stored_damage
from iceprod.store.mongo.tasks import MongoTasks
from iceprod.store.mongo.usage import MongoUsage
from iceprod.store.mongo.values import MongoValues


class MongoStore(Store):
    """A database that several processes may share, on one server, a replica set or a sharded cluster.

    Needs no transactions.  ``listeners`` see every command (see `Database`).
    """

    sharing: MongoSharing

    def __init__(self, url: str, *, listeners: Sequence[Any] = ()) -> None:
        self._database = Database(url, listeners=listeners)
        self._context: Context | None = None

    async def open(self) -> None:
        """See the port.

        Raises:
            ConfigError: the URL, the user or the database is not usable.
            StoreUnavailable: no server answers.
        """
        database = self._database
        await database.open()
        try:
            await migrations.prepare(database)
            self._meta = database.collection(migrations.META)
            self._context = context = Context(database)
            await repair(context)
            await repair_stored(context)
            self.datasets = MongoDatasets(context)
            self.jobs = MongoJobs(context)
            self.tasks = MongoTasks(context)
            self.pilots = MongoPilots(database)
            self.accounts = MongoAccounts(database)
            self.logs = MongoLogs(database)
            self.audit = MongoAudit(database)
            self.values = MongoValues(database)
            self.files = MongoFiles(context)
            self.usage = MongoUsage(database)
            self.credentials = MongoCredentials(database)
            self.peers = MongoPeers(database)
            self.errands = MongoErrands(context)
            self.outbox = MongoOutbox(context)
            self.archive = MongoArchive(database, context, self.values)
            self.sharing = MongoSharing(database)
        except BaseException:
            await database.close()
            raise

    async def close(self) -> None:
        """See the port."""
        if self._context is not None:
            await self._context.drain()
        await self._database.close()

    async def ping(self) -> None:
        """See the port."""
        await self._meta.update({"_id": "ping"}, {"$set": {"at": clock.now()}}, upsert=True)
        await self._meta.find_one({"_id": "ping"})

    async def check(self) -> list[str]:
        """See the port."""
        if self._context is None:
            raise StoreUnavailable("the store is not open")
        missing = await migrations.missing_indexes(self._database)
        return missing + await damage(self._context) + await stored_damage(self._context)

    async def backup(self, target: Path) -> int:
        """See the port.

        Each record is whole, but nothing may change meanwhile for all of them to be as of one
        moment: a single server has no snapshot that lasts.
        """
        return await write_archive(self.archive, target)
