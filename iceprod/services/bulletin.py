"""What a process tells the others: written down as it happens, told some times a second.

A bulletin names tasks one by one, so that the windows of every ready index stay right, but
of most other things only *that* they changed: who hears of it looks at the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from iceprod.model.lifecycle import TaskStatus
from iceprod.model.pilot import PilotPatch
from iceprod.model.shares import Leaf
from iceprod.model.task import Moved
from iceprod.services.events import Event, EventKind
from iceprod.services.grid_keeper import GridStatus
from iceprod.store.base import TaskClass

VERSION: Final = 1
"""Of the content; who does not know it looks at the store instead."""
MAX_ITEMS: Final = 20_000
"""Tasks, classes and events that wait to be told; with more, the others look at the store."""

TOLD: Final = frozenset(
    {
        EventKind.DATASET_CREATED,
        EventKind.DATASET_CHANGED,
        EventKind.TASKS_MOVED,
        EventKind.PILOT_CHANGED,
        EventKind.CREDENTIALS_REVOKED,
    }
)
"""Events that concern every process."""

Charge = tuple[str, str, float, float]
"""Group, owner, cores that more (or fewer) are running, core hours used."""


class HolderState(msgspec.Struct, frozen=True):
    """What the holder of the duties knows best: fair-share usage as of an instant, and the grids."""

    as_of: float
    usage: list[Charge]
    grids: list[GridStatus]


class Sample(msgspec.Struct, frozen=True):
    """A point of a graph: counts by name at an instant (seconds since the epoch)."""

    name: str
    value: dict[str, int]
    at: float


class Bulletin(msgspec.Struct, omit_defaults=True):
    """One message.  ``gone`` and ``ready`` are task ids by class id, ``gone`` comes first."""

    version: int = 0  # set when it is encoded
    is_leaving: bool = False
    is_incomplete: bool = False
    classes: list[TaskClass] = []
    gone: dict[int, list[str]] = {}
    ready: dict[int, list[str]] = {}
    charges: list[Charge] = []
    events: list[tuple[EventKind, str]] = []
    pilots: list[PilotPatch] = []
    samples: list[Sample] = []
    state: HolderState | None = None


class _Head(msgspec.Struct):
    version: int


_encoder = msgspec.json.Encoder()
_head_decoder = msgspec.json.Decoder(_Head)
_decoder = msgspec.json.Decoder(Bulletin)


def encode(bulletin: Bulletin) -> bytes:
    """A bulletin as the body of a message."""
    bulletin.version = VERSION
    return _encoder.encode(bulletin)


def decode(body: bytes) -> Bulletin | None:
    """What `encode` wrote; None if it is damaged, or of a version that this one does not know."""
    try:
        if _head_decoder.decode(body).version != VERSION:
            return None
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Draft:
    """The next bulletin, as far as it is written.

    ``filled`` is set when there is something to tell.  What is done because other processes
    told it is not told again: it is done within `quietly`.  With ``is_alone`` (a store that
    nobody shares) nothing is written.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self.filled = asyncio.Event()
        self._is_quiet = self._is_alone = is_alone
        self._bulletin = Bulletin()
        self._clear()

    def _clear(self) -> None:
        self._bulletin = Bulletin()
        self._tasks: dict[tuple[int, str], str] = {}
        self._events: dict[tuple[EventKind, str], None] = {}
        self._patches: dict[str, PilotPatch] = {}

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Write nothing down meanwhile; nothing may be awaited within."""
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = self._is_alone

    def moved(self, results: Iterable[Moved | None]) -> None:
        """Tasks were moved."""
        if self._is_quiet:
            return
        for moved in results:
            if moved is None:
                continue
            if moved.before is TaskStatus.WAITING:
                self._gone(moved.task.task_id, moved.task.class_id)
            for task_id, class_id in moved.held:
                self._gone(task_id, class_id)
            self.released(moved.released)

    def released(self, tasks: Iterable[tuple[str, int]]) -> None:
        """Tasks may be claimed, given with their classes."""
        if self._is_quiet:
            return
        for task_id, class_id in tasks:
            key = class_id, task_id
            self._tasks[key] = "back" if key in self._tasks and self._tasks[key] != "new" else "new"
        self._written()

    def _gone(self, task_id: str, class_id: int) -> None:
        key = class_id, task_id
        if self._tasks.get(key) == "new":
            del self._tasks[key]  # nobody has heard of it, and nobody need
        else:
            self._tasks[key] = "gone"
        self._written()

    def learnt(self, classes: Iterable[TaskClass]) -> None:
        """There are new classes."""
        if not self._is_quiet:
            self._bulletin.classes.extend(classes)
            self._written()

    def happened(self, event: Event) -> None:
        """Listen to `iceprod.services.events`."""
        if not self._is_quiet and event.kind in TOLD:
            self._events[event.kind, event.subject] = None
            self._written()

    def sighted(self, patch: PilotPatch) -> None:
        """A pilot was heard of; the last word counts."""
        if not self._is_quiet:
            self._patches[patch.pilot_id] = patch
            self._written()

    def sampled(self, points: Iterable[Sample]) -> None:
        """The graphs have new points."""
        if not self._is_quiet:
            self._bulletin.samples.extend(points)
            self._written()

    def stands(self, state: HolderState) -> None:
        """How the holder of the duties stands."""
        if not self._is_quiet:
            self._bulletin.state = state
            self._written()

    def leaves(self) -> None:
        """This process ends."""
        if not self._is_quiet:
            self._bulletin.is_leaving = True
            self._written()

    def take(self, charges: Iterable[tuple[Leaf, float, float]] = ()) -> Bulletin:
        """What is written, with what was charged meanwhile; the next draft is empty."""
        bulletin = self._bulletin
        for (class_id, task_id), state in self._tasks.items():
            target = bulletin.gone if state == "gone" else bulletin.ready
            target.setdefault(class_id, []).append(task_id)
        bulletin.events = list(self._events)
        bulletin.pilots = list(self._patches.values())
        bulletin.charges = [(*leaf, cores, hours) for leaf, cores, hours in charges]
        self._clear()
        self.filled.clear()
        return bulletin

    def _written(self) -> None:
        self.filled.set()
        size = len(self._tasks) + len(self._events) + len(self._patches) + len(self._bulletin.classes)
        if size > MAX_ITEMS:
            kept = Bulletin(is_incomplete=True, state=self._bulletin.state, samples=self._bulletin.samples)
            self._clear()
            self._bulletin = kept
