"""The sites that lend tasks to this one: what runs for each of them, as long as it is joined."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from iceprod.clock import Clock
from iceprod.errors import (
    AccessDenied,
    IceProdError,
    NotAuthenticated,
    RateLimited,
    StoreUnavailable,
    Unavailable,
)
from iceprod.model.federation import Peer, PeerRole, PeerStatus
from iceprod.model.resources import Offer
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.mirrors import Mirrors
from iceprod.services.tasks import TaskService
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.greeting import greet, is_new_term
from iceprod.site_sync.as_child.leaving import Leaving
from iceprod.site_sync.as_child.listening import Listening
from iceprod.site_sync.as_child.mirroring import Mirroring
from iceprod.site_sync.as_child.nearby import HasFiles, Nearby
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.as_child.reclaiming import Reclaiming
from iceprod.site_sync.as_child.sender import Sender, SendFile
from iceprod.site_sync.as_child.settling import Settling
from iceprod.site_sync.as_child.taking import Seal, Taking
from iceprod.site_sync.as_child.termed import Termed
from iceprod.store.base import Store
from iceprod.store.federation import PeerPatch

LOOK_S: Final = 0.5
"""How long it may take until it is noticed that a command beside this process has changed a parent."""
FOLLOW_S: Final = 10.0
"""How often it is looked after all parents, whether they have changed or not."""
FIRST_S: Final = 0.1
LONGEST_S: Final = 60.0
_STIRRING: Final = frozenset({EventKind.TASKS_MOVED, EventKind.DATASET_CHANGED, EventKind.PILOT_CHANGED})
_COUNTED: Final = (Unavailable, RateLimited, NotAuthenticated, AccessDenied)
"""Failures that the way to the parent counts, and after which it makes everybody wait."""

Connect = Callable[[Peer], Calls]

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ways:
    """How a child shares: what it is called, its version, whether it takes tasks, and how often it asks."""

    name: str
    version: str
    pull: bool
    poll_s: float
    renew_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What is done with for every parent.  To ``forget`` one is to lose what this site is known by there."""

    store: Store
    clock: Clock
    tasks: TaskService
    mirrors: Mirrors
    outbox: Outbox
    settling: Settling
    events: Events
    room: Callable[[], Counter[Offer]]
    send_file: SendFile
    seal: Seal
    has_files: HasFiles
    forget: Callable[[str], None]
    ways: Ways


