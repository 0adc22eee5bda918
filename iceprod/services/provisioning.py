"""How many pilots to start where: the rules alone, without I/O and without a clock.

Two kinds of grid want opposite things of a pilot:

* On machines that are **ours alone** (`GridDescription.free` is known) whatever no pilot
  holds stands idle.  So one pilot takes all that is free and runs many tasks side by side.
  Two pilots of one core would use two cores as well, but could never run a task of two
  cores, nor share memory unevenly; each would fetch its own copy of every configuration,
  and a change in the kind of work would mean ending and starting pilots.
* A **batch system** shares its machines among many, and a small slot starts sooner than a
  large one.  So a pilot asks for what one task needs, and for more only when more tasks
  wait than pilots may be started.

Numbers never swing, because every pilot that is queued or has room is counted as serving
the waiting tasks that fit it, before another is started; and none is ever ended for want
of work from here: a pilot ends itself when it has been idle for long enough.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from iceprod.grids.base import GridDescription
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.resources import DIMENSIONS, Offer, Requirements, Resources, fits

_SHARED = ("cpu", "gpu", "memory", "disk")
_MOST_TASKS = 64  # that a pilot of a batch system is made large enough for
_ROUNDING = 1e-9
_HOUR_S = 3600.0


class Demand(Protocol):
    """How many tasks of some kind wait for a slot (`iceprod.services.scheduling.Demand`)."""

    @property
    def requirements(self) -> Requirements:
        """What each of them asks for."""

    @property
    def waiting(self) -> int:
        """How many there are."""


@dataclass(frozen=True, slots=True)
class GridLimits:
    """How many pilots a grid may have in all, and of these, how many that wait for their start."""

    max_pilots: int
    max_queued: int


@dataclass(frozen=True, slots=True)
class GridView:
    """A grid that takes pilots now; ``probing`` if one alone is to show that they work there."""

    description: GridDescription
    limits: GridLimits
    probing: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Start a pilot with that offer on that grid."""

    grid: str
    offer: Offer


def plan(
    demand: Iterable[Demand], pilots: Sequence[Pilot], grids: Sequence[GridView], *, now: float
) -> list[Start]:
    """The pilots to start now.

    ``pilots`` are all that have not ended, on whatever grid.  Promises, each with a test:
    no limit is exceeded; nothing is started for work that fits no grid or that a pilot with
    room serves already; and where a grid has a place, every kind of work that fits it gets
    a pilot that fits, however much there is of other kinds.
    """
    rooms = [room for room in (_GridRoom(view, pilots) for view in grids) if room.is_open]
    if not rooms:  # as in a site at work most of the time, which then costs nothing more
        return []
    slots = _Slots(pilots, now=now)
    work = _Work(demand)
    work.serve(slots.rooms)
    served = {wanted: slots.fitting(wanted) for wanted in work.waiting}
    starts: list[Start] = []
    while (chosen := _next(work, rooms, served)) is not None:
        start, room = chosen
        room.take(start.offer)
        work.serve(Counter([start.offer]))
        for wanted in work.waiting:
            served[wanted] += fits(wanted, start.offer)
        starts.append(start)
    return starts


def unclaimed(
    demand: Iterable[Demand],
    pilots: Sequence[Pilot],
    grids: Sequence[GridView],
    *,
    elsewhere: Mapping[Offer, int],
    now: float,
) -> Counter[Offer]:
    """The room for which nothing waits: in pilots, on grids that take more of them, and ``elsewhere``."""
    rooms = _Slots(pilots, now=now).rooms
    rooms.update(elsewhere)
    for grid in (_GridRoom(view, pilots) for view in grids):
        if grid.is_open:
            rooms[grid.slot] += grid.places if grid.free is None else 1
    for wanted, waiting in _Work(demand).waiting.items():
        _serve(wanted, waiting, rooms)
    return rooms


class _Slots:
    """The pilots, counted by what they offer and by what they have left."""

    def __init__(self, pilots: Sequence[Pilot], *, now: float) -> None:
        self.offers: Counter[Offer] = Counter()
        self.rooms: Counter[Offer] = Counter()
        for pilot in pilots:
            if pilot.status is PilotStatus.DRAINING:
                continue
            offer = _aged(pilot, now)
            self.offers[offer] += 1
            room = replace(offer, resources=offer.resources.minus(pilot.claimed))
            if room.resources.cpu > 0 or room.resources.gpu > 0:
                self.rooms[room] += 1

    def fitting(self, wanted: Requirements) -> int:
        """How many pilots fit, whether busy or not."""
        return sum(count for offer, count in self.offers.items() if fits(wanted, offer))


class _Work:
    """The waiting tasks that no pilot has room for, by requirements."""

    def __init__(self, demand: Iterable[Demand]) -> None:
        waiting: Counter[Requirements] = Counter()
        for item in demand:
            waiting[item.requirements] += item.waiting
        # What is hard to place comes first, so that small tasks do not take its only slot.
        hard_first = sorted(waiting.items(), key=lambda entry: _hardness(entry[0]), reverse=True)
        self.waiting = {wanted: count for wanted, count in hard_first if count > 0}

    def serve(self, rooms: Counter[Offer]) -> None:
        """Strike out the tasks that these rooms will take."""
        rooms = Counter(rooms)
        for wanted, waiting in list(self.waiting.items()):
            left = _serve(wanted, waiting, rooms)
            if left:
                self.waiting[wanted] = left
            else:
                del self.waiting[wanted]


