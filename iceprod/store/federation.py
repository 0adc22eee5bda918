"""The part of the datastore's port that is about other sites: peers, errands, the outbox.

The promises of `iceprod.store.base` hold here, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from iceprod.model.federation import (
    Backlog,
    DeadLetter,
    Errand,
    ErrandStatus,
    Operation,
    Peer,
    PeerRole,
    PeerStatus,
    Queued,
)
from iceprod.model.paging import Page, Slice

MOST_COUNTED: Final = 10_000
"""How far the outbox is counted: beyond that it matters only that much waits."""


@dataclass(frozen=True, slots=True)
class PeerPatch:
    """What to change in a peer; None leaves a field as it is."""

    status: PeerStatus | None = None
    url: str | None = None
    version: str | None = None
    protocol: int | None = None
    share: float | None = None
    most_tasks: int | None = None
    lease_s: float | None = None
    contact_at: float | None = None
    expires_at: float | None = None
    note: str | None = None
    at_once: bool | None = None
    term: int | None = None

    def changes(self) -> dict[str, Any]:
        """The fields to change, with their values."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


class PeerRepository(ABC):
    """The sites that work is shared with: some dozens."""

    @abstractmethod
    async def put(self, peer: Peer) -> None:
        """Keep a peer, new or in place of what was kept of the same role and name."""

    @abstractmethod
    async def update(
        self, role: PeerRole, name: str, patch: PeerPatch, *, expected: PeerStatus | None = None
    ) -> Peer | None:
        """Change some fields, so that of changes by several callers none is lost.

        None, and nothing changed, if there is no such peer, or none with the ``expected`` status.
        """

    @abstractmethod
    async def get(self, role: PeerRole, name: str) -> Peer | None:
        """One peer."""

    @abstractmethod
    async def all(self) -> list[Peer]:
        """Every peer, by role and name."""

    @abstractmethod
    async def drop(self, role: PeerRole, name: str) -> bool:
        """Forget a peer; whether it was known."""


class ErrandRepository(ABC):
    """The tasks that are run for other sites."""

    @abstractmethod
    async def add(self, errands: Sequence[Errand]) -> None:
        """Keep new errands; one of a task that is known stays as it is."""

    @abstractmethod
    async def of_tasks(self, task_ids: Sequence[str]) -> dict[str, Errand]:
        """Errands by the tasks that stand for them here; those that are none are left out."""

    @abstractmethod
    async def of_leases(self, parent: str, lease_ids: Sequence[str]) -> dict[str, Errand]:
        """Errands by the parent's leases; unknown ones are left out."""

    @abstractmethod
    async def open(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        """Open errands of a parent in the order of their task ids, after that one."""

    @abstractmethod
    async def ended(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        """The same of those whose ends the parent has taken in."""

    @abstractmethod
    async def reopen(self, task_ids: Sequence[str]) -> None:
        """Open errands again whose ends were taken in, and are to be told once more."""

    @abstractmethod
    async def end(self, task_ids: Sequence[str], status: ErrandStatus, *, now: float) -> list[bool]:
        """Close open errands; False for each that was not open."""

    @abstractmethod
    async def counts(self, parent: str) -> dict[ErrandStatus, int]:
        """How many errands of a parent stand where."""

    @abstractmethod
    async def closed(self, before: float, limit: int) -> list[Errand]:
        """Errands that were closed before that instant, in the order of that, ``limit`` at most."""

    @abstractmethod
    async def forget(self, task_ids: Sequence[str]) -> int:
        """Drop closed errands; how many."""


class OutboxRepository(ABC):
    """What waits to be told to parents, in order, and what they refuse."""

    @abstractmethod
    async def add(self, operations: Sequence[Operation]) -> None:
        """Queue operations in their order; one whose id is queued, or dead, stays as it is."""

    @abstractmethod
    async def next(self, peer: str, after: int, limit: int) -> list[Queued]:
        """The first operations for a peer with a number over ``after``, in order.

        What was queued by a call that had returned has a lower number than what is queued
        afterwards.  Of calls at the same time by several processes, one with lower numbers may
        show up after higher ones were read: whoever has come to the end begins again at 0.
        """

    @abstractmethod
    async def done(self, peer: str, numbers: Sequence[int]) -> None:
        """Drop operations that were taken in."""

    @abstractmethod
    async def bury(self, peer: str, number: int, reason: str, *, now: float) -> bool:
        """Make a queued operation a dead letter; False if it is none that is queued."""

    @abstractmethod
    async def dead(self, peer: str | None, page: Page) -> Slice[DeadLetter]:
        """The dead letters for a peer, or for all, newest (highest number) first."""

    @abstractmethod
    async def revive(self, number: int) -> bool:
        """Queue a dead letter again, behind all others; False if there is none of that number."""

    @abstractmethod
    async def discard(self, number: int) -> bool:
        """Drop a dead letter; False if there is none of that number."""

    @abstractmethod
    async def backlog(self, peer: str) -> Backlog:
        """How much waits for a peer, up to `MOST_COUNTED` each, and since when.

        It is asked with every message, so what it costs is bounded, however much waits.
        """


class FederationStore:
    """The part of a store that is about other sites."""

    peers: PeerRepository
    errands: ErrandRepository
    outbox: OutboxRepository