class Parent:
    """What runs for one parent."""

    def __init__(self, peer: Peer, link: Calls, means: Means) -> None:
        self.peer = peer
        link = self.link = Termed(link)
        self.stirred, self.filled = asyncio.Event(), asyncio.Event()
        self._means = means
        lock = asyncio.Lock()
        mirroring = Mirroring(peer.name, link=link, mirrors=means.mirrors)
        self.listening = Listening(
            peer.name,
            store=means.store,
            link=link,
            mirroring=mirroring,
            settling=means.settling,
            lock=lock,
            poll_s=means.ways.poll_s,
            renew_s=means.ways.renew_s,
        )
        self.taking = Taking(
            peer,
            store=means.store,
            link=link,
            mirroring=mirroring,
            mirrors=means.mirrors,
            tasks=means.tasks,
            outbox=means.outbox,
            seal=means.seal,
            nearby=Nearby(means.store, has_files=means.has_files),
            room=means.room,
            renew=partial(self.listening.renew, is_settled=True),
            stirred=self.stirred,
            lock=lock,
            clock=means.clock,
            name=means.ways.name,
            poll_s=means.ways.poll_s,
        )
        self.sender = Sender(
            peer.name,
            store=means.store,
            link=link,
            outbox=means.outbox,
            settling=means.settling,
            send_file=means.send_file,
            filled=self.filled,
            clock=means.clock,
        )
        self.reclaiming = Reclaiming(
            peer.name, store=means.store, link=link, sender=self.sender, clock=means.clock
        )
        self.leaving = Leaving(
            peer.name,
            store=means.store,
            link=link,
            tasks=means.tasks,
            outbox=means.outbox,
            events=means.events,
            stirred=self.stirred,
            clock=means.clock,
        )

    async def run(self) -> None:
        """Take, or leave, tell and listen until cancelled."""
        await self._again_and_again("repairing", self.taking.repair, once=True)
        loops = [self._share()]
        if self.peer.status is PeerStatus.LEAVING:
            # It does not wait for a greeting: the parent may have heard the good-bye already.
            loops.append(self._again_and_again("leaving", self.leaving.step))
        try:
            await _together(loops)
        finally:
            await self.sender.close()

    async def _share(self) -> None:
        """Share as the parent knows this site, from the beginning when it knows less than it did."""
        while True:
            await self._again_and_again("greeting", self.greet, once=True)
            await _together(self._loops(), until=self.link.is_stale)
            logger.info("a parent was restored", parent=self.peer.name)
            await self.sender.close()
            self.listening.is_renewed.clear()
            await self._again_and_again("repairing", self.taking.repair, once=True)

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        takes = self._means.ways.pull and self.peer.status is PeerStatus.JOINED
        renew = partial(self.listening.keep_renewing, is_settled=not takes)
        loops = [
            self._again_and_again("renewing", renew),
            self._again_and_again("listening", self._after_renewal(self.listening.listen)),
            self._again_and_again("sending", self._after_renewal(self.sender.step)),
        ]
        if takes:
            loops.append(self._again_and_again("taking", self._after_renewal(self.taking.step)))
        return loops

    async def greet(self) -> None:
        """Agree with the parent on how to speak, and on what is held if it was restored."""
        peer, store = self.peer, self._means.store
        self.link.is_stale.clear()
        found = await greet(peer, self.link, store, version=self._means.ways.version)
        self.link.term = found.term
        if await is_new_term(peer, found, self.link, store):
            await self.reclaiming.run()
            await store.peers.update(peer.role, peer.name, PeerPatch(term=found.term))

    def _after_renewal(self, step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """The step, which has to wait until it is known which leases still hold."""

        async def attempt() -> None:
            await self.listening.is_renewed.wait()
            await step()

        return attempt

    async def _again_and_again(
        self, what: str, step: Callable[[], Awaitable[None]], *, once: bool = False
    ) -> None:
        """Do it for ever, or until it went well once, with growing pauses after failures."""
        pause_s, reason = FIRST_S, ""
        while True:
            await self.link.pause()
            try:
                await step()
            except IceProdError as exc:
                is_away = isinstance(exc, _COUNTED) and not isinstance(exc, StoreUnavailable)
                if is_away or self.link.is_stale.is_set():
                    await asyncio.sleep(FIRST_S)  # whatever it was that was away, or is begun anew
                    continue
                if exc.message != reason:
                    logger.warning("sharing failed", parent=self.peer.name, what=what, reason=exc.message)
                reason = exc.message
            except Exception:
                logger.exception("sharing failed", parent=self.peer.name, what=what)
            else:
                if once:
                    return
                pause_s, reason = FIRST_S, ""
                continue
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(LONGEST_S, pause_s * 2)


class Parents:
    """Takes tasks from every parent, tells what becomes of them, and hears what it changes.

    ``links`` are the ways to them, by name; they are there where `run` is.  ``means`` are what
    all have in common.
    """

    def __init__(self, means: Means, *, connect: Connect) -> None:
        self.links: dict[str, Calls] = {}
        self.means = means
        self._connect = connect
        self._running: dict[str, tuple[Parent, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        means.events.listen(self._on_event)

    def results(self) -> Counter[tuple[str, str]]:
        """How many operations had which result at which parent, since work with it began here."""
        found: Counter[tuple[str, str]] = Counter()
        for name, (parent, _) in self._running.items():
            for (_, result), number in parent.sender.results.items():
                found[name, result] += number
        return found

    async def run(self) -> None:
        """Share with whoever is joined, until cancelled; a duty."""
        known: list[Peer] = []
        follow_at, clock = -math.inf, asyncio.get_running_loop().time
        try:
            while True:
                self._changed.clear()
                parents = [p for p in await self.means.store.peers.all() if p.role is PeerRole.PARENT]
                if parents != known or clock() >= follow_at:
                    await self._follow(parents)
                    known, follow_at = parents, clock() + FOLLOW_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
        finally:
            await self._stop(list(self._running))

    async def _follow(self, parents: list[Peer]) -> None:
        """Begin with parents that have joined, and end with those that have gone or are others now."""
        wanted = {peer.name: peer for peer in parents if not peer.is_gone}
        running = {name: parent.peer for name, (parent, _) in self._running.items()}
        ended = [name for name, peer in running.items() if _terms(wanted.get(name)) != _terms(peer)]
        await self._stop(ended)
        for peer in parents:
            if peer.is_gone:
                await self.means.settling.forsake(peer.name)
                if peer.name in ended:
                    self.means.forget(peer.name)
        for name, peer in wanted.items():
            if name not in self._running:
                self._begin(peer)

    def _begin(self, peer: Peer) -> None:
        link = self.links[peer.name] = self._connect(peer)
        parent = Parent(peer, link, self.means)
        self._running[peer.name] = parent, _task(parent.run(), f"share with {peer.name}")

    async def _stop(self, names: list[str]) -> None:
        stopped = [self._running.pop(name) for name in names]
        for _, task in stopped:
            task.cancel()
        await asyncio.gather(*(task for _, task in stopped), return_exceptions=True)
        for name in names:
            self.links.pop(name).close()

    def _on_event(self, event: Event) -> None:
        if event.kind is EventKind.PEER_CHANGED:
            self._changed.set()
        elif event.kind is EventKind.OPERATIONS_QUEUED and event.subject in self._running:
            self._running[event.subject][0].filled.set()
        elif event.kind in _STIRRING:
            for parent, _ in self._running.values():
                parent.stirred.set()


def _terms(peer: Peer | None) -> tuple[Any, ...]:
    """What has to be begun anew for, when it changes."""
    return () if peer is None else (peer.url, peer.status, peer.joined_at, peer.most_tasks)


async def _together(
    loops: Iterable[Coroutine[Any, Any, None]], *, until: asyncio.Event | None = None
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        if until is not None:
            await until.wait()
            for task in tasks:
                task.cancel()


def _task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(work, name=name)
