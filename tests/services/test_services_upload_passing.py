"""Files that are passed on: at the origin's pace, by whoever has the right to the end."""

from __future__ import annotations

import asyncio

import pytest
from site_harness import ALICE, task
from upload_harness import ROOT, Elsewhere, Policy, Shelves, open_bench

from iceprod.errors import LeaseLost, TransferFailed
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.origins import OriginRule

MB = 1_000_000
WHERE = str(ROOT.child("hits"))


class Slow(Shelves):
    """An origin that takes a file when its gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()

    async def put(self, location, access, body):
        if self.troubles:
            raise self.troubles.pop(0)
        await self.gate.wait()
        data = b"".join([piece async for piece in body.pieces])
        self.files[location.path] = data


async def write(passing, megabytes):
    for _ in range(megabytes):
        await passing.write(bytes(MB))
    await passing.finish()


@pytest.fixture
def origin():
    return Slow()


@pytest.fixture
async def bench(site, tmp_path, origin):
    rule = OriginRule(name="place", root=ROOT, policy=Policy(), write=True)
    async with open_bench(site, tmp_path / "uploads", elsewhere=Elsewhere(rule, origin)) as made:
        yield made


async def test_the_client_waits_for_the_origin(bench, origin):
    passing = await bench.uploads.passing.begin(ALICE, WHERE, size=9 * MB)
    taken = 0

    async def send():
        nonlocal taken
        for _ in range(90):
            await passing.write(bytes(MB // 10))
            taken += MB // 10

    sending = asyncio.create_task(send())
    while not passing._pieces.full() or not passing._pieces._putters:
        await asyncio.sleep(0)
    held = taken
    origin.gate.set()
    await sending
    await passing.finish()

    assert held < 2 * MB
    assert len(origin.files[ROOT.child("hits").path]) == 9 * MB


async def test_what_the_origin_says_no_to_is_told_at_once(bench, origin):
    origin.troubles.append(TransferFailed("it broke"))
    passing = await bench.uploads.passing.begin(ALICE, WHERE, size=9 * MB)

    with pytest.raises(TransferFailed):
        await write(passing, 9)
    await passing.break_off()

    assert origin.files == {}


async def test_a_task_that_ends_meanwhile_has_changed_nothing(bench, origin):
    site = bench.site
    data = [{"movement": "output", "local": "x", "remote": WHERE}]
    dataset = await site.submit({**task("only"), "data": data}, njobs=1)
    held = await site.one(await site.pilot())
    me = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
    origin.gate.set()
    passing = await bench.uploads.passing.begin(me, WHERE, size=2 * MB)
    await passing.write(bytes(MB))

    await site.services.datasets.suspend(ALICE, dataset.dataset_id)
    with pytest.raises(LeaseLost):
        await write(passing, 1)

    assert origin.files == {}
