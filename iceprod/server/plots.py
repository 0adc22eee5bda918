"""Small plots as the server draws them: SVG that needs no program to be read or printed."""

from __future__ import annotations

from collections.abc import Sequence
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
    seen = [(ago, speed) for ago, speed in rates if ago <= span_s]
    top = nice_above(max((speed for _, speed in seen), default=0.0))
    points = tuple((WIDTH * (1 - ago / span_s), HEIGHT * (1 - speed / top)) for ago, speed in seen)
    highest = max((speed for _, speed in seen), default=0.0)
    now = seen[-1][1] if seen else 0.0
    label = (
        f"{what}: {text.size(now)}/s now, at most {text.size(highest)}/s in the last {text.duration(span_s)}"
    )
    return Plot(label, points, f"{text.size(top)}/s", f"{text.duration(span_s)} ago")


def nice_above(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten, at least 1000."""
    if value <= 1000:
        return 1000.0
    power = 10.0 ** (len(str(int(value))) - 1)
    return next(step * power for step in _NICE if step * power >= value)
