"""What a supervisor gives a worker to begin with."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

import msgspec

VARIABLE: Final = "ICEPROD_WORKER"
ALIVE_S: Final = 2.0
"""How often a worker says that it lives."""


class Assignment(msgspec.Struct, frozen=True):
    """A worker's place, and the descriptors that it inherits: sockets by name, and the control channel."""

    number: int
    control: int
    sockets: dict[str, int]


def taken(environment: MutableMapping[str, str]) -> Assignment | None:
    """The assignment of this process, if it is a worker; what it starts is none."""
    text = environment.pop(VARIABLE, "")
    return msgspec.json.decode(text, type=Assignment) if text else None
