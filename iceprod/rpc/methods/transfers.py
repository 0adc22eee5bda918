"""Methods about bytes that are moved, and that were."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import msgspec

from iceprod.errors import NotFoundError
from iceprod.model.file import Direction, Flow, Usage
from iceprod.model.paging import MAX_PAGE, Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import parse_task_id
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ListView, listed
from iceprod.services import authorization
from iceprod.services.authorization import Scope
from iceprod.services.transfers import TransferView
from iceprod.store.files import UsageFilter

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Name = Annotated[str, msgspec.Meta(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowShown:
    """Whose bytes they are; ``direction`` as seen from the server."""

    user: str
    group: str
    dataset_id: str
    origin: str
    peer: str
    service: str
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferShown(FlowShown):
    """A transfer under way or lately ended.

    ``bytes_per_s`` is its speed of the last seconds; ``error`` says why it broke off.
    """

    transfer_id: str
    label: str
    size_bytes: int | None
    moved_bytes: int
    bytes_per_s: float
    started_at: float
    ended_at: float | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageView(FlowShown):
    """What went one way for one user on one day (UTC)."""

    day: str
    bytes_moved: int
    transfers: int


def _shown(view: TransferView) -> TransferShown:
    return TransferShown(
        **asdict(view.flow),
        transfer_id=view.transfer_id,
        label=view.label,
        size_bytes=view.size_bytes,
        moved_bytes=view.moved_bytes,
        bytes_per_s=round(view.bytes_per_s, 1),
        started_at=view.started_at,
        ended_at=view.ended_at,
        error=view.error,
    )


def _used(usage: Usage) -> UsageView:
    return UsageView(
        **asdict(usage.flow), day=usage.day, bytes_moved=usage.bytes_moved, transfers=usage.transfers
    )


def _is_shown(principal: Principal, flow: Flow) -> bool:
    if principal.kind is PrincipalKind.TASK:
        return flow.dataset_id == parse_task_id(principal.id)[0]
    return principal.id == flow.user


@METHODS.method("transfer.list", action="transfer.list", idempotent=True)
async def transfer_list(call: Call, *, ended: bool = False, limit: Limit = 200) -> ListView[TransferShown]:
    """Transfers of the answering process: those under way, or with ``ended`` the latest that are over.

    Users see their own, administrators all.
    """
    scope = authorization.check(call.principal, "transfer.list")
    transfers = call.services.transfers
    found = transfers.ended() if ended else transfers.live()
    seen = [view for view in found if scope is Scope.ANY or _is_shown(call.principal, view.flow)]
    return ListView([_shown(view) for view in seen[:limit]], None)


@METHODS.method("transfer.get", action="transfer.get", idempotent=True, errors=(NotFoundError,))
async def transfer_get(call: Call, *, transfer_id: Name) -> TransferShown:
    """How a transfer is doing, or how it ended: its id stands in the answer's X-Transfer-Id."""
    scope = authorization.check(call.principal, "transfer.get")
    found = call.services.transfers.get(transfer_id)
    if scope is not Scope.ANY and not _is_shown(call.principal, found.flow):
        raise NotFoundError("transfer", transfer_id)
    return _shown(found)


@METHODS.method("usage.list", action="usage.list", idempotent=True)
async def usage_list(
    call: Call,
    *,
    since: Day | None = None,
    until: Day | None = None,
    user: Name | None = None,
    dataset_id: Name | None = None,
    cursor: str | None = None,
    limit: Limit = 200,
) -> ListView[UsageView]:
    """What was moved, newest day first; days are UTC and both included.

    Users see what was moved for them, administrators everything.
    """
    scope = authorization.check(call.principal, "usage.list")
    if scope is not Scope.ANY:
        if user not in (None, call.principal.id):
            raise NotFoundError("user", user)
        user = call.principal.id
    wanted = UsageFilter(since=since, until=until, user=user, dataset_id=dataset_id)
    return listed(await call.services.transfers.accounting.select(wanted, Page(limit, cursor)), _used)
