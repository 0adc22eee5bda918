"""The method that tells where the tasks of a dataset ran."""

from __future__ import annotations

from iceprod.errors import NotFoundError
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView
from iceprod.site_sync.seen.whereabouts import Ran

METHODS = Registry()


@METHODS.method("dataset.where", action="dataset.where", errors=(NotFoundError,), idempotent=True)
async def dataset_where(call: Call, *, dataset_id: str) -> ListView[Ran]:
    """Where the tasks of a dataset run and ran: this site (of empty name), then others that had some."""
    dataset = await call.services.datasets.get(call.principal, dataset_id)
    return ListView(list(await call.services.sites.whereabouts.of(dataset)), None)
