"""Opening the datastore at start, also where its server starts later than this one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from iceprod import clock as clocks
from iceprod.clock import Clock
from iceprod.errors import ConfigError, StoreUnavailable
from iceprod.store.base import Store

logger = structlog.get_logger(__name__)

_PAUSE_S = 1.0


async def open_store(
    store: Store,
    *,
    wait_s: float,
    monotonic: Clock = clocks.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Open ``store``; while it is away, try again for ``wait_s`` seconds.

    Raises:
        StoreUnavailable: it did not come in time.
        ConfigError: it cannot be used with these settings, or is an unfinished copy; waiting
            would not help.
    """
    deadline = monotonic() + wait_s
    is_told = False
    while True:
        try:
            await store.open()
        except StoreUnavailable as error:
            if monotonic() >= deadline:
                raise
            if not is_told:
                logger.warning("waiting for the store", problem=error.message, wait_s=wait_s)
                is_told = True
            await sleep(_PAUSE_S)
        else:
            if is_told:
                logger.info("the store has come")
            await check_finished(store)
            return


async def check_finished(store: Store) -> None:
    """Close a store that a copy or a restoration is still to fill: it is no site's yet.

    Raises:
        ConfigError: it is such a one.
    """
    try:
        is_finished = await store.archive.mark() is None
    except BaseException:
        await store.close()
        raise
    if not is_finished:
        await store.close()
        raise ConfigError("the store is an unfinished copy; repeat the copy or the restoration that makes it")
