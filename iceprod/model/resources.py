"""What a task asks for and what a slot offers, and whether one fits into the other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from iceprod.model.values import value


@value
class Resources:
    """An amount of machine: cores, GPUs, memory and disk in GB (10^9 bytes), hours of wall time."""

    cpu: float = 1
    gpu: float = 0
    memory: float = 1.0
    disk: float = 1.0
    time_h: float = 1.0

    def minus(self, other: Resources) -> Resources:
        """What is left after ``other`` is taken out; time is not used up by sharing a slot."""
        return Resources(
            self.cpu - other.cpu,
            self.gpu - other.gpu,
            round(self.memory - other.memory, 6),
            round(self.disk - other.disk, 6),
            self.time_h,
        )

    def plus(self, other: Resources) -> Resources:
        """What there is after ``other`` is given back."""
        return Resources(
            self.cpu + other.cpu,
            self.gpu + other.gpu,
            round(self.memory + other.memory, 6),
            round(self.disk + other.disk, 6),
            self.time_h,
        )

    def to_format(self) -> dict[str, Any]:
        """As in dataset configurations and in the RPC contract, where hours are called ``time``."""
        return {
            "cpu": self.cpu,
            "gpu": self.gpu,
            "memory": self.memory,
            "disk": self.disk,
            "time": self.time_h,
        }


MOST = 1e9
"""More of a resource than any slot has, and more seconds than an attempt may last."""


def bounded(amount: float) -> float:
    """An amount that somebody else has told, between 0 and `MOST`; what is no number counts nothing.

    It is compared before anything is computed with it: an integer may have any length.
    """
    return amount if 0 <= amount <= MOST else min(max(0, amount), MOST)


DIMENSIONS = tuple(f.name for f in fields(Resources))
UNITS = {
    "cpu": ("core", "cores"),
    "gpu": ("GPU", "GPUs"),
    "memory": ("GB of memory", "GB of memory"),
    "disk": ("GB of disk", "GB of disk"),
    "time_h": ("h of wall time", "h of wall time"),
}
"""What one of a resource is called, and several."""
NOTHING = Resources(cpu=0, gpu=0, memory=0, disk=0, time_h=0)


@value
class Requirements:
    """What a slot must have to run a task; an empty ``os`` or ``site`` means any."""

    resources: Resources = field(default_factory=Resources)
    os: tuple[str, ...] = ()
    site: str = ""

    def to_json(self) -> str:
        """Canonical text: equal requirements give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Requirements:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        return cls(resources=Resources(**raw["resources"]), os=tuple(raw["os"]), site=raw["site"])


@value
class Offer:
    """What a pilot or a grid can run now."""

    resources: Resources = field(default_factory=Resources)
    os: str = ""
    site: str = ""


NO_OFFER = Offer(resources=NOTHING)


def amount(dimension: str, number: float) -> str:
    """So much of one of the `DIMENSIONS`, in words: ``1 GPU``, ``4 GB of memory``."""
    one, several = UNITS[dimension]
    return f"{number:g} {one if number == 1 else several}"


@dataclass(frozen=True, slots=True)
class Lack:
    """One requirement that an offer does not meet."""

    requirement: str
    wanted: float | str
    offered: float | str

    def __str__(self) -> str:
        """In plain words, for the page and the terminal."""
        if isinstance(self.wanted, float | int):
            offered = f"{self.offered:g}" if self.offered else "none"
            return f"needs {amount(self.requirement, self.wanted)}, offered {offered}"
        name = "operating system" if self.requirement == "os" else self.requirement
        return f"needs {name} {self.wanted}, offered {self.offered or 'none'}"


def fits(wanted: Requirements, offer: Offer) -> bool:
    """Whether ``offer`` meets every requirement; the same rule as `lacks`, for the hot path."""
    need, have = wanted.resources, offer.resources
    return (
        need.cpu <= have.cpu
        and need.gpu <= have.gpu
        and need.memory <= have.memory
        and need.disk <= have.disk
        and need.time_h <= have.time_h
        and (not wanted.os or offer.os in wanted.os)
        and (not wanted.site or offer.site == wanted.site)
    )


def lacks(wanted: Requirements, offer: Offer) -> list[Lack]:
    """Every requirement that ``offer`` does not meet; empty exactly when it `fits`."""
    found = [
        Lack(name, getattr(wanted.resources, name), getattr(offer.resources, name))
        for name in DIMENSIONS
        if getattr(wanted.resources, name) > getattr(offer.resources, name)
    ]
    if wanted.os and offer.os not in wanted.os:
        found.append(Lack("os", " or ".join(wanted.os), offer.os))
    if wanted.site and offer.site != wanted.site:
        found.append(Lack("site", wanted.site, offer.site))
    return found


def class_id(dataset_id: str, task_index: int, wanted: Requirements) -> int:
    """The class of tasks that are alike to the scheduler: a positive 63-bit number.

    Made from the members' common properties, so every process and every store agrees on it
    without asking.
    """
    text = f"{dataset_id}\0{task_index}\0{wanted.to_json()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
