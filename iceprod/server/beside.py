"""What is done to a site's own files beside its server: first account, tokens, backup.

All of it works whether the server runs or not, but for `prepare`, `restore` and `end_pilots`,
which need the data directory for themselves.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iceprod import clock as clocks
from iceprod import ids
from iceprod.config import Settings
from iceprod.errors import AlreadyExists, InputError, NotFoundError
from iceprod.grids.base import Grid
from iceprod.grids.local import GRACE_S
from iceprod.server.assembly import make_accounts, make_grids, make_store
from iceprod.server.directory import data_directory
from iceprod.services.accounts import Accounts, principal_of
from iceprod.store.base import Store

_SIDE_FILES: Final = ("-wal", "-shm")


@dataclass(frozen=True, slots=True)
class FirstAccount:
    """The administrator of a new site, with password and API token."""

    name: str
    password: str
    token: str


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Store, Accounts]]:
    store = make_store(settings)
    await store.open()
    try:
        accounts = make_accounts(store, settings, clock=clocks.now)
        await accounts.open()
        try:
            yield store, accounts
        finally:
            accounts.close()
    finally:
        await store.close()


async def prepare(settings: Settings, *, name: str) -> FirstAccount:
    """Make the store of a new site and its first administrator.

    Raises:
        AlreadyExists: the site has accounts already.
        ConfigError: the data directory is in use.
    """
    with data_directory(settings.data_dir):
        async with _opened(settings) as opened:
            password = await opened[1].create_first_admin(name)
            if password is None:
                raise AlreadyExists(f"{settings.data_dir} is the data directory of a site already")
            return FirstAccount(name, password, await _token_for(opened, name, "first account"))


async def make_token(settings: Settings, *, name: str, label: str) -> str:
    """An API token for a user, made on the server's machine by whoever may read its database.

    Raises:
        NotFoundError: there is no site, or no such user.
    """
    _check_exists(settings)
    async with _opened(settings) as opened:
        return await _token_for(opened, name, label)


async def _token_for(opened: tuple[Store, Accounts], name: str, label: str) -> str:
    store, accounts = opened
    user = await store.accounts.user(name)
    if user is None or user.disabled:
        raise NotFoundError("user", name)
    return (await accounts.create_token(principal_of(user), label=label)).secret


async def backup(settings: Settings, target: Path) -> int:
    """Copy the database to ``target`` while it is used; its size in bytes.

    The copy gets its name only when it is complete.

    Raises:
        NotFoundError: there is no database.
        AlreadyExists: there is something at ``target``.
    """
    _check_target(settings, target)
    draft = target.with_name(f".{target.name}.{ids.new_id()}")
    store = make_store(settings)
    await store.open()
    try:
        size = await store.backup(draft)
        draft.chmod(0o600)
        draft.replace(target)
    finally:
        await store.close()
        draft.unlink(missing_ok=True)
    return size


async def end_pilots(settings: Settings, *, within_s: float, grace_s: float = GRACE_S) -> int:
    """End the pilots that a stopped server's grids have left running; how many there are after that.

    They get ``grace_s`` to end by themselves, and then are killed.

    Raises:
        ConfigError: the server runs, and its pilots are its own business.
    """
    with data_directory(settings.data_dir):
        grids = [grid for grid, _ in make_grids(settings, grace_s=grace_s)]
        async with AsyncExitStack() as stack:
            for grid in grids:
                await grid.open(_nothing)
                stack.push_async_callback(grid.close)
                for job_id in await grid.jobs():
                    await grid.cancel(job_id)
            left = await _running(grids)
            deadline = clocks.monotonic() + within_s
            while left and clocks.monotonic() < deadline:
                await asyncio.sleep(0.05)
                left = await _running(grids)
            return left


def _nothing() -> None:
    """What a grid calls when something changed; it is polled here."""


async def _running(grids: list[Grid]) -> int:
    return sum([len(await grid.jobs()) for grid in grids])


def _check_exists(settings: Settings) -> None:
    path = settings.store_path
    if path is not None and not path.exists():
        raise NotFoundError("site database", path)


def _database(settings: Settings) -> Path:
    """The file of the database.

    Raises:
        InputError: the store is none that lies in a file.
    """
    if settings.store_path is None:
        raise InputError("the store is a MongoDB server: there is no file to put in its place")
    return settings.store_path


def _check_target(settings: Settings, target: Path) -> None:
    _check_exists(settings)
    if target.exists():
        raise AlreadyExists(f"{target} exists; a backup overwrites nothing")
    if not target.parent.is_dir():
        raise InputError(f"there is no directory {target.parent}")


def restore(settings: Settings, source: Path) -> Path | None:
    """Put the copy ``source`` in the place of the database; where the former one lies now.

    Raises:
        InputError: the copy is damaged, or none of ours.
        ConfigError: the server runs.
    """
    _check_copy(source)
    target = _database(settings)
    with data_directory(settings.data_dir):
        draft = target.with_name(f"{target.name}.restored")
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600, exist_ok=False)  # nobody else reads it while it is copied, either
        shutil.copyfile(source, draft)
        former = _put_aside(target)
        draft.replace(target)
    return former


def _check_copy(source: Path) -> None:
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


def _put_aside(target: Path) -> Path | None:
    """Rename the database with its side files; nothing is deleted."""
    if not target.exists():
        return None
    former = target.with_name(f"{target.name}.before-{ids.new_id()}")
    target.replace(former)
    for suffix in _SIDE_FILES:
        beside = target.with_name(target.name + suffix)
        if beside.exists():
            beside.replace(former.with_name(former.name + suffix))
    return former
