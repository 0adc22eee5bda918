"""Writes to MongoDB that something happens to: a crash, a loss of connection, another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iceprod.errors import StoreUnavailable
from iceprod.store.mongo.client import Database
from iceprod.store.mongo.context import Context
from iceprod.store.mongo.datasets import MongoDatasets
from iceprod.store.mongo.federation import MongoErrands, MongoOutbox
from iceprod.store.mongo.files import MongoFiles
from iceprod.store.mongo.jobs import MongoJobs
from iceprod.store.mongo.tasks import MongoTasks

_WRITES = ("insert", "insert_missing", "put", "replace", "update", "update_many", "change", "delete", "bulk")
_MANY = ("insert_missing", "bulk")
_COLLECTIONS = (
    "datasets",
    "configs",
    "classes",
    "jobs",
    "attempts",
    "sequences",
    "files",
    "stored",
    "errands",
    "outbox",
)


class Crash(BaseException):
    """The end of a process: nothing may catch it, and nothing comes after it."""


@dataclass
class Fate:
    """What happens at the ``at``-th write that it concerns, counted from 1; afterwards `is_met` is true."""

    at: int
    writes: int = 0
    is_met: bool = False
    is_dead: bool = False

    async def meet(self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Do one write, if it can be done."""
        if self.is_dead:
            raise Crash
        if not self.concerns(name, args):
            return await write(*args, **options)
        self.writes += 1
        if self.writes != self.at:
            return await write(*args, **options)
        self.is_met = True
        return await self.happen(name, write, *args, **options)

    def concerns(self, name: str, args: Sequence[Any]) -> bool:
        """Whether a write is one of those that are counted."""
        return True

    async def happen(
        self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> Any:
        """Do the write that is fated."""
        raise NotImplementedError


@dataclass
class CrashBefore(Fate):
    """The process ends just before the write, which is just after the one before it."""

    async def happen(
        self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> Any:
        self.is_dead = True
        raise Crash


@dataclass
class CrashWithin(CrashBefore):
    """The process ends after the first of the writes that go together."""

    def concerns(self, name: str, args: Sequence[Any]) -> bool:
        return name in _MANY and len(args[0]) > 1

    async def happen(
        self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> Any:
        await write(args[0][:1], *args[1:], **options)
        return await super().happen(name, write, *args, **options)


@dataclass
class LoseAnswer(Fate):
    """The write is done, but its answer is lost with the connection."""

    async def happen(
        self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> Any:
        await write(*args, **options)
        raise StoreUnavailable("the answer is lost")


@dataclass
class GoAway(Fate):
    """The server is away when the write is to be sent."""

    error: StoreUnavailable = field(default_factory=lambda: StoreUnavailable("away"))

    async def happen(
        self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> Any:
        raise self.error


@dataclass
class Overtake(Fate):
    """The process is slow: before the write, another does something."""

    deed: Callable[[], Awaitable[object]] = field(kw_only=True)

    async def happen(
        self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> Any:
        await self.deed()
        return await write(*args, **options)


@dataclass
class OvertakeThenCrash(Overtake):
    """As `Overtake`, and so many writes later the process ends; ``is_over`` says whether it did."""

    later: int = field(kw_only=True)
    is_over: bool = False

    async def meet(self, name: str, write: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        if self.writes + 1 == self.at + self.later:
            self.is_dead = self.is_over = True
        return await super().meet(name, write, *args, **options)


class _Fated:
    """A collection whose writes meet their fate."""

    def __init__(self, collection: Any, fate: Fate) -> None:
        self._collection = collection
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name not in _WRITES:
            return found

        async def write(*args: Any, **options: Any) -> Any:
            return await self._fate.meet(name, found, *args, **options)

        return write


class Process:
    """What one server process has of a store, on a connection that it shares with others."""

    def __init__(self, database: Database, fate: Fate | None = None) -> None:
        self.context = Context(database)
        if fate is not None:
            for name in _COLLECTIONS:
                setattr(self.context, name, _Fated(getattr(self.context, name), fate))
        self.datasets = MongoDatasets(self.context)
        self.jobs = MongoJobs(self.context)
        self.tasks = MongoTasks(self.context)
        self.files = MongoFiles(self.context)
        self.errands = MongoErrands(self.context)
        self.outbox = MongoOutbox(self.context)
