"""The datastore: whether it answers and is sound."""

from __future__ import annotations

from iceprod.config import Settings
from iceprod.errors import IceProdError
from iceprod.server.assembly import make_store
from iceprod.server.diagnosis.findings import Finding, failed, good

_RESTORE = "restore a backup: iceprod restore FILE"


async def look(settings: Settings) -> Finding:
    """Open the store, read, write, and look for damage."""
    path = settings.store_path
    if path is not None and not path.exists():
        return good("store", f"{path} will be made at the first start")
    try:
        store = make_store(settings)
        await store.open()
        try:
            await store.ping()
            damage = await store.check()
        finally:
            await store.close()
    except IceProdError as exc:
        return failed("store", exc.message, _RESTORE)
    if damage:
        return failed("store", "; ".join(damage[:3]), _RESTORE)
    return good("store", f"{path or 'the MongoDB server'} is sound")
