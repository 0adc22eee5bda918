"""The file store: whole files or none, nothing outside it, and for whom."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_harness import ADMIN, ALICE, BOB, Site, task

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    InputError,
    LeaseLost,
    NotAuthenticated,
    NotFoundError,
    TooLarge,
    Unavailable,
)
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.services.filestore import FileTree, check_names

TEXT = b"muons and neutrinos\n" * 1000


@pytest.fixture
async def files(site: Site):
    await site.services.files.open()
    return site.services.files


@pytest.fixture
async def held(site: Site, files):
    """A running task and the principal of its payload."""
    await site.submit(task("only"), njobs=2)
    pilot = await site.pilot()
    running = await site.one(pilot)
    return pilot, running, Principal(PrincipalKind.TASK, running.task_id, lease_id=running.lease_id)


async def put(files, principal, path, data=TEXT, **announced):
    upload = await files.upload(principal, path, size=announced.get("size"))
    try:
        for start in range(0, len(data), 7000):
            await upload.write(data[start : start + 7000])
        return await upload.commit(**announced)
    finally:
        await upload.abort()


async def get(files, principal, path):
    download = await files.download(principal, path)
    try:
        return await download.read(0, download.facts.size_bytes)
    finally:
        download.close()


def left_behind(site):
    return list((site.settings.files_path / ".incoming").iterdir())


async def test_what_was_put_can_be_read_by_its_task_and_owner(site, files, held):
    _, running, payload = held
    path = f"job_temp/{running.dataset_id}/{running.job_index}/deep/er/muons.i3"

    stored = await put(files, payload, path, size=len(TEXT), digest=hashlib.sha256(TEXT).digest())

    assert stored.is_new
    assert await get(files, payload, path) == TEXT
    assert await get(files, ALICE, path) == TEXT
    assert await get(files, ADMIN, path) == TEXT
    assert left_behind(site) == []


async def test_replacing_is_whole_and_leaves_readers_their_file(files, held):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/x"
    await put(files, payload, path, b"one")
    reader = await files.download(payload, path)

    stored = await put(files, payload, path, b"number two")

    assert not stored.is_new
    assert await reader.read(0, 100) == b"one"
    reader.close()
    assert await get(files, payload, path) == b"number two"


@pytest.mark.parametrize(
    "announced", [{"size": len(TEXT) + 1}, {"size": 0}, {"digest": hashlib.sha256(b"other").digest()}]
)
async def test_what_differs_from_what_was_announced_never_appears(site, files, held, announced):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/x"

    with pytest.raises(InputError):
        await put(files, payload, path, **announced)

    with pytest.raises(NotFoundError):
        await get(files, payload, path)
    assert left_behind(site) == []


async def test_a_file_over_the_limit_is_refused_before_and_while_it_comes(site_with):
    site = await site_with(files={"max_bytes": 10_000})
    files = site.services.files
    await files.open()

    with pytest.raises(TooLarge):
        await files.upload(ADMIN, "site_temp/x", size=10_001)
    with pytest.raises(TooLarge):
        await put(files, ADMIN, "site_temp/x")
    assert left_behind(site) == []


async def test_a_full_disk_is_told_and_leaves_nothing(site, files, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable) as refused:
        await put(files, ADMIN, "site_temp/x")

    monkeypatch.undo()
    assert refused.value.detail["reason"] == "storage_full"
    assert left_behind(site) == []


async def test_space_is_kept_free(site_with):
    site = await site_with(files={"keep_free_bytes": 10**18})
    await site.services.files.open()

    with pytest.raises(Unavailable) as refused:
        await put(site.services.files, ADMIN, "site_temp/x")

    assert refused.value.detail["reason"] == "storage_full"
    assert left_behind(site) == []


async def test_a_task_reaches_only_its_own_job_and_dataset(site, files, held):
    _, running, payload = held
    other = await site.submit(task("only"), njobs=1)

    for path in (
        f"job_temp/{running.dataset_id}/{1 - running.job_index}/x",
        f"job_temp/{other.dataset_id}/0/x",
        f"dataset_temp/{other.dataset_id}/x",
    ):
        with pytest.raises(NotFoundError):
            await put(files, payload, path)
        with pytest.raises(NotFoundError):
            await get(files, payload, path)


async def test_an_upload_that_was_broken_off_does_not_appear(files, held):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/x"
    upload = await files.upload(payload, path)
    await upload.write(TEXT)

    await upload.abort()

    with pytest.raises(ConflictError):
        await upload.commit()
    with pytest.raises(NotFoundError):
        await get(files, payload, path)


async def test_a_task_reaches_nothing_once_its_lease_is_over(site, files, held):
    pilot, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/x"
    await put(files, payload, path)
    late = await files.upload(payload, path)
    await late.write(b"too late")

    await site.finish(pilot, running)

    with pytest.raises(LeaseLost):
        await late.commit()
    await late.abort()
    for act in (get(files, payload, path), put(files, payload, path), files.delete(payload, path)):
        with pytest.raises(LeaseLost):
            await act
    assert await get(files, ALICE, path) == TEXT


@pytest.mark.parametrize(
    ("principal", "error"),
    [
        (BOB, NotFoundError),
        (ANONYMOUS, NotAuthenticated),
        (Principal(PrincipalKind.PILOT, "p"), AccessDenied),
    ],
)
async def test_strangers_read_nothing(files, held, principal, error):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/x"
    await put(files, payload, path)

    with pytest.raises(error):
        await get(files, principal, path)


async def test_absent_and_hidden_look_the_same(files, held):
    _, running, payload = held
    await put(files, payload, f"dataset_temp/{running.dataset_id}/x")

    with pytest.raises(NotFoundError) as hidden:
        await get(files, BOB, f"dataset_temp/{running.dataset_id}/x")
    with pytest.raises(NotFoundError) as absent:
        await get(files, BOB, "dataset_temp/0000000000000/x")

    assert str(hidden.value).replace(running.dataset_id, "0000000000000") == str(absent.value)


async def test_users_read_but_do_not_write(files, held):
    _, running, _ = held

    with pytest.raises(AccessDenied):
        await put(files, ALICE, f"dataset_temp/{running.dataset_id}/x")


async def test_deleting_removes_the_file(files, held):
    _, running, payload = held
    path = f"dataset_temp/{running.dataset_id}/x"
    await put(files, payload, path)

    await files.delete(payload, path)

    with pytest.raises(NotFoundError):
        await files.delete(payload, path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "job_temp",
        "dataset_temp/D",
        "etc/passwd",
        ".incoming/x",
        ".digests/x",
        "dataset_temp/../../etc/passwd",
        "dataset_temp/D/..",
        "dataset_temp/D/./x",
        "dataset_temp/D//x",
        "dataset_temp/D/x/",
        "site_temp/..\\..\\x",
        "site_temp/a\0b",
        "site_temp/a\nb",
        "site_temp/" + "x" * 256,
        "site_temp/" + "x/" * 40 + "x",
        "site_temp/\udcff",
        "job_temp/D/-1/x",
        "job_temp/D/01/x",
        "job_temp/D/1e3/x",
        "/etc/passwd",
    ],
)
async def test_odd_paths_lead_nowhere(files, path):
    with pytest.raises((InputError, NotFoundError)):
        await put(files, ADMIN, path)
    with pytest.raises((InputError, NotFoundError)):
        await get(files, ADMIN, path)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_names_that_pass_stay_in_one_directory_level(names):
    try:
        checked = check_names(names)
    except InputError:
        return
    assert os.path.normpath("/files/" + "/".join(checked)) == "/files/" + "/".join(names)


@pytest.mark.parametrize("place", ["file", "directory"])
async def test_links_are_not_followed(site, files, tmp_path, place):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    area = site.settings.files_path / "site_temp"
    area.mkdir()
    target = outside / "secret" if place == "file" else outside
    (area / "link").symlink_to(target)
    path = "site_temp/link" if place == "file" else "site_temp/link/secret"

    with pytest.raises(ConflictError):
        await get(files, ADMIN, path)
    with pytest.raises(ConflictError):
        await put(files, ADMIN, path, b"overwritten")

    assert (outside / "secret").read_text() == "secret"


async def test_what_is_no_file_is_not_read(site, files):
    area = site.settings.files_path / "site_temp"
    area.mkdir()
    os.mkfifo(area / "pipe")
    (area / "folder").mkdir()

    for name in ("pipe", "folder"):
        with pytest.raises((NotFoundError, ConflictError)):
            await get(files, ADMIN, f"site_temp/{name}")


async def test_a_file_in_the_place_of_a_directory_is_a_conflict(files):
    await put(files, ADMIN, "site_temp/x")

    with pytest.raises(ConflictError):
        await put(files, ADMIN, "site_temp/x/y")


async def test_digest_follows_what_is_on_the_disk(site, files):
    await put(files, ADMIN, "site_temp/x")
    (site.settings.files_path / "site_temp" / "x").write_bytes(b"changed by hand")

    download = await files.download(ADMIN, "site_temp/x")

    assert download.facts.digest == hashlib.sha256(b"changed by hand").digest()
    download.close()


def test_cleaning_throws_away_what_a_crash_left_and_nothing_younger(tmp_path):
    tree = FileTree(tmp_path / "files")
    tree.open()
    tree.begin().write(b"half a file")
    (tree.handover / "0000000001").write_bytes(b"nobody came for this")
    for path in (*tree.incoming.iterdir(), *tree.handover.iterdir()):
        os.utime(path, (1000.0, 1000.0))
    younger = tree.begin()

    assert FileTree(tmp_path / "files").clean(before=2000.0) == 2

    assert list(tree.incoming.iterdir()) == [younger.path]
    assert list(tree.handover.iterdir()) == []
    younger.discard()


def handed(site, data=TEXT, name="0000000001"):
    """A file as the web server in front leaves it."""
    path = site.settings.files_path / ".handed-over" / name
    path.write_bytes(data)
    return path


async def test_what_was_handed_over_is_checked_and_renamed(site, files, held):
    _, running, payload = held
    path = f"job_temp/{running.dataset_id}/{running.job_index}/muons.i3"
    source = handed(site)
    number = source.stat().st_ino

    arrived = await files.take_over(payload, path, str(source))
    stored = await arrived.commit(size=len(TEXT), digest=hashlib.sha256(TEXT).digest())

    assert stored.is_new
    assert stored.facts.digest == hashlib.sha256(TEXT).digest()
    assert (site.settings.files_path / path).stat().st_ino == number
    assert await get(files, payload, path) == TEXT
    assert not source.exists()


@pytest.mark.parametrize("announced", [{"size": 3}, {"digest": hashlib.sha256(b"other").digest()}])
async def test_what_was_handed_over_and_differs_never_appears(site, files, announced):
    source = handed(site)

    arrived = await files.take_over(ADMIN, "site_temp/x", str(source))
    with pytest.raises(InputError):
        await arrived.commit(**announced)
    await arrived.abort()

    assert not source.exists()
    with pytest.raises(NotFoundError):
        await files.download(ADMIN, "site_temp/x")


async def test_an_upload_whose_lease_ends_while_it_is_read_is_refused(site, files, held):
    pilot, running, payload = held
    source = handed(site)
    arrived = await files.take_over(payload, f"dataset_temp/{running.dataset_id}/x", str(source))
    await site.finish(pilot, running)

    with pytest.raises(LeaseLost):
        await arrived.commit()
    await arrived.abort()

    assert not source.exists()


async def test_nobody_gets_at_other_files_by_handing_them_over(site, files, tmp_path):
    root = site.settings.files_path
    secret = tmp_path / "secret"
    secret.write_bytes(b"not for you")
    await put(files, ADMIN, "site_temp/mine", b"mine")
    link, hard = root / ".handed-over" / "7", root / ".handed-over" / "8"
    link.symlink_to(secret)
    hard.hardlink_to(secret)
    (root / ".handed-over" / "9").mkdir()
    os.mkfifo(root / ".handed-over" / "10")
    wrong = [
        str(secret),
        str(root / "site_temp" / "mine"),
        str(root / ".handed-over" / ".." / "site_temp" / "mine"),
        f"{root}/.handed-over//7",
        f"{root}/.handed-over/",
        str(link),
        str(hard),
        str(root / ".handed-over" / "9"),
        str(root / ".handed-over" / "10"),
        "",
        "7",
    ]

    for source in wrong:
        with pytest.raises((InputError, ConflictError)):
            await files.take_over(ADMIN, "site_temp/x", source)

    assert secret.read_bytes() == b"not for you"
    assert await get(files, ADMIN, "site_temp/mine") == b"mine"


async def test_a_file_that_got_lost_on_its_way_may_be_sent_again(site, files):
    with pytest.raises(Unavailable):
        await files.take_over(ADMIN, "site_temp/x", str(site.settings.files_path / ".handed-over" / "1"))


async def test_who_may_not_write_hands_nothing_over_and_nothing_stays(site, files):
    for principal, error in ((ANONYMOUS, NotAuthenticated), (ALICE, AccessDenied)):
        source = handed(site)
        with pytest.raises(error):
            await files.take_over(principal, "site_temp/x", str(source))
        assert not source.exists()


async def test_may_upload_is_what_upload_would_say(files, held):
    _, running, payload = held
    await files.may_upload(payload, f"dataset_temp/{running.dataset_id}/x", size=5)
    with pytest.raises(TooLarge):
        await files.may_upload(ADMIN, "site_temp/x", size=10**15)
    with pytest.raises(NotFoundError):
        await files.may_upload(payload, "dataset_temp/other/x")
    with pytest.raises(NotAuthenticated):
        await files.may_upload(ANONYMOUS, "site_temp/x")


async def test_what_fails_when_nobody_waits_any_more_is_nobodys_trouble(files):
    """As a read of a file that has been closed, since its reader had gone."""
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()
    troubles = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))

    def work():
        begun.set()
        gate.wait(10)
        ended.set()
        raise OSError(errno.EBADF, "it was closed")

    waiting = asyncio.ensure_future(files.run(work))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await asyncio.to_thread(ended.wait, 10)
    await asyncio.sleep(0.01)
    gc.collect()

    assert troubles == []
