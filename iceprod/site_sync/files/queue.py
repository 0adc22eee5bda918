"""The files among what is queued for one parent: several on their way at once.

A file goes before everything that is told of its lease behind it, and what is said of other
leases does not wait for it.  Files of one place go one after the other.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from iceprod import clock as clocks
from iceprod.clock import Clock
from iceprod.model.federation import Operation, OperationKind, Queued
from iceprod.model.task import parse_task_id
from iceprod.services.files import JOB_TEMP

AT_ONCE: Final = 8
FIRST_S: Final = 0.5
LONGEST_S: Final = 60.0
"""How long no file is begun with after one that could not be sent; longer with each, up to the longest."""

Place = tuple[object, ...]


class FileQueue:
    """Has files sent by ``send``, which ends when a file has left the outbox; ``steady`` tells the time."""

    def __init__(
        self, send: Callable[[Queued], Awaitable[None]], *, steady: Clock = clocks.monotonic
    ) -> None:
        self._send = send
        self._steady = steady
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._over: set[int] = set()
        self._has_ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._failures = 0
        self._rests_until = -math.inf

    def go_on(self, queued: Sequence[Queued]) -> list[Queued]:
        """Begin with what can be sent of the outbox as it is read just now; what else may be told."""
        files = [one for one in queued if one.operation.kind is OperationKind.FILE]
        self._over &= {one.number for one in files}
        taken: set[Place] = set()
        for one in files:
            place = _place(one.operation)
            if place not in taken and one.number not in self._over:
                self._begin(one)
            taken.add(place)
        return self._free(queued)

    async def wait(self, filled: asyncio.Event, *, at_most_s: float) -> None:
        """Wait until a file was sent or has failed, or something else was queued."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._has_ended, filled)]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(at_most_s):
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def check(self) -> None:
        """Raise what a file has failed by since the last time, if one has."""
        self._has_ended.clear()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _free(self, queued: Sequence[Queued]) -> list[Queued]:
        """What is not behind a file of its own lease, but files."""
        behind: set[str] = set()
        free = []
        for one in queued:
            if one.operation.kind is OperationKind.FILE:
                behind.add(one.operation.lease_id)
            elif one.operation.lease_id not in behind:
                free.append(one)
        return free

    def _begin(self, queued: Queued) -> None:
        if queued.number in self._under_way or len(self._under_way) >= AT_ONCE:
            return
        if self._steady() < self._rests_until:
            return
        task = asyncio.ensure_future(self._send(queued))
        self._under_way[queued.number] = task
        task.add_done_callback(lambda task: self._ended(queued.number, task))

    def _ended(self, number: int, task: asyncio.Future[None]) -> None:
        del self._under_way[number]
        self._has_ended.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._over.add(number)  # the outbox that was read before it ended has it still
            self._failures, self._rests_until = 0, -math.inf
        else:
            self._failure = error
            self._rest()

    def _rest(self) -> None:
        """Begin with no file for a while; those that fail together are one failure."""
        now = self._steady()
        if now >= self._rests_until:
            pause_s = min(LONGEST_S, FIRST_S * 2.0 ** min(self._failures, 16))
            self._failures += 1
            self._rests_until = now + pause_s * random.uniform(0.5, 1.0)  # noqa: S311


def _place(told: Operation) -> Place:
    """What tells the parent's files apart."""
    dataset_id, job, _ = parse_task_id(told.task_id)
    area = told.body.get("area")
    return area, dataset_id, job if area == JOB_TEMP else None, told.body.get("path")
