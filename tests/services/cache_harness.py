"""A cache in a folder, before an origin that does what the test says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iceprod import clock as clocks
from iceprod.errors import NotFoundError, TransferFailed
from iceprod.model.location import Location, parse_location
from iceprod.movers.base import Access, Facts, Incoming, Mover, Span
from iceprod.services.accounting import Accounting
from iceprod.services.cache import Cache, CacheLimits, Reading, Source, Wanted
from iceprod.services.origins import NoVault, Origin, OriginRule, Origins
from iceprod.services.transfers import TransferLimits, Transfers

ROOT = "http://origin.example/"
WHOLE = Span()


@dataclass
class Remote:
    """A file at the origin."""

    data: bytes
    version: int = 1
    checksums: dict[str, str] = field(default_factory=dict)


class Pieces(Incoming):
    def __init__(self, origin: Fake, facts: Facts, data: bytes, span: Span) -> None:
        self._origin, self._data, self._at = origin, data, span.offset
        self.facts, self.offset, self.length = facts, span.offset, len(data) - span.offset

    async def read(self) -> bytes:
        origin = self._origin
        await origin.gate.wait()
        if origin.cut_at is not None and self._at >= origin.cut_at:
            origin.cut_at = None
            raise TransferFailed("cut", done_bytes=self._at)
        if origin.broken:
            raise TransferFailed("broken")
        piece = self._data[self._at : self._at + origin.step]
        self._at += len(piece)
        origin.sent += len(piece)
        await asyncio.sleep(0)
        return piece


class Fake(Mover):
    """An origin in memory: counts what it is asked, waits at its gate, and breaks where it is told."""

    schemes = frozenset({"http"})

    def __init__(self) -> None:
        self.files: dict[str, Remote] = {}
        self.fetches: list[tuple[str, int]] = []
        self.stats = 0
        self.sent = 0
        self.step = 1000
        self.cut_at: int | None = None
        self.broken = False
        self.stat_broken = False
        self.gate = asyncio.Event()
        self.gate.set()

    def _find(self, location: Location) -> tuple[Remote, Facts]:
        found = self.files.get(location.name)
        if found is None:
            raise NotFoundError("file", location)
        facts = Facts(len(found.data), 1000.0 + found.version, f'"{found.version}"', found.checksums)
        return found, facts

    async def stat(self, location: Location, access: Access) -> Facts:
        self.stats += 1
        await asyncio.sleep(0)
        if self.stat_broken:
            raise TransferFailed("no answer")
        return self._find(location)[1]

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        self.fetches.append((location.name, span.offset))
        if self.broken:
            raise TransferFailed("broken")
        found, facts = self._find(location)
        yield Pieces(self, facts, found.data, span)


class AnyAddress:
    def check(self, address: str, port: int) -> None:
        pass


class NoUsage:
    async def add(self, usage: Any) -> None:
        pass


@dataclass
class Place:
    """A cache, and what stands behind it."""

    cache: Cache
    origin: Fake
    origins: Origins
    transfers: Transfers
    now: list[float]

    def wanted(self, *names: str, reader: str = "", user: str = "alice") -> Wanted:
        return Wanted(tuple(self.source(name, reader=reader, user=user) for name in names))

    def source(self, name: str, *, reader: str = "", user: str = "alice") -> Source:
        rule = self.origins.rules[0]
        origin = Origin(rule.name, rule, Access(rule.policy), self.origin, user, reader=reader)
        return Source(parse_location(ROOT + name), origin)

    async def read(self, *names: str, **more: Any) -> bytes:
        reading = await self.cache.read(self.wanted(*names, **more))
        assert reading is not None
        return await read_all(reading)


async def read_all(reading: Reading, size: int = 700) -> bytes:
    got = bytearray()
    try:
        while piece := await reading.read(len(got), size):
            got += piece
    finally:
        reading.close()
    return bytes(got)


def sha512(data: bytes) -> str:
    return hashlib.sha512(data).hexdigest()


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0.001)


@asynccontextmanager
async def opened(
    folder: Path, origin: Fake | None = None, *, connections: int = 16, **limits: Any
) -> AsyncIterator[Place]:
    """A cache in ``folder``; several may be open on one."""
    origin = origin or Fake()
    rule = OriginRule("far", parse_location(ROOT), AnyAddress(), connections=connections)
    origins = Origins((rule,), {"http": origin}, NoVault(), reach=None)  # type: ignore[arg-type]
    now = [1_700_000_000.0]
    accounting = Accounting(NoUsage(), clock=lambda: now[0])  # type: ignore[arg-type]
    transfers = Transfers(accounting, TransferLimits(connections=10_000), clock=clocks.now)
    given = {
        "max_bytes": 10**8,
        "max_file_bytes": 10**8,
        "keep_free_bytes": 0,
        "fresh_s": 60.0,
        "patience_s": 0.0,
        **limits,
    }
    cache = Cache(CacheLimits(path=folder, **given), origins, transfers, clock=lambda: now[0])
    await cache.open()
    try:
        yield Place(cache, origin, origins, transfers, now)
    finally:
        await cache.close()
