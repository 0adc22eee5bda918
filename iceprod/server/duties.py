"""Keeping periodic duties and background loops running whatever happens in them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from iceprod.clock import Clock
from iceprod.errors import IceProdError

logger = structlog.get_logger(__name__)

_RESTART_S = 1.0
_RESTART_MAX_S = 60.0
_CANCEL_AGAIN_S = 1.0

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Duty:
    """Something done every ``every_s`` seconds, counted from the end of the time before."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


@dataclass(slots=True)
class DutyRecord:
    """How a duty or loop has been doing; instants in seconds since the epoch."""

    is_loop: bool = False  # it runs all the time; an end is a failure
    runs: int = 0
    failures: int = 0
    ended_at: float = 0.0
    error: str = ""


class Supervisor:
    """Runs duties and loops, each in a task of its own, until it is stopped.

    What raises is logged once and tried again later; one that fails holds up no other.
    How they do is written to ``records``, which several may share.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        sleep: Sleep = asyncio.sleep,
        records: dict[str, DutyRecord] | None = None,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self.records: dict[str, DutyRecord] = {} if records is None else records

    def start_duty(self, duty: Duty) -> None:
        """Do ``duty`` again and again."""
        self._start(duty.name, self._repeat(duty))

    def start_loop(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        """Keep ``run``, which does not end of itself, going; restarted with growing pauses."""
        self._start(name, self._keep(name, run), is_loop=True)

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work`` once, beside everything else; what it raises is logged."""

        async def attempt() -> None:
            try:
                await work
            except Exception:
                logger.exception("work failed", work=name)

        task = asyncio.create_task(attempt(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel everything and wait until it has ended.

        What goes on all the same is cancelled again: libraries lose a cancellation now and then.
        """
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
        self._tasks.clear()

    def _start(self, name: str, work: Coroutine[Any, Any, None], *, is_loop: bool = False) -> None:
        self.records[name] = DutyRecord(is_loop=is_loop)
        self._tasks.add(asyncio.create_task(work, name=name))

    async def _repeat(self, duty: Duty) -> None:
        while True:
            await self._sleep(duty.every_s)
            await self._attempt(duty.name, duty.run)

    async def _keep(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        pause_s = _RESTART_S
        while True:
            began = self._clock()
            await self._attempt(name, run)
            if self._clock() - began > _RESTART_MAX_S:
                pause_s = _RESTART_S  # it went well for long
            await self._sleep(pause_s)
            pause_s = min(_RESTART_MAX_S, pause_s * 2)

    async def _attempt(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        record = self.records[name]
        try:
            await run()
        except IceProdError as exc:
            record.failures += 1
            record.error = exc.message
            logger.warning("duty failed", duty=name, error=exc.message, failures=record.failures)
        except Exception as exc:
            record.failures += 1
            record.error = f"{type(exc).__name__}: {exc}"
            logger.exception("duty failed", duty=name, failures=record.failures)
        else:
            record.error = ""
        record.runs += 1
        record.ended_at = self._clock()
