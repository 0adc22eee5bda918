"""Threads of their own for uploads, so that a slow disk holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")
_THREADS: Final = 8


class Run(Protocol):
    """Does blocking work on a thread."""

    def __call__(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """What ``work`` returns."""
        ...


class Threads:
    """Does blocking work; what was begun ends even if nobody waits any more."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="uploads")

    async def __call__(self, work: Callable[[], T]) -> T:
        """What ``work`` returns."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, work))

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
