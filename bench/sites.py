"""P12.sites: what children cost their parent, and whether its own pilots notice them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench import pilot_load
from bench.claims import SECONDS, Site, site
from bench.harness import ROOT, Result, Rounds, cpu_s
from bench.site_data import Backlog, library
from iceprod.rpc.client import SyncClient
from iceprod.site_sync.invitation import Invitation

SITES: Final = 25
READY: Final = [Backlog(tasks=100_000, classes=100)]
IDLE_S: Final = 10.0
BUSY_S: Final = 8.0


@dataclass(frozen=True)
class Claims:
    """How many a second, and the CPU seconds of the server for one."""

    rate: float
    cpu_s: float

    @classmethod
    def measured(cls, running: Site) -> Claims:
        """What local pilots get now."""
        before = cpu_s(running.process.pid)
        done = pilot_load.run(running.directory, running.rpc_port, SECONDS)
        calls = done["claims"] + done["finishes"]
        return cls(done["claims"] / done["claim_s"], (cpu_s(running.process.pid) - before) / calls)


@dataclass(frozen=True)
class Turn:
    """Claims by local pilots, CPU seconds per second of idle sites, and what busy ones did and took."""

    alone: Claims
    beside: Claims
    idle_cpu: float
    busy_cpu_s: float
    tasks: int


def measure(rounds: Rounds) -> Result:
    """The same claims on the same site, with idle children and without, in turns."""
    with library() as made:
        turns = []
        for number in rounds:
            with site(made, READY) as running:
                turns.append(_turn(running, first=number % 2 == 0))
    tasks = statistics.median(turn.tasks for turn in turns)
    return Result(
        name="P12.sites",
        ratios=[turn.beside.rate / turn.alone.rate for turn in turns],
        goal=0.9,
        note=f"claims/s of local pilots: while {SITES} idle sites wait / without them",
        figures={
            "claims/s": round(statistics.median(turn.alone.rate for turn in turns)),
            "the same by CPU": _median(turn.alone.cpu_s / turn.beside.cpu_s for turn in turns),
            "an idle site: µs of CPU per s": _median(1e6 * turn.idle_cpu / SITES for turn in turns),
            "a task lent and reported: µs of CPU": _median(
                1e6 * turn.busy_cpu_s / max(turn.tasks, 1) for turn in turns
            ),
            "a busy site: tasks/s": round(tasks / BUSY_S / SITES, 1),
        },
    )


def _turn(running: Site, *, first: bool) -> Turn:
    tokens = _join(running)
    alone = None if first else Claims.measured(running)
    of_itself = _used(running, IDLE_S)
    with _children(running, tokens, 0) as children:
        assert children.stdout is not None
        children.stdout.readline()
        idle_cpu = _used(running, IDLE_S) - of_itself
        beside = Claims.measured(running)
    alone = alone or Claims.measured(running)
    before = cpu_s(running.process.pid)
    with _children(running, tokens, BUSY_S) as children:
        assert children.stdout is not None
        tasks = int(children.stdout.readline())
    return Turn(alone, beside, idle_cpu, cpu_s(running.process.pid) - before, tasks)


def _join(running: Site) -> list[str]:
    """Have sites join; their tokens."""
    token = json.loads((running.directory / "bench.json").read_text())["user"]
    tokens = []
    with SyncClient(_url(running), token=token) as admin, SyncClient(_url(running)) as anybody:
        for number in range(SITES):
            code = admin.call("site.invite", name=f"site{number}")["code"]
            message = {"code": Invitation.read(code).secret, "protocols": [1], "version": "bench"}
            joined = anybody.call("site.join", message=message)
            tokens.append(joined["token"])
    (running.directory / "sites.json").write_text(json.dumps(tokens))
    return tokens


@contextmanager
def _children(running: Site, tokens: list[str], seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Be the sites, in a process of its own."""
    command = [sys.executable, "-m", "bench.site_load", _url(running), str(running.directory / "sites.json")]
    process = subprocess.Popen([*command, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def _used(running: Site, seconds: float) -> float:
    """CPU seconds of the server per second."""
    before = cpu_s(running.process.pid)
    time.sleep(seconds)
    return (cpu_s(running.process.pid) - before) / seconds


def _url(running: Site) -> str:
    return f"http://127.0.0.1:{running.rpc_port}/jsonrpc"


def _median(values: Iterator[float]) -> float:
    return round(statistics.median(values), 2)


SUBJECTS = {"P12.sites": measure}
