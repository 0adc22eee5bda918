"""What this pilot has, what its tasks hold of it, and what it may offer now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from iceprod.model.resources import NOTHING, Offer, Resources

_SMALLEST_TIME_H = 1e-3  # with less left, nothing more is asked for


class Slots:
    """The books of one pilot; ``gpus`` are the names under which programs address its GPUs."""

    def __init__(
        self, offer: Offer, gpus: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.offer = offer
        self._gpus = list(gpus)[: int(offer.resources.gpu)]
        self._free_gpus = list(self._gpus)
        self._claimed = NOTHING
        self._clock = clock
        self._started_at = clock()

    @property
    def claimed(self) -> Resources:
        """What the tasks hold together."""
        return self._claimed

    def free(self) -> Resources:
        """What is left, with the hours until this pilot must end."""
        left = self.offer.resources.minus(self._claimed)
        gpu = min(left.gpu, len(self._free_gpus))
        return Resources(left.cpu, gpu, left.memory, left.disk, self._left_h())

    def all(self) -> Resources:
        """What there is when nothing runs, with the hours until this pilot must end."""
        offer = self.offer.resources
        return Resources(offer.cpu, len(self._gpus), offer.memory, offer.disk, self._left_h())

    def _left_h(self) -> float:
        return max(0.0, self.offer.resources.time_h - (self._clock() - self._started_at) / 3600)

    def is_out_of_time(self) -> bool:
        """Whether the pilot's own time is over."""
        return self._left_h() < _SMALLEST_TIME_H

    def to_wire(self, offered: Resources) -> dict[str, Any]:
        """The offer of a claim.

        The time is told to a few seconds, so that the server sees the same offer again and again.
        """
        wire = offered.to_format() | {"time": round(offered.time_h, 3)}
        return wire | {key: value for key in ("os", "site") if (value := getattr(self.offer, key))}

    def could_take(self, wanted: Resources) -> bool:
        """Whether ``wanted`` fits when nothing else runs."""
        return _fits(wanted, self.all())

    def take(self, wanted: Resources) -> list[str] | None:
        """Set ``wanted`` aside, and return the GPUs; none at all if it does not fit."""
        if not _fits(wanted, self.free()):
            return None
        self._claimed = self._claimed.plus(wanted)
        count = int(wanted.gpu)
        taken, self._free_gpus = self._free_gpus[:count], self._free_gpus[count:]
        return taken

    def give_back(self, held: Resources, gpus: Sequence[str]) -> None:
        """Undo `take`."""
        self._claimed = self._claimed.minus(held)
        self._free_gpus += gpus


def _fits(wanted: Resources, there: Resources) -> bool:
    return (
        wanted.cpu <= there.cpu
        and wanted.gpu <= there.gpu
        and wanted.memory <= there.memory
        and wanted.disk <= there.disk
    )
