"""Turns in proportion to shares."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.site_sync.as_parent import share_turns
from iceprod.site_sync.as_parent.share_turns import ShareTurns


async def consume(shares: dict[str, float], amount: int, *, step: int = 10) -> Counter[str]:
    """What everybody gets of a limited amount, who all want as much as they can have."""
    turns, got, left = ShareTurns(), Counter[str](), amount

    async def one(name: str, share: float) -> None:
        nonlocal left
        async with turns.turn(name) as turn:
            while left > 0:
                piece = min(step, left)
                left -= piece
                await asyncio.sleep(0)
                got[name] += piece
                await turn.had(piece, share)

    async with asyncio.timeout(20):
        await asyncio.gather(*(one(name, share) for name, share in shares.items()))
    return got


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_everybody_gets_by_share(shares: list[int]):
    amount, step = 2000, 5
    got = asyncio.run(consume({str(i): float(s) for i, s in enumerate(shares)}, amount, step=step))
    for number, share in enumerate(shares):
        fair = amount * share / sum(shares)
        assert abs(got[str(number)] - fair) <= step * (share + 1)


async def test_who_has_no_share_is_not_left_out_for_ever():
    got = await consume({"none": 0.0, "all": 1.0}, 100)
    assert got["none"] >= 10


async def test_who_was_away_gets_nothing_for_that():
    turns, order = ShareTurns(), []

    async def ask(name: str, times: int) -> None:
        async with turns.turn(name) as turn:
            for _ in range(times):
                order.append(name)
                await turn.had(1, 1.0)

    await ask("early", 100)
    await asyncio.gather(ask("early", 5), ask("late", 5))
    assert order[100:104].count("late") == 2


async def test_a_turn_goes_on_when_who_has_it_or_waits_is_cancelled():
    turns = ShareTurns()
    began = asyncio.Event()

    async def hold(name: str) -> str:
        async with turns.turn(name):
            began.set()
            await asyncio.Event().wait()
        return name

    async def brief(name: str) -> str:
        async with turns.turn(name):
            return name

    holder = asyncio.create_task(hold("a"))
    await began.wait()
    waiting = [asyncio.create_task(brief(name)) for name in "bcd"]
    await asyncio.sleep(0)
    waiting[0].cancel()
    holder.cancel()
    async with asyncio.timeout(20):
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert await brief("e") == "e"
    assert done[1:] == ["c", "d"]
    with pytest.raises(asyncio.CancelledError):
        await holder


async def test_who_is_cancelled_as_the_turn_comes_passes_it_on():
    turns = ShareTurns()
    first = asyncio.create_task(turns.enter("a"))
    while not turns._is_taken:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    if not first.cancelled():
        turns.leave()
    async with asyncio.timeout(20), turns.turn("b"):
        assert turns._is_taken
    assert not turns._is_taken


async def take(turns: ShareTurns, name: str, order: list[str]) -> bool:
    """Take a portion; whether to go on."""
    async with turns.turn(name) as turn:
        order.append(name)
        return await turn.had(1, 1.0)


async def test_who_waits_elsewhere_and_had_less_is_left_its_turn():
    rivals, order = {"there"}, list[str]()
    turns = ShareTurns(lambda: rivals)
    assert not await take(turns, "here", order)  # now it is the turn of the other

    waiting = asyncio.create_task(take(turns, "here", order))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    turns.charge_elsewhere("there", 3, 2.0)

    async with asyncio.timeout(0.8 * share_turns.YIELD_S):
        assert not await waiting  # two to one and a half
    turns.charge_elsewhere("there", 1, 2.0)
    assert await take(turns, "here", order) is False
    rivals.clear()
    assert await take(turns, "here", order)


async def test_who_makes_no_use_of_its_turn_elsewhere_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(share_turns, "YIELD_S", 0.02)
    turns, order = ShareTurns(lambda: ["there"]), list[str]()
    assert not await take(turns, "here", order)

    async with asyncio.timeout(20):
        assert await take(turns, "here", order)
        assert await take(turns, "here", order)  # and that holds for a while


async def test_a_rival_has_all_the_time_though_who_waited_before_has_gone():
    turns, order = ShareTurns(lambda: ["there"]), list[str]()
    assert not await take(turns, "here", order)
    gone = asyncio.create_task(take(turns, "here", order))
    for _ in range(20):
        await asyncio.sleep(0)
    assert turns._left_until
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)

    assert not turns._left_until


async def test_what_was_had_elsewhere_counts_here():
    turns, order = ShareTurns(), list[str]()
    turns.charge_elsewhere("much", 10, 1.0)

    async with turns.turn("first"):
        asking = [asyncio.create_task(take(turns, name, order)) for name in ("much", "little")]
        await asyncio.sleep(0)
    await asyncio.gather(*asking)

    assert order == ["little", "much"]
