"""What a task costs, as jobs get more tasks: counted, not timed.

A job may have thousands of tasks.  Whatever is asked of the database for each of them must not
grow with their number, or the job costs the square of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import bson
import pytest
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from store_samples import claim, finish, make

from iceprod.model.lifecycle import SOURCES, TaskEvent, TaskStatus
from iceprod.model.task import Move
from iceprod.store.base import Store
from iceprod.store.mongo import MongoStore
from iceprod.store.sqlite import SqliteStore, schema
from tests.store import mongo_server

Depends = tuple[tuple[int, ...], ...]

SHAPES = {
    "chain": lambda tasks: tuple((i - 1,) if i else () for i in range(tasks)),
    "diamond": lambda tasks: ((), *((0,) for _ in range(tasks - 2)), tuple(range(1, tasks - 1))),
}


ON_MONGO = (
    pytest.mark.mongo,
    pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
)
SLACK = {"sqlite": 1.2, "mongo": 1.01}
"""How much more may be: SQLite's trees get deeper; commands to MongoDB are told to the byte."""


@dataclass
class Meter(CommandListener):
    """What a database was asked to do."""

    commands: int = 0
    size: int = 0  # bytes of commands; of SQLite, hundreds of steps of its machine

    def started(self, event: CommandStartedEvent) -> None:
        self.commands += 1
        self.size += len(bson.encode(dict(event.command)))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def watch(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Count the statements of a connection, and their steps."""
        connection.set_trace_callback(self._statement)
        connection.set_progress_handler(self._steps, 100)
        return connection

    def _statement(self, _text: str) -> None:
        self.commands += 1

    def _steps(self) -> int:
        self.size += 1
        return 0


@asynccontextmanager
async def metered(kind: str, path: Path) -> AsyncIterator[tuple[Store, Meter]]:
    """An empty store, and the meter of its database."""
    meter = Meter()
    if kind == "sqlite":
        with pytest.MonkeyPatch.context() as patch:
            for name in ("connect", "connect_reader"):
                connect = getattr(schema, name)
                patch.setattr(schema, name, lambda *a, connect=connect, **o: meter.watch(connect(*a, **o)))
            store: Store = SqliteStore(path, synchronous="OFF")
            await store.open()
            yield store, meter
            await store.close()
    else:
        with mongo_server.database() as url:
            store = MongoStore(url, listeners=[meter])
            await store.open()
            yield store, meter
            await store.close()


async def cost(kind: str, path: Path, depends: Depends) -> dict[str, tuple[float, float]]:
    """Commands and their size for each task, of making a job, running it, and suspending and resuming it."""
    tasks = len(depends)
    found = {}
    async with metered(kind, path) as (store, meter):

        def read(what: str) -> None:
            found[what] = meter.commands / tasks, meter.size / tasks
            meter.commands = meter.size = 0

        await make(store, depends=depends, jobs=0, jobs_wanted=1)
        meter.commands = meter.size = 0
        await store.datasets.materialise("d", 0, [[100 + index for index in range(tasks)]], now=2.0)
        read("make")
        for event in (TaskEvent.SUSPENDED, TaskEvent.RESUMED):
            ids = await store.tasks.ids("d", SOURCES[event], None, tasks)
            assert all(await store.tasks.move([Move(name, event) for name in ids], now=5.0))
        read("suspend and resume")
        for index in range(tasks):
            assert await claim(store, f"d-0-{index}") is not None
            assert await finish(store, f"d-0-{index}") is not None
        read("run")
        assert (await store.datasets.progress("d")).all_tasks == {TaskStatus.COMPLETE: tasks}
    return found


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("mongo", marks=ON_MONGO)])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_task_costs_no_more_in_a_job_of_many(kind: str, shape: str, tmp_path: Path):
    few, many = (12, 48) if kind == "mongo" else (25, 400)
    small = await cost(kind, tmp_path / "few.db", SHAPES[shape](few))
    large = await cost(kind, tmp_path / "many.db", SHAPES[shape](many))

    for what, (commands, size) in large.items():
        assert commands <= SLACK[kind] * small[what][0], what
        assert size <= SLACK[kind] * small[what][1], what
