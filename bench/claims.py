"""P3 and P4: claiming and finishing tasks by RPC, durable, and how that grows with the backlog."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import load, pilot_load
from bench.harness import Result, Rounds, cpu_s, server
from bench.rpc_echo import SINGLE
from bench.site_data import Backlog, Library, library

PILOTS = 64
SECONDS = 2.0
READY = [Backlog(tasks=400_000, classes=400)]


@dataclass(frozen=True)
class Site:
    """A running site: its data directory and its ports."""

    directory: Path
    port: int
    rpc_port: int
    process: subprocess.Popen[str]
    start_s: float

    def loop_lag_ms(self) -> float:
        """The 99th percentile of the loop's lag since this was asked last, or since the start."""
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())


@contextmanager
def site(made: Library, backlogs: list[Backlog], pilots: int = PILOTS) -> Iterator[Site]:
    """Start a site that has these backlogs."""
    with tempfile.TemporaryDirectory(prefix="iceprod-bench-") as name:
        directory = Path(name)
        if backlogs:
            made.copy(directory, backlogs)
        with server("bench.site_server", name, str(pilots)) as (process, rpc_port):
            told = json.loads((directory / "bench.json").read_text())
            yield Site(directory, told["port"], rpc_port, process, told["start_s"])


@dataclass(frozen=True)
class Rates:
    """Calls per second of one round, and CPU microseconds of the server for one of either kind on average."""

    claims: float
    finishes: float
    cpu_us: float

    @classmethod
    def measured(cls, pid: int, directory: Path, port: int) -> Rates:
        """Load the server ``pid`` of a site in ``directory``."""
        before = cpu_s(pid)
        done = pilot_load.run(directory, port, SECONDS)
        cpu_us = (cpu_s(pid) - before) / (done["claims"] + done["finishes"]) * 1e6
        return cls(done["claims"] / done["claim_s"], done["finishes"] / done["finish_s"], cpu_us)

    @property
    def slower(self) -> float:
        return min(self.claims, self.finishes)


@dataclass(frozen=True)
class Turn:
    """The product, the bare echo and the floor, one after the other."""

    product: Rates
    floor: Rates
    echo: load.Load

    @property
    def of_floor(self) -> float:
        """How much of the floor the product reaches, by the call of which that is less."""
        return min(self.product.claims / self.floor.claims, self.product.finishes / self.floor.finishes)


def turns(rounds: Rounds, way: str) -> list[Turn]:
    """Claims and finishes by ``lane`` or by ``handler``."""
    found = []
    with library() as made, server("bench.echo_servers", "tornado") as (echo, echo_port):
        for _ in rounds:
            echoed = load.run(echo.pid, echo_port, load.post(SINGLE))
            floor = _floor(way)
            with site(made, READY) as running:
                port = running.rpc_port if way == "lane" else running.port
                product = Rates.measured(running.process.pid, running.directory, port)
            found.append(Turn(product, floor, echoed))
    return found


def _floor(way: str) -> Rates:
    """The same load on the least that can be called a server of claims."""
    with (
        tempfile.TemporaryDirectory(prefix="iceprod-bench-") as name,
        server("bench.floor_server", name, way) as (process, port),
    ):
        return Rates.measured(process.pid, Path(name), port)


def claim_and_finish(rounds: Rounds, *, name: str, way: str, goals: tuple[float, float]) -> list[Result]:
    """Two results of the same turns: by the bare echo, and by the floor."""
    found = turns(rounds, way)
    by = "the fast lane" if way == "lane" else "Tornado's handler"
    products, floors = [turn.product for turn in found], [turn.floor for turn in found]
    figures = {
        "claims/s": _median(each.claims for each in products),
        "finishes/s": _median(each.finishes for each in products),
        "echo/s": _median(turn.echo.rate for turn in found),
        "µs": _median(each.cpu_us for each in products),
        "echo µs": _median(turn.echo.cpu_us for turn in found),
    }
    of_floor = {
        "claims/s": _median(each.claims for each in floors),
        "finishes/s": _median(each.finishes for each in floors),
        "µs": _median(each.cpu_us for each in floors),
        "floor / echo": round(statistics.median(turn.floor.slower / turn.echo.rate for turn in found), 2),
        "by CPU": round(statistics.median(turn.echo.cpu_us / turn.floor.cpu_us for turn in found), 2),
    }
    return [
        Result(
            name=name,
            ratios=[turn.product.slower / turn.echo.rate for turn in found],
            goal=goals[0],
            note=f"calls/s: the slower of claim and finish through {by} / bare Tornado echo",
            figures=figures,
        ),
        Result(
            name=f"{name}.floor",
            ratios=[turn.of_floor for turn in found],
            goal=goals[1],
            note=f"the same / a bare server that does nothing but claim and finish durably, by {way}",
            figures=of_floor,
        ),
    ]


def _median(values: Iterable[float]) -> int:
    return round(statistics.median(values))


def by_lane(rounds: Rounds) -> list[Result]:
    return claim_and_finish(rounds, name="P3", way="lane", goals=(1.7, 0.18))


def by_handler(rounds: Rounds) -> list[Result]:
    return claim_and_finish(rounds, name="P3.handler", way="handler", goals=(0.5, 0.5))


def after_many(rounds: Rounds) -> Result:
    """Claims with a backlog in front that fits no pilot: after 100 000 claims against fresh."""
    backlogs = [Backlog(tasks=100_000, classes=200, gpu=1), Backlog(tasks=200_000, classes=200)]
    ratios, fresh, worn = [], [], []
    with library() as made:
        for _ in rounds:
            with site(made, backlogs) as running:
                fresh.append(_rate(running))
                pilot_load.run(running.directory, running.rpc_port, 600.0, most=100_000)
                worn.append(_rate(running))
            ratios.append(worn[-1] / fresh[-1])
    figures = {"fresh/s": round(statistics.median(fresh)), "after/s": round(statistics.median(worn))}
    return Result("P4", ratios, 0.6, "claims/s: after 100 000 claims beside an unmatchable backlog / fresh",
                  figures=figures)  # fmt: skip


def of_a_million(rounds: Rounds) -> Result:
    """Claims with 1 000 000 tasks stored against 10 000."""
    ratios, small, large = [], [], []
    with library() as made:
        for _ in rounds:
            with site(made, [Backlog(tasks=10_000, classes=10)]) as running:
                small.append(_rate(running, most=5000))
            with site(made, [Backlog(tasks=1_000_000, classes=1000)]) as running:
                large.append(_rate(running, most=5000))
            ratios.append(large[-1] / small[-1])
    figures = {"10 000/s": round(statistics.median(small)), "1 000 000/s": round(statistics.median(large))}
    return Result("P4.million", ratios, 0.75, "claims/s: 1 000 000 stored tasks / 10 000", figures=figures)


def _rate(running: Site, most: int = 0) -> float:
    done = pilot_load.run(running.directory, running.rpc_port, SECONDS, most=most)
    return done["claims"] / done["claim_s"]


SUBJECTS = {"P3": by_lane, "P3.handler": by_handler, "P4": after_many, "P4.million": of_a_million}
