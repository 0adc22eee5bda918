"""motor: what the driver costs, against PyMongo's own asynchronous client (docs/adr/0015).

Each does the hot calls of the adapter: a document by its ``_id``, a guarded change of one, a
bulk of 64 changes; one caller, and 64 at a time.  The server answers with the same documents
ever and costs next to nothing.  Where FerretDB is there, the same is done with it, which
shows what is left of the difference with a server that works.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MOTOR_MAX_WORKERS", "32")  # as in iceprod/store/mongo/client.py

import uvloop
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReturnDocument, UpdateOne, WriteConcern

from bench.harness import Result, Rounds, pin, server
from tests.store.mongo_server import MongoServer, ferretdb

CALLERS = (1, 64)
SECONDS = 0.6
DOCUMENTS = 64
CLIENTS: dict[str, Callable[..., Any]] = {"motor": AsyncIOMotorClient, "pymongo": AsyncMongoClient}
Call = Callable[[int], Awaitable[object]]


def calls_of(collection: Any) -> dict[str, Call]:
    """The hot calls; each takes a number that picks the document."""

    async def change(number: int) -> object:
        return await collection.find_one_and_update(
            {"_id": f"d-{number % DOCUMENTS}", "version": {"$gte": 0}},
            {"$set": {"status": "processing"}, "$inc": {"version": 1}},
            return_document=ReturnDocument.AFTER,
        )

    async def find(number: int) -> object:
        return await collection.find_one({"_id": f"d-{number % DOCUMENTS}"})

    async def bulk(_number: int) -> object:
        return await collection.bulk_write(
            [UpdateOne({"_id": f"d-{n}"}, {"$set": {"status": "queued"}}) for n in range(DOCUMENTS)],
            ordered=False,
        )

    return {"find_one": find, "find_one_and_update": change, "bulk_write(64)": bulk}


async def measure(call: Call, callers: int, seconds: float) -> tuple[float, float]:
    """Calls per second, and CPU microseconds of this process per call."""
    numbers = iter(range(10**9))
    for number in range(20):
        await call(number)
    begin, used = time.perf_counter(), time.process_time()
    end = begin + seconds
    done = 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(next(numbers))
            done += 1

    await asyncio.gather(*(work() for _ in range(callers)))
    return done / (time.perf_counter() - begin), (time.process_time() - used) / done * 1e6


async def turn(client_class: Callable[..., Any], url: str, seconds: float) -> dict[str, tuple[float, float]]:
    """All calls with one driver."""
    client = client_class(url, maxPoolSize=32)
    collection = client["bench"].get_collection("jobs", write_concern=WriteConcern("majority", j=True))
    await collection.delete_many({})
    await collection.insert_many(
        [{"_id": f"d-{n}", "status": "waiting", "version": 0} for n in range(DOCUMENTS)]
    )
    found = {
        f"{name} x{callers}": await measure(call, callers, seconds)
        for name, call in calls_of(collection).items()
        for callers in CALLERS
    }
    closed = client.close()
    if closed is not None:
        await closed
    return found


def driver(rounds: Rounds) -> Result:
    """The other's CPU time per call divided by Motor's, over all calls (geometric mean)."""
    pin(1)
    ratios, turns = [], []
    with server("bench._wire_server") as (_, port):
        for _ in rounds:
            url = f"mongodb://127.0.0.1:{port}/"
            both = {name: uvloop.run(turn(made, url, SECONDS)) for name, made in CLIENTS.items()}
            turns.append(both)
            motor, other = both["motor"], both["pymongo"]
            ratios.append(statistics.geometric_mean(other[call][1] / motor[call][1] for call in motor))
    return Result(
        name="motor",
        ratios=ratios,
        goal=0.8,
        note="CPU time per call: PyMongo's AsyncMongoClient / motor, on a server that costs nothing",
        figures={**table(turns, ""), **with_ferretdb()},
    )


def with_ferretdb() -> dict[str, float]:
    """The same calls once with a server that works."""
    if ferretdb() is None:
        return {}
    with TemporaryDirectory(prefix="iceprod-bench-") as folder, MongoServer(Path(folder)) as running:
        both = {name: uvloop.run(turn(made, running.url("bench"), SECONDS)) for name, made in CLIENTS.items()}
    return table([both], " FerretDB")


def table(turns: list[dict[str, dict[str, tuple[float, float]]]], suffix: str) -> dict[str, float]:
    """Medians by name."""
    found: dict[str, float] = {}
    for call in turns[0]["motor"]:
        for name in CLIENTS:
            rates, costs = zip(*(each[name][call] for each in turns), strict=True)
            found[f"{name} {call}{suffix}/s"] = round(statistics.median(rates))
            found[f"{name} {call}{suffix} CPU µs"] = round(statistics.median(costs))
    return found


SUBJECTS = {"motor": driver}
