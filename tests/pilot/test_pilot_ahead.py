"""How much is claimed ahead, and what becomes of it."""

import math

import pytest

from iceprod.model.resources import Offer, Resources
from iceprod.pilot.ahead import PATIENCE_S, SHORT_S, Ahead
from iceprod.pilot.assignment import Assignment
from iceprod.pilot.slots import Slots

ALL = Resources(cpu=4, gpu=1, memory=8, disk=8, time_h=10)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def task(number, **resources):
    return Assignment(
        task_id=f"d-{number}-0",
        lease_id=f"lease{number}",
        dataset_id="d",
        dataset=1,
        job=number,
        task_index=0,
        resources=Resources(**resources),
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def slots(clock):
    return Slots(Offer(ALL), ["GPU-a"], clock=clock)


@pytest.fixture
def ahead(slots, clock):
    return Ahead(slots, clock=clock)


def test_tasks_come_in_their_order_when_there_is_room(ahead, slots):
    tasks = [task(1, cpu=3), task(2, cpu=3), task(3, cpu=1)]
    assert all(ahead.add(one) for one in tasks)
    assert ahead.next() == (tasks[0], [])
    assert ahead.next() is None  # nobody overtakes, or a large task would never run
    slots.give_back(tasks[0].resources, [])
    assert [ahead.next(), ahead.next(), ahead.next()] == [(tasks[1], []), (tasks[2], []), None]


def test_a_task_that_never_fits_is_not_kept(ahead):
    assert not ahead.add(task(1, cpu=5))
    assert not ahead.add(task(2, gpu=2))
    assert len(ahead) == 0


def test_a_gpu_is_given_to_one_task(ahead):
    first, second = task(1, gpu=1), task(2, gpu=1)
    ahead.add(first)
    ahead.add(second)
    assert ahead.next() == (first, ["GPU-a"])
    assert ahead.next() is None


def test_only_what_is_free_is_asked_for_until_tasks_are_known_to_be_short(ahead):
    ahead.add(task(1, cpu=3))
    ahead.next()
    assert ahead.room([0.0]).cpu == 1
    ahead.ended(SHORT_S / 2)
    assert ahead.room([0.0]) == ALL


def test_what_waits_is_asked_for_only_once(ahead):
    ahead.ended(0.01)
    ahead.add(task(1, cpu=3, memory=2))
    room = ahead.room([])
    assert (room.cpu, room.memory) == (1, 6)


@pytest.mark.parametrize("seconds", [SHORT_S * 20, math.inf])
def test_nothing_is_claimed_ahead_after_a_long_task_or_a_failed_one(ahead, slots, seconds):
    ahead.ended(0.01)
    slots.take(Resources(cpu=4))
    ahead.ended(seconds)
    assert ahead.room([0.0]).cpu == 0
    for _ in range(20):
        ahead.ended(0.01)
    assert ahead.room([0.0]).cpu == 4


def test_nothing_is_claimed_ahead_while_a_long_task_runs(ahead, slots):
    ahead.ended(0.01)
    slots.take(Resources(cpu=3))
    assert ahead.room([0.01, SHORT_S]).cpu == 1


def test_what_has_waited_too_long_is_handed_back(ahead, clock):
    tasks = [task(1), task(2)]
    assert not ahead.is_overdue()
    for one in tasks:
        ahead.add(one)
    clock.now += PATIENCE_S
    assert not ahead.is_overdue()
    clock.now += 0.1
    assert ahead.is_overdue()
    assert ahead.hand_back() == tasks
    assert not ahead.is_overdue()
    ahead.ended(0.01)
    assert ahead.room([]).cpu == 4
