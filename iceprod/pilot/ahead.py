"""Claimed tasks that wait for room here, and how much may be claimed.

While tasks take less time than asking for the next ones, cores would idle; so as much as the
pilot can run at once is then claimed ahead.  It is handed back when it does not come to run
soon: other pilots may be idle.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

from iceprod.model.resources import NOTHING, Resources
from iceprod.pilot.assignment import Assignment
from iceprod.pilot.slots import Slots

SHORT_S = 0.5  # tasks that are over sooner are short
PATIENCE_S = 2.0  # for so long a task is kept that does not come to run
_NEWEST = 0.2  # the weight of the newest task in how long they take


class Ahead:
    """The tasks that this pilot holds and does not run yet, first come, first run."""

    def __init__(self, slots: Slots, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._waiting: deque[tuple[Assignment, float]] = deque()
        self._held = NOTHING
        self._typical_s = math.inf

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._waiting)

    def add(self, assignment: Assignment) -> bool:
        """Keep a task until there is room; False if there never will be."""
        if not self._slots.could_take(assignment.resources):
            return False
        self._waiting.append((assignment, self._clock()))
        self._held = self._held.plus(assignment.resources)
        return True

    def next(self) -> tuple[Assignment, list[str]] | None:
        """The task whose turn it is and its GPUs, which are set aside with the rest; none without room."""
        if not self._waiting:
            return None
        gpus = self._slots.take(self._waiting[0][0].resources)
        return None if gpus is None else (self._pop(), gpus)

    def hand_back(self) -> list[Assignment]:
        """Give up all that waits."""
        return [self._pop() for _ in range(len(self._waiting))]

    def is_overdue(self) -> bool:
        """Whether something has waited for too long."""
        return bool(self._waiting) and self._clock() - self._waiting[0][1] > PATIENCE_S

    def ended(self, seconds: float) -> None:
        """A task has run for so long; for ever, if it failed: a node on which tasks fail holds no others."""
        known = self._typical_s < math.inf
        self._typical_s = self._typical_s * (1 - _NEWEST) + seconds * _NEWEST if known else seconds

    def room(self, running_s: Iterable[float]) -> Resources:
        """What may be asked for, while tasks run that began so many seconds ago."""
        are_short = self._typical_s < SHORT_S and max(running_s, default=0.0) < SHORT_S
        return (self._slots.all() if are_short else self._slots.free()).minus(self._held)

    def _pop(self) -> Assignment:
        assignment, _ = self._waiting.popleft()
        self._held = self._held.minus(assignment.resources)
        return assignment
