"""P11: trivial tasks end to end by a pilot, against function calls in a Celery worker.

Ours are submitted as a dataset, materialised, claimed by a pilot, run as a process each with
a sandbox and logs of its own, and reported durably.  Celery's are Python calls inside its
two worker processes, by way of RabbitMQ where that is installed, else by way of files.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import _rabbit
from bench.harness import ROOT, Result, Rounds, cpu_s, server
from iceprod.rpc.client import SyncClient

TASKS = 300
SLOTS = 4  # on two cores: while one task starts, another one is reported
TIMEOUT_S = 120.0
MODULE = {"src": "/bin/echo", "args": ["job $(job)"]}
CONFIG = {"version": 3, "tasks": [{"name": "trivial", "trays": [{"modules": [MODULE]}]}]}


@dataclass
class Product:
    """A site and a pilot; ``cpu_s`` adds up what each has used, and the tasks' own programs."""

    client: SyncClient
    pids: dict[str, int]
    cpu_s: dict[str, float] = field(default_factory=dict)

    def run(self) -> float:
        """Run the tasks; how long they took."""
        before = self._used()
        took = _run_dataset(self.client, TASKS)
        for name, used in self._used().items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + used - before[name]
        return took

    def _used(self) -> dict[str, float]:
        used = {name: cpu_s(pid) for name, pid in self.pids.items()}
        return used | {"programs": _children_cpu_s(self.pids["pilot"])}


def _children_cpu_s(pid: int) -> float:
    """CPU seconds of the processes that ``pid`` has started and seen end."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def product(directory: Path) -> Iterator[Product]:
    """A site with a pilot that has run a few tasks already."""
    with ExitStack() as stack:
        site, port = stack.enter_context(server("bench.site_server", str(directory), "1"))
        facts = json.loads((directory / "bench.json").read_text())
        url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(SyncClient(f"{url}/jsonrpc", token=facts["user"]))
        pilot = stack.enter_context(_pilot(url, facts["tokens"][0], directory / "pilot"))
        _run_dataset(client, 20)
        yield Product(client, {"server": site.pid, "pilot": pilot})


@contextmanager
def _pilot(url: str, token: str, work_dir: Path) -> Iterator[int]:
    """Start a pilot; its process id."""
    options = [
        "--url",
        url,
        "--work-dir",
        str(work_dir),
        "--cpu",
        str(SLOTS),
        "--memory",
        "64",
        "--disk",
        "64",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "iceprod.pilot.main", *options],
        env={**os.environ, "ICEPROD_PILOT_TOKEN": token},
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def _run_dataset(client: SyncClient, jobs: int) -> float:
    """Seconds from submission until the last job is complete."""
    started = time.perf_counter()
    dataset_id = client.call("dataset.submit", config=CONFIG, njobs=jobs)["dataset_id"]
    while time.perf_counter() - started < TIMEOUT_S:
        if client.call("dataset.get", dataset_id=dataset_id)["status"] == "complete":
            return time.perf_counter() - started
        time.sleep(0.02)
    raise RuntimeError("the dataset was not complete in time")


@contextmanager
def yardstick(directory: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """A Celery worker; gives what its broker is, and a function that runs calls; how long they took."""
    with ExitStack() as stack:
        if _rabbit.is_installed():
            name, broker = "RabbitMQ", stack.enter_context(_rabbit.broker(directory))
            backend = "rpc://"
        else:
            name, broker = "a file broker, for RabbitMQ is not installed", "filesystem://"
            backend = f"file://{directory}"
        os.environ.update(BENCH_BROKER=broker, BENCH_BACKEND=backend)
        tasks = importlib.import_module("bench._celery_tasks")
        worker = ["-m", "celery", "-A", "bench._celery_tasks", "worker", "-c", "2", "-l", "ERROR"]
        process = subprocess.Popen(
            [sys.executable, *worker, "--without-gossip", "--without-mingle"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        _call(tasks, 20)
        yield name, lambda: _call(tasks, TASKS)


def _call(tasks: object, count: int) -> float:
    started = time.perf_counter()
    results = [tasks.nothing.delay(number) for number in range(count)]  # type: ignore[attr-defined]
    for result in results:
        result.get(timeout=TIMEOUT_S)
    return time.perf_counter() - started


def trivial_tasks(rounds: Rounds) -> Result:
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-") as name, ExitStack() as stack:
        directories = [Path(name) / part for part in ("site", "celery")]
        for directory in directories:
            directory.mkdir()
        Path(name).chmod(0o755)  # the broker runs as a user of its own
        ours = stack.enter_context(product(directories[0]))
        broker, run_theirs = stack.enter_context(yardstick(directories[1]))
        turns = [(run_theirs(), ours.run()) for _ in rounds]
    ms_per_task = {name: 1e3 * used / (TASKS * rounds.count) for name, used in ours.cpu_s.items()}
    return Result(
        name="P11",
        ratios=[theirs / took for theirs, took in turns],
        goal=0.5,
        note=f"trivial tasks per second: a pilot's processes / calls in two Celery workers ({broker})",
        figures={
            "celery tasks/s": round(TASKS / statistics.median(theirs for theirs, _ in turns), 1),
            "pilot tasks/s": round(TASKS / statistics.median(took for _, took in turns), 1),
            **{f"{name}: ms of CPU per task": round(ms, 2) for name, ms in ms_per_task.items()},
        },
    )


SUBJECTS = {"P11": trivial_tasks}
