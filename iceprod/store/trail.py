"""The part of the datastore's port that is about the audit trail.

The promises of `iceprod.store.base` hold here, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from iceprod.model.paging import Page, Slice


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that somebody did and that may have to be explained later."""

    at: float
    principal: str
    action: str
    target: str
    detail: Mapping[str, object]


class AuditRepository(ABC):
    """The append-only audit trail."""

    @abstractmethod
    async def add(self, entry: AuditEntry) -> None:
        """Append an entry."""

    @abstractmethod
    async def select(self, target: str | None, page: Page) -> Slice[AuditEntry]:
        """Entries about one thing or all, newest first."""
