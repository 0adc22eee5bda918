"""What a child asks for, by the room that it has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sync_harness import Pair, open_pair, peer_of

from iceprod.grids.base import GridDescription
from iceprod.model.federation import PeerRole
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.resources import Offer, Requirements, Resources
from iceprod.services.provisioning import GridLimits, GridView, unclaimed
from iceprod.services.scheduling import Demand
from iceprod.site_sync.as_child.appetite import MOST_SHAPES, appetite, covers, offer_of, shape_of
from iceprod.site_sync.messages import Pull, Shape


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child."""
    async with open_pair(tmp_path) as made:
        yield made


def room(cpu: float, gpu: float = 0, memory: float = 8.0, disk: float = 16.0, **more: str) -> Offer:
    return Offer(Resources(cpu=cpu, gpu=gpu, memory=memory, disk=disk, time_h=24.0), **more)


def test_small_slots_are_offered_as_they_are() -> None:
    shapes = appetite({room(1, os="RHEL_9"): 5}, most=100)
    assert shapes == [Shape(cpu=1, memory=8, disk=16, time=24, os="RHEL_9", tasks=5)]


def test_a_large_room_is_offered_as_a_whole_once_and_in_slices() -> None:
    whole, part = appetite({room(8): 2}, most=100)
    assert (whole.cpu, whole.memory, whole.tasks) == (8, 8, 2)
    assert (part.cpu, part.memory, part.disk, part.tasks) == (1, 1, 2, 14)


def test_gpus_are_offered_one_by_one() -> None:
    whole, one, core = appetite({room(8, gpu=4): 1}, most=100)
    assert (whole.gpu, whole.tasks) == (4, 1)
    assert (one.gpu, one.cpu, one.memory, one.tasks) == (1, 2, 2, 3)
    assert (core.gpu, core.tasks) == (0, 7)


def test_nothing_is_asked_for_without_room_or_right() -> None:
    assert appetite({}, most=100) == []
    assert appetite({room(8): 1}, most=0) == []
    assert appetite({room(0): 3, room(4): 0}, most=100) == []


def test_a_new_kind_of_room_is_worth_asking_anew() -> None:
    small, large = appetite({room(1): 5}, most=10), appetite({room(1): 9, room(4): 1}, most=10)
    assert covers(large, small)
    assert not covers(small, large)
    assert covers(small, appetite({room(1): 50}, most=100))
    assert covers(small, [])


_AMOUNTS = st.floats(0, 64).map(lambda x: round(x, 2))
_ROOMS = st.dictionaries(
    st.builds(
        lambda cpu, gpu, memory, disk: room(float(cpu), float(gpu), memory, disk),
        st.integers(0, 128),
        st.integers(0, 8),
        _AMOUNTS,
        _AMOUNTS,
    ),
    st.integers(0, 3000),
    max_size=100,
)


@given(_ROOMS, st.integers(0, 10_000))
def test_an_appetite_keeps_within_its_limits(rooms: dict[Offer, int], most: int) -> None:
    shapes = appetite(Counter(rooms), most=most)
    assert len(shapes) <= MOST_SHAPES
    assert sum(shape.tasks for shape in shapes) <= most
    cores = sum(offer.resources.cpu * n for offer, n in rooms.items() if offer.resources.gpu == 0)
    asked = sum(shape.cpu * shape.tasks for shape in shapes if shape.gpu == 0)
    whole = sum(offer.resources.cpu * n for offer, n in rooms.items())
    assert asked <= 2 * cores + (whole - cores)
    for shape in shapes:
        assert shape_of(offer_of(shape), tasks=shape.tasks) == shape


def pilot(cpu: float, claimed: float = 0.0, status: PilotStatus = PilotStatus.RUNNING) -> Pilot:
    taken = Resources(cpu=claimed, gpu=0, memory=claimed, disk=claimed, time_h=0)
    return Pilot("p", status, created_at=0.0, seen_at=0.0, offer=room(cpu), claimed=taken)


def test_room_is_what_pilots_and_grids_have_left_of_what_waits() -> None:
    batch = GridView(GridDescription("b", "slurm", room(4), free=None, jobs=0), GridLimits(10, 3))
    waits = [Demand(Requirements(Resources(cpu=1, memory=1.0, disk=1.0, time_h=1.0)), 5)]
    pilots = [pilot(4, claimed=3), pilot(8, status=PilotStatus.DRAINING)]
    left = unclaimed([], pilots, [batch], elsewhere={}, now=0.0)
    assert sorted((offer.resources.cpu, count) for offer, count in left.items()) == [(1, 1), (4, 3)]
    left = unclaimed(waits, pilots, [batch], elsewhere={room(2): 2}, now=0.0)
    assert sum(offer.resources.cpu * count for offer, count in left.items()) == 13 + 4 - 5


async def test_a_site_asks_for_what_its_own_children_wait_for(pair: Pair) -> None:
    """What a child waits for is asked of the parent, and no more of it than does not wait here already."""
    south = pair.south.services.federation
    await pair.south.store.peers.put(peer_of(PeerRole.CHILD, "desk"))
    asking = asyncio.create_task(
        south.lending.pull(
            Principal(PrincipalKind.SITE, "desk"),
            Pull([Shape(cpu=1, memory=8, disk=16, time=24, tasks=3)], wait_s=60.0),
        )
    )
    async with asyncio.timeout(5):
        while not (wanted := south.parents.means.room()):
            await asyncio.sleep(0)
    assert list(wanted.values()) == [3]
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    assert not south.parents.means.room()
