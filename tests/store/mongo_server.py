"""A server that speaks MongoDB's protocol, for tests: on a free port, with its own directory.

Which one, in this order: that of the environment variable ``ICEPROD_TEST_MONGODB`` (a URL;
each test gets a database of its own there); FerretDB 1.24.2 where ``bin/get-ferretdb`` puts
it, which also makes its writes atomic.  FerretDB is no MongoDB: it says nothing about speed or
plans.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

import pymongo
from pymongo.errors import PyMongoError

ROOT = Path(__file__).parent.parent.parent
VARIABLE = "ICEPROD_TEST_MONGODB"
PROGRAM = "ferretdb-1.24.2-4"
ABSENT = f"no MongoDB server: set {VARIABLE} to the URL of one, or run bin/get-ferretdb (needs Go)"
_START_S = 30.0


def ferretdb() -> Path | None:
    """Where the program is, if it is anywhere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [cache / "iceprod" / PROGRAM, ROOT / ".cache" / PROGRAM]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def is_there() -> bool:
    """Whether tests can have a server."""
    return bool(os.environ.get(VARIABLE)) or ferretdb() is not None


@dataclass
class MongoServer:
    """FerretDB in a process; started on entering, ended by its pid on leaving.

    It keeps its port and what was written over `kill`, `stop` and `start`.  With ``durable``
    it also survives a loss of power, as far as SQLite can tell; tests seldom need that.
    """

    folder: Path
    durable: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str) -> str:
        """The URL of a database, which need not exist yet."""
        return f"mongodb://{self.host}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = ferretdb()
        assert program is not None, ABSENT
        assert self.process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or _free_port()
        pragma = "" if self.durable else "?_pragma=synchronous(off)"
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *_bound_to_us(),
                    *(str(program), "--handler=sqlite", f"--sqlite-url=file:{self.folder}/{pragma}"),
                    *(
                        f"--listen-addr={self.host}:{self.port}",
                        "--debug-addr=-",
                        f"--state-dir={self.folder}",
                    ),
                    *("--telemetry=disable", "--log-level=error"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with socket.create_connection((self.host, self.port), timeout=1):
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"FerretDB did not start:\n{self.log()}") from None
            time.sleep(0.01)

    def stop(self, *, kill: bool = False) -> None:
        """End it, in good order or at once."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self.stop(kill=True)

    def restart(self) -> None:
        """End it if it runs, and start it on the same port with the same data."""
        self.stop()
        self.start()

    def log(self) -> str:
        """What it wrote to its log."""
        return (self.folder / "server.log").read_text(errors="replace")


_shared: list[MongoServer] = []


def shared() -> MongoServer | None:
    """The one server of this process, started when first asked for; None if one is named.

    Tests that end or restart a server start one of their own.
    """
    if os.environ.get(VARIABLE):
        return None
    if not _shared:
        folder = Path(tempfile.mkdtemp(prefix="iceprod-mongo-"))
        server = MongoServer(folder)
        server.start()
        atexit.register(_end, server)
        _shared.append(server)
    return _shared[0]


def _end(server: MongoServer) -> None:
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


def new_name() -> str:
    """The name of a database that there is not yet."""
    return f"iceprod_test_{uuid4().hex[:16]}"


@contextmanager
def database() -> Iterator[str]:
    """The URL of a new database on the shared server, dropped afterwards."""
    server, name = shared(), new_name()
    url = _named(name) if server is None else server.url(name)
    try:
        yield url
    finally:
        drop(url, name)


def drop(url: str, name: str) -> None:
    """Remove a database, if its server still answers."""
    with pymongo.MongoClient(url, serverSelectionTimeoutMS=2000) as client:
        try:
            client.drop_database(name)
        except PyMongoError:
            if os.environ.get(VARIABLE):
                raise


def _named(name: str) -> str:
    """The URL of the environment variable with another database."""
    address, question, options = os.environ[VARIABLE].partition("?")
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{question}{options}"


def _bound_to_us() -> tuple[str, ...]:
    """What lets a process end with this one, also if this one is killed."""
    return ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
