"""The datastore: whether it answers and is sound, who shares it, and what it knows of other sites."""

from __future__ import annotations

import asyncio
from typing import Final

from iceprod.config import Settings
from iceprod.errors import IceProdError
from iceprod.server.assembly import make_store
from iceprod.server.diagnosis import sites
from iceprod.server.diagnosis.findings import Finding, failed, good, warning
from iceprod.services.duty import NAME, TTL_S
from iceprod.services.news import HEARTBEAT_S
from iceprod.store.base import Sharing, Store

_RESTORE: Final = "restore a backup: iceprod restore FILE"
_REACH: Final = "start the MongoDB server, or correct store.url; docs/how-to/mongodb.md"


async def look(settings: Settings, *, is_running: bool) -> list[Finding]:
    """Open the store, read, write, look for damage; with a server that runs, at the others, too."""
    path = settings.store_path
    if path is not None and not path.exists():
        return [good("store", f"{path} will be made at the first start")]
    try:
        store = make_store(settings)
        await store.open()
        try:
            return [
                await _soundness(store, settings),
                *await _sharing(store, is_running=is_running),
                *await sites.look(store, settings),
            ]
        finally:
            await store.close()
    except IceProdError as exc:
        return [failed("store", exc.message, _RESTORE if path is not None else _REACH)]


async def _soundness(store: Store, settings: Settings) -> Finding:
    await store.ping()
    if await store.archive.mark() is not None:
        return failed("store", "it is an unfinished copy", "repeat the copy or the restoration that makes it")
    damage = await store.check()
    if damage:
        return failed("store", "; ".join(damage[:3]), _RESTORE)
    return good("store", f"{settings.store_path or 'the MongoDB server'} is sound")


async def _sharing(store: Store, *, is_running: bool) -> list[Finding]:
    """Which processes share the store, and whether one of them has the duties."""
    if store.sharing is None or not is_running:
        return []
    return list(await asyncio.gather(_processes(store.sharing), _duties(store.sharing)))


async def _processes(sharing: Sharing) -> Finding:
    """Those that tell news while one listens: each does, as a sign of life at least."""
    before = await sharing.heads()
    await asyncio.sleep(2 * HEARTBEAT_S)
    alive = sum(1 for sender, number in (await sharing.heads()).items() if number > before.get(sender, 0))
    if alive:
        return good("processes", f"{alive} share the store")
    advice = "is the server busy, or has it another store? see its log"
    return failed("processes", "none shows a sign of life", advice)


async def _duties(sharing: Sharing) -> Finding:
    """Whether the beat of their holder goes on."""
    before = await sharing.hold(NAME)
    await asyncio.sleep(TTL_S)
    after = await sharing.hold(NAME)
    if after is None or not after.holder or after == before:
        message = "no process has the background duties: no jobs are made, no leases expire"
        return warning("duties", message, "look again in some seconds, then at the log of the server")
    return good("duties", f"held by {after.holder} (fence {after.fence})")
