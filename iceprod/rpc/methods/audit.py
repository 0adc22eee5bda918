"""The method that reads the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from iceprod.model.paging import MAX_PAGE, Page
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView, listed
from iceprod.services.audit_trail import AuditFilter
from iceprod.store.base import AuditEntry

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Text = Annotated[str, msgspec.Meta(max_length=300)]


@dataclass(frozen=True, slots=True)
class AuditView:
    """Something that was done or refused; ``principal`` is empty if nobody knows who it was."""

    at: float
    principal: str
    action: str
    target: str
    detail: Mapping[str, Any]


def _view(entry: AuditEntry) -> AuditView:
    return AuditView(entry.at, entry.principal, entry.action, entry.target, entry.detail)


@METHODS.method("audit.list", action="audit.list", idempotent=True)
async def audit_list(
    call: Call,
    *,
    target: Text | None = None,
    action: Text | None = None,
    principal: Text | None = None,
    since: float = 0.0,
    cursor: str | None = None,
    limit: Limit = 50,
) -> ListView[AuditView]:
    """The audit trail, newest first; an ``action`` that ends in a dot stands for all that begin so.

    There may be fewer items than asked for, or none, though ``next`` says that more may follow.
    """
    wanted = AuditFilter(target=target, action=action, principal=principal, since=since)
    return listed(await call.services.trail.select(call.principal, wanted, Page(limit, cursor)), _view)
