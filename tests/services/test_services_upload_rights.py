"""What uploads may do when time has passed, and what others get to know of them."""

from __future__ import annotations

import asyncio

import pytest
from site_harness import ADMIN, ALICE, BOB, task
from upload_harness import open_bench

from iceprod.errors import AccessDenied, TransferFailed
from iceprod.model.paging import Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.file_catalogue import FileQuery
from iceprod.services.uploads.values import Announced, Stage

TEXT = b"muons and neutrinos\n" * 100
FAR = "http://origin.example/data/hits.npz"


@pytest.fixture
async def bench(site, tmp_path):
    async with open_bench(site, tmp_path / "uploads") as made:
        yield made


async def sent(bench, target=FAR, principal=ALICE):
    begun = await bench.announce(TEXT, target, principal=principal)
    await bench.append(begun.upload_id, 0, TEXT, principal=principal)
    while bench.uploads.keeper._forwarding:
        await asyncio.sleep(0.01)
    return await bench.status(begun.upload_id, principal)


async def test_what_a_user_puts_at_an_origin_is_nobody_elses_business(bench):
    assert (await sent(bench, f"{FAR}?signature=secret")).stage is Stage.STORED

    for wanted in (FileQuery(), FileQuery(dataset_id="")):
        assert not (await bench.site.services.file_catalogue.find(BOB, wanted, Page(10))).items


async def test_the_catalogue_has_what_a_task_puts_at_an_origin_and_no_secret(bench):
    config_task = task("only")
    config_task["data"] = [{"movement": "output", "remote": f"{FAR}?signature=secret", "local": "x"}]
    dataset = await bench.site.submit(config_task, njobs=1)
    held = await bench.site.one(await bench.site.pilot())
    worker = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)

    assert (await sent(bench, f"{FAR}?signature=secret", worker)).stage is Stage.STORED

    found = await bench.site.services.file_catalogue.find(
        ADMIN, FileQuery(dataset_id=dataset.dataset_id), Page(10)
    )
    (file,) = found.items
    assert [replica.url for replica in file.replicas] == [FAR]


async def test_nothing_goes_on_for_who_was_shut_out(bench):
    await bench.site.services.accounts.create_user(ADMIN, "alice", "correct horse battery")
    bench.origin.troubles.append(TransferFailed("not now", source=FAR, done_bytes=0))
    waiting = await sent(bench)
    one_time = await bench.uploads.one_time.announce(
        ALICE, Announced(FAR, len(TEXT), checksums={"sha256": "0" * 64})
    )
    assert waiting.stage is Stage.FORWARDING

    await bench.site.services.accounts.disable_user(ADMIN, "alice")
    bench.site.clock.advance(60)
    await bench.uploads.keeper.look_after()
    while bench.uploads.keeper._forwarding:
        await asyncio.sleep(0.01)

    assert not bench.origin.files
    assert (await bench.status(waiting.upload_id)).stage is Stage.FAILED
    with pytest.raises(AccessDenied):
        await bench.uploads.one_time.may_send(one_time.view.upload_id, one_time.secret, size=len(TEXT))
