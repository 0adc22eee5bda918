"""Methods about origins, the files there, and the copies of them here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from iceprod.errors import ConflictError, NotFoundError, TooLarge, TransferFailed
from iceprod.movers.base import Entry, Facts
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView
from iceprod.services import authorization
from iceprod.services.cache.shelf import Kept
from iceprod.services.places import MAX_ENTRIES

METHODS = Registry()

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16,128}$")]
EntryCount = Annotated[int, msgspec.Meta(ge=1, le=MAX_ENTRIES)]
CopyCount = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
_ELSEWHERE = (NotFoundError, TransferFailed)


@dataclass(frozen=True, slots=True)
class OriginView:
    """A place elsewhere that the caller may use."""

    name: str
    url: str
    writable: bool
    groups: list[str]


@dataclass(frozen=True, slots=True)
class EntryView:
    """A file or directory at an origin; what is null is not told there."""

    name: str
    is_directory: bool
    size_bytes: int | None
    modified_at: float | None
    checksums: dict[str, str]


@dataclass(frozen=True, slots=True)
class CopyingView:
    """The transfer that copies a file: `transfer.get` says how far it is and how it ended."""

    transfer_id: str


@dataclass(frozen=True, slots=True)
class CachedView:
    """A copy of an origin's file; ``user`` alone may see it, everybody who may use the origin if empty."""

    key: str
    url: str
    origin: str
    user: str
    size_bytes: int | None
    checksums: dict[str, str]
    fetched_at: float
    checked_at: float
    read_at: float
    pinned: bool


@dataclass(frozen=True, slots=True)
class CacheView:
    """All copies, those read last first, and how much they take of how much they may."""

    items: list[CachedView]
    used_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class EvictedView:
    """Whether there was such a copy."""

    evicted: bool


def _entry(name: str, facts: Facts) -> EntryView:
    return EntryView(name, facts.is_directory, facts.size_bytes, facts.modified_at, dict(facts.checksums))


def _cached(kept: Kept) -> CachedView:
    copy = kept.copy
    return CachedView(
        key=kept.key,
        url=copy.url,
        origin=copy.origin,
        user=copy.reader,
        size_bytes=copy.told.facts().size_bytes,
        checksums=copy.checksums,
        fetched_at=copy.fetched_at,
        checked_at=kept.checked_at,
        read_at=kept.read_at,
        pinned=kept.is_pinned,
    )


@METHODS.method("origin.list", action="origin.list", idempotent=True)
async def origin_list(call: Call) -> ListView[OriginView]:
    """The places elsewhere that the caller may use."""
    found = call.services.places.origins(call.principal)
    views = [OriginView(rule.name, str(rule.root), rule.write, sorted(rule.groups)) for rule in found]
    return ListView(views, None)


@METHODS.method("origin.stat", action="origin.stat", errors=_ELSEWHERE, idempotent=True)
async def origin_stat(call: Call, *, url: Url) -> EntryView:
    """What an origin tells of a file or directory."""
    return _entry(url.rstrip("/").rpartition("/")[2], await call.services.places.stat(call.principal, url))


@METHODS.method("origin.entries", action="origin.entries", errors=(*_ELSEWHERE, TooLarge), idempotent=True)
async def origin_entries(call: Call, *, url: Url, limit: EntryCount = 1000) -> ListView[EntryView]:
    """What lies in a directory at an origin, by name; an error if that is more than ``limit``."""
    found: list[Entry] = await call.services.places.entries(call.principal, url, limit=limit)
    return ListView([_entry(entry.name, entry.facts) for entry in found], None)


@METHODS.method("origin.delete", action="origin.delete", errors=_ELSEWHERE)
async def origin_delete(call: Call, *, url: Url) -> None:
    """Delete a file at an origin that may be written."""
    await call.services.places.delete(call.principal, url)


@METHODS.method("origin.copy", action="origin.copy", errors=(*_ELSEWHERE, ConflictError))
async def origin_copy(call: Call, *, source: Url, target: Url) -> CopyingView:
    """Begin to copy a file from one origin to another, directly where their servers can do that."""
    return CopyingView(await call.services.places.copy(call.principal, source, target))


@METHODS.method("cache.list", action="cache.list", idempotent=True)
async def cache_list(call: Call, *, limit: CopyCount = 1000) -> CacheView:
    """The copies of origins' files on this server's disk."""
    authorization.check(call.principal, "cache.list")
    cache = call.services.proxying.cache
    found = await cache.copies()
    return CacheView([_cached(kept) for kept in found[:limit]], await cache.used_bytes(), cache.max_bytes)


@METHODS.method("cache.pin", action="cache.pin", errors=(NotFoundError,), idempotent=True)
async def cache_pin(call: Call, *, key: Key, pinned: bool = True) -> None:
    """Let a copy stay however long nobody reads it, or no more."""
    authorization.check(call.principal, "cache.pin")
    await call.services.proxying.cache.pin(key, on=pinned)


@METHODS.method("cache.evict", action="cache.evict", idempotent=True)
async def cache_evict(call: Call, *, key: Key) -> EvictedView:
    """Remove a copy; who is reading it reads on."""
    authorization.check(call.principal, "cache.evict")
    return EvictedView(await call.services.proxying.cache.evict(key))
