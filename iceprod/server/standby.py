"""A standby copy of a whole site: kept current beside a running server, and made the site when that is gone.

The copy is a folder with one folder in it for each time that it was made, and a link ``current``
to the newest that is complete.  Only the store is as of one moment; keys and files are
copied after it, so that what it refers to is there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from iceprod import ids
from iceprod.config import Settings
from iceprod.errors import InputError, NotFoundError
from iceprod.server import backups, stores

CURRENT: Final = "current"
_STORE: Final = "iceprod.db"


async def copy_to(settings: Settings, folder: Path, *, with_files: bool = False) -> Path:
    """Make a copy of a site that may be at work; the folder of this copy.

    A file that is in the copy before is no second time on the disk.

    Raises:
        InputError: its store is none of SQLite, or ``folder`` will not do.
        NotFoundError: there is no database.
    """
    if settings.store_path is None:
        raise InputError("a MongoDB database is followed by the members of its replica set")
    stores.check_exists(stores.own(settings))
    made, former = folder / f"copy-{ids.new_id()}", folder / CURRENT
    made.mkdir(mode=0o700, parents=True)
    try:
        await backups.backup(settings, made / _STORE)
        for name, source in _parts(settings, with_files=with_files):
            await asyncio.to_thread(_copy, source, made / name, former / name)
        _point(former, made)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    await asyncio.to_thread(_drop_but, made)
    return made


async def promote(settings: Settings, folder: Path) -> Path | None:
    """Make the site what a standby copy holds; where its former database lies now, if there was one.

    Raises:
        NotFoundError: there is no copy in ``folder``.
        InputError: it is damaged, or the site has a MongoDB database.
        ConfigError: a server runs.
    """
    current = folder / CURRENT
    if not (current / _STORE).exists():
        raise NotFoundError("standby copy", folder)
    if settings.store_path is None:
        raise InputError("a standby copy is made the database of a site with SQLite; restore it into MongoDB")
    former = await backups.restore(settings, current / _STORE)
    for name, target in _parts(settings, with_files=True):
        if (current / name).exists():
            await asyncio.to_thread(_copy, current / name, target, None)
    return former


def _parts(settings: Settings, *, with_files: bool) -> Iterator[tuple[str, Path]]:
    """What a site needs beside its store: what it is called in a copy, and where it lies."""
    yield "ca", settings.authority_path
    yield "federation", settings.federation_path
    yield "credentials.key", settings.credential_key_path
    if with_files:
        yield "files", settings.files_path


def _copy(source: Path, target: Path, former: Path | None) -> None:
    """Copy a file, or a folder with all that is in it; what goes away meanwhile is left out."""
    if source.is_dir():
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in source.iterdir():
            _copy(each, target / each.name, former / each.name if former else None)
    elif source.is_file():
        with suppress(FileNotFoundError):
            _copy_file(source, target, former)


def _copy_file(source: Path, target: Path, former: Path | None) -> None:
    facts = source.stat()
    if former is not None and former.is_file():
        known = former.stat()
        if (known.st_size, known.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
            os.link(former, target)
            return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.copied")
    shutil.copy2(source, draft)
    draft.replace(target)


def _drop_but(made: Path) -> None:
    """Delete all other copies, also those that were cut off."""
    for other in made.parent.glob("copy-*"):
        if other != made:
            shutil.rmtree(other, ignore_errors=True)


def _point(link: Path, made: Path) -> None:
    """Let the link be to that folder, from one moment to the next."""
    draft = link.with_name(f"{link.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(made.name)
    draft.replace(link)
