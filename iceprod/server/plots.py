"""Small plots as the server draws them: SVG that needs no program to be read or printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from iceprod.server import text

WIDTH: Final = 600.0
HEIGHT: Final = 90.0
_NICE: Final = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Plot:
    """A line over time: ``points`` in the units of a box of `WIDTH` by `HEIGHT`, from its left top.

    ``label`` says all of it in words; ``top`` is what the upper edge stands for.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    top: str
    span: str

    @property
    def line(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def area(self) -> str:
        """The same down to the axis."""
        if not self.points:
            return ""
        first, last = self.points[0][0], self.points[-1][0]
        return f"{first:.1f},{HEIGHT:g} {self.line} {last:.1f},{HEIGHT:g}"


def rate_plot(what: str, rates: Sequence[tuple[float, float]], *, span_s: float) -> Plot:
    """Bytes per second over the last ``span_s`` seconds, from (seconds ago, bytes per second)."""
    return plot(what, rates, span_s=span_s, write=lambda speed: f"{text.size(speed)}/s", least=1000.0)


def plot(
    what: str,
    values: Sequence[tuple[float, float]],
    *,
    span_s: float,
    write: Callable[[float], str],
    least: float,
) -> Plot:
    """Values over the last ``span_s`` seconds, from (seconds ago, value), oldest first.

    ``write`` says a value in words; the upper edge stands for ``least`` at least.
    """
    seen = [(ago, value) for ago, value in values if ago <= span_s]
    highest = max((value for _, value in seen), default=0.0)
    now = seen[-1][1] if seen else 0.0
    top = nice_above(highest, least=least)
    points = tuple((WIDTH * (1 - ago / span_s), HEIGHT * (1 - value / top)) for ago, value in seen)
    span = text.duration(span_s)
    label = f"{what}: {write(now)} now, at most {write(highest)} in the last {span}"
    return Plot(label, points, write(top), f"{span} ago")


def nice_above(value: float, *, least: float = 1000.0) -> float:
    """The next of 1, 2, 5 times a power of ten, and not below ``least``, which is one itself."""
    if value <= least:
        return least
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _NICE if step * power >= value)
