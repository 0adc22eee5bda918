"""Seats at an origin: none gets lost, whoever goes away when."""

from __future__ import annotations

import asyncio

import pytest

from iceprod.services.fair_turns import FairTurns


async def test_a_seat_survives_those_who_go_away_while_it_is_passed_on():
    turns, may_end = FairTurns(1), asyncio.Event()

    async def sit() -> None:
        async with turns.turn("alice"):
            await may_end.wait()

    sitting, leaving, staying = (asyncio.create_task(sit()) for _ in range(3))
    await asyncio.sleep(0)
    may_end.set()
    leaving.cancel()  # and before it hears of that, the seat becomes free

    await asyncio.wait_for(asyncio.gather(sitting, staying), 5)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert turns.waiting == 0
    async with asyncio.timeout(5), turns.turn("bob"):
        pass
