"""What a supervisor gives a worker to begin with."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

import msgspec

VARIABLE: Final = "ICEPROD_WORKER"
ALIVE_S: Final = 2.0
"""How often a worker says that it lives."""


class Assignment(msgspec.Struct, frozen=True):
    """A worker's place, and the descriptors that it inherits.

    ``control`` is its end of the channel to the supervisor, ``lock`` holds the data directory.
    """

    number: int
    control: int
    lock: int
    sockets: dict[str, int]


def taken(environment: MutableMapping[str, str]) -> Assignment | None:
    """The assignment of this process, if it is a worker; what it starts is none."""
    text = environment.pop(VARIABLE, "")
    if not text:
        return None
    assignment = msgspec.json.decode(text, type=Assignment)
    for descriptor in (assignment.control, assignment.lock):
        # A pilot that outlives the worker would hold them: the supervisor would wait for its
        # end, and the next server for the data directory.
        os.set_inheritable(descriptor, False)
    return assignment
