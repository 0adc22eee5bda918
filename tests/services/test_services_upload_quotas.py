"""Quotas hold for uploads, however they are mixed and whatever they say of themselves."""

from __future__ import annotations

import pytest
from site_harness import ADMIN

from iceprod.errors import QuotaExceeded
from iceprod.model.file import Quota
from iceprod.services.uploads.values import Announced, Stage

MOST = 1_000_000


@pytest.fixture
async def services(site):
    await site.services.files.open()
    await site.services.uploads.service.open()
    await site.services.quotas.set(ADMIN, Quota("user", "", MOST))
    return site.services


async def begun(services, length, *, size=None, path="site_temp/x"):
    service = services.uploads.service
    upload_id = (await service.create(ADMIN, Announced(path, length))).view.upload_id
    return await service.begin(ADMIN, upload_id, offset=0, size=size)


async def test_what_was_stored_while_an_upload_came_counts_at_its_end(site, services):
    writing = await begun(services, 600_000, size=600_000)
    await writing.write(bytes(600_000))
    other = await services.files.upload(ADMIN, "site_temp/y", size=600_000)
    await other.write(bytes(600_000))
    await other.commit()

    with pytest.raises(QuotaExceeded):
        await services.uploads.service.finish(writing)

    assert (await site.store.files.stored("user", ADMIN.id)).bytes_kept == 600_000
    view = await services.uploads.service.status(ADMIN, writing.held.upload_id)
    assert view.stage is Stage.FAILED
    assert not writing.held.data_path.exists()


async def test_an_upload_of_no_said_length_ends_where_the_quota_does(services):
    writing = await begun(services, None)
    came = 0

    async def send() -> None:
        nonlocal came
        for _ in range(100):
            await writing.write(bytes(256 * 1024))
            came += 256 * 1024

    with pytest.raises(QuotaExceeded):
        await send()
    await services.uploads.service.break_off(writing, "")
    assert came < MOST + 5_000_000
