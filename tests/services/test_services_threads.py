"""Work on threads of their own, which ends although nobody waits, and is refused where they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from iceprod.errors import Unavailable
from iceprod.services import threads as module
from iceprod.services.threads import Threads


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    monkeypatch.setattr(module, "_THREADS", 1)
    made = Threads("test")
    yield made
    made.close()


async def test_what_is_returned_or_raised_comes_back(threads: Threads):
    assert await threads(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads(lambda: 1 / 0)


async def test_work_ends_although_nobody_waits(threads: Threads):
    goes_on, has_ended = threading.Event(), threading.Event()
    waiting = asyncio.create_task(threads(lambda: goes_on.wait(10) and has_ended.set()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    goes_on.set()

    assert await asyncio.to_thread(has_ended.wait, 10)


async def test_what_has_not_begun_when_the_threads_end_is_told_so(threads: Threads):
    goes_on = threading.Event()
    begun = asyncio.create_task(threads(lambda: goes_on.wait(10)))
    queued = asyncio.create_task(threads(lambda: 1))
    await asyncio.sleep(0)

    threads.close()

    goes_on.set()
    assert await begun
    for late in (queued, threads(lambda: 1)):
        with pytest.raises(Unavailable, match="this site is stopping"):
            await late
