"""The records of a SQLite store, for copying."""

from __future__ import annotations

from collections.abc import Sequence

from iceprod import ids
from iceprod.store.archive import COPY_MARK, IDENTITY, Archive, Key, Kind, Record
from iceprod.store.base import ValueRepository
from iceprod.store.sqlite import archive_read, archive_write
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer


class SqliteArchive(Archive):
    """Each page is one query, each call that writes one transaction."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction], values: ValueRepository) -> None:
        self._reader = reader
        self._writer = writer
        self._values = values

    async def identity(self) -> str:
        """See the port."""
        return await self._values.put_new(IDENTITY, ids.new_id())

    async def count(self, kind: Kind) -> int:
        """See the port."""
        return await self._reader.run(lambda connection: archive_read.count(connection, kind))

    async def read(self, kind: Kind, after: Key | None, limit: int) -> list[Record]:
        """See the port."""
        return await self._reader.run(lambda connection: archive_read.read(connection, kind, after, limit))

    async def write(self, kind: Kind, records: Sequence[Record]) -> None:
        """See the port."""
        await self._writer.run(
            lambda transaction: archive_write.write(_anew(transaction).connection, kind, records)
        )

    async def finish(self) -> None:
        """See the port."""
        await self._writer.run(lambda transaction: archive_write.finish(_anew(transaction).connection))

    async def clear(self) -> None:
        """See the port."""
        await self._writer.run(lambda transaction: archive_write.clear(_anew(transaction).connection))

    async def mark(self) -> str | None:
        """See the port."""
        return await self._values.get(COPY_MARK)

    async def set_mark(self, text: str | None) -> None:
        """See the port."""
        if text is not None:
            await self._values.put(COPY_MARK, text)
            return
        sql = "DELETE FROM vals WHERE name = ?"
        await self._writer.run(lambda transaction: transaction.connection.execute(sql, (COPY_MARK,)) and None)


def _anew(transaction: SqliteTransaction) -> SqliteTransaction:
    """The transaction, with nothing left of what moves have changed or remembered."""
    transaction.settled()
    transaction.states.forget()
    return transaction
