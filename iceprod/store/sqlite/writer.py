"""The one thread that writes: whatever has queued is committed as one transaction.

Knows nothing of what is written.  An operation is a function that is given the
transaction; its caller is answered after the commit that made its result durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, cast

from iceprod.errors import StoreUnavailable

_LARGEST_BATCH = 4096  # operations; bounds how long the first of them waits


class Transaction(Protocol):
    """What the writer needs of a transaction; operations see more of it."""

    def begin(self, needs: Sequence[Any]) -> None:
        """Start; ``needs`` are what the operations have announced, so that it may be read at once."""

    def flush(self) -> None:
        """Write what operations have left to be written together."""

    def commit(self) -> None:
        """Make all durable."""

    def roll_back(self) -> None:
        """Undo all since `begin`, whatever state that left things in."""

    def close(self) -> None:
        """Let the connection go."""


T = TypeVar("T", bound=Transaction)
R = TypeVar("R")


@dataclass(slots=True)
class Statistics:
    """What the writer has done since it started."""

    operations: int = 0
    commits: int = 0
    failures: int = 0  # operations that were rolled back
    largest_batch: int = 0


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    operation: Callable[[T], Any]
    needs: Any
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class _NotCommittedError(Exception):
    """All operations ran, but what they did could not be made durable."""


class Writer(Generic[T]):
    """Runs operations on its own thread, in the order of their arrival."""

    def __init__(self, transaction: T) -> None:
        """``transaction`` belongs to the writer's thread from now on."""
        self.statistics = Statistics()
        self._transaction = transaction
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Call[T]] = []
        self._queue: SimpleQueue[list[_Call[T]] | None] = SimpleQueue()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[T], R], needs: Any = None) -> R:
        """What ``operation`` returned, once it is durable; ``needs`` goes to `Transaction.begin`.

        Raises:
            StoreUnavailable: it could not be made durable, so nothing has changed.
        """
        if self._closing:
            raise StoreUnavailable("the store is closed")
        future = self._loop.create_future()
        if not self._pending:
            # Handed over in the next turn of the loop, with all that this turn adds: one
            # wake-up and one commit instead of a first one for the first call alone.
            self._loop.call_soon(self._hand_over)
        self._pending.append(_Call(operation, needs, future))
        return cast(R, await future)

    async def close(self) -> None:
        """Carry out what has been accepted, then end the thread."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._closed)
        self._thread.join()

    def _hand_over(self) -> None:
        if self._pending:
            self._queue.put(self._pending)
            self._pending = []

    def _serve(self) -> None:
        _give_way()
        ending = False
        while not ending:
            batch, ending = self._take()
            if batch:
                self._tell(_answer, batch, self._transact(batch))
        self._transaction.close()
        self._tell(self._closed.set_result, None)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who waited
            self._loop.call_soon_threadsafe(callback, *args)

    def _take(self) -> tuple[list[_Call[T]], bool]:
        """Everything that has queued, and whether that was the last."""
        calls = self._queue.get()
        batch: list[_Call[T]] = []
        while calls is not None:
            batch += calls
            if len(batch) >= _LARGEST_BATCH or self._queue.empty():
                return batch, False
            calls = self._queue.get()
        return batch, True

    def _transact(self, batch: list[_Call[T]]) -> list[Any]:
        """The result of each call, or the `_Failure` that took it back.

        A savepoint per call would be paid for by every call; instead a batch in which one
        raises is rolled back and its calls are repeated, each in its own transaction.
        """
        try:
            results = self._attempt(batch)
        except _NotCommittedError as error:
            self._transaction.roll_back()
            self.statistics.failures += len(batch)
            return [_Failure(error.__cause__ or error)] * len(batch)
        except Exception as error:  # noqa: BLE001 - handed to its caller; the thread must outlive it
            self._transaction.roll_back()
            if len(batch) > 1:
                return [self._transact([call])[0] for call in batch]
            self.statistics.failures += 1
            return [_Failure(error)]
        self.statistics.operations += len(batch)
        self.statistics.commits += 1
        self.statistics.largest_batch = max(self.statistics.largest_batch, len(batch))
        return results

    def _attempt(self, batch: list[_Call[T]]) -> list[Any]:
        self._transaction.begin([call.needs for call in batch if call.needs is not None])
        results = [call.operation(self._transaction) for call in batch]
        self._transaction.flush()
        try:
            self._transaction.commit()
        except sqlite3.Error as error:
            raise _NotCommittedError from error
        return results


def _give_way() -> None:
    """Let the loop, where it shares a core with this thread, go on as soon as it wakes."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it may be forbidden, and then only costs time
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _answer(batch: list[_Call[Any]], results: list[Any]) -> None:
    for call, result in zip(batch, results, strict=True):
        if call.future.done():
            continue  # its caller was cancelled
        if not isinstance(result, _Failure):
            call.future.set_result(result)
        elif isinstance(result.error, sqlite3.Error):
            call.future.set_exception(unavailable(result.error))
        else:
            call.future.set_exception(result.error)


def unavailable(error: sqlite3.Error) -> StoreUnavailable:
    """What a caller is told about an error of the database."""
    told = StoreUnavailable(f"the store does not answer: {error}")
    told.__cause__ = error
    return told
