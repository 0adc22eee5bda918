"""The catalogue of files: what gets into it, who finds what, and what is forgotten."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from site_harness import ADMIN, ALICE, BOB, Site, task, user

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    InputError,
    LeaseLost,
    NotAuthenticated,
    NotFoundError,
    StoreUnavailable,
)
from iceprod.model.file import FileRecord, Replica
from iceprod.model.paging import Page
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.services.file_catalogue import FileQuery, NewFile

TEXT = b"hits"
SHA = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
async def files(site: Site):
    await site.services.files.open()
    return site.services.files


@pytest.fixture
def known(site: Site):
    return site.services.file_catalogue


@pytest.fixture
async def held(site: Site, files):
    """A running task, its pilot, and the principal of its payload."""
    await site.submit(task("only"), njobs=2)
    pilot = await site.pilot()
    running = await site.one(pilot)
    return pilot, running, Principal(PrincipalKind.TASK, running.task_id, lease_id=running.lease_id)


async def put(files, principal, path, data=TEXT):
    upload = await files.upload(principal, path, size=len(data))
    await upload.write(data)
    return await upload.commit()


async def names(known, principal, **wanted: Any) -> list[str]:
    return [one.name for one in (await known.find(principal, FileQuery(**wanted), Page())).items]


def elsewhere(name: str = "out/hits.i3", **fields: Any) -> NewFile:
    given = {"size_bytes": 7, "checksums": {"sha256": "AB" * 32}, "url": "gsiftp://x.org/out/hits.i3"}
    return NewFile(name, **{**given, **fields})


async def test_what_is_uploaded_is_known(site, files, known, held):
    _, running, payload = held
    path = f"job_temp/{running.dataset_id}/{running.job_index}/deep/µ hits"

    await put(files, payload, path)

    found = await known.get(ALICE, running.dataset_id, f"job_temp/{running.job_index}/deep/µ hits")
    assert found == FileRecord(
        running.dataset_id,
        f"job_temp/{running.job_index}/deep/µ hits",
        len(TEXT),
        {"sha256": SHA},
        "alice",
        "users",
        site.clock(),
        running.job_index,
        running.task_index,
        (
            Replica(
                f"/files/job_temp/{running.dataset_id}/{running.job_index}/deep/%C2%B5%20hits",
                "",
                site.clock(),
            ),
        ),
    )
    assert await site.store.files.stored("dataset", running.dataset_id) == replace(
        await site.store.files.stored("dataset", running.dataset_id), bytes_kept=4, files_kept=1
    )


async def test_a_file_that_takes_the_place_of_another_is_known_as_it_is(site, files, known, held):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/table"
    await put(files, payload, path)

    await put(files, payload, path, b"more of it")

    found = await known.get(ALICE, running.dataset_id, "dataset_temp/table")
    assert (found.size_bytes, found.job_index, found.task_index) == (10, None, None)
    assert (await site.store.files.stored("user", "alice")).bytes_kept == 10
    await files.delete(ADMIN, path)
    with pytest.raises(NotFoundError):
        await known.get(ALICE, running.dataset_id, "dataset_temp/table")
    assert (await site.store.files.stored("user", "alice")).files_kept == 0


async def test_what_a_task_leaves_for_the_site_is_its_owners(site, files, known, held):
    _, _, payload = held

    await put(files, payload, "site_temp/tables/a")

    found = await known.get(BOB, "", "site_temp/tables/a")
    assert (found.owner, found.dataset_id, found.job_index) == ("alice", "", None)
    assert await names(known, BOB, dataset_id="") == ["site_temp/tables/a"]
    assert await names(known, ALICE) == ["site_temp/tables/a"]
    assert (await site.store.files.stored("user", "alice")).bytes_kept == 4


async def test_a_deleted_file_that_lies_elsewhere_too_stays_known(site, files, known, held):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/table"
    await put(files, payload, path)
    await known.add_replica(ALICE, running.dataset_id, "dataset_temp/table", "https://x.org/table")

    await files.delete(ADMIN, path)

    found = await known.get(ALICE, running.dataset_id, "dataset_temp/table")
    assert [replica.url for replica in found.replicas] == ["https://x.org/table"]
    assert not found.is_here
    assert (await site.store.files.stored("user", "alice")).bytes_kept == 0


async def test_a_task_registers_what_it_has_put_elsewhere(site, known, held):
    pilot, running, payload = held

    (made,) = await known.add(payload, None, [elsewhere()])

    assert made == await known.get(ALICE, running.dataset_id, "out/hits.i3")
    assert (made.job_index, made.task_index, made.owner) == (running.job_index, 0, "alice")
    assert made.checksums == {"sha256": "ab" * 32}
    assert await known.add(payload, running.dataset_id, [elsewhere()]) == [made]
    for wrong in (
        elsewhere("job_temp/0/hits"),
        elsewhere("../x"),
        elsewhere(url="/files/x"),
        elsewhere(url="https://u:p@x.org/a"),
        elsewhere(checksums={"md5": "ab"}),
        elsewhere(checksums={"sha256": "xy" * 32}),
        elsewhere(size_bytes=-1),
        elsewhere(site="a\nb"),
    ):
        with pytest.raises(InputError):
            await known.add(payload, None, [wrong])
    other = await site.submit(task("only"), owner=BOB)
    with pytest.raises(NotFoundError):
        await known.add(payload, other.dataset_id, [elsewhere()])
    await site.finish(pilot, running)
    with pytest.raises(LeaseLost):
        await known.add(payload, None, [elsewhere()])


async def test_a_task_does_not_replace_what_another_job_has_made(site, known, held):
    pilot, running, payload = held
    other = await site.one(pilot)
    await known.add(payload, None, [elsewhere()])
    rival = Principal(PrincipalKind.TASK, other.task_id, lease_id=other.lease_id)

    with pytest.raises(ConflictError, match=f"made by job {running.job_index}"):
        await known.add(rival, None, [elsewhere(size_bytes=8)])
    with pytest.raises(NotFoundError):
        await known.add_replica(rival, running.dataset_id, "out/hits.i3", "https://x.org/b")

    (mine,) = await known.add(ALICE, running.dataset_id, [elsewhere(size_bytes=8)])
    assert mine.size_bytes == 8


async def test_everybody_finds_what_they_may_see(site, known, held):
    _, running, payload = held
    shown = await site.dataset(running.dataset_id)
    secret = replace(shown, dataset_id="hidden", number=0, group="ice", public=False)
    hidden = await site.store.datasets.add(secret, "{}")
    await known.add(ALICE, hidden.dataset_id, [elsewhere("hidden")])
    await known.add(
        ALICE, running.dataset_id, [elsewhere("shown"), elsewhere("other", checksums={"sha256": SHA})]
    )
    member, stranger = user("carol", "ice"), user("dave", "dust")

    assert await names(known, ALICE) == ["hidden", "other", "shown"]
    assert await names(known, ADMIN) == ["hidden", "other", "shown"]
    assert await names(known, BOB) == ["other", "shown"]
    assert await names(known, member) == ["hidden"]
    assert await names(known, stranger) == []
    assert await names(known, stranger, dataset_id=running.dataset_id) == ["other", "shown"]
    assert await names(known, ALICE, sha256=SHA) == ["other"]
    assert await names(known, ALICE, prefix="s") == ["shown"]
    for call in (
        known.find(stranger, FileQuery(dataset_id=hidden.dataset_id), Page()),
        known.get(stranger, hidden.dataset_id, "hidden"),
        known.get(ALICE, hidden.dataset_id, "nothing"),
        known.find(ALICE, FileQuery(dataset_id="none"), Page()),
        known.find(payload, FileQuery(dataset_id=hidden.dataset_id), Page()),
    ):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotAuthenticated):
        await known.find(ANONYMOUS, FileQuery(), Page())
    with pytest.raises(AccessDenied):
        await known.find(Principal(PrincipalKind.PILOT, "p"), FileQuery(), Page())


async def test_a_task_finds_its_jobs_and_its_datasets_files(site, files, known, held):
    pilot, running, payload = held
    other = await site.one(pilot)
    rival = Principal(PrincipalKind.TASK, other.task_id, lease_id=other.lease_id)
    base = running.dataset_id
    await put(files, payload, f"job_temp/{base}/{running.job_index}/a")
    await put(files, rival, f"job_temp/{base}/{other.job_index}/b")
    await put(files, rival, f"dataset_temp/{base}/c")

    assert await names(known, payload) == [f"job_temp/{running.job_index}/a"]
    assert await names(known, payload, prefix="dataset_temp/") == ["dataset_temp/c"]
    assert (await known.get(payload, base, "dataset_temp/c")).job_index is None
    with pytest.raises(NotFoundError):
        await known.get(payload, base, f"job_temp/{other.job_index}/b")
    with pytest.raises(NotFoundError):
        await names(known, payload, job_index=other.job_index)


async def test_nobody_but_an_administrator_forgets_what_lies_here(site, files, known, held):
    _, running, payload = held
    base, name = running.dataset_id, f"job_temp/{running.job_index}/a"
    await put(files, payload, f"job_temp/{base}/{running.job_index}/a")
    await known.add(ALICE, base, [elsewhere("x"), elsewhere("y")])
    place = (await known.get(ALICE, base, name)).replicas[0].url

    with pytest.raises(ConflictError):
        await known.drop(ALICE, base, ["x", name])
    with pytest.raises(ConflictError):
        await known.drop_replica(ALICE, base, name, place)
    with pytest.raises(AccessDenied):
        await known.drop(BOB, base, ["x"])
    with pytest.raises(AccessDenied):
        await known.drop(payload, base, ["x"])
    with pytest.raises(NotFoundError):
        await known.drop_replica(ALICE, base, "x", "https://nowhere.org/")
    assert await known.drop(ALICE, base, ["x", "z"]) == 1
    await known.drop_replica(ALICE, base, "y", "gsiftp://x.org/out/hits.i3")
    assert await names(known, ALICE) == [name]
    assert await known.drop(ADMIN, base, [name]) == 1


async def test_many_at_once_are_written_together(site, known, monkeypatch):
    calls = []
    put_all = site.store.files.put

    async def counted(records):
        calls.append(len(records))
        return await put_all(records)

    monkeypatch.setattr(site.store.files, "put", counted)
    record = FileRecord("d", "a", 1, {"sha256": SHA}, "alice", "users", 1.0)

    found = await asyncio.gather(*(known.register(replace(record, name=f"{n % 40}")) for n in range(50)))

    assert found == [True] * 40 + [False] * 10
    assert sum(calls) == 50
    assert len(calls) <= 2


async def test_a_store_that_is_away_is_told_to_who_registers(site, known, monkeypatch):
    async def away(_records):
        raise StoreUnavailable("away")

    record = FileRecord("d", "a", 1, {"sha256": SHA}, "alice", "users", 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(site.store.files, "put", away)
        with pytest.raises(StoreUnavailable):
            await known.register(record)

    assert await known.register(record)
