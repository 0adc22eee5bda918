"""What is done to a site's own files beside its server: first account, tokens, backup, doctor.

All of it works whether the server runs or not, but for `prepare`, `restore` and `end_pilots`,
which need the data directory for themselves.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from iceprod import clock as clocks
from iceprod import ids
from iceprod.config import Settings
from iceprod.errors import AlreadyExists, IceProdError, InputError, NotFoundError
from iceprod.grids.base import Grid
from iceprod.grids.local import GRACE_S
from iceprod.server.assembly import make_accounts, make_grids, make_store
from iceprod.server.process import PORTS_FILE, data_directory
from iceprod.services.accounts import Accounts, principal_of
from iceprod.store.base import Store

_LOW_DISK_BYTES: Final = 10**9
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


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    verdict: Verdict
    message: str
    advice: str = ""


async def diagnose(settings: Settings) -> list[Finding]:
    """Look at everything that a server with these settings needs; changes nothing."""
    findings = [_python(), *_directory(settings)]
    findings.append(await _store(settings))
    findings += _listeners(settings)
    findings += _grids(settings)
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", Verdict.OK, f"Python {version}, SQLite {sqlite3.sqlite_version}")


def _directory(settings: Settings) -> Iterator[Finding]:
    path = settings.data_dir
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if os.access(existing, os.W_OK):
        yield Finding("data directory", Verdict.OK, f"{path} can be written")
    else:
        yield Finding(
            "data directory",
            Verdict.FAILED,
            f"{existing} cannot be written",
            "set server.data_dir, or change its owner",
        )
    free = shutil.disk_usage(existing).free
    verdict = Verdict.OK if free > _LOW_DISK_BYTES else Verdict.WARNING
    advice = "" if verdict is Verdict.OK else "make room: uploads stop at files.keep_free_bytes"
    yield Finding("disk", verdict, f"{free / 1e9:.1f} GB free", advice)


async def _store(settings: Settings) -> Finding:
    path = settings.store_path
    if path is not None and not path.exists():
        return Finding("store", Verdict.OK, f"{path} will be made at the first start")
    store = make_store(settings)
    try:
        await store.open()
        try:
            await store.ping()
            damage = await store.check()
        finally:
            await store.close()
    except IceProdError as exc:
        return Finding("store", Verdict.FAILED, exc.message, "restore a backup: iceprod restore FILE")
    if damage:
        return Finding(
            "store", Verdict.FAILED, "; ".join(damage[:3]), "restore a backup: iceprod restore FILE"
        )
    return Finding("store", Verdict.OK, f"{path or 'the MongoDB server'} is sound")


def _listeners(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    running = _is_running(settings)
    ports = {"server.port": server.port}
    if server.rpc_lane:
        ports["server.rpc_port"] = server.rpc_port
    for setting, port in (ports | _ports_in_use(settings) if running else ports).items():
        yield _port(setting, server.host, port, running=running)


def _ports_in_use(settings: Settings) -> dict[str, int]:
    """The ports of the server that runs, which may be others than those of the settings."""
    try:
        return msgspec.json.decode((settings.data_dir / PORTS_FILE).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}


def _is_running(settings: Settings) -> bool:
    """Whether a server holds the data directory."""
    if not settings.data_dir.exists():
        return False
    try:
        with data_directory(settings.data_dir):
            return False
    except IceProdError:
        return True


def _port(setting: str, host: str, port: int, *, running: bool) -> Finding:
    if port == 0:
        return Finding(setting, Verdict.OK, "any free port")
    try:
        with closing(socket.create_connection((host or "127.0.0.1", port), timeout=2)):
            taken = True
    except OSError:
        taken = False
    where = f"{host}:{port}"
    if running:
        if taken:
            return Finding(setting, Verdict.OK, f"the server listens on {where}")
        return Finding(setting, Verdict.FAILED, f"the server does not answer on {where}", "look at its log")
    if taken:
        return Finding(setting, Verdict.FAILED, f"another program listens on {where}", f"set {setting}")
    return Finding(setting, Verdict.OK, f"{where} is free")


def _grids(settings: Settings) -> Iterator[Finding]:
    for name, grid in settings.grids.items():
        text = f"{grid.kind}, at most {grid.max_pilots} pilots"
        if grid.max_pilots:
            yield Finding(f"grid {name}", Verdict.OK, text)
        else:
            yield Finding(
                f"grid {name}", Verdict.WARNING, text, f"nothing runs here: set grids.{name}.max_pilots"
            )
