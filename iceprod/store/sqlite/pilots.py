"""Pilots in SQLite."""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Sequence

import msgspec

from iceprod.model.paging import Page, Slice
from iceprod.model.pilot import Pilot, PilotPatch, PilotStatus
from iceprod.store import cursors
from iceprod.store.base import PilotRepository
from iceprod.store.sqlite.reader import Reader
from iceprod.store.sqlite.transaction import SqliteTransaction
from iceprod.store.sqlite.writer import Writer

_PUT = "INSERT OR REPLACE INTO pilots (pilot_id, status, created_at, body) VALUES (?, ?, ?, ?)"
_SELECT = (
    "SELECT created_at, pilot_id, body FROM pilots WHERE status = ? AND (created_at, pilot_id) < (?, ?)"
    " ORDER BY created_at DESC, pilot_id DESC LIMIT ?"
)
_START = (1e300, "")

Found = tuple[float, str, str]


class SqlitePilots(PilotRepository):
    """A pilot is a JSON document beside the columns that lists ask for."""

    def __init__(self, reader: Reader, writer: Writer[SqliteTransaction]) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, pilots: Sequence[Pilot]) -> None:
        """See the port."""
        values = [_row(pilot) for pilot in pilots]

        def operation(transaction: SqliteTransaction) -> None:
            transaction.connection.executemany(_PUT, values)

        await self._writer.run(operation)

    async def update(self, patches: Sequence[PilotPatch]) -> list[Pilot | None]:
        """See the port."""
        patches = tuple(patches)

        def operation(transaction: SqliteTransaction) -> list[Pilot | None]:
            return [_patched(transaction.connection, patch) for patch in patches]

        return await self._writer.run(operation)

    async def get(self, pilot_id: str) -> Pilot | None:
        """See the port."""
        return self._reader.now(lambda connection: _get(connection, pilot_id))

    async def select(self, statuses: frozenset[PilotStatus], page: Page) -> Slice[Pilot]:
        """See the port."""
        cursors.checked(page)
        start = _START if page.cursor is None else cursors.decode(page.cursor, tuple[float, str])
        found = await self._reader.run(
            lambda connection: _newest(connection, statuses, start, page.limit + 1)
        )
        items = tuple(msgspec.json.decode(body, type=Pilot) for _, _, body in found[: page.limit])
        following = cursors.encode(*found[page.limit - 1][:2]) if len(found) > page.limit else None
        return Slice(items, following)


def _row(pilot: Pilot) -> tuple[str, PilotStatus, float, str]:
    return pilot.pilot_id, pilot.status, pilot.created_at, msgspec.json.encode(pilot).decode()


def _get(connection: sqlite3.Connection, pilot_id: str) -> Pilot | None:
    row = connection.execute("SELECT body FROM pilots WHERE pilot_id = ?", (pilot_id,)).fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=Pilot)


def _patched(connection: sqlite3.Connection, patch: PilotPatch) -> Pilot | None:
    pilot = _get(connection, patch.pilot_id)
    if pilot is None:
        return None
    changed = patch.applied_to(pilot)
    if changed is not pilot:
        connection.execute(_PUT, _row(changed))
    return changed


def _newest(
    connection: sqlite3.Connection, statuses: frozenset[PilotStatus], start: tuple[float, str], limit: int
) -> list[Found]:
    """One run of the index for each status, merged: no sorting of all that there are."""
    runs = [connection.execute(_SELECT, (status, *start, limit)).fetchall() for status in statuses]
    return list(itertools.islice(heapq.merge(*runs, reverse=True), limit))
