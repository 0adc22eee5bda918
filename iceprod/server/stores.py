"""Stores beside their servers: opened by URL, kept from being used, copied, checked, migrated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from iceprod import clock
from iceprod.config import Settings
from iceprod.errors import ConfigError, ConflictError, InputError, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.server.assembly import make_store
from iceprod.server.processes.directory import LOCK_FILE, data_directory
from iceprod.services import duty, news
from iceprod.store import checking, copying
from iceprod.store.archive import Kind
from iceprod.store.base import Drift, Sharing, Store
from iceprod.store.checking import Checked
from iceprod.store.copying import Copied, Progress
from iceprod.store.mongo import upkeep as mongo_upkeep
from iceprod.store.mongo.client import without_secrets
from iceprod.store.sqlite import upkeep

_LOOK_EVERY_S: Final = 0.1
_SCHEMES: Final = ("sqlite:///", "mongodb://", "mongodb+srv://")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is; ``lock_dir`` is the data directory of the server that would use it.

    ``lock_dir`` is None for a store that is not known to be in the directory of a site.
    """

    settings: Settings
    lock_dir: Path | None

    @property
    def path(self) -> Path | None:
        """The file of a SQLite store."""
        return self.settings.store_path

    @property
    def name(self) -> str:
        """For messages: without the name and password that a URL may hold."""
        if self.path is not None:
            return str(self.path)
        return without_secrets(self.settings.store.url).partition("?")[0]


def own(settings: Settings) -> Place:
    """The store of a site."""
    return Place(settings, settings.data_dir)


def at(settings: Settings, url: str) -> Place:
    """The store at a URL, with everything else as in ``settings``.

    Raises:
        InputError: it is no URL of a store.
    """
    if not any(url.startswith(scheme) and url != scheme for scheme in _SCHEMES):
        raise InputError("a store is named as sqlite:///PATH or mongodb://HOST[:PORT]/DATABASE")
    section = settings.store.model_copy(update={"url": url})
    place = Place(settings.model_copy(update={"store": section}), None)
    if place.path is None:
        return place
    if place.path == settings.store_path:
        return own(settings)
    is_site = (place.path.parent / LOCK_FILE).exists()
    return Place(place.settings, place.path.parent if is_site else None)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Store]:
    """The store of a place, open.

    Raises:
        ConfigError: it cannot be used with these settings.
        StoreUnavailable: it does not answer.
    """
    store = make_store(place.settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def alone(place: Place, *, force: bool = False, locked: Path | None = None) -> AsyncIterator[Store]:
    """The same, for as long as no server uses it; with ``force`` nobody asks whether one does.

    ``locked`` is a data directory that the caller holds already.

    Raises:
        ConflictError: a server uses it.
    """
    with nullcontext() if force else _locked(place, locked):
        async with opened(place) as store:
            if store.sharing is not None and not force and await _is_alive(store.sharing):
                raise _in_use(place, "a server")
            yield store


def check_exists(place: Place) -> None:
    """Raise NotFoundError if there is no such file; a server is asked when the store is opened."""
    if place.path is not None and not place.path.exists():
        raise NotFoundError("site database", place.path)


@contextmanager
def _locked(place: Place, locked: Path | None) -> Iterator[None]:
    """Keep servers of this machine away from a SQLite store; others are asked (see `_is_alive`)."""
    path = place.path
    with ExitStack() as stack:
        if path is not None and place.lock_dir not in (None, locked):
            try:
                stack.enter_context(data_directory(place.lock_dir))
            except ConfigError:
                raise _in_use(place, "a server") from None
        if path is not None and path.exists() and upkeep.is_open(path):
            raise _in_use(place, "another process")
        yield


def _in_use(place: Place, by: str) -> ConflictError:
    return ConflictError(f"{by} uses {place.name}; stop it first")


async def _is_alive(sharing: Sharing) -> bool:
    """Whether any process shows a sign of life: the holder of the duties beats, all tell news."""
    hold, heads = await sharing.hold(duty.NAME), await sharing.heads()
    if (hold is None or not hold.holder) and not heads:
        return False
    until = clock.monotonic() + max(duty.TTL_S, 2 * news.HEARTBEAT_S)
    while clock.monotonic() < until:
        await asyncio.sleep(_LOOK_EVERY_S)
        if await sharing.hold(duty.NAME) != hold:
            return True
        if any(number > heads.get(sender, 0) for sender, number in (await sharing.heads()).items()):
            return True
    return False


async def copy(source: Place, target: Place, *, progress: Progress, force: bool, restart: bool) -> Copied:
    """Copy all of a store into an empty one, or go on with it.

    Raises:
        NotFoundError: there is no such source.
        ConflictError: a server uses one of them, the target holds something else, or the copy
            came out different.
    """
    if source.name == target.name:
        raise InputError("a store cannot be copied into itself")
    check_exists(source)
    locked = None if source.path is None else source.lock_dir
    async with (
        alone(source, force=force) as reading,
        alone(target, force=force, locked=locked) as writing,
    ):
        if await reading.archive.mark() is not None:
            raise ConflictError(f"{source.name} is itself an unfinished copy")
        return await copying.copy(reading.archive, writing.archive, progress=progress, restart=restart)


@dataclass(frozen=True, slots=True)
class CheckedStore:
    """What a look through a store found; ``repaired`` are the counters that were put right.

    ``recounted`` is how many of those of what users, groups and datasets keep were.
    """

    content: Checked
    damage: tuple[str, ...]
    repaired: tuple[Drift, ...]
    unfinished: bool
    recounted: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong, or not any more."""
        return not (self.content.faults or self.damage or self.unfinished)


async def check(place: Place, *, progress: Progress, force: bool, repair: bool) -> CheckedStore:
    """Look for damage, wrong counters, and records that refer to nothing.

    Raises:
        NotFoundError: there is no such store.
        ConflictError: a server uses it.
    """
    check_exists(place)
    async with alone(place, force=force) as store:
        repaired = await _recount(store) if repair else []
        recounted = await store.files.recount() if repair else 0
        damage = await store.check()
        content = await checking.check(store.archive, progress=progress)
        unfinished = await store.archive.mark() is not None
        return CheckedStore(content, tuple(damage), tuple(repaired), unfinished, recounted)


async def _recount(store: Store) -> list[Drift]:
    found = []
    async for part in copying.pages(Kind.DATASET, store.archive):
        for record in part:
            found += await store.datasets.recount(cast(Dataset, record.value).dataset_id)
    return found


@dataclass(frozen=True, slots=True)
class Migrated:
    """The versions of a store's schema; 0 if there was none."""

    before: int
    after: int


async def migrate(place: Place) -> Migrated:
    """Bring a store to the schema of this release, as a server does at its start.

    Raises:
        NotFoundError: there is no such store.
        ConflictError: a server uses it.
        ConfigError: it is of a newer release.
    """
    check_exists(place)
    before = await _version(place)
    async with alone(place):
        return Migrated(before, await _version(place))


async def _version(place: Place) -> int:
    if place.path is not None:
        return upkeep.version(place.path)
    return await mongo_upkeep.version(place.settings.store.url)
