"""How fast bytes went lately, for plots: a short memory of the accounting's sums."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from iceprod.model.file import Direction

SPACING_S: Final = 5.0
"""How often the sums are looked at."""
KEPT: Final = 721
"""How many looks are remembered: an hour's."""


@dataclass(frozen=True, slots=True)
class Look:
    """The sums at one instant, in seconds of a steady clock."""

    at: float
    moved: dict[Direction, int]


class FlowHistory:
    """Remembers sums of bytes; `sample` is called every `SPACING_S`."""

    def __init__(self, sums: Callable[[], dict[Direction, int]], *, clock: Callable[[], float]) -> None:
        self._sums = sums
        self._clock = clock
        self._looks: deque[Look] = deque(maxlen=KEPT)

    async def sample(self) -> None:
        """Look at the sums."""
        self._looks.append(Look(self._clock(), dict(self._sums())))

    def rates(self, direction: Direction) -> list[tuple[float, float]]:
        """Seconds before now, and bytes per second at that time; oldest first."""
        now, looks = self._clock(), list(self._looks)
        return [
            (now - later.at, (later.moved[direction] - sooner.moved[direction]) / (later.at - sooner.at))
            for sooner, later in pairwise(looks)
            if later.at > sooner.at
        ]
