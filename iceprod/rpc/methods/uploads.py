"""Methods about uploads under way; their bytes come by HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec

from iceprod.errors import ConflictError, NotFoundError
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView
from iceprod.services.uploads.values import UploadView

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


@METHODS.method("upload.list", action="upload.read", idempotent=True)
async def upload_list(call: Call, *, limit: Limit = 100) -> ListView[UploadView]:
    """The caller's uploads, an administrator's list has everybody's: first those under way.

    Those that are over follow, the latest first, as long as they are remembered.
    """
    return ListView(await call.services.uploads.service.list(call.principal, limit=limit), None)


@METHODS.method("upload.get", action="upload.read", errors=(NotFoundError,), idempotent=True)
async def upload_get(call: Call, *, upload_id: str) -> UploadView:
    """One upload: how far it is, and what has become of it."""
    view: UploadView = await call.services.uploads.service.status(call.principal, upload_id)
    return view


@METHODS.method("upload.cancel", action="upload.cancel", errors=(NotFoundError, ConflictError))
async def upload_cancel(call: Call, *, upload_id: str) -> None:
    """Throw an upload away; a file that is in its place already stays there."""
    await call.services.uploads.service.cancel(call.principal, upload_id)
