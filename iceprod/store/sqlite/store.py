"""The store in one SQLite file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from iceprod.errors import StoreUnavailable
from iceprod.store.base import Store
from iceprod.store.sqlite import schema, upkeep
from iceprod.store.sqlite.accounts import SqliteAccounts
from iceprod.store.sqlite.archive import SqliteArchive
from iceprod.store.sqlite.credentials import SqliteCredentials
from iceprod.store.sqlite.datasets import SqliteDatasets
from iceprod.store.sqlite.federation import SqliteErrands, SqliteOutbox, SqlitePeers
from iceprod.store.sqlite.files import SqliteFiles
from iceprod.store.sqlite.jobs import SqliteJobs
from iceprod.store.sqlite.keys import Numbers
from iceprod.store.sqlite.logs import SqliteAudit, SqliteLogs, SqliteValues
from iceprod.store.sqlite.pilots import SqlitePilots
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.tasks import SqliteTasks
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.usage import SqliteUsage
from iceprod.store.sqlite.writer import Statistics, Writer

Synchronous = Literal["FULL", "NORMAL", "OFF"]


class SqliteStore(Store):
    """One file and its write-ahead log.

    ``synchronous`` says what survives a loss of power: with ``FULL`` every answered call,
    with ``NORMAL`` all but the last moments, with ``OFF`` perhaps nothing.  A killed
    process loses no answered call with any of them.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous = "FULL") -> None:
        self._path = path
        self._synchronous = synchronous
        self._reader: Reader | None = None
        self._writer: Writer[SqliteTransaction] | None = None

    @property
    def statistics(self) -> Statistics:
        """What the writer has done since the store was opened."""
        return self._parts()[1].statistics

    async def open(self) -> None:
        """See the port."""
        await asyncio.to_thread(schema.prepare, self._path, synchronous=self._synchronous)
        self._reader = reader = Reader(self._path)
        self._writer = writer = Writer(
            SqliteTransaction(lambda: schema.connect(self._path, synchronous=self._synchronous))
        )
        numbers = Numbers()
        self.datasets = SqliteDatasets(reader, writer, numbers)
        self.jobs = SqliteJobs(reader, numbers)
        self.tasks = SqliteTasks(reader, writer, numbers)
        self.pilots = SqlitePilots(reader, writer)
        self.accounts = SqliteAccounts(reader, writer)
        self.logs = SqliteLogs(reader, writer, numbers)
        self.audit = SqliteAudit(reader, writer)
        self.values = SqliteValues(reader, writer)
        self.files = SqliteFiles(reader, writer)
        self.usage = SqliteUsage(reader, writer)
        self.credentials = SqliteCredentials(reader, writer)
        self.peers = SqlitePeers(reader, writer)
        self.errands = SqliteErrands(reader, writer)
        self.outbox = SqliteOutbox(reader, writer)
        self.archive = SqliteArchive(reader, writer, self.values)

    async def close(self) -> None:
        """See the port."""
        if self._writer is not None and self._reader is not None:
            # The last connection to close brings the log into the file, which a reader cannot.
            await asyncio.to_thread(self._reader.close)
            await self._writer.close()

    async def ping(self) -> None:
        """See the port."""
        await self.values.put("ping", "")
        await self.values.get("ping")

    async def check(self) -> list[str]:
        """See the port."""
        return await self._parts()[0].run(upkeep.damage)

    async def backup(self, target: Path) -> int:
        """See the port."""
        self._parts()
        return await asyncio.to_thread(upkeep.copy, self._path, target)

    def _parts(self) -> tuple[Reader, Writer[SqliteTransaction]]:
        if self._reader is None or self._writer is None:
            raise StoreUnavailable("the store is not open")
        return self._reader, self._writer