class _GridRoom:
    """What a grid still takes while a plan is made."""

    def __init__(self, view: GridView, pilots: Sequence[Pilot]) -> None:
        description = view.description
        own = [pilot for pilot in pilots if pilot.grid == description.name]
        queued = sum(pilot.status is PilotStatus.QUEUED for pilot in own)
        most_queued = min(view.limits.max_queued, 1) if view.probing else view.limits.max_queued
        self.name = description.name
        self.places = min(view.limits.max_pilots - len(own), most_queued - queued)
        self.queued = queued
        self.largest = description.largest
        self.free = description.free

    @property
    def is_open(self) -> bool:
        """Whether the grid takes any further pilot at all."""
        return self.places > 0 and (self.free is None or self.free.cpu > 0 or self.free.gpu > 0)

    @property
    def slot(self) -> Offer:
        """The largest slot that the grid would give now."""
        if self.free is None:
            return self.largest
        return replace(self.largest, resources=_least(self.free, self.largest.resources))

    def take(self, offer: Offer) -> None:
        """Count a pilot that is started."""
        self.places -= 1
        self.queued += 1
        if self.free is not None:
            self.free = self.free.minus(offer.resources)

    def shape(self, kinds: Sequence[Requirements], tasks: int) -> Offer:
        """What to give a pilot for ``tasks`` of the first kind, or one of any of the others."""
        slot = self.slot
        if self.free is not None:
            return slot
        most = max(1, min(tasks, _MOST_TASKS, _capacity(kinds[0].resources, slot.resources)))
        wanted = [_times(kinds[0].resources, most), *(kind.resources for kind in kinds[1:])]
        amounts = {name: max(getattr(item, name) for item in wanted) for name in _SHARED}
        amounts["gpu"] = math.ceil(amounts["gpu"])  # tasks may share one, pilots may not
        # The whole time that the grid gives, since a pilot goes on to other tasks.
        asked = Resources(**amounts, time_h=slot.resources.time_h)
        return replace(slot, resources=_least(asked, slot.resources))


def _next(
    work: _Work, rooms: Sequence[_GridRoom], served: Mapping[Requirements, int]
) -> tuple[Start, _GridRoom] | None:
    """The pilot that is needed most: for the kind of work that the fewest pilots fit."""
    for wanted in sorted(work.waiting, key=served.__getitem__):
        open_rooms = [room for room in rooms if room.is_open and fits(wanted, room.slot)]
        if open_rooms:
            # A machine of ours starts a pilot at once; else the shortest queue is best.
            room = min(open_rooms, key=lambda room: (room.free is None, room.queued))
            return Start(room.name, _offer(wanted, work, room, served)), room
    return None


def _offer(wanted: Requirements, work: _Work, room: _GridRoom, served: Mapping[Requirements, int]) -> Offer:
    kinds = [kind for kind in work.waiting if fits(kind, room.slot)]
    kinds_left_out = []
    if room.places < len(kinds):
        # Not every kind can have a pilot of its own, so the last one must fit all that have none.
        unserved = [kind for kind in kinds if kind != wanted and not served[kind]]
        kinds_left_out = unserved if room.places == 1 else []
    pilots_each = max(1, room.places // len(kinds))
    return room.shape([wanted, *kinds_left_out], math.ceil(work.waiting[wanted] / pilots_each))


def _serve(wanted: Requirements, waiting: int, rooms: Counter[Offer]) -> int:
    """Put tasks into rooms; the number that found none."""
    for room, count in list(rooms.items()):
        if waiting <= 0:
            break
        each = _capacity(wanted.resources, room.resources) if fits(wanted, room) else 0
        if each:
            placed = min(waiting, each * count)
            waiting -= placed
            _occupy(rooms, room, wanted.resources, placed=placed, each=each)
    return waiting


def _occupy(rooms: Counter[Offer], room: Offer, need: Resources, *, placed: int, each: int) -> None:
    full, rest = divmod(placed, each)
    rooms[room] -= full + (rest > 0)
    if not rooms[room]:
        del rooms[room]
    for tasks, count in ((each, full), (rest, 1)):
        if tasks and count:
            rooms[replace(room, resources=room.resources.minus(_times(need, tasks)))] += count


def _aged(pilot: Pilot, now: float) -> Offer:
    """What a pilot offers with the time that it has left, in whole hours so that equals meet."""
    have = pilot.offer.resources
    age_h = 0.0 if pilot.status is PilotStatus.QUEUED else math.floor((now - pilot.created_at) / _HOUR_S)
    return replace(pilot.offer, resources=replace(have, time_h=have.time_h - age_h))


def _hardness(wanted: Requirements) -> tuple[float, ...]:
    need = wanted.resources
    return (need.gpu, need.cpu, need.memory, need.disk, need.time_h)


def _capacity(need: Resources, have: Resources) -> int:
    """How many tasks of that need run in that room at the same time."""
    parts = [getattr(have, n) / getattr(need, n) for n in _SHARED if getattr(need, n) > 0]
    return max(0, math.floor(min(parts, default=_MOST_TASKS) + _ROUNDING))


def _times(need: Resources, count: int) -> Resources:
    if count == 1:  # To the last digit, since a slot must not be smaller than what it is for.
        return need
    return replace(need, **{name: round(getattr(need, name) * count, 6) for name in _SHARED})


def _least(one: Resources, other: Resources) -> Resources:
    return Resources(**{name: min(getattr(one, name), getattr(other, name)) for name in DIMENSIONS})
