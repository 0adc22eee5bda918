"""Clients of a site to whom nothing may go wrong while it is restarted.

They use plain connections and try nothing twice, so that a refused connection, a request
without an answer, an answer cut short or an error each fails the test.
"""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.havoc import PAPER_CONFIG, PAPER_OFFER
from tests.servers import until

PATIENCE_S = 60.0
_PAUSE_S = 0.1  # what is wanted is variety, not load


class Site(Protocol):
    """What is needed of a `RunningSite`."""

    url: str
    rpc_url: str
    token: str
    ca_file: str | None

    def call(self, method: str, /, **params: Any) -> Any: ...


class Client:
    """One client with one connection, kept unless told otherwise."""

    def __init__(self, site: Site, *, url: str, token: str, keeps: bool = True) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=site.ca_file)
            self.connection: HTTPConnection = HTTPSConnection(
                parts.hostname, parts.port, timeout=PATIENCE_S, context=context
            )
        else:
            self.connection = HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
        self.headers = {"Authorization": f"Bearer {token}"}
        self.keeps = keeps
        self.line: socket.socket | None = None
        self.used_at = time.monotonic()
        self.requests = 0  # on this connection

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> HTTPResponse:
        if self.connection.sock is None:
            self.requests = 0
        idle_s, self.requests = time.monotonic() - self.used_at, self.requests + 1
        try:
            self.connection.request(method, path, body, {**self.headers, **headers})
            return self.connection.getresponse()
        except (OSError, HTTPException) as exc:
            exc.add_note(
                f"{method} {path}: request {self.requests} of its connection, idle for {idle_s:.3f} s"
            )
            raise

    def follow(self, path: str) -> HTTPResponse:
        """The beginning of an answer that does not end of itself; see `hang_up`."""
        self.connection.close()
        self.connection.connect()
        # The answer is the last one of its connection, which gives its socket away with it.
        self.line = socket.socket(fileno=os.dup(self.connection.sock.fileno()))
        return self.send("GET", path)

    def hang_up(self) -> None:
        """End what `follow` gave, from another thread."""
        if self.line is not None:
            with suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)
            self.line.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        response = self.send(method, path, body, **headers)
        text = response.read()
        self.used_at = time.monotonic()
        assert 200 <= response.status < 300, f"{method} {path}: {response.status} {text[:300]!r}"
        if not self.keeps:
            self.connection.close()
        return text

    def call(self, method: str, **params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = json.loads(self.ask("POST", "/jsonrpc", body, **{"Content-Type": "application/json"}))
        assert "error" not in answer, answer["error"]
        return answer["result"]


Worker = tuple[Callable[[], None], tuple[Client, ...]]
"""What is done again and again, and on which connections."""


@dataclass
class Traffic:
    """What the clients did so far; ``done`` counts by kind of client."""

    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, kind: str, worker: Worker) -> None:
        step, clients = worker
        try:
            while not self.stop.is_set():
                step()
                self.done[kind] += 1
        except Exception as exc:  # noqa: BLE001 - raised in the test's own thread
            if kind == "viewer" and self.stop.is_set():
                return  # whom nothing else ends than the end of the test
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            self.failures.append(f"{at} {kind}: {exc!r} {getattr(exc, '__notes__', '')}")
        finally:
            for client in clients:
                client.connection.close()

    def has_grown(self) -> bool:
        """Wait until every kind of client has done something more; a viewer only looks."""
        former = {kind: count for kind, count in self.done.items() if kind != "viewer"}
        grown = until(
            lambda: self.failures or all(self.done[kind] > former[kind] for kind in former),
            within_s=3 * PATIENCE_S,  # each step asks several times
        )
        return bool(grown) and not self.failures


def _clerk(site: Site, traffic: Traffic, *, keeps: bool) -> Worker:
    """Submits a dataset, claims its task in a long poll and reports it, as a pilot does."""
    passkey = site.call("pilot.credentials", grid="paper", resources=PAPER_OFFER)["passkey"]
    user = Client(site, url=site.url, token=site.token, keeps=keeps)
    pilot = Client(site, url=site.rpc_url, token=passkey, keeps=keeps)

    def step() -> None:
        made = user.call("dataset.submit", config=PAPER_CONFIG, njobs=1)
        traffic.submitted.append(made["dataset_id"])
        for task in pilot.call("pilot.claim", offer=PAPER_OFFER, wait_s=1.0)["tasks"]:
            pilot.call("pilot.finish", task_id=task["task_id"], lease_id=task["lease_id"])
            traffic.finished.append(task["task_id"])
        time.sleep(_PAUSE_S)

    return step, (user, pilot)


def _visitor(site: Site, *, keeps: bool) -> Worker:
    client, dice = Client(site, url=site.url, token=site.token, keeps=keeps), random.Random(7)

    def step() -> None:
        client.ask("GET", "/healthz")
        time.sleep(dice.random() / 5)  # connections are idle for times of every length

    return step, (client,)


def _poller(site: Site) -> Worker:
    """Waits for work that never comes; the answer comes when its process leaves."""
    offer = {**PAPER_OFFER, "site": "elsewhere"}
    passkey = site.call("pilot.credentials", grid="elsewhere", resources=offer)["passkey"]
    client = Client(site, url=site.rpc_url, token=passkey)

    def step() -> None:
        assert client.call("pilot.claim", offer=offer, wait_s=2.0)["tasks"] == []

    return step, (client,)


def _viewer(site: Site, dataset_id: str) -> Worker:
    """Follows a dataset; a stream that ends does so in good order, and another begins at once."""
    client = Client(site, url=site.url, token=site.token)

    def step() -> None:
        if client.line is not None:
            client.line.close()
        response = client.follow(f"/events/datasets/{dataset_id}")
        assert response.status == 200
        seen = b""
        while line := response.readline():
            seen += line
            if line.startswith(b"data:"):
                assert json.loads(line[5:])
        response.close()
        assert b"retry:" in seen

    return step, (client,)


def _uploader(site: Site) -> Worker:
    """Sends a file in pieces, and reads it back."""
    client = Client(site, url=site.url, token=site.token)

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.1)
            yield b"x" * 10_000

    def step() -> None:
        path = "/files/site_temp/traffic"
        client.ask("PUT", path, pieces(), **{"Content-Length": "40000"})
        assert client.ask("GET", path) == b"x" * 40_000
        time.sleep(_PAUSE_S)

    return step, (client,)


@contextmanager
def traffic(site: Site) -> Iterator[Traffic]:
    """Clients of every kind at work; in the end none of them has failed and nothing answered is lost."""
    found = Traffic()
    watched = site.call("dataset.submit", config=PAPER_CONFIG, njobs=1)["dataset_id"]
    steps = {
        "clerk": _clerk(site, found, keeps=True),
        "new clerk": _clerk(site, found, keeps=False),
        "visitor": _visitor(site, keeps=True),
        "new visitor": _visitor(site, keeps=False),
        "poller": _poller(site),
        "viewer": _viewer(site, watched),
        "uploader": _uploader(site),
    }
    found.done.update(dict.fromkeys(steps, 0))
    threads = [threading.Thread(target=found.run, args=each, daemon=True) for each in steps.items()]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        for client in steps["viewer"][1]:
            client.hang_up()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert found.failures == [], found.failures
    for dataset_id in found.submitted:
        assert site.call("dataset.get", dataset_id=dataset_id)["dataset_id"] == dataset_id
    for task_id in found.finished:
        assert site.call("task.get", task_id=task_id)["task"]["status"] == "complete"
