"""Methods about how much may be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from iceprod.errors import NotFoundError
from iceprod.model.file import Quota
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView
from iceprod.services.quotas import Allowance

METHODS = Registry()

HolderKind = Literal["user", "group", "dataset"]
Most = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Holder = Annotated[str, msgspec.Meta(max_length=200)]


@dataclass(frozen=True, slots=True)
class QuotaView:
    """What one holder may keep (null for any amount) and keeps.

    ``holder`` is empty where the limit is for whoever has no own.  ``source`` is ``own``,
    ``default`` or ``settings``; ``bytes_reserved`` are of uploads under way in this process.
    """

    kind: str
    holder: str
    bytes_most: int | None
    files_most: int | None
    bytes_kept: int
    files_kept: int
    bytes_reserved: int
    source: str


def _view(found: Allowance) -> QuotaView:
    return QuotaView(
        kind=found.stored.kind,
        holder=found.stored.holder,
        bytes_most=found.quota.bytes_most,
        files_most=found.quota.files_most,
        bytes_kept=found.stored.bytes_kept,
        files_kept=found.stored.files_kept,
        bytes_reserved=found.reserved_bytes,
        source=found.source,
    )


@METHODS.method("quota.get", action="quota.get", errors=(NotFoundError,), idempotent=True)
async def quota_get(call: Call, *, kind: HolderKind, holder: Holder) -> QuotaView:
    """What a user, group or dataset may keep, and keeps."""
    return _view(await call.services.quotas.allowance(call.principal, kind, holder))


@METHODS.method("quota.list", action="quota.list", idempotent=True)
async def quota_list(call: Call) -> ListView[QuotaView]:
    """What the caller and the caller's groups may keep; for an administrator every limit there is."""
    return ListView([_view(found) for found in await call.services.quotas.listed(call.principal)], None)


@METHODS.method("quota.set", action="quota.set", errors=(NotFoundError,), idempotent=True)
async def quota_set(
    call: Call,
    *,
    kind: HolderKind,
    holder: Holder = "",
    bytes_most: Most | None = None,
    files_most: Most | None = None,
) -> None:
    """Limit what may be kept, in place of a former limit; without both numbers it is forgotten.

    An empty holder means whoever has no limit of their own.
    """
    await call.services.quotas.set(call.principal, Quota(kind, holder, bytes_most, files_most))
