"""What is done beside a site's server: first account, tokens, ending what is left of it.

`prepare` and `end_pilots` need the data directory for themselves; `make_token` works whether
the server runs or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from iceprod import clock as clocks
from iceprod.config import Settings
from iceprod.errors import AlreadyExists, NotFoundError
from iceprod.grids.base import Grid
from iceprod.grids.local import GRACE_S
from iceprod.server.assembly import make_accounts, make_grids, make_store
from iceprod.server.opening import check_finished
from iceprod.server.processes.directory import data_directory
from iceprod.services.accounts import Accounts, principal_of
from iceprod.store.base import Store
from iceprod.store.mongo import upkeep as mongo_upkeep


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
    await check_finished(store)
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


async def end_pilots(settings: Settings, *, within_s: float, grace_s: float = GRACE_S) -> int:
    """End the pilots that a stopped server's grids have left running; how many there are after that.

    They get ``grace_s`` to end by themselves, and then are killed.  Processes of the server
    that are about to leave are waited for, ``within_s`` at most.

    Raises:
        ConfigError: the server runs, and its pilots are its own business.
    """
    with data_directory(settings.data_dir, patience_s=within_s):
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


async def remove_database(settings: Settings) -> None:
    """Remove the MongoDB database of a site that is wanted no more, with all that is in it.

    Raises:
        ConfigError: a server of this data directory runs.
        StoreUnavailable: no MongoDB server answers.
    """
    with data_directory(settings.data_dir):
        await mongo_upkeep.drop(settings.store.url)


def _nothing() -> None:
    """What a grid calls when something changed; it is polled here."""


async def _running(grids: list[Grid]) -> int:
    return sum([len(await grid.jobs()) for grid in grids])


def _check_exists(settings: Settings) -> None:
    path = settings.store_path
    if path is not None and not path.exists():
        raise NotFoundError("site database", path)
