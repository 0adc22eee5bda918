"""What a pilot says of an attempt that has ended."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from iceprod.model.values import value


@value
class Report:
    """What an attempt took.

    ``usage`` is in the units of `Resources` under the names of the dataset format (time in
    hours); ``stats`` is kept as given.
    """

    hostname: str = ""
    walltime_s: float = 0.0
    usage: dict[str, float] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
