"""The cache by a state machine: any order of reads, changes, evictions, pins, deaths and ages."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iceprod.services.cache.cleaning import clean
from tests.services.cache_harness import Fake, Place, Remote, opened, read_all

FRESH_S = 60.0
ROOM = 6000
NAMES = st.sampled_from(["a", "b", "c", "d"])


class Machine(RuleBasedStateMachine):
    """Two processes before one origin, with room for a few files."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.origin: Fake | None = None
        self.stacks: list[AsyncExitStack] = []
        self.places: list[Place] = []
        self.now = 1_700_000_000.0
        self.since: dict[str, tuple[float, set[bytes]]] = {}
        self.history: dict[str, list[tuple[float, bytes]]] = {}
        self.pinned: set[str] = set()
        self.run(self._begin())

    async def _begin(self) -> None:
        self.origin = Fake()
        for number, name in enumerate("abcd"):
            self._set(name, bytes([number]) * 500 * (number + 1))
        for _ in range(2):
            await self._start(len(self.places))

    async def _start(self, index: int) -> None:
        stack = AsyncExitStack()
        place = await stack.enter_async_context(
            opened(self.folder, self.origin, max_bytes=ROOM, max_file_bytes=2500, fresh_s=FRESH_S)
        )
        place.now[0] = self.now
        self.stacks[index : index + 1] = [stack]
        self.places[index : index + 1] = [place]

    def run(self, work):
        return self.runner.run(work)

    def _set(self, name: str, data: bytes) -> None:
        version = len(self.history.get(name, [])) + 1
        self.origin.files[name] = Remote(data, version=version)
        self.history.setdefault(name, []).append((self.now, data))

    def _allowed(self, name: str) -> set[bytes]:
        """What may be served: what the origin has had within the time that copies are fresh."""
        history = self.history[name]
        ends = [at for at, _ in history[1:]] + [float("inf")]
        return {data for (_, data), end in zip(history, ends, strict=True) if end > self.now - FRESH_S}

    @rule(name=NAMES, which=st.integers(0, 1), stops=st.booleans())
    def read(self, name: str, which: int, *, stops: bool) -> None:
        async def go() -> None:
            place = self.places[which]
            reading = await place.cache.read(place.wanted(name))
            if reading is None:
                return
            if stops:
                await reading.read(0, 100)
                reading.close()
                return
            data = await read_all(reading)
            assert data in self._allowed(name)

        self.run(go())

    @rule(name=NAMES)
    def read_by_both(self, name: str) -> None:
        async def go() -> None:
            readings = await asyncio.gather(*(each.cache.read(each.wanted(name)) for each in self.places * 3))
            for data in await asyncio.gather(*(read_all(each) for each in readings if each)):
                assert data in self._allowed(name)

        self.run(go())

    @rule(name=NAMES, size=st.integers(0, 3000), seed=st.integers(0, 255))
    def change(self, name: str, size: int, seed: int) -> None:
        self._set(name, bytes([seed]) * size)

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for place in self.places:
            place.now[0] = self.now

    @rule(name=NAMES, on=st.booleans())
    def pin(self, name: str, *, on: bool) -> None:
        place = self.places[0]
        self.run(place.cache.pin(place.wanted(name).key, on=on))

    @rule(name=NAMES, which=st.integers(0, 1))
    def evict(self, name: str, which: int) -> None:
        place = self.places[which]
        self.run(place.cache.evict(place.wanted(name).key))

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        async def go() -> None:
            await self.stacks[which].aclose()
            await self._start(which)

        self.run(go())

    @rule(at=st.integers(0, 2000))
    def cut(self, at: int) -> None:
        self.origin.cut_at = at

    @invariant()
    def copies_are_whole_and_have_room(self) -> None:
        if not getattr(self, "places", None):
            return

        async def go() -> None:
            for place in self.places:
                await asyncio.gather(*place.cache._tasks, return_exceptions=True)
            kept = await self.places[0].cache.copies()
            assert sum(each.copy.told.size_bytes for each in kept) <= ROOM
            for each in kept:
                path = self.places[0].cache.folder / each.key[:2] / each.copy.data
                assert path.stat().st_size == each.copy.told.size_bytes

        self.run(go())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        for stack in self.stacks:
            self.run(stack.aclose())
        clean(self.places[0].cache._shelf)
        self.runner.close()
        shutil.rmtree(self.folder)


Machine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestCache = pytest.mark.expects_logs(Machine.TestCase)
