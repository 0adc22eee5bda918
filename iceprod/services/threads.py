"""Threads of their own for work on a disk, so that a slow one holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from iceprod.errors import Unavailable

T = TypeVar("T")
_THREADS: Final = 8


class Run(Protocol):
    """Does blocking work on a thread."""

    def __call__(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """What ``work`` returns."""
        ...


class Threads:
    """Does blocking work; what was begun ends even if nobody waits any more."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._is_closed = False

    async def __call__(self, work: Callable[[], T]) -> T:
        """What ``work`` returns.

        Raises:
            Unavailable: the threads end, and with this nothing was begun.
        """
        if self._is_closed:
            raise stopping()
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled() and not is_cancelled():
                raise stopping() from None
            # Whoever has gone may have closed the file by now, and gets to know nothing of it.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def close(self) -> None:
        """Let the threads end."""
        self._is_closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)


def stopping() -> Unavailable:
    """What those are told who wait for what will not be done any more."""
    return Unavailable("this site is stopping", retry_after_s=5)


def is_cancelled() -> bool:
    """Whether it is the one who waits that was cancelled, and not what is waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
