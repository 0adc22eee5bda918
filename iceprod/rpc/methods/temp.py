"""Methods about the temp areas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from iceprod.rpc.registry import Call, Registry
from iceprod.services import authorization
from iceprod.services.temp_areas import Doomed

METHODS = Registry()

Limit = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


@dataclass(frozen=True, slots=True)
class CleanedView:
    """What went, or would go: places with the number and size of their files and the reason."""

    items: list[Doomed]
    files: int
    size_bytes: int
    dry_run: bool


@METHODS.method("temp.clean", action="temp.clean")
async def temp_clean(call: Call, *, dry_run: bool = True, limit: Limit = 10_000) -> CleanedView:
    """Delete files of the temp areas whose time is over, at most ``limit`` places.

    The site does so by itself now and then; with ``dry_run`` it only tells what would go.
    """
    authorization.check(call.principal, "temp.clean")
    gone = await call.services.temp_areas.clean(is_trial=dry_run, limit=limit)
    return CleanedView(
        items=gone,
        files=sum(each.files for each in gone),
        size_bytes=sum(each.size_bytes for each in gone),
        dry_run=dry_run,
    )
