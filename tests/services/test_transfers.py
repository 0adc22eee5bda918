"""Transfers under way: bounded, accounted to whom they are, remembered when over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iceprod.errors import NotFoundError, RateLimited, TransferFailed
from iceprod.model.file import Direction, Flow
from iceprod.services.accounting import Accounting
from iceprod.services.transfers import REMEMBERED, TransferLimits, Transfers

FLOW = Flow("ana", Direction.OUT, "proxy", dataset_id="d1", origin="grid")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def transfers_of(clock: Clock, **limits: Any) -> Transfers:
    accounting = Accounting(None, clock=clock)  # type: ignore[arg-type]
    wanted = TransferLimits(**{"connections": 10, **limits})
    return Transfers(accounting, wanted, clock=clock, monotonic=clock, sleep=clock.sleep)


async def test_a_transfer_is_seen_while_it_lasts_and_remembered_afterwards():
    clock = Clock()
    transfers = transfers_of(clock)

    with transfers.begin(FLOW, label="/data/x", size_bytes=100) as transfer:
        await transfer.moved(40)
        seen = transfers.live()
    over = transfers.get(transfer.transfer_id)

    assert [(view.label, view.moved_bytes, view.ended_at) for view in seen] == [("/data/x", 40, None)]
    assert (over.moved_bytes, over.ended_at, over.error) == (40, 1000.0, "")
    assert transfers.live() == []
    assert transfers.accounting.bytes_moved == {Direction.IN: 0, Direction.OUT: 40}


async def test_a_transfer_that_breaks_off_says_why():
    transfers = transfers_of(Clock())

    with pytest.raises(TransferFailed), transfers.begin(FLOW, label="x") as transfer:
        raise TransferFailed("the origin went away", source="http://a/x", done_bytes=5)
    with pytest.raises(asyncio.CancelledError), transfers.begin(FLOW, label="y") as given_up:
        raise asyncio.CancelledError

    assert transfers.get(transfer.transfer_id).error == "the origin went away"
    assert transfers.get(given_up.transfer_id).error == "it was given up"
    assert [view.label for view in transfers.ended()] == ["y", "x"]


async def test_too_many_transfers_are_refused_until_one_ends():
    transfers = transfers_of(Clock(), connections=2)
    first, _second = (transfers.begin(FLOW, label=name) for name in "ab")

    with pytest.raises(RateLimited):
        transfers.begin(FLOW, label="c")
    first.end()
    third = transfers.begin(FLOW, label="c")

    assert third.view().label == "c"


async def test_only_so_many_ended_transfers_are_remembered():
    transfers = transfers_of(Clock())

    first = transfers.begin(FLOW, label="first")
    first.end()
    for _ in range(REMEMBERED):
        transfers.begin(FLOW, label="x").end()

    assert len(transfers.ended()) == REMEMBERED
    with pytest.raises(NotFoundError):
        transfers.get(first.transfer_id)


@pytest.mark.parametrize(
    "limits",
    [{"user": 1e6}, {"dataset": 1e6}, {"origins": {"grid": 1e6}}, {"services": {"proxy": 1e6}}],
    ids=["user", "dataset", "origin", "service"],
)
async def test_each_limit_slows_the_transfers_that_it_is_for(limits: dict[str, Any]):
    clock = Clock()
    transfers = transfers_of(clock, **limits)
    other = Flow("", Direction.OUT, "upload", origin="elsewhere")

    await transfers.begin(other, label="other").moved(100_000_000)
    unhindered = list(clock.slept)
    for label in ("a", "b"):  # two of the same share it
        await transfers.begin(FLOW, label=label).moved(5_000_000)

    assert unhindered == []
    assert sum(clock.slept) == pytest.approx(10.0, rel=0.03)


async def test_bytes_that_another_program_sends_are_noted_without_waiting():
    clock = Clock()
    transfer = transfers_of(clock, user=1000.0).begin(FLOW, label="x")

    transfer.note(10**9)

    assert transfer.bytes_per_s_allowed == 1000.0
    assert clock.slept == []


async def test_the_rate_follows_a_steady_flow_and_fades_when_nothing_comes():
    clock = Clock()
    transfers = transfers_of(clock)
    transfer = transfers.begin(FLOW, label="x")

    for _ in range(200):
        clock.now += 0.1
        await transfer.moved(100_000)
    steady = transfers.bytes_per_s()[Direction.OUT]
    clock.now += 10

    assert steady == pytest.approx(1e6, rel=0.05)
    assert transfer.view().bytes_per_s < 0.05e6
