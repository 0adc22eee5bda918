"""What a child could begin with now, put into the shapes that it asks its parent for.

A room of many cores may serve one task of all of them or many small ones, and nobody here
knows what waits there.  So each room is offered as a whole once, and in slices of one core
for the rest of its cores.  What is lent beyond the room, at most once more of it, waits and
is in the way of the next request, so it is never more than that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from iceprod.model.resources import Offer, Resources
from iceprod.site_sync.messages import MOST_TASKS, Shape

MOST_SHAPES: Final = 64


def appetite(rooms: Mapping[Offer, int], *, most: int) -> list[Shape]:
    """Shapes for ``most`` tasks at most in all; ``rooms`` are slots in which nothing runs, and how many.

    The largest come first, so that they are not filled with small tasks alone.
    """
    wanted: Counter[Offer] = Counter()
    for room, count in rooms.items():
        have = room.resources
        if count > 0 and have.time_h > 0 and min(have.memory, have.disk) >= 0 and max(have.cpu, have.gpu) > 0:
            wanted[room] += count
            for slice_, number in _slices(room):
                wanted[slice_] += number * count
    shapes: list[Shape] = []
    for offer in sorted(wanted, key=_size, reverse=True)[:MOST_SHAPES]:
        tasks = min(wanted[offer], most, MOST_TASKS)
        if tasks <= 0:
            break
        shapes.append(shape_of(offer, tasks=tasks))
        most -= tasks
    return shapes


def covers(asked: list[Shape], wanted: list[Shape]) -> bool:
    """Whether whatever fits ``wanted`` fits something in ``asked``, so that asking anew is no use."""
    return all(any(_is_within(small, large) for large in asked) for small in wanted)


def shape_of(offer: Offer, *, tasks: int) -> Shape:
    """Room for so many tasks, each in such a slot."""
    have = offer.resources
    return Shape(
        cpu=have.cpu,
        gpu=have.gpu,
        memory=have.memory,
        disk=have.disk,
        time=have.time_h,
        os=offer.os,
        tasks=tasks,
    )


def offer_of(shape: Shape) -> Offer:
    """A slot of that shape."""
    amounts = shape.cpu, shape.gpu, shape.memory, shape.disk, shape.time
    return Offer(Resources(*amounts), os=shape.os)


def _slices(room: Offer) -> list[tuple[Offer, int]]:
    """A room in parts of one GPU, and of one core; without one of each, since the whole is offered, too."""
    have, found = room.resources, []
    if have.gpu > 1:
        found.append((_part(room, math.floor(have.gpu), gpu=1.0), math.floor(have.gpu) - 1))
    if have.cpu > 1:
        found.append((_part(room, math.floor(have.cpu), gpu=0.0), math.floor(have.cpu) - 1))
    return found


def _part(room: Offer, parts: int, *, gpu: float) -> Offer:
    have = room.resources
    amounts = (round(have.memory / parts, 6), round(have.disk / parts, 6), have.time_h)
    return replace(room, resources=Resources(max(1.0, math.floor(have.cpu / parts)), gpu, *amounts))


def _size(offer: Offer) -> tuple[float, ...]:
    have = offer.resources
    return (have.gpu, have.cpu, have.memory, have.disk, have.time_h)


def _is_within(small: Shape, large: Shape) -> bool:
    return (
        small.cpu <= large.cpu
        and small.gpu <= large.gpu
        and small.memory <= large.memory
        and small.disk <= large.disk
        and small.time <= large.time
        and small.os == large.os
    )
