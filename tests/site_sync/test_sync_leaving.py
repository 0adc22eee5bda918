"""A child leaves its parent: nothing is run for it any more, and nothing is left to be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from site_harness import LARGE, task
from sync_harness import Pair, make_parents, open_pair

from iceprod.model.federation import ErrandStatus, PeerRole, PeerStatus
from iceprod.model.lifecycle import TaskStatus


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A parent and its child."""
    async with open_pair(tmp_path) as made:
        yield made


async def test_tasks_of_a_parent_that_was_left_are_stopped(pair: Pair) -> None:
    await pair.north.submit(task("only"), njobs=2)
    pair.room[LARGE] = 2
    await pair.take()
    pilot = await pair.south.pilot()
    held = await pair.south.one(pilot)
    await pair.south.finish(pilot, held)
    assert (await pair.south.store.outbox.backlog("north")).waiting

    peer = await pair.south.store.peers.get(PeerRole.PARENT, "north")
    await pair.south.store.peers.put(replace(peer, status=PeerStatus.REVOKED))
    parents = make_parents(pair.south, pair.wire, pair.room)
    running = asyncio.create_task(parents.run())
    try:
        async with asyncio.timeout(20.0):
            while (await pair.south.store.outbox.backlog("north")).waiting:
                await asyncio.sleep(0.001)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert sorted(await pair.south.statuses(await pair.mirror())) == [
        TaskStatus.COMPLETE,
        TaskStatus.SUSPENDED,
    ]
    assert await pair.errands() == {ErrandStatus.LOST: 2}
    assert parents.links == {}
