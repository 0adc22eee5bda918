"""Reading the audit trail: what was done, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from iceprod.model.paging import Page, Slice
from iceprod.model.principal import Principal
from iceprod.services import authorization
from iceprod.services.refusals import Refusals
from iceprod.store.base import AuditEntry, AuditRepository

_MOST_READ: Final = 20
"""Pages of the store that one answer is made of; whoever wants more of a narrow list asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What entries must be about; None for anything.

    An ``action`` that ends in a dot is the beginning of several, as ``site.`` is.
    """

    target: str | None = None
    action: str | None = None
    principal: str | None = None
    since: float = 0.0

    def takes(self, entry: AuditEntry) -> bool:
        """Whether an entry is wanted; that it is about the target, the store sees to."""
        return self._is_of_action(entry.action) and self.principal in (None, entry.principal)

    def _is_of_action(self, action: str) -> bool:
        wanted = self.action
        return wanted in (None, action) or (wanted.endswith(".") and action.startswith(wanted))


class AuditTrail:
    """The audit trail, newest first, for those who may read it."""

    def __init__(self, audit: AuditRepository, refusals: Refusals) -> None:
        self._audit = audit
        self._refusals = refusals

    async def select(self, principal: Principal, wanted: AuditFilter, page: Page) -> Slice[AuditEntry]:
        """Entries that are wanted; maybe fewer than asked for though more follow, or none.

        What this process has refused in the last minute is written down first.
        """
        authorization.check(principal, "audit.list")
        await self._refusals.save()
        found: list[AuditEntry] = []
        cursor = page.cursor
        for _ in range(_MOST_READ):
            part = await self._audit.select(wanted.target, Page(page.limit - len(found), cursor))
            recent = [entry for entry in part.items if entry.at >= wanted.since]
            found += filter(wanted.takes, recent)
            cursor = part.next if len(recent) == len(part.items) else None
            if cursor is None or len(found) >= page.limit:
                break
        return Slice(tuple(found), cursor)
