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

from iceprod.model.federation import PeerRole, PeerState
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
        EventKind.LEASES_TAKEN,
        EventKind.PEER_CHANGED,
        EventKind.OPERATIONS_QUEUED,
    }
)
"""Events that concern every process."""

Charge = tuple[str, str, float, float]
"""Group, owner, cores that more (or fewer) are running, core hours used."""


Loan = tuple[str, int, float]
"""The site that tasks were lent to, how many, and its share."""


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


class Sighting(msgspec.Struct, frozen=True):
    """How another site was seen: of its ``state`` only ``fields`` are news, each as of an instant."""

    state: PeerState
    fields: dict[str, float]


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
    sightings: list[Sighting] = []
    loans: list[Loan] = []
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


class _Tasks:
    """Which tasks began and ceased to wait, by class; what did both is left out."""

    def __init__(self) -> None:
        self._is_new: dict[tuple[int, str], bool | None] = {}  # None: gone

    def __len__(self) -> int:
        return len(self._is_new)

    def released(self, task_id: str, class_id: int) -> None:
        key = class_id, task_id
        self._is_new[key] = self._is_new.get(key, True) is True

    def gone(self, task_id: str, class_id: int) -> None:
        key = class_id, task_id
        if self._is_new.get(key):
            del self._is_new[key]  # nobody has heard of it, and nobody need
        else:
            self._is_new[key] = None

    def write_to(self, bulletin: Bulletin) -> None:
        for (class_id, task_id), is_new in self._is_new.items():
            target = bulletin.gone if is_new is None else bulletin.ready
            target.setdefault(class_id, []).append(task_id)


def together(bulletins: Iterable[tuple[str, Bulletin]]) -> Bulletin:
    """What several bulletins tell, given with their senders, each sender's in order.

    Those of different senders come in no order: of a task that ceased to wait at one and
    waits again by the word of another, it is believed that it waits.  If it does not, the
    store will say so to who claims it.
    """
    all_told, tasks = Bulletin(), dict[str, _Tasks]()
    events: dict[tuple[EventKind, str], None] = {}
    for sender, bulletin in bulletins:
        own = tasks.setdefault(sender, _Tasks())
        for class_id, task_ids in bulletin.gone.items():
            for task_id in task_ids:
                own.gone(task_id, class_id)
        for class_id, task_ids in bulletin.ready.items():
            for task_id in task_ids:
                own.released(task_id, class_id)
        events |= dict.fromkeys(bulletin.events)
        all_told.classes += bulletin.classes
        all_told.charges += bulletin.charges
        all_told.pilots += bulletin.pilots
        all_told.sightings += bulletin.sightings
        all_told.loans += bulletin.loans
        all_told.samples += bulletin.samples
        all_told.state = bulletin.state or all_told.state
    for own in tasks.values():
        own.write_to(all_told)
    all_told.events = list(events)
    return all_told


class Draft:
    """The next bulletin, as far as it is written.

    ``filled`` is set when there is something to tell.  What is done because other processes
    told it is not told again: it is done within `quietly`.  With ``is_alone`` (a store that
    nobody shares) nothing is written.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self.filled = asyncio.Event()
        self.is_alone = self._is_quiet = is_alone
        self._bulletin = Bulletin()
        self._clear()

    def _clear(self) -> None:
        self._bulletin = Bulletin()
        self._tasks = _Tasks()
        self._events: dict[tuple[EventKind, str], None] = {}
        self._patches: dict[str, PilotPatch] = {}
        self._sightings: dict[tuple[PeerRole, str], Sighting] = {}

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Write nothing down meanwhile; nothing may be awaited within."""
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = self.is_alone

    def moved(self, results: Iterable[Moved | None]) -> None:
        """Tasks were moved."""
        if self._is_quiet:
            return
        for moved in results:
            if moved is None:
                continue
            if moved.before is TaskStatus.WAITING:
                self._tasks.gone(moved.task.task_id, moved.task.class_id)
            for task_id, class_id in moved.held:
                self._tasks.gone(task_id, class_id)
            for task_id, class_id in moved.released:
                self._tasks.released(task_id, class_id)
        self._written()

    def released(self, tasks: Iterable[tuple[str, int]]) -> None:
        """Tasks may be claimed, given with their classes."""
        if self._is_quiet:
            return
        for task_id, class_id in tasks:
            self._tasks.released(task_id, class_id)
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

    def heard_of(self, sightings: Iterable[Sighting]) -> None:
        """Other sites were heard of; of each field the last word counts."""
        if self._is_quiet:
            return
        for sighting in sightings:
            key = sighting.state.role, sighting.state.name
            former = self._sightings.get(key)
            fields = {**former.fields, **sighting.fields} if former else sighting.fields
            self._sightings[key] = Sighting(sighting.state, fields)
        self._written()

    def lent(self, loan: Loan) -> None:
        """Tasks were lent to a site."""
        if not self._is_quiet:
            self._bulletin.loans.append(loan)
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
        self._tasks.write_to(bulletin)
        bulletin.events = list(self._events)
        bulletin.pilots = list(self._patches.values())
        bulletin.sightings = list(self._sightings.values())
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
