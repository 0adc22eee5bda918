"""A file whose bringer is killed before the catalogue knows of it gets into it all the same."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from site_harness import ADMIN, ALICE, Site, task

from iceprod.errors import StoreUnavailable, Unavailable
from iceprod.model.file import Stored
from iceprod.model.paging import Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.file_catalogue import FileQuery


def soon() -> float:
    """Notes have the times of the file system, whatever the clock of the test says."""
    return time.time() + 1000.0


class Killed(Exception):
    """What stands for the end of a process."""


@pytest.fixture
async def files(site: Site):
    await site.services.files.open()
    return site.services.files


@pytest.fixture
async def payload(site: Site, files) -> Principal:
    """A running task."""
    await site.submit(task("only"))
    running = await site.one(await site.pilot())
    return Principal(PrincipalKind.TASK, running.task_id, lease_id=running.lease_id)


async def put(files, principal, path, data=b"12345"):
    upload = await files.upload(principal, path)
    try:
        await upload.write(data)
        return await upload.commit()
    finally:
        await upload.abort()


async def put_and_die(files, principal, path, data=b"12345", *, at="register"):
    """Put a file, and get killed where ``at`` is called."""

    async def die(*_: object, **__: object):
        raise Killed

    kept = getattr(files, at)
    setattr(files, at, die)
    try:
        with pytest.raises(Killed):
            await put(files, principal, path, data)
    finally:
        setattr(files, at, kept)


async def known(site: Site, principal=ADMIN):
    found = await site.services.file_catalogue.find(principal, FileQuery(), Page(100))
    return {file.name: (file.size_bytes, file.owner, file.job_index, file.task_index) for file in found.items}


def notes(site: Site):
    return list((site.settings.files_path / ".arriving").iterdir())


async def test_a_file_that_was_registered_leaves_no_note(site, files, payload):
    dataset = payload.id.split("-")[0]

    await put(files, payload, f"job_temp/{dataset}/0/a")

    assert notes(site) == []
    assert await files.catch_up(before=soon()) == 0


async def test_a_file_is_registered_for_whoever_brought_it(site, files, payload):
    dataset = payload.id.split("-")[0]
    await put_and_die(files, payload, f"job_temp/{dataset}/0/a")
    await put_and_die(files, payload, f"dataset_temp/{dataset}/b", b"123")
    await put_and_die(files, ADMIN, "site_temp/c", b"1")
    before = await known(site)

    caught = await files.catch_up(before=soon())

    assert (before, caught) == ({}, 3)
    assert await known(site) == {
        "job_temp/0/a": (5, "alice", 0, 0),
        "dataset_temp/b": (3, "alice", None, None),
        "site_temp/c": (1, "root", None, None),
    }
    assert await site.store.files.stored("user", "alice") == Stored("user", "alice", 8, 2)
    assert notes(site) == []


async def test_what_is_on_its_way_at_this_moment_is_left_alone(site, files, payload):
    await put_and_die(files, payload, f"dataset_temp/{payload.id.split('-')[0]}/a")

    assert await files.catch_up(before=time.time() - 60) == 0
    assert len(notes(site)) == 1


async def test_what_has_replaced_a_file_since_is_registered_in_its_place(site, files, payload):
    path = f"dataset_temp/{payload.id.split('-')[0]}/a"
    await put(files, payload, path, b"the first")
    await put_and_die(files, payload, path, b"the second one")

    await files.catch_up(before=soon())

    assert (await known(site))["dataset_temp/a"][0] == len(b"the second one")


async def test_a_file_that_is_gone_since_leaves_nothing(site, files, payload):
    path = f"dataset_temp/{payload.id.split('-')[0]}/a"
    await put_and_die(files, payload, path)
    await files.delete(ADMIN, path)

    assert await files.catch_up(before=soon()) == 0
    assert await known(site) == {}
    assert notes(site) == []


async def test_a_note_that_was_cut_short_is_removed(site, files):
    (site.settings.files_path / ".arriving" / "x").write_bytes(b'{"names": ["site_te')

    assert await files.catch_up(before=soon()) == 0
    assert notes(site) == []


async def test_a_file_that_did_not_get_into_its_place_leaves_no_note(site, files, payload):
    dataset = payload.id.split("-")[0]
    await put(files, payload, f"dataset_temp/{dataset}/a")

    with pytest.raises(Exception, match="in the way"):
        await put(files, payload, f"dataset_temp/{dataset}/a/below")

    assert notes(site) == []


async def test_while_the_store_is_away_nothing_is_forgotten(site, files, payload):
    path = f"dataset_temp/{payload.id.split('-')[0]}/a"
    await put_and_die(files, payload, path)

    async def away(*_: object):
        raise StoreUnavailable("the store is away")

    register, files._known.register = files._known.register, away
    with pytest.raises(StoreUnavailable):
        await files.catch_up(before=soon())
    files._known.register = register

    assert await files.catch_up(before=soon()) == 1
    assert (await known(site, ALICE))["dataset_temp/a"][0] == 5


async def test_a_disk_that_is_full_is_told_and_keeps_nothing(site, files, payload, monkeypatch):
    path = f"dataset_temp/{payload.id.split('-')[0]}/a"

    def write_bytes(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(Unavailable, match="the disk is full") as told:
            await put(files, payload, path)

    assert told.value.detail["reason"] == "storage_full"
    assert (notes(site), await known(site)) == ([], {})
    await put(files, payload, path)
    assert list(await known(site)) == ["dataset_temp/a"]
