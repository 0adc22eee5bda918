"""Keeping workers running: filling places, replacing workers, letting them go."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from iceprod import clock
from iceprod.server.processes import child, sockets
from iceprod.server.processes.child import Child
from iceprod.server.processes.leaving import Leave
from iceprod.server.processes.roster import Member, Reached

logger = structlog.get_logger(__name__)

_LAST_WORDS_S: Final = 5.0
"""How long a worker that does not start may take to say why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to keep running, and for how long one waits for what.

    Without ``overlaps`` the store is for one process alone: a worker is replaced only after
    it has ended.  ``silent_s``: a worker that was not heard of for so long hangs.
    ``pause_s``: before one that keeps dying is started again, growing to ``longest_pause_s``.
    """

    command: tuple[str, ...]
    count: int
    overlaps: bool
    drain_s: float
    handover_s: float
    has_successor: bool = False
    silent_s: float = 60.0
    pause_s: float = 0.5
    longest_pause_s: float = 30.0
    settled_s: float = 60.0
    spare_s: float = 10.0


class WorkerFailed(Exception):
    """The first workers did not get ready; ``code`` is the exit code of one."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended with {code} before it was ready")
        self.code = code


class Workers:
    """Keeps as many workers as are wanted."""

    def __init__(self, plan: Plan, given: sockets.Sockets, *, lock: int) -> None:
        self.plan = plan
        self.restarts = 0
        self.failed_restarts = 0
        self.changed = asyncio.Event()
        self._sockets = given
        self._lock = lock
        self._current: dict[int, Child] = {}
        self._all: dict[Child, asyncio.Task[None]] = {}
        self._replaced: set[int] = set()  # places at which a restart is under way
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @property
    def members(self) -> tuple[Member, ...]:
        """Those that are ready and stay."""
        found = (self._current[number] for number in sorted(self._current))
        return tuple(Member(each.number, each.pid, each.ready_at) for each in found)

    async def start_first(self) -> Reached:
        """Start one alone, which may have to bring the store up to date; where it answers.

        Raises:
            WorkerFailed: it ended instead.
        """
        return _expected(await self._add(0)).reached

    async def start_others(self) -> None:
        """Start the others, at once.

        Raises:
            WorkerFailed: one ended instead.
        """
        others = await asyncio.gather(*(self._add(number) for number in range(1, self.plan.count)))
        for one in others:
            _expected(one)

    async def restart(self) -> bool:
        """Replace them one after the other; gives up at the first that does not get ready."""
        for number in range(self.plan.count):
            if number in self._current and not await self._replace(number):
                self.give_up_restart()
                return False
        self.restarts += 1
        self.changed.set()
        return True

    def give_up_restart(self) -> None:
        """Note that a restart has failed."""
        self.failed_restarts += 1
        self.changed.set()

    async def stop(self, *, has_front: bool = False) -> None:
        """Let all finish what they have, for a bounded time.

        With ``has_front`` a proxy that is about to end still sends what it has taken.
        """
        self._is_stopping = True
        sockets.close(self._sockets)
        for task in self._tasks:
            task.cancel()
        is_gentle = has_front or self.plan.has_successor
        # A proxy elsewhere may have others to send its requests to, but none under way is to be lost.
        drain_s = self.plan.drain_s
        linger_s = drain_s if is_gentle or self.plan.overlaps else 0.0
        how = Leave(linger_s, drain_s, accepts=is_gentle, keeps_polls=is_gentle and not has_front)
        for worker in self._all:
            if worker in self._current.values():
                worker.leave(how)
            elif not worker.ready_at:
                worker.kill()
        if self._all:
            _, late = await asyncio.wait(self._all.values(), timeout=linger_s + drain_s + self.plan.spare_s)
            if late:
                logger.warning("workers cut off", count=len(late))
        await self.kill()

    async def kill(self) -> None:
        """End all at once."""
        self._is_stopping = True
        for worker in self._all:
            worker.kill()
        await asyncio.gather(*self._all.values())

    # One worker

    async def _add(self, number: int) -> Child | int:
        """A worker that is ready and has its place, or the exit code of one that failed."""
        worker = await child.start(self.plan.command, number, sockets=self._sockets, lock=self._lock)
        ending = asyncio.create_task(self._until_end(worker), name=f"worker {number}")
        self._all[worker] = ending
        reached = await worker.ready()
        if reached is None:
            await asyncio.wait({ending}, timeout=_LAST_WORDS_S)  # it is about to say why
            worker.kill()  # it may have closed the channel only
            return await worker.ended()
        worker.ready_at, worker.reached = clock.now(), reached
        self._current[number] = worker
        self.changed.set()
        logger.info("worker is ready", number=number, worker=worker.pid)
        return worker

    async def _until_end(self, worker: Child) -> None:
        """Watch a worker until it ends, and see that its place is filled again."""
        watching = asyncio.create_task(self._end_hanging(worker))
        code = await worker.ended()
        watching.cancel()
        del self._all[worker]
        if self._is_stopping or self._current.get(worker.number) is not worker:
            logger.info("worker has left", number=worker.number, worker=worker.pid, code=code)
            return
        del self._current[worker.number]
        self.changed.set()
        logger.error("a worker has died", number=worker.number, worker=worker.pid, code=code)
        if worker.number not in self._replaced:
            lived_s = clock.now() - worker.ready_at
            self._spawn(self._fill(worker.number, is_first=lived_s > self.plan.settled_s))

    async def _end_hanging(self, worker: Child) -> None:
        if await worker.ready() is not None:
            await worker.silent(self.plan.silent_s)
            logger.error("a worker hangs", number=worker.number, worker=worker.pid)
            worker.kill()

    async def _fill(self, number: int, *, is_first: bool = True) -> None:
        """Start workers for a place until one gets ready."""
        pause_s = 0.0 if is_first else self.plan.pause_s
        while True:
            await asyncio.sleep(pause_s)
            found = await self._add(number)
            if isinstance(found, Child):
                return
            pause_s = min(max(self.plan.pause_s, 2 * pause_s), self.plan.longest_pause_s)
            logger.error("a worker did not get ready", number=number, code=found, again_s=pause_s)

    async def _replace(self, number: int) -> bool:
        """Put a new worker in the place of the present one; if there is none then, that stays."""
        former = self._current[number]
        self._replaced.add(number)
        try:
            if not self.plan.overlaps:
                self._dismiss(former)
                await former.ended()
            found = await self._add(number)
        finally:
            self._replaced.discard(number)
        if isinstance(found, Child):
            if self.plan.overlaps:
                self._dismiss(former)
            return True
        logger.error("a new worker did not get ready", number=number, code=found)
        if number not in self._current:
            self._spawn(self._fill(number, is_first=False))
        return False

    def _dismiss(self, worker: Child) -> None:
        """Let one go; others take over, or its successor will."""
        if self._current.get(worker.number) is worker:
            del self._current[worker.number]
        plan = self.plan
        # Where nobody waits for its end it closes no idle connection, on which a request may be on
        # its way, sooner than it always does.
        linger_s = plan.handover_s if plan.overlaps else plan.drain_s
        is_alone = not plan.overlaps
        worker.leave(Leave(linger_s, plan.drain_s, accepts=is_alone, keeps_polls=is_alone))
        self._spawn(self._see_off(worker, linger_s + plan.drain_s + plan.spare_s))

    async def _see_off(self, worker: Child, longest_s: float) -> None:
        try:
            async with asyncio.timeout(longest_s):
                await worker.ended()
        except TimeoutError:
            logger.warning("a worker does not leave", number=worker.number, worker=worker.pid)
            worker.kill()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _expected(found: Child | int) -> Child:
    if isinstance(found, int):
        raise WorkerFailed(found)
    return found
