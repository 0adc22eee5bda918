"""What was moved for whom, and how much may be kept, in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from iceprod.model.file import Quota, Usage
from iceprod.model.paging import Page, Slice
from iceprod.store import cursors
from iceprod.store.files import UsageFilter, UsageRepository
from iceprod.store.holdings import days, usage_of, usage_place
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

USAGE_COLUMNS: Final = "place, user, dataset_id, bytes, transfers"
QUOTA_COLUMNS: Final = "kind, holder, bytes_most, files_most"
_ADD: Final = (
    f"INSERT INTO usage ({USAGE_COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET bytes = bytes + excluded.bytes, transfers = transfers + excluded.transfers"
)


class SqliteUsage(UsageRepository):
    """A row for each day and flow; limits beside them."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def add(self, usage: Sequence[Usage]) -> None:
        """See the port."""
        values = [usage_row(one) for one in usage]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany(_ADD, values)

        await self._writer.run(operation)

    async def select(self, wanted: UsageFilter, page: Page) -> Slice[Usage]:
        """See the port."""
        cursors.checked(page)
        sql, values = usage_selection(wanted, page)
        found = await self._reader.run(lambda connection: connection.execute(sql, values).fetchall())
        items = tuple(usage_of(*row) for row in found[: page.limit])
        return Slice(items, cursors.encode(found[page.limit - 1][0]) if len(found) > page.limit else None)

    async def quotas(self) -> list[Quota]:
        """See the port."""
        sql = f"SELECT {QUOTA_COLUMNS} FROM quotas ORDER BY kind, holder"
        found = await self._reader.run(lambda connection: connection.execute(sql).fetchall())
        return [Quota(*row) for row in found]

    async def set_quota(self, quota: Quota) -> None:
        """See the port."""
        sql, values = (
            f"INSERT OR REPLACE INTO quotas ({QUOTA_COLUMNS}) VALUES (?, ?, ?, ?)",
            quota_row(quota),
        )
        if quota.bytes_most is None and quota.files_most is None:
            sql, values = "DELETE FROM quotas WHERE kind = ? AND holder = ?", (quota.kind, quota.holder)
        await self._writer.run(lambda transaction: transaction.connection.execute(sql, values) and None)


def usage_selection(wanted: UsageFilter, page: Page) -> tuple[str, list[Any]]:
    """A statement and its values."""
    first, end = days(wanted.since, wanted.until)
    if page.cursor is not None:
        end = min(end, *cursors.decode(page.cursor, tuple[str]))
    where, values = ["place >= ?", "place < ?"], [first, end]
    for column, value in (("user", wanted.user), ("dataset_id", wanted.dataset_id)):
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    sql = f"SELECT place, bytes, transfers FROM usage WHERE {' AND '.join(where)} ORDER BY place DESC LIMIT ?"
    return sql, [*values, page.limit + 1]


def usage_row(usage: Usage) -> tuple[Any, ...]:
    """The ``USAGE_COLUMNS`` of a day's use."""
    flow = usage.flow
    return usage_place(usage), flow.user, flow.dataset_id, usage.bytes_moved, usage.transfers


def quota_row(quota: Quota) -> tuple[Any, ...]:
    """The ``QUOTA_COLUMNS`` of a limit."""
    return quota.kind, quota.holder, quota.bytes_most, quota.files_most
