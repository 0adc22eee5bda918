"""Backups: of a SQLite store its file, of a MongoDB store an archive; either fills either kind of store."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from iceprod import clock, ids
from iceprod.config import Settings
from iceprod.errors import AlreadyExists, InputError
from iceprod.server import stores
from iceprod.server.processes.directory import data_directory
from iceprod.site_sync import terms
from iceprod.store.archive import Records
from iceprod.store.archive_file import MAGIC, ArchiveFile
from iceprod.store.copying import Progress, copy, silent
from iceprod.store.sqlite import SqliteStore

_SIDE_FILES: Final = ("-wal", "-shm")


async def backup(settings: Settings, target: Path, *, force: bool = False) -> int:
    """Copy the store to the new file ``target``; its size in bytes.

    A SQLite store may be in use, and the copy is as of one moment.  A MongoDB store may not,
    unless ``force`` says that what changes meanwhile does not matter.  The file gets its
    name only when it is complete.

    Raises:
        NotFoundError: there is no database.
        AlreadyExists: there is something at ``target``.
        ConflictError: a server uses a MongoDB store.
    """
    place = stores.own(settings)
    stores.check_exists(place)
    _check_target(target)
    opened = stores.opened(place) if place.path is not None else stores.alone(place, force=force)
    async with opened as store:
        await store.archive.identity()  # so that a copy of the backup can be cut off and go on
        return await store.backup(target)


def _check_target(target: Path) -> None:
    if target.exists():
        raise AlreadyExists(f"{target} exists; a backup overwrites nothing")
    if not target.parent.is_dir():
        raise InputError(f"there is no directory {target.parent}")


async def restore(
    settings: Settings, source: Path, *, restart: bool = False, progress: Progress = silent
) -> Path | None:
    """Make the store what a backup holds; where the former database lies now, if there was one.

    A MongoDB database has to be empty, or to hold the beginning of this very restoration.  A new
    term begins with it (`iceprod.site_sync.terms`), so that sites that were lent tasks
    after the backup tell what they hold.

    Raises:
        InputError: the backup is damaged, or none of ours.
        ConfigError, ConflictError: a server runs.
        ConflictError: a MongoDB database holds something else.
    """
    place = stores.own(settings)
    is_archive = _begins_with(source, MAGIC)
    if not is_archive:
        _check_database(source)
    if place.path is None:
        async with _records(source, is_archive=is_archive) as records, stores.alone(place) as store:
            await copy(records, store.archive, restart=restart, progress=progress)
            await terms.begin(store.values, above=0, now=clock.now())
        return None
    with data_directory(settings.data_dir):
        draft = _new_draft(place.path)
        if is_archive:
            await _fill(draft, source, progress)
        else:
            shutil.copyfile(source, draft)
        await _begin_term(draft, above=_term_of(place.path))
        former = _put_aside(place.path)
        draft.replace(place.path)
    return former


async def begin_term(settings: Settings) -> int:
    """Begin a new term in a store that was restored by other means; which.

    Raises:
        NotFoundError: there is no database.
        ConfigError, ConflictError: a server runs.
    """
    place = stores.own(settings)
    stores.check_exists(place)
    async with stores.alone(place) as store:
        return await terms.begin(store.values, above=0, now=clock.now())


async def _begin_term(draft: Path, *, above: int) -> None:
    store = SqliteStore(draft, synchronous="FULL")
    await store.open()
    try:
        await terms.begin(store.values, above=above, now=clock.now())
    finally:
        await store.close()


def _term_of(path: Path) -> int:
    """The term of the database that is replaced, as far as that can be read."""
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT text FROM vals WHERE name = ?", (terms.NAME,)).fetchone()
    except sqlite3.Error:
        return 0
    return terms.read(None if row is None else row[0]).number


def _begins_with(source: Path, magic: bytes) -> bool:
    with source.open("rb") as file:
        return file.read(len(magic)) == magic


def _new_draft(target: Path) -> Path:
    """An empty file for the owner only, so that nobody else reads it while it is written, either."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.restored")
    for path in (draft, *_beside(draft)):
        path.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    return draft


async def _fill(draft: Path, source: Path, progress: Progress) -> None:
    """Write the records of an archive into a new database."""
    file = ArchiveFile(source)
    await file.open()
    store = SqliteStore(draft, synchronous="NORMAL")
    await store.open()
    try:
        await copy(file, store.archive, progress=progress)
    finally:
        await store.close()


@asynccontextmanager
async def _records(source: Path, *, is_archive: bool) -> AsyncIterator[Records]:
    """What a backup holds; that of SQLite is opened as a copy, for it may be of an older schema."""
    if is_archive:
        file = ArchiveFile(source)
        await file.open()
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="iceprod-restore-") as folder:
        path = Path(folder) / "store.db"
        await asyncio.to_thread(shutil.copyfile, source, path)
        store = SqliteStore(path, synchronous="OFF")
        await store.open()
        try:
            yield store.archive
        finally:
            await store.close()


def _check_database(source: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            verdict = connection.execute("pragma integrity_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("select name from sqlite_master")}
    except sqlite3.Error as exc:
        raise InputError(f"{source} is no readable copy of a database: {exc}") from None
    if verdict != "ok":
        raise InputError(f"{source} is damaged: {verdict}")
    if not {"datasets", "tasks"} <= tables:
        raise InputError(f"{source} is not the database of a site")


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES]


def _put_aside(target: Path) -> Path | None:
    """Rename the database with its side files; nothing is deleted."""
    if not target.exists():
        return None
    former = target.with_name(f"{target.name}.before-{ids.new_id()}")
    target.replace(former)
    for beside, renamed in zip(_beside(target), _beside(former), strict=True):
        if beside.exists():
            beside.replace(renamed)
    return former
