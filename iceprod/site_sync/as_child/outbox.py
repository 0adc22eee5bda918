"""What is to be told to parents: written down before anything is done about it here.

An operation stays queued until the parent has answered to it (`iceprod.site_sync.as_child.sender`).
"""

from __future__ import annotations

from iceprod.model.federation import ENDINGS, DeadLetter, ErrandStatus, Operation
from iceprod.services.events import Event, EventKind, Events
from iceprod.store.base import Store


class Outbox:
    """Queues operations, and wakes whoever sends them."""

    def __init__(self, store: Store, *, events: Events) -> None:
        self._store = store
        self._events = events

    async def add(self, *operations: Operation) -> None:
        """Queue operations in their order; durable when this returns.

        One that is queued already, by its id, is not queued again.
        """
        await self._store.outbox.add(operations)
        for peer in {operation.peer for operation in operations}:
            self.wake(peer)

    def wake(self, peer: str) -> None:
        """Have what is queued for a parent sent now."""
        self._events.publish(Event(EventKind.OPERATIONS_QUEUED, peer))

    async def revive(self, number: int, *, peer: str) -> bool:
        """Queue a dead letter again, behind all others; False if there is none of that number."""
        is_queued = await self._store.outbox.revive(number)
        if is_queued:
            self.wake(peer)
        return is_queued

    async def discard(self, letter: DeadLetter, *, now: float) -> bool:
        """Drop a dead letter: the parent is never told; False if there is none of that number.

        If it would have told how an errand ended, that is over: its lease is renewed no
        more, and the parent may give the task to somebody else.
        """
        told = letter.operation
        if told.kind in ENDINGS:
            errands = await self._store.errands.of_leases(told.peer, [told.lease_id])
            task_ids = [errand.task_id for errand in errands.values()]
            await self._store.errands.end(task_ids, ErrandStatus.LOST, now=now)
        return await self._store.outbox.discard(letter.number)
