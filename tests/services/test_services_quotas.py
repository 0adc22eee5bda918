"""How much may be kept for whom."""

from __future__ import annotations

import pytest
from site_harness import ADMIN, ALICE, BOB, Site, task, user

from iceprod.errors import AccessDenied, InputError, NotFoundError, QuotaExceeded
from iceprod.model.file import FileRecord, Quota, Stored
from iceprod.model.paging import Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.quotas import KNOWN_S


async def keep(site: Site, name: str, size_bytes: int, *, owner: str = "alice", group: str = "users") -> None:
    await site.store.files.put([FileRecord("d", name, size_bytes, {"sha256": "a"}, owner, group, 1.0)])


@pytest.fixture
def quotas(site: Site):
    return site.services.quotas


@pytest.fixture
async def held(site: Site):
    """A running task of alice, and the principal of its payload."""
    await site.services.files.open()
    await site.submit(task("only"))
    running = await site.one(await site.pilot())
    return running, Principal(PrincipalKind.TASK, running.task_id, lease_id=running.lease_id)


async def test_without_limits_anything_goes(site, quotas):
    await keep(site, "a", 1 << 60)

    await quotas.check(owner="alice", group="users", dataset_id="d", more_bytes=1 << 60)


async def test_what_would_be_too_much_is_refused(site, quotas):
    await quotas.set(ADMIN, Quota("user", "", 100, 3))
    await quotas.set(ADMIN, Quota("group", "ice", 150))
    await keep(site, "a", 60)

    await quotas.check(owner="alice", more_bytes=40)
    with pytest.raises(QuotaExceeded, match="alice may keep 100 bytes and keeps 60") as refused:
        await quotas.check(owner="alice", group="users", dataset_id="d", more_bytes=41)
    assert refused.value.detail == {
        "kind": "user", "holder": "alice", "what": "bytes", "most": 100, "kept": 60, "more": 41,
    }  # fmt: skip
    with pytest.raises(QuotaExceeded, match="3 files"):
        await quotas.check(owner="alice", more_bytes=0, more_files=3)
    with pytest.raises(QuotaExceeded, match="group ice"):
        await quotas.check(owner="", group="ice", more_bytes=151)
    await quotas.check(more_bytes=1 << 60)


async def test_ones_own_limit_holds_before_that_for_all(site_with):
    site = await site_with(files={"quotas": {"user_bytes": 50, "dataset_bytes": 10}})
    quotas = site.services.quotas
    await site.services.accounts.create_user(ADMIN, name="alice", password="long enough it is")

    async def limit(kind: str, holder: str) -> tuple[int | None, str]:
        found = await quotas.allowance(ADMIN, kind, holder)
        return found.quota.bytes_most, found.source

    assert await limit("user", "alice") == (50, "settings")
    await quotas.set(ADMIN, Quota("user", "", 70))
    assert await limit("user", "alice") == (70, "default")
    await quotas.set(ADMIN, Quota("user", "alice", None, 5))
    assert await limit("user", "alice") == (None, "own")
    await quotas.check(owner="alice", more_bytes=1 << 50)
    await quotas.set(ADMIN, Quota("user", "alice"))
    assert await limit("user", "alice") == (70, "default")
    assert [(found.quota.kind, found.quota.bytes_most) for found in await quotas.listed(ADMIN)] == [
        ("dataset", 10),
        ("group", None),
        ("user", 70),
    ]


async def test_uploads_under_way_count(site, quotas):
    await quotas.set(ADMIN, Quota("user", "", 100, 10))

    async with quotas.reserve(owner="alice", more_bytes=60) as room:
        with pytest.raises(QuotaExceeded):
            await quotas.check(owner="alice", more_bytes=41)
        await quotas.check(owner="bob", more_bytes=100)
        await room.grow(to_bytes=90)
        await room.grow(to_bytes=80)
        with pytest.raises(QuotaExceeded):
            await room.grow(to_bytes=101)
        assert (await quotas.listed(ALICE))[0].reserved_bytes == 90
    assert (await quotas.listed(ALICE))[0].reserved_bytes == 0

    await quotas.check(owner="alice", more_bytes=100)
    with pytest.raises(QuotaExceeded):
        async with quotas.reserve(owner="alice", more_bytes=101):
            raise AssertionError
    assert (await quotas.listed(ALICE))[0].reserved_bytes == 0


async def test_another_process_learns_of_a_limit(site, quotas):
    other = await site.restarted()
    await other.services.quotas.check(owner="alice", more_bytes=50)
    await quotas.set(ADMIN, Quota("user", "", 10))

    site.advance(KNOWN_S)

    with pytest.raises(QuotaExceeded):
        await other.services.quotas.check(owner="alice", more_bytes=50)


async def test_an_upload_over_the_limit_is_refused_before_its_body(site, quotas, held):
    running, payload = held
    files, path = site.services.files, f"job_temp/{running.dataset_id}/{running.job_index}/a"
    await quotas.set(ADMIN, Quota("dataset", "", 100))

    with pytest.raises(QuotaExceeded):
        await files.upload(payload, path, size=101)
    with pytest.raises(QuotaExceeded):
        await files.may_upload(payload, path, size=101)
    first = await files.upload(payload, path, size=60)
    with pytest.raises(QuotaExceeded):
        await files.upload(payload, f"{path}b", size=60)
    await first.write(b"x" * 60)
    await first.commit()
    with pytest.raises(QuotaExceeded):
        await files.upload(payload, f"{path}b", size=60)
    second = await files.upload(payload, f"{path}b", size=40)
    await second.abort()
    unknown = await files.upload(payload, f"{path}b")
    with pytest.raises(QuotaExceeded):
        await unknown.write(b"x" * (1 << 20))
    await unknown.abort()

    found = await quotas.allowance(ALICE, "dataset", running.dataset_id)
    assert (found.stored.bytes_kept, found.reserved_bytes) == (60, 0)


async def test_everybody_sees_their_own_and_administrators_all(site, quotas):
    await keep(site, "a", 7)
    dataset = await site.submit(task("only"), owner=ALICE)

    mine = await quotas.listed(ALICE)
    assert [found.stored for found in mine] == [Stored("user", "alice", 7, 1), Stored("group", "users", 7, 1)]
    assert (await quotas.allowance(ALICE, "group", "users")).stored.bytes_kept == 7
    assert (await quotas.allowance(BOB, "dataset", dataset.dataset_id)).stored.bytes_kept == 0
    for who, kind, holder in (
        (BOB, "user", "alice"),
        (BOB, "group", "ice"),
        (user("dave", "dust"), "dataset", dataset.dataset_id),
        (ADMIN, "user", "nobody"),
        (ADMIN, "dataset", "nothing"),
    ):
        with pytest.raises(NotFoundError):
            await quotas.allowance(who, kind, holder)
    with pytest.raises(InputError):
        await quotas.allowance(ALICE, "site", "x")
    with pytest.raises(AccessDenied):
        await quotas.set(ALICE, Quota("user", "alice", 1))
    with pytest.raises(InputError):
        await quotas.set(ADMIN, Quota("group", "ice", -1))
    with pytest.raises(NotFoundError):
        await quotas.set(ADMIN, Quota("user", "nobody", 1))
    await quotas.set(ADMIN, Quota("group", "ice", 1))
    (entry,) = (await site.store.audit.select("group:ice", Page())).items
    assert (entry.action, entry.detail) == ("quota.set", {"bytes_most": 1, "files_most": None})
