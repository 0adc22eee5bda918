"""Limits of speed: kept over any while, and shared equally whatever the pieces."""

from __future__ import annotations

import asyncio
import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.services.bandwidth import Lane, Limit


class Timeline:
    """Seconds that pass when everybody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.now_s + seconds, self._count, future))
        await future

    async def run(self, *workers, until_s: float) -> None:
        """Let ``workers`` work until that many seconds have passed or all are done."""
        tasks = [asyncio.ensure_future(worker) for worker in workers]
        end = self.now_s + until_s
        while True:
            for _ in range(3 * len(tasks) + 3):
                await asyncio.sleep(0)
            if not self._sleepers or self._sleepers[0][0] > end:
                break
            self.now_s, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(lane: Lane, piece: int, moved: list[int]) -> None:
    while True:
        await lane.passed(piece)
        moved[0] += piece


async def test_a_lane_without_limits_never_waits():
    async def fail(_seconds: float) -> None:
        pytest.fail("it slept")

    lane = Lane((), clock=lambda: 0.0, sleep=fail)

    await lane.passed(10**12)

    assert lane.bytes_per_s is None


@pytest.mark.parametrize("pieces", [(64_000, 64_000), (4_096, 1_048_576), (100_000, 300_000, 900_000)])
async def test_connections_share_a_limit_equally_whatever_their_pieces(pieces: tuple[int, ...]):
    time, limit = Timeline(), Limit(10e6)
    moved = [[0] for _ in pieces]

    lanes = [Lane((limit,), clock=time, sleep=time.sleep) for _ in pieces]
    await time.run(*(pump(*args) for args in zip(lanes, pieces, moved, strict=True)), until_s=60)

    total = sum(count for (count,) in moved)
    assert total == pytest.approx(600e6, rel=0.01)
    assert [count for (count,) in moved] == pytest.approx([total / len(pieces)] * len(pieces), rel=0.05)


async def test_the_tightest_of_several_limits_holds():
    time = Timeline()
    lane = Lane((Limit(50e6), Limit(2e6)), clock=time, sleep=time.sleep)
    moved = [0]

    await time.run(pump(lane, 100_000, moved), until_s=30)

    assert lane.bytes_per_s == 2e6
    assert moved[0] == pytest.approx(60e6, rel=0.02)


async def test_what_one_does_not_take_is_the_others():
    time, limit = Timeline(), Limit(1e6)
    quick, slow = [0], [0]

    async def seldom() -> None:
        while True:
            await Lane((limit,), clock=time, sleep=time.sleep).passed(10_000)
            slow[0] += 10_000
            await time.sleep(1.0)

    lane = Lane((limit,), clock=time, sleep=time.sleep)
    await time.run(pump(lane, 50_000, quick), seldom(), until_s=60)

    assert quick[0] + slow[0] == pytest.approx(60e6, rel=0.02)
    assert slow[0] == pytest.approx(600_000, rel=0.1)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10**7)), max_size=40))
def test_no_while_sees_more_than_its_share_and_a_short_burst(calls: list[tuple[float, int]]):
    limit, now, passed, first = Limit(1e6), 0.0, 0, None
    for pause, size in calls:
        now += pause
        now += limit.take(size, now=now)  # who takes a slot waits for it
        first = now if first is None else first
        # What was let pass before this one has had its time, but for a burst.
        assert passed <= (now - first) * 1e6 + 0.21e6 * 1.01 + calls[0][1]
        passed += size
