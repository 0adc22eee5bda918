"""Copies between origins: they neither lock each other up nor tell what signed an address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from site_harness import ALICE
from upload_harness import Policy

from iceprod.model.location import Location
from iceprod.movers.base import Access, Facts, Incoming, Mover, Outgoing
from iceprod.services.accounting import Accounting
from iceprod.services.origins import NoVault, OriginRule, Origins
from iceprod.services.places import Places
from iceprod.services.task_reach import TaskReach
from iceprod.services.transfers import TransferLimits, Transfers

DATA = b"muons"


class Whole(Incoming):
    """One piece."""

    facts, offset, length = Facts(size_bytes=len(DATA)), 0, len(DATA)

    def __init__(self) -> None:
        self._left = [b"", DATA]

    async def read(self) -> bytes:
        return self._left.pop()


class Shelves(Mover):
    """Files that are all the same; `both` waits until two are being read."""

    schemes = frozenset({"http"})

    def __init__(self) -> None:
        self.stored: list[str] = []

    async def stat(self, location: Location, access: Access) -> Facts:
        return Facts(size_bytes=len(DATA))

    @asynccontextmanager
    async def fetch(self, location: Location, access: Access, **_: Any) -> AsyncIterator[Incoming]:
        for _turn in range(5):  # the other one begins meanwhile
            await asyncio.sleep(0)
        yield Whole()

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        assert b"".join([piece async for piece in body.pieces]) == DATA
        self.stored.append(str(location))


@pytest.fixture
async def copying(site):
    names = ("here", "there")
    rules = [
        OriginRule(name, Location("http", name, 80, "/"), Policy(), write=True, connections=1)
        for name in names
    ]
    mover = Shelves()
    origins = Origins(rules, {"http": mover}, NoVault(), reach=TaskReach(site.store, site.services.catalogue))
    usage: Any = None
    transfers = Transfers(
        Accounting(usage, clock=site.clock), TransferLimits(connections=100), clock=site.clock
    )
    places = Places(origins, transfers)
    yield places, transfers, mover
    await places.stop()
    await origins.close()


async def test_copies_in_both_directions_wait_for_each_other_and_not_for_ever(copying):
    places, transfers, mover = copying
    for source, target in (("here", "there"), ("there", "here")) * 3:
        await places.copy(ALICE, f"http://{source}/x", f"http://{target}/y")

    async with asyncio.timeout(10):
        while transfers.live():
            await asyncio.sleep(0.01)

    assert len(mover.stored) == 6
    assert not [each.error for each in transfers.ended() if each.error]


async def test_a_list_of_transfers_does_not_tell_what_signed_an_address(copying):
    places, transfers, _ = copying
    await places.copy(ALICE, "http://here/x?signature=secret", "http://there/y?signature=secret")
    assert [each.label for each in transfers.live()] == ["http://here/x to http://there/y"]
