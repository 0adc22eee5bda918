"""P12: operations of other sites applied, against inserting the very same rows by hand.

A child reports how tasks ended that it holds, message by message, one at a time as it does;
each is decoded, checked against the tasks' leases and durable before it is answered.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import harness
from bench.harness import Rounds
from bench.site_data import Backlog, fill
from iceprod.config import Settings
from iceprod.model.federation import OperationKind, Peer, PeerRole, PeerStatus, holder_of
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.task import Lease, Move
from iceprod.server.assembly import make_services
from iceprod.server.process import tune_interpreter
from iceprod.site_sync.as_parent.rulings import Result
from iceprod.site_sync.messages import Report, Statement
from iceprod.store.sqlite import SqliteStore, schema

SITE: Final = "child"
TASKS: Final = 20_000
MESSAGE: Final = 1000
"""Operations of one message, as a child that catches up sends them."""
STATS: Final = {
    "hostname": "node1",
    "domain": "example.org",
    "time_used": 1234.5,
    "resources": {"cpu": 0.97, "memory": 1.25, "disk": 3.5, "time": 0.343},
    "task_stats": {"events": 1000, "version": "1.2"},
}
CHANGED: Final = {"jobs": TASKS, "tasks": TASKS, "attempts": TASKS}
"""The rows that the operations write, counters aside."""


def lease_of(job: int) -> str:
    """The lease by which the child holds the task of a job."""
    return f"lease{job:08d}"


async def lend_all(path: Path, *, tasks: int = TASKS) -> list[tuple[str, str]]:
    """A site at ``path`` all of whose tasks the child holds; their ids, each with its lease."""
    await fill(path, [Backlog(tasks=tasks, classes=10)])
    store = SqliteStore(path, synchronous="OFF")
    await store.open()
    await store.peers.put(Peer(SITE, PeerRole.CHILD, PeerStatus.JOINED, 1.0))
    (dataset,) = await store.datasets.active()
    held = [(f"{dataset.dataset_id}-{job}-0", lease_of(job)) for job in range(tasks)]
    for start in range(0, tasks, MESSAGE):
        moves = [
            Move(task_id, TaskEvent.CLAIMED, lease=Lease(lease_id, holder_of(SITE), time.time() + 1e5))
            for task_id, lease_id in held[start : start + MESSAGE]
        ]
        await store.tasks.move(moves, now=time.time())
    await store.close()
    return held


def messages(held: list[tuple[str, str]]) -> list[bytes]:
    """What the child sends once it has finished all of it."""
    said = [
        Statement(f"{lease_id}/finished", OperationKind.FINISHED, task_id, lease_id, 60.0, {"stats": STATS})
        for task_id, lease_id in held
    ]
    parts = (said[start : start + MESSAGE] for start in range(0, len(said), MESSAGE))
    return [msgspec.json.encode(Report(part, waiting=len(said))) for part in parts]


async def apply(path: Path, sent: list[bytes]) -> float:
    """Seconds that a site needs to take in these messages, from the bytes to the answers."""
    settings = Settings(server={"data_dir": path.parent}, grids={}, log={"level": "error"})
    store = SqliteStore(path)
    await store.open()
    services = make_services(store, settings, grids=[])
    await services.scheduler.load()
    inbox = services.federation.inbox
    child = Principal(PrincipalKind.SITE, SITE)
    started = time.perf_counter()
    for message in sent:
        answer = await inbox.report(child, msgspec.json.decode(message, type=Report))
        msgspec.json.encode(answer)
    took = time.perf_counter() - started
    assert inbox.results == {(SITE, Result.APPLIED): TASKS}
    services.accounts.close()
    services.files.close()
    await store.close()
    return took


def insert(path: Path, made: dict[str, list[tuple[Any, ...]]]) -> float:
    """Seconds that bare inserts of these rows take, as many at a time as a message has operations."""
    schema.prepare(path, synchronous="FULL")
    connection = schema.connect(path)
    _into(connection, "datasets", _rows(path.with_name("applied.db"), "datasets"))
    marks = {table: ", ".join("?" * len(rows[0])) for table, rows in made.items()}
    started = time.perf_counter()
    for start in range(0, TASKS, MESSAGE):
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in made.items():
            connection.executemany(
                f"INSERT INTO {table} VALUES ({marks[table]})",
                rows[start : start + MESSAGE],
            )
        connection.execute("COMMIT")
    took = time.perf_counter() - started
    connection.close()
    return took


def _rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def _into(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def measure(rounds: Rounds) -> harness.Result:
    """Yardstick and product in turns, each round on new files, in a process set up as the server is."""
    tune_interpreter()
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-") as name:
        folder = Path(name)
        held = asyncio.run(lend_all(folder / "lent.db"))
        sent = messages(held)
        turns = [_turn(folder, sent) for _ in rounds]
    return harness.Result(
        "P12",
        [raw / product for raw, product in turns],
        goal=0.4,
        note=f"operations applied/s, {MESSAGE} in a message / bare inserts of the rows that they write",
        figures={
            "operations/s": round(TASKS / statistics.median(product for _, product in turns)),
            "inserted/s": round(TASKS / statistics.median(raw for raw, _ in turns)),
        },
    )


def _turn(folder: Path, sent: list[bytes]) -> tuple[float, float]:
    site = folder / "site"
    site.mkdir()
    shutil.copy(folder / "lent.db", site / "applied.db")
    product = asyncio.run(apply(site / "applied.db", sent))
    made = {table: _rows(site / "applied.db", table) for table in CHANGED}
    assert {table: len(rows) for table, rows in made.items()} == CHANGED
    gc.collect()
    raw = insert(site / "raw.db", made)
    shutil.rmtree(site)
    return raw, product


SUBJECTS = {"P12": measure}
