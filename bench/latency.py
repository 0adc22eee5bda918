"""P6: what people notice while pilots claim and finish as fast as they can."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection

from bench import wire
from bench.claims import READY, SECONDS, Site, site
from bench.harness import ROOT, Result, Rounds
from bench.site_data import library

LISTS = [
    {"method": "dataset.list", "params": {}},
    {"method": "dataset.progress", "params": {"dataset_id": "?"}},
    {"method": "task.list", "params": {"dataset_id": "?", "limit": 50}},
    {"method": "job.list", "params": {"dataset_id": "?", "limit": 50}},
]
PAUSE_S = 0.01


def latency(rounds: Rounds) -> Result:
    ratios, idle, busy, lags = [], [], [], []
    with library() as made:
        for _ in rounds:
            with site(made, READY) as running:
                idle.append(p99(read_lists(running, running.port, SECONDS * 2)))
                running.loop_lag_ms()
                load = start_load(running, running.rpc_port)
                busy.append(p99(read_lists(running, running.port, SECONDS * 2)))
                lags.append(running.loop_lag_ms())
                load.wait()
            ratios.append(busy[-1] / idle[-1])
    return Result(
        name="P6",
        ratios=ratios,
        goal=3.0,
        at_most=True,
        note="p99 of lists and progress while 64 pilots claim and finish / on an idle server",
        figures={
            "idle p99 ms": round(statistics.median(idle) * 1e3, 2),
            "busy p99 ms": round(statistics.median(busy) * 1e3, 2),
            "loop lag p99 ms (goal 5)": round(statistics.median(lags), 2),
        },
    )


def start_load(running: Site, address: int | str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.pilot_load", str(address)]
    arguments = [str(running.directory / "bench.json"), str(SECONDS), "0"]
    return subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)


def read_lists(running: Site, address: int | str, seconds: float) -> list[float]:
    """Seconds that each call took, one after the other, as a person's page makes them."""
    token = json.loads((running.directory / "bench.json").read_text())["user"]
    connection = HTTPConnection("127.0.0.1", timeout=30)
    connection.sock = wire.connect(str(address))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(request: dict[str, object]) -> dict[str, object]:
        connection.request("POST", "/jsonrpc", json.dumps({"jsonrpc": "2.0", "id": 1, **request}), headers)
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        if "error" in answer:
            raise SystemExit(f"{request} was answered {answer}")
        return answer

    listed = call(LISTS[0])["result"]
    assert isinstance(listed, dict)
    dataset_id = listed["items"][0]["dataset_id"]
    requests = [json.loads(json.dumps(each).replace('"?"', json.dumps(dataset_id))) for each in LISTS]
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for request in requests:
            start = time.perf_counter()
            call(request)
            took.append(time.perf_counter() - start)
            time.sleep(PAUSE_S)
    connection.close()
    return took


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


SUBJECTS = {"P6": latency}
