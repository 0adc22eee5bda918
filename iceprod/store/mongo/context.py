"""What the parts of this adapter that change datasets, jobs and tasks have in common."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from iceprod import ids
from iceprod.errors import StoreUnavailable
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.states import States

T = TypeVar("T")

MOST_TRIES: Final = 100
_PATIENT_TRIES: Final = 3


class Context:
    """The collections, what is remembered of datasets, and the operations under way."""

    def __init__(self, database: Database) -> None:
        self.datasets = database.collection("datasets")
        self.configs = database.collection("configs")
        self.classes = database.collection("classes")
        self.jobs = database.collection("jobs")
        self.attempts = database.collection("attempts")
        self.logs = database.collection("logs")
        self.sequences = database.collection("sequences")
        self.files = database.collection("files")
        self.stored = database.collection("stored")
        self.errands = database.collection("errands")
        self.outbox = database.collection("outbox")
        self.states = States(self.datasets)
        self.left: set[str] = set()
        """Datasets of jobs for which something could not be done: the database went away."""
        self._process = ids.new_id()[:8]
        self._numbers = itertools.count(1)
        self._running: set[asyncio.Task[Any]] = set()

    def new_batch(self) -> str:
        """The id of some writes that belong together; no other has it, ever."""
        return f"{self._process}_{next(self._numbers):x}"

    async def whole(self, operation: Coroutine[Any, Any, T]) -> T:
        """The result of an operation that goes on to its end even if its caller does not wait.

        One that was left half done would have to be repaired.
        """
        task = asyncio.ensure_future(operation)
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or has gone

    async def drain(self) -> None:
        """Wait for the operations under way."""
        while self._running:
            await asyncio.wait(self._running)


@contextlib.contextmanager
def begun() -> Iterator[None]:
    """Where something has been written already: an error in it leaves the outcome unknown."""
    try:
        yield
    except StoreUnavailable as error:
        error.detail["outcome"] = "unknown"
        raise


async def together(*operations: Awaitable[Any]) -> list[Any]:
    """The results, or after all have ended the first error if there was one."""
    results = await asyncio.gather(*operations, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def contend(tries: int) -> None:
    """Before another try at a write that others were quicker to make; at first at once, then by chance.

    Raises:
        StoreUnavailable: after so many tries that something else must be wrong.
    """
    if tries >= MOST_TRIES:
        raise StoreUnavailable("too many others write the same document")
    if tries > _PATIENT_TRIES:
        await asyncio.sleep(random.uniform(0, 0.002 * min(tries, 25)))  # noqa: S311 - no secret
