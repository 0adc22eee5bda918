"""Uploads on a disk that is really full, and on to origins that are real servers."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest
from site_harness import ADMIN, ALICE
from upload_harness import Elsewhere, open_bench

from iceprod.errors import InputError, Unavailable
from iceprod.services.origins import OriginRule
from iceprod.services.uploads.values import Stage
from tests.movers.conftest import SERVERS
from tests.movers.place import FULL_BYTES, small_disk

DATA = random.Random(7).randbytes(3_000_000)


@pytest.fixture(params=list(SERVERS))
async def place(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with SERVERS[request.param](folder) as server:
        made = server.place("place")
        yield made
        await made.mover.close()


def elsewhere(place):
    access = place.access
    rule = OriginRule(
        name="place",
        root=place.root,
        policy=access.policy,
        write=True,
        ca_path=access.ca_path,
        options=access.options,
    )
    return Elsewhere(rule, place.mover, access.credential)


@pytest.mark.slow
async def test_a_file_goes_on_to_a_real_server(site, tmp_path, place):
    async with open_bench(site, tmp_path / "uploads", elsewhere=elsewhere(place)) as bench:
        begun = await bench.announce(DATA, str(place.at("hits.npz")), principal=ALICE)
        await bench.append(begun.upload_id, 0, DATA[:1_000_000], principal=ALICE)
        await bench.append(begun.upload_id, 1_000_000, DATA[1_000_000:], principal=ALICE)
        while bench.uploads.keeper._forwarding:
            await asyncio.sleep(0.01)

        view = await bench.status(begun.upload_id, ALICE)
        assert (view.stage, view.error) == (Stage.STORED, "")
        assert (place.folder / "hits.npz").read_bytes() == DATA
        assert not list(bench.folder.rglob("data"))


async def sent(passing, data):
    for start in range(0, len(data), 100_000):
        await passing.write(data[start : start + 100_000])
    return await passing.finish()


@pytest.mark.slow
async def test_a_file_is_passed_on_to_a_real_server_as_it_comes_or_changes_nothing(site, tmp_path, place):
    where, digest = str(place.at("hits.npz")), hashlib.sha256(DATA).hexdigest()
    async with open_bench(site, tmp_path / "uploads", elsewhere=elsewhere(place)) as bench:
        begin = bench.uploads.passing.begin
        assert await sent(await begin(ALICE, where, size=len(DATA), sha256=digest), DATA) == digest
        with pytest.raises(InputError) as wrong:
            await sent(await begin(ALICE, where, size=len(DATA), sha256=digest), DATA[::-1])
        left = await begin(ALICE, where, size=len(DATA))
        await left.write(DATA[:1_000_000])
        await left.break_off()
        assert await sent(await begin(ALICE, str(place.at("empty")), size=0), b"")

        assert wrong.value.detail["reason"] == "wrong_checksum"
        async with asyncio.timeout(10):
            while sorted(each.name for each in place.folder.iterdir()) != ["empty", "hits.npz"]:
                await asyncio.sleep(0.01)
        assert (place.folder / "hits.npz").read_bytes() == DATA
        assert not list(bench.folder.rglob("data"))


async def test_a_full_disk_stops_it_until_there_is_room(site, tmp_path):
    with small_disk(tmp_path / "small") as disk:
        if disk is None:
            pytest.skip("no file system may be mounted here")
        ballast = disk / "ballast"
        ballast.write_bytes(b"\0" * (FULL_BYTES - 2_000_000))
        async with open_bench(site, disk / "uploads") as bench:
            begun = await bench.announce(None)
            service = bench.uploads.service
            writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=None)
            with pytest.raises(Unavailable) as full:
                await writing.write(DATA)
            assert full.value.detail["reason"] == "storage_full"
            await service.break_off(writing, "full")
            came = (await bench.status(begun.upload_id)).offset
            with pytest.raises(Unavailable):
                await bench.append(begun.upload_id, came, DATA[came:])

            ballast.unlink()
            view = await bench.append(begun.upload_id, came, DATA[came:], length=len(DATA))

            assert view.stage is Stage.STORED
            # It went to the stored files on another disk: by a copy, which is as whole.
            assert await bench.stored() == DATA
            assert not list(bench.folder.rglob("data"))
