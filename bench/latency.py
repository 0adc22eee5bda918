"""P6: what people notice while pilots claim and finish as fast as they can."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from bench import load, wire
from bench.claims import PILOTS, READY, SECONDS, Site, site
from bench.harness import ROOT, Result, Rounds, server
from bench.rpc_echo import SINGLE
from bench.site_data import library

LISTS: list[dict[str, Any]] = [
    {"method": "dataset.list", "params": {}},
    {"method": "dataset.progress", "params": {"dataset_id": "?"}},
    {"method": "task.list", "params": {"dataset_id": "?", "limit": 50}},
    {"method": "job.list", "params": {"dataset_id": "?", "limit": 50}},
]
PAUSE_S = 0.01


@dataclass(frozen=True)
class Waits:
    """99th percentiles of what a page took, in seconds: alone, and beside the load."""

    idle: float
    busy: float

    @property
    def ratio(self) -> float:
        return self.busy / self.idle


def latency(rounds: Rounds) -> list[Result]:
    """Lists beside claims; and how much worse that makes them than it makes a bare page."""
    found: list[Waits] = []
    floors: list[Waits] = []
    lags: list[float] = []
    with library() as made:
        for _ in rounds:
            floors.append(_bare())
            with site(made, READY) as running:
                found.append(_beside_claims(running))
                lags.append(running.loop_lag_ms())
    return [
        Result(
            name="P6",
            ratios=[each.ratio for each in found],
            goal=5.0,
            at_most=True,
            note="p99 of lists and progress while 64 pilots claim and finish / on an idle server",
            figures={**_figures(found), "loop lag p99 ms (goal 5)": round(statistics.median(lags), 2)},
        ),
        Result(
            name="P6.floor",
            ratios=[each.ratio / floor.ratio for each, floor in zip(found, floors, strict=True)],
            goal=0.6,
            at_most=True,
            note="the same / p99 of a bare Tornado echo while 64 others are asked for / alone",
            figures={**_figures(floors), "floor": round(statistics.median(each.ratio for each in floors), 2)},
        ),
    ]


def _figures(waits: Sequence[Waits]) -> dict[str, float]:
    return {
        "idle p99 ms": round(statistics.median(each.idle for each in waits) * 1e3, 2),
        "busy p99 ms": round(statistics.median(each.busy for each in waits) * 1e3, 2),
    }


def _beside_claims(running: Site) -> Waits:
    idle = p99(read_lists(running, running.port, SECONDS * 2))
    running.loop_lag_ms()
    work = start_load(running, running.rpc_port)
    busy = p99(read_lists(running, running.port, SECONDS * 2))
    work.wait()
    return Waits(idle, busy)


def _bare() -> Waits:
    """A bare Tornado server that 64 clients ask for echoes, and a person for one now and then."""
    request = load.post(SINGLE)
    command = [sys.executable, "-m", "bench.load"]
    with server("bench.echo_servers", "tornado") as (_, port):
        idle = p99(_asked(port, "", [json.loads(SINGLE)], SECONDS * 2))
        arguments = [str(port), str(PILOTS), str(SECONDS * 2)]
        work = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert work.stdin is not None
        with work.stdin as given:
            given.write(request)
        busy = p99(_asked(port, "", [json.loads(SINGLE)], SECONDS * 2))
        work.wait()
    return Waits(idle, busy)


def start_load(running: Site, address: int | str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.pilot_load", str(address)]
    arguments = [str(running.directory / "bench.json"), str(SECONDS), "0"]
    return subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)


def read_lists(running: Site, address: int | str, seconds: float) -> list[float]:
    """Seconds that each call took, one after the other, as a person's page makes them."""
    token = json.loads((running.directory / "bench.json").read_text())["user"]
    connection = _connect(address)
    dataset_id = _call(connection, token, LISTS[0])["result"]["items"][0]["dataset_id"]
    connection.close()
    requests = [json.loads(json.dumps(each).replace('"?"', json.dumps(dataset_id))) for each in LISTS]
    return _asked(address, token, requests, seconds)


def _asked(address: int | str, token: str, requests: list[dict[str, Any]], seconds: float) -> list[float]:
    connection = _connect(address)
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for request in requests:
            start = time.perf_counter()
            _call(connection, token, request)
            took.append(time.perf_counter() - start)
            time.sleep(PAUSE_S)
    connection.close()
    return took


def _connect(address: int | str) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", timeout=30)
    connection.sock = wire.connect(str(address))
    return connection


def _call(connection: HTTPConnection, token: str, request: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/jsonrpc", json.dumps({"jsonrpc": "2.0", "id": 1, **request}), headers)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    if "error" in answer:
        raise SystemExit(f"{request} was answered {answer}")
    return answer


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


SUBJECTS = {"P6": latency}
