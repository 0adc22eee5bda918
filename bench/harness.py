"""What every subject is measured with: rounds, ratios, server processes and their CPU time.

A figure by itself says little on a shared machine.  So each subject measures a yardstick
and the product in turns, and its result is the ratio of each round.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Rounds:
    """How often yardstick and product take turns; at least five for a published figure."""

    count: int = 5

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


@dataclass(frozen=True)
class Result:
    """What came of one subject.

    ``ratios`` holds one ratio per round.  The goal is met when their median is at least
    ``goal``, or at most where ``at_most`` is set.  ``note`` says what was divided by what;
    ``figures`` are absolute values worth keeping, by name.
    """

    name: str
    ratios: Sequence[float]
    goal: float
    note: str
    at_most: bool = False
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        return self.median <= self.goal if self.at_most else self.median >= self.goal

    def as_json(self) -> dict[str, Any]:
        return {
            "min": round(min(self.ratios), 4),
            "median": round(self.median, 4),
            "max": round(max(self.ratios), 4),
            "goal": self.goal,
            "at_most": self.at_most,
            "met": self.met,
            "rounds": len(self.ratios),
            "note": self.note,
            "figures": self.figures,
        }


Subject = Callable[[Rounds], "Result | list[Result]"]
"""Measures; more than one result where the same turns are compared with several yardsticks."""


def discover() -> dict[str, Subject]:
    """Subjects by name, of all modules in this folder."""
    found: dict[str, Subject] = {}
    for module in pkgutil.iter_modules([str(ROOT / "bench")]):
        if not module.name.startswith("_"):
            found.update(getattr(importlib.import_module(f"bench.{module.name}"), "SUBJECTS", {}))
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def pin(core: int) -> None:
    """Keep this process on ``core``, where there is more than one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def cpu_s(pid: int) -> float:
    """CPU seconds that all threads of ``pid`` have used, to the nanosecond where the kernel tells."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@contextmanager
def server(module: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``python -m module arguments`` on the first core; it prints its port on its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()
