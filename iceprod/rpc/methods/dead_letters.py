"""Methods about reports that a parent has refused for good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from iceprod.model.federation import DeadLetter
from iceprod.model.paging import MAX_PAGE, Page
from iceprod.rpc.registry import Call, Registry
from iceprod.rpc.views import ChangedView, ListView, listed

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Numbers = Annotated[list[int], msgspec.Meta(min_length=1, max_length=1000)]
Name = Annotated[str, msgspec.Meta(max_length=64)]


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A report that a parent refused, and why.

    ``task_id`` is the parent's; ``body`` depends on the kind.
    """

    number: int
    peer: str
    kind: str
    task_id: str
    happened_at: float
    refused_at: float
    reason: str
    body: Mapping[str, Any]


def _view(letter: DeadLetter) -> DeadLetterView:
    operation = letter.operation
    return DeadLetterView(
        number=letter.number,
        peer=operation.peer,
        kind=operation.kind,
        task_id=operation.task_id,
        happened_at=operation.at,
        refused_at=letter.at,
        reason=letter.reason,
        body=operation.body,
    )


@METHODS.method("site.dead_letters", action="site.dead_letters", idempotent=True)
async def site_dead_letters(
    call: Call, *, peer: Name | None = None, cursor: str | None = None, limit: Limit = 50
) -> ListView[DeadLetterView]:
    """What a parent, or any, has refused for good, newest first."""
    found = await call.services.sites.letters.select(call.principal, peer, Page(limit, cursor))
    return listed(found, _view)


@METHODS.method("site.retry", action="site.retry", idempotent=True)
async def site_retry(call: Call, *, numbers: Numbers) -> ChangedView:
    """Send refused reports again, after all that wait; unknown numbers are passed over."""
    return ChangedView(await call.services.sites.letters.retry(call.principal, numbers))


@METHODS.method("site.discard", action="site.discard", idempotent=True)
async def site_discard(call: Call, *, numbers: Numbers) -> ChangedView:
    """Drop refused reports, which the parent is then never told; unknown numbers are passed over."""
    return ChangedView(await call.services.sites.letters.discard(call.principal, numbers))
