"""The least that can claim and finish durably: ``python -m bench.floor_server DATA_DIR lane|handler``.

The yardstick of P3.floor and P3.handler.floor.  It has what nobody can do without: HTTP,
JSON, the ready tasks of each class in memory, one guarded `UPDATE` by key per call, and one
commit (`synchronous=FULL`) for all that queued meanwhile.  It has no credentials, no
validation, no tokens, no counters, attempts, jobs or datasets, no fair share, no events, no
second index, and no answer to anything that goes wrong.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import httptools
import msgspec
import uvloop

from bench.harness import pin

TASKS: Final = 400_000
CLASSES: Final = 400
PILOTS: Final = 64
HOST: Final = "127.0.0.1"
_CLAIM: Final = "UPDATE tasks SET status = 3, lease_id = ?, pilot_id = ? WHERE key = ? AND status = 1"
_FINISH: Final = "UPDATE tasks SET status = 4 WHERE key = ? AND lease_id = ?"
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"

Statement = tuple[str, tuple[Any, ...]]


class Store:
    """One table, one thread that writes."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Statement, asyncio.Future[bool]]] = SimpleQueue()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        threading.Thread(target=self._serve, daemon=True).start()

    def fill(self) -> list[deque[int]]:
        """Make the tasks; the keys of each class."""
        per_class = TASKS // CLASSES
        self._database.execute(
            "CREATE TABLE tasks (key INTEGER PRIMARY KEY, class_id INTEGER, status INTEGER,"
            " lease_id TEXT, pilot_id TEXT)"
        )
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO tasks VALUES (?, ?, 1, '', '')", ((key, key // per_class) for key in range(TASKS))
        )
        self._database.execute("COMMIT")
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return [deque(range(first, first + per_class)) for first in range(0, TASKS, per_class)]

    def run(self, sql: str, values: tuple[Any, ...]) -> asyncio.Future[bool]:
        """Whether the statement changed a row, once that is durable."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._queue.put(((sql, values), future))
        return future

    def _serve(self) -> None:
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            self._database.execute("BEGIN IMMEDIATE")
            done = [self._database.execute(*statement).rowcount == 1 for statement, _ in batch]
            self._database.execute("COMMIT")
            self._loop.call_soon_threadsafe(_tell, [future for _, future in batch], done)


def _tell(futures: list[asyncio.Future[bool]], done: list[bool]) -> None:
    for future, is_done in zip(futures, done, strict=True):
        future.set_result(is_done)


class Site:
    """Claims and finishes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._classes = store.fill()
        self._leases = 0

    async def answer(self, body: bytes) -> bytes:
        """The answer to one call."""
        message = msgspec.json.decode(body)
        result = None
        if message["method"] == "pilot.claim":
            result = await self._claim()
        else:
            await self._finish(**message["params"])
        return msgspec.json.encode({"jsonrpc": "2.0", "result": result, "id": message["id"]})

    async def _claim(self) -> dict[str, Any]:
        while not self._classes[0]:
            del self._classes[0]
        key = self._classes[0].popleft()
        self._leases += 1
        lease_id = f"{self._leases:016x}"
        if not await self._store.run(_CLAIM, (lease_id, "pilot", key)):
            return {"tasks": []}
        return {"tasks": [{"task_id": str(key), "lease_id": lease_id}]}

    async def _finish(self, *, task_id: str, lease_id: str, stats: dict[str, Any]) -> None:
        del stats
        if not await self._store.run(_FINISH, (int(task_id), lease_id)):
            raise LookupError(task_id)


class Lane(asyncio.Protocol):
    """HTTP by httptools, without a look at the head."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._parser = httptools.HttpRequestParser(self)
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        task = asyncio.ensure_future(self._site.answer(self._body))
        self._body = b""
        self._tasks.add(task)
        task.add_done_callback(self._send)

    def _send(self, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        self._transport.write(_HEAD % (len(task.result()), task.result()))


async def _lane(site: Site) -> int:
    server = await asyncio.get_running_loop().create_server(lambda: Lane(site), HOST, 0)
    return int(server.sockets[0].getsockname()[1])


async def _handler(site: Site) -> int:
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.web import Application, RequestHandler

    class Handler(RequestHandler):
        async def post(self) -> None:
            self.set_header("Content-Type", "application/json")
            self.write(await site.answer(self.request.body))

    sockets = bind_sockets(0, HOST)
    HTTPServer(Application([("/jsonrpc", Handler)])).add_sockets(sockets)
    return int(sockets[0].getsockname()[1])


WAYS: Final[dict[str, Callable[[Site], Any]]] = {"lane": _lane, "handler": _handler}


async def serve(directory: Path, way: str) -> None:
    """Fill a database in ``directory`` and serve it; prints the port."""
    site = Site(Store(directory / "floor.db"))
    (directory / "bench.json").write_text(json.dumps({"tokens": ["none"] * PILOTS}))
    print(await WAYS[way](site), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    pin(0)
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
