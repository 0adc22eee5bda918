"""Leaving a parent so that no work is lost and none is done twice.

Nothing more is taken of a parent that is being left.  What no pilot has begun with goes back to
it, what runs comes to its end, and all that is to be told is told; then this site says good-bye.
That the parent is being left stands in the store (`PeerStatus.LEAVING`), so whichever process
there is goes on with it, until it is done or somebody resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from iceprod.clock import Clock
from iceprod.errors import AccessDenied, NotAuthenticated
from iceprod.model.federation import Errand, ErrandStatus, PeerRole, PeerStatus
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.task import Task
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.errands import Errands
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.messages import Nothing
from iceprod.store.base import AuditEntry, Store

LOOK_S: Final = 1.0
"""How long it may take until a task that waits again, its pilot having gone, is given back."""
GAP_S: Final = 0.05
"""The least time between two looks, however much happens."""
_PART: Final = 500
_OVER: Final = frozenset({TaskStatus.COMPLETE, TaskStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Left:
    """What is left to be done with a parent: tasks, reports that wait, and reports that it refused."""

    tasks: int
    reports: int
    refused: int

    @property
    def is_nothing(self) -> bool:
        """Whether the parent may be left."""
        return self.tasks == 0 and self.reports == 0


async def what_is_left(store: Store, parent: str) -> Left:
    """What is left of a parent here."""
    backlog = await store.outbox.backlog(parent)
    tasks = (await store.errands.counts(parent)).get(ErrandStatus.OPEN, 0)
    return Left(tasks, backlog.waiting, backlog.dead)


class Leaving:
    """Leaves ``parent``; ``stirred`` is set whenever tasks have moved."""

    def __init__(
        self,
        parent: str,
        *,
        store: Store,
        link: Calls,
        tasks: TaskService,
        outbox: Outbox,
        events: Events,
        stirred: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._parent = parent
        self._store = store
        self._link = link
        self._tasks = tasks
        self._outbox = outbox
        self._events = events
        self._errands = Errands(store, clock=clock, outbox=outbox)
        self._stirred = stirred
        self._clock = clock
        self._returned: set[str] = set()

    async def step(self) -> None:
        """Give back what can be, and leave when nothing is left; else wait until something has moved."""
        self._stirred.clear()
        peer = await self._store.peers.get(PeerRole.PARENT, self._parent)
        if peer is not None and peer.status is PeerStatus.LEAVING:
            await self.give_back(at_once=peer.at_once)
            if (await what_is_left(self._store, self._parent)).is_nothing:
                await say_good_bye(self._link)
                await leave(self._store, self._parent, clock=self._clock, is_told=True)
                self._events.publish(Event(EventKind.PEER_CHANGED, self._parent))
        await asyncio.sleep(GAP_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._stirred.wait()

    async def give_back(self, *, at_once: bool) -> int:
        """Give back what no pilot has begun with, ``at_once`` also what runs; how many tasks."""
        if at_once:
            await self._drop_letters()
        returned = 0
        async for errands in self._open():
            tasks = await self._store.tasks.among([errand.task_id for errand in errands])
            some = [
                errand.task_id
                for errand in errands
                if errand.lease_id not in self._returned
                and _goes_back(tasks.get(errand.task_id), at_once=at_once)
            ]
            if some:
                await self._errands.returned(some, "its site leaves")
                await self._tasks.change_all(TaskEvent.SUSPENDED, some)
                self._returned |= {errand.lease_id for errand in errands if errand.task_id in set(some)}
            returned += len(some)
        return returned

    async def _drop_letters(self) -> None:
        """Nobody waits until somebody has decided about reports that were refused."""
        while letters := (await self._store.outbox.dead(self._parent, Page(_PART))).items:
            for letter in letters:
                await self._outbox.discard(letter, now=self._clock())

    async def _open(self) -> AsyncIterator[Sequence[Errand]]:
        after = None
        while errands := await self._store.errands.open(self._parent, after, _PART):
            yield errands
            after = errands[-1].task_id


async def say_good_bye(link: Calls) -> None:
    """Tell a parent that this site leaves; one that has let go of it by itself need not be told.

    Raises:
        IceProdError: it was not told.
    """
    with suppress(NotAuthenticated, AccessDenied):
        await link.call("site.leave", Nothing(), Nothing)


async def leave(store: Store, name: str, *, clock: Clock, is_told: bool) -> None:
    """Have nothing to do with a parent any more, whatever somebody has decided in the last moment.

    The process that shares with it forgets then what it is known by there, and what was not told.
    """
    peer = await store.peers.get(PeerRole.PARENT, name)
    if peer is None or peer.is_gone:
        return
    await store.audit.add(AuditEntry(clock(), "", "site.leave", name, {"told": is_told}))
    await store.peers.put(replace(peer, status=PeerStatus.LEFT, at_once=False, expires_at=None))


def _goes_back(task: Task | None, *, at_once: bool) -> bool:
    """Whether a task goes back: one that runs only ``at_once``, one that has come to its end never."""
    if task is None:
        return True  # its job was not made, and will not be
    return task.status not in _OVER and (at_once or task.status is not TaskStatus.PROCESSING)
