"""Uploads: nothing is visible before it is whole and right, and nothing that came is lost."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path

import pytest
from site_harness import ADMIN, ALICE, BOB, task
from upload_harness import open_bench, sha256

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    InputError,
    LeaseLost,
    NotFoundError,
    QuotaExceeded,
    RateLimited,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.uploads.values import Announced, Part, Stage
from iceprod.services.uploads.writing import Proof

TEXT = b"muons and neutrinos\n" * 1000
FAR = "http://origin.example/data/hits.npz"


@pytest.fixture
async def bench(site, tmp_path):
    async with open_bench(site, tmp_path / "uploads") as made:
        yield made


@pytest.fixture
async def bench_with(site, tmp_path):
    opened = []

    async def make(**limits):
        context = open_bench(site, tmp_path / "uploads", **limits)
        opened.append(context)
        return await context.__aenter__()

    yield make
    for context in opened:
        await context.__aexit__(None, None, None)


async def test_a_file_that_comes_in_parts_appears_when_it_is_whole(bench):
    begun = await bench.announce(TEXT, checksums={"sha256": sha256(TEXT).upper()})
    first = await bench.append(begun.upload_id, 0, TEXT[:7000])

    assert (begun.offset, first.offset, first.stage) == (0, 7000, Stage.OPEN)
    assert await bench.stored() is None

    last = await bench.append(begun.upload_id, 7000, TEXT[7000:])

    assert (last.stage, last.offset, last.sha256) == (Stage.STORED, len(TEXT), sha256(TEXT))
    assert await bench.stored() == TEXT
    download = await bench.site.services.files.download(ADMIN, "site_temp/x")
    assert download.facts.digest.hex() == sha256(TEXT)
    download.close()


async def test_any_process_goes_on_with_it(bench):
    begun = await bench.announce(TEXT, checksums={"md5": hashlib.md5(TEXT).hexdigest()})
    await bench.append(begun.upload_id, 0, TEXT[:7000])
    other = await bench.again()

    assert (await other.status(begun.upload_id)).offset == 7000
    assert (await other.append(begun.upload_id, 7000, TEXT[7000:])).stage is Stage.STORED
    assert await bench.stored() == TEXT
    assert (await bench.status(begun.upload_id)).stage is Stage.STORED


async def test_bytes_behind_the_mark_do_not_count(bench):
    # As after a crash of the machine: the file is longer than what was certainly on the disk.
    begun = await bench.announce(TEXT)
    await bench.append(begun.upload_id, 0, TEXT[:100])
    (data,) = bench.folder.rglob("data")
    with data.open("ab") as file:
        file.write(b"\0" * 50_000)

    assert (await bench.status(begun.upload_id)).offset == 100
    await bench.append(begun.upload_id, 100, TEXT[100:])

    assert await bench.stored() == TEXT


async def test_what_came_before_a_broken_connection_counts(bench):
    begun = await bench.announce(TEXT)
    service = bench.uploads.service
    writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=len(TEXT))
    await writing.write(TEXT[:5000])
    await service.break_off(writing, "gone")

    assert (await bench.status(begun.upload_id)).offset == 5000
    await bench.append(begun.upload_id, 5000, TEXT[5000:])
    assert await bench.stored() == TEXT


async def test_what_came_counts_although_keeping_it_was_cancelled_in_the_middle(bench):
    begun = await bench.announce(TEXT)
    service = bench.uploads.service
    writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=len(TEXT))
    await writing.write(TEXT[:5000])
    leaving = asyncio.create_task(service.break_off(writing, "gone"))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await service.end()

    assert (await bench.status(begun.upload_id)).offset == 5000


async def test_what_came_before_the_server_was_stopped_counts(bench):
    begun, proved = await bench.announce(TEXT), await bench.announce(TEXT)
    service = bench.uploads.service
    writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=len(TEXT))
    await writing.write(TEXT[:5000])
    proof = Proof("sha1", hashlib.sha1(TEXT).digest())
    other = await service.begin(ADMIN, proved.upload_id, offset=0, size=len(TEXT), proof=proof)
    await other.write(TEXT[:5000])

    await service.end()
    await service.end()

    assert (await bench.status(begun.upload_id)).offset == 5000
    assert (await bench.status(proved.upload_id)).offset == 0
    await bench.append(begun.upload_id, 5000, TEXT[5000:])
    assert await bench.stored() == TEXT


async def test_two_requests_do_not_write_at_once(bench):
    begun = await bench.announce(TEXT)
    service, other = bench.uploads.service, await bench.again()
    writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=len(TEXT))

    for each in (bench, other):
        with pytest.raises(ConflictError) as refused:
            await each.append(begun.upload_id, 0, TEXT)
        assert refused.value.detail["reason"] == "locked"
        with pytest.raises(ConflictError):
            await each.uploads.service.cancel(ADMIN, begun.upload_id)
    await writing.write(TEXT)
    assert (await service.finish(writing)).stage is Stage.STORED
    assert await bench.stored() == TEXT


async def test_another_offset_is_refused(bench):
    begun = await bench.announce(TEXT)
    await bench.append(begun.upload_id, 0, TEXT[:10])

    for offset in (0, 9, 11, len(TEXT)):
        with pytest.raises(ConflictError):
            await bench.append(begun.upload_id, offset, b"")
    assert (await bench.status(begun.upload_id)).offset == 10


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512", "md5"])
async def test_a_chunk_with_a_wrong_checksum_is_thrown_away(bench, algorithm):
    begun = await bench.announce(TEXT, checksums={"sha256": sha256(TEXT)})
    await bench.append(begun.upload_id, 0, TEXT[:10])
    wrong = Proof(algorithm, hashlib.new(algorithm, b"other").digest())
    right = Proof(algorithm, hashlib.new(algorithm, TEXT[10:]).digest())

    with pytest.raises(InputError) as refused:
        await bench.append(begun.upload_id, 10, TEXT[10:], proof=wrong)
    assert refused.value.detail["reason"] == "checksum_mismatch"
    assert (await bench.status(begun.upload_id)).offset == 10

    assert (await bench.append(begun.upload_id, 10, TEXT[10:], proof=right)).stage is Stage.STORED
    assert await bench.stored() == TEXT


async def test_a_chunk_with_a_checksum_that_breaks_off_is_thrown_away(bench):
    begun = await bench.announce(TEXT)
    service = bench.uploads.service
    proof = Proof("sha1", hashlib.sha1(TEXT).digest())
    writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=len(TEXT), proof=proof)
    await writing.write(TEXT[:5000])
    await service.break_off(writing, "gone")

    assert (await bench.status(begun.upload_id)).offset == 0


async def test_a_file_that_is_not_what_was_announced_never_appears(bench):
    begun = await bench.announce(TEXT, checksums={"sha256": sha256(b"other")})

    with pytest.raises(InputError, match="was announced"):
        await bench.append(begun.upload_id, 0, TEXT)

    view = await bench.status(begun.upload_id)
    assert (view.stage, await bench.stored()) == (Stage.FAILED, None)
    assert not list(bench.folder.rglob("data"))
    with pytest.raises(NotFoundError) as gone:
        await bench.append(begun.upload_id, len(TEXT), b"")
    assert gone.value.detail["reason"] == "gone"


@pytest.mark.parametrize("checksums", [{"crc": "00"}, {"sha256": "00"}, {"md5": "x" * 32}])
async def test_a_checksum_that_is_none_is_refused(bench, checksums):
    with pytest.raises(InputError):
        await bench.announce(TEXT, checksums=checksums)


async def test_an_empty_file_is_whole_at_once(bench):
    assert (await bench.announce(b"")).stage is Stage.STORED
    assert await bench.stored() == b""


async def test_a_length_may_be_told_later_and_not_be_changed(bench):
    begun = await bench.announce(None)
    assert (await bench.append(begun.upload_id, 0, TEXT[:10])).length is None
    assert (await bench.append(begun.upload_id, 10, TEXT[10:20], length=30)).length == 30
    with pytest.raises(ConflictError):
        await bench.append(begun.upload_id, 20, TEXT[20:30], length=40)
    assert (await bench.append(begun.upload_id, 20, TEXT[20:30], length=30)).stage is Stage.STORED
    assert await bench.stored() == TEXT[:30]


async def test_a_length_told_with_nothing_more_ends_it(bench):
    begun = await bench.announce(None)
    await bench.append(begun.upload_id, 0, TEXT)
    assert (await bench.append(begun.upload_id, len(TEXT), b"", length=len(TEXT))).stage is Stage.STORED
    assert await bench.stored() == TEXT


async def test_more_than_was_announced_is_refused(bench):
    begun = await bench.announce(TEXT)
    service = bench.uploads.service
    with pytest.raises(TooLarge):
        await bench.append(begun.upload_id, 0, TEXT + b"x")
    writing = await service.begin(ADMIN, begun.upload_id, offset=0, size=None)
    with pytest.raises(TooLarge):
        await writing.write(TEXT + b"x")
    await service.break_off(writing, "")
    open_end = await bench.announce(None)
    with pytest.raises(TooLarge):
        await bench.append(open_end.upload_id, 0, b"", length=10**15)


async def test_a_huge_file_is_refused_when_it_is_announced(bench):
    with pytest.raises(TooLarge):
        await bench.uploads.service.create(ADMIN, Announced("site_temp/x", 10**18))


async def test_rights_count_when_it_is_announced_and_whenever_it_goes_on(bench):
    site = bench.site
    dataset = await site.submit(task("only"), njobs=2)
    pilot = await site.pilot()
    held = await site.one(pilot)
    me = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
    own = f"job_temp/{dataset.dataset_id}/0/x"

    with pytest.raises(NotFoundError):
        await bench.announce(TEXT, f"job_temp/{dataset.dataset_id}/1/x", principal=me)
    with pytest.raises(AccessDenied):
        await bench.announce(TEXT, own, principal=ALICE)
    begun = await bench.announce(TEXT, own, principal=me)
    assert await bench.uploads.service.list(me, limit=10) == [begun]
    assert begun.owner == "alice"
    assert begun.dataset_id == dataset.dataset_id
    for stranger in (ALICE, BOB):
        with pytest.raises(NotFoundError):
            await bench.status(begun.upload_id, stranger)
    await bench.append(begun.upload_id, 0, TEXT[:10], principal=me)
    await site.finish(pilot, held)
    with pytest.raises(LeaseLost):
        await bench.append(begun.upload_id, 10, TEXT[10:], principal=me)
    assert await bench.stored(own) is None


async def test_a_lease_that_ends_while_the_last_part_comes_ends_the_upload(bench):
    site = bench.site
    dataset = await site.submit(task("only"), njobs=1)
    pilot = await site.pilot()
    held = await site.one(pilot)
    me = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
    begun = await bench.announce(TEXT, f"job_temp/{dataset.dataset_id}/0/x", principal=me)
    service = bench.uploads.service
    writing = await service.begin(me, begun.upload_id, offset=0, size=None)
    await writing.write(TEXT)
    await site.finish(pilot, held)

    with pytest.raises(LeaseLost):
        await service.finish(writing)

    assert (await bench.status(begun.upload_id, me)).stage is Stage.FAILED


async def test_a_quota_is_asked_for_before_anything_comes(bench):
    bench.ration.left = 2 * len(TEXT)
    first = await bench.announce(TEXT)
    second = await bench.announce(TEXT, "site_temp/y")
    # What the others have announced counts, though it has not come yet.
    with pytest.raises(QuotaExceeded):
        await bench.announce(b"x", "site_temp/z")
    bench.ration.left = len(TEXT)
    with pytest.raises(QuotaExceeded):
        await bench.append(first.upload_id, 0, TEXT[:10])
    await bench.uploads.service.cancel(ADMIN, second.upload_id)
    await bench.append(first.upload_id, 0, TEXT)
    assert await bench.stored() == TEXT


async def test_a_user_has_so_many_open_and_no_more(bench_with):
    bench = await bench_with(most_open=2)
    first = await bench.announce(TEXT)
    await bench.announce(TEXT)
    with pytest.raises(RateLimited):
        await bench.announce(TEXT)
    await bench.append(first.upload_id, 0, TEXT)
    await bench.announce(TEXT)


async def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_room(bench, monkeypatch):
    begun = await bench.announce(TEXT)
    await bench.append(begun.upload_id, 0, TEXT[:100])
    write = os.pwrite

    def pwrite(descriptor, data, offset):
        if offset >= 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: 200 - offset] if offset >= 100 else data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(Unavailable) as full:
            await bench.append(begun.upload_id, 100, TEXT[100:])
    assert full.value.detail["reason"] == "storage_full"
    assert (await bench.status(begun.upload_id)).offset == 100
    await bench.append(begun.upload_id, 100, TEXT[100:])
    assert await bench.stored() == TEXT


async def test_no_room_for_the_whole_of_it_is_told_first(bench_with):
    bench = await bench_with(keep_free_bytes=10**18)
    with pytest.raises(Unavailable):
        await bench.announce(TEXT)


async def test_an_upload_that_was_left_between_its_last_byte_and_its_place_goes_on(bench, monkeypatch):
    begun = await bench.announce(TEXT)
    service = bench.uploads.service

    async def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(service.ending, "_verify", killed)
        with pytest.raises(KeyboardInterrupt):
            await bench.append(begun.upload_id, 0, TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(service.ending, "_store", killed)
        with pytest.raises(KeyboardInterrupt):
            await bench.status(begun.upload_id)
    assert await bench.stored() is None
    other = await bench.again()
    await other.uploads.keeper.look_after()

    assert await bench.stored() == TEXT
    assert (await bench.status(begun.upload_id)).stage is Stage.STORED


async def test_an_upload_that_was_left_just_after_it_was_stored_is_known_to_be(bench, monkeypatch):
    begun = await bench.announce(TEXT)

    async def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.uploads.service.ending, "_over", killed)
        with pytest.raises(KeyboardInterrupt):
            await bench.append(begun.upload_id, 0, TEXT)

    assert await bench.stored() == TEXT
    assert (await (await bench.again()).status(begun.upload_id)).stage is Stage.STORED


async def test_an_upload_that_rests_expires_and_is_forgotten(bench):
    begun = await bench.announce(TEXT)
    bench.site.advance(1800)
    view = await bench.append(begun.upload_id, 0, TEXT[:10])
    assert view.expires_at == bench.site.clock() + 3600
    bench.site.advance(3599)
    await bench.uploads.keeper.look_after()
    assert (await bench.status(begun.upload_id)).stage is Stage.OPEN
    bench.site.advance(1)
    with pytest.raises(NotFoundError):
        await bench.append(begun.upload_id, 10, TEXT[10:])
    await bench.uploads.keeper.look_after()

    assert (await bench.status(begun.upload_id)).stage is Stage.EXPIRED
    assert not list(bench.folder.rglob("data"))
    await bench.uploads.keeper.forget()
    assert (await bench.status(begun.upload_id)).stage is Stage.EXPIRED
    bench.site.advance(3600)
    await bench.uploads.keeper.forget()
    with pytest.raises(NotFoundError):
        await bench.status(begun.upload_id)
    assert not list(bench.folder.rglob("about.json"))


async def test_an_upload_that_is_being_written_to_does_not_expire(bench):
    begun = await bench.announce(TEXT)
    writing = await bench.uploads.service.begin(ADMIN, begun.upload_id, offset=0, size=None)
    bench.site.advance(10_000)
    await bench.uploads.keeper.look_after()
    await writing.write(TEXT)
    await bench.uploads.service.finish(writing)
    assert await bench.stored() == TEXT


async def test_cancelling_leaves_nothing(bench):
    begun = await bench.announce(TEXT)
    await bench.append(begun.upload_id, 0, TEXT[:10])
    with pytest.raises(NotFoundError):
        await bench.uploads.service.cancel(ALICE, begun.upload_id)
    await bench.uploads.service.cancel(ADMIN, begun.upload_id)
    with pytest.raises(NotFoundError):
        await bench.status(begun.upload_id)
    assert not list(bench.folder.rglob("about.json"))


async def test_everybody_sees_their_own_and_an_administrator_all(bench):
    mine = await bench.announce(TEXT, FAR, principal=ALICE)
    other = await bench.announce(TEXT)
    service = bench.uploads.service
    assert [view.upload_id for view in await service.list(ALICE, limit=10)] == [mine.upload_id]
    assert {view.upload_id for view in await service.list(ADMIN, limit=10)} == {
        mine.upload_id,
        other.upload_id,
    }


@pytest.mark.parametrize("upload_id", ["", "x", "../../etc", "0" * 29, "0" * 16 + "." * 13])
async def test_an_id_that_is_none_is_no_upload(bench, upload_id):
    with pytest.raises(NotFoundError):
        await bench.status(upload_id)


async def forwarded(bench):
    while bench.uploads.keeper._forwarding:
        await asyncio.sleep(0.001)


async def test_a_file_for_an_origin_is_forwarded_in_the_background(bench):
    begun = await bench.announce(TEXT, FAR, principal=ALICE)
    view = await bench.append(begun.upload_id, 0, TEXT, principal=ALICE)
    assert view.stage is Stage.FORWARDING
    await forwarded(bench)

    assert bench.origin.files == {"/data/hits.npz": TEXT}
    assert (await bench.status(begun.upload_id, ALICE)).stage is Stage.STORED
    assert not list(bench.folder.rglob("data"))
    # Of no dataset, it would be everybody's to see.
    assert await bench.site.store.files.get("", "data/hits.npz") is None


async def test_forwarding_is_tried_again_later_and_later(bench):
    bench.origin.troubles = [TransferFailed("away"), TransferFailed("away still")]
    begun = await bench.announce(TEXT, FAR)
    await bench.append(begun.upload_id, 0, TEXT)
    await forwarded(bench)
    view = await bench.status(begun.upload_id)
    assert (view.stage, view.tries, view.error) == (Stage.FORWARDING, 1, "away")
    for waits_s in (5, 10):
        await bench.uploads.keeper.look_after()
        assert not bench.uploads.keeper._forwarding
        bench.site.advance(waits_s)
        await bench.uploads.keeper.look_after()
        await forwarded(bench)
    assert bench.origin.files == {"/data/hits.npz": TEXT}


async def test_forwarding_that_can_not_succeed_is_given_up(bench):
    bench.origin.troubles = [AccessDenied("not there")]
    begun = await bench.announce(TEXT, FAR)
    await bench.append(begun.upload_id, 0, TEXT)
    await forwarded(bench)
    view = await bench.status(begun.upload_id)
    assert (view.stage, view.error) == (Stage.FAILED, "not there")
    assert not list(bench.folder.rglob("data"))


async def test_another_process_forwards_what_one_has_left(bench, monkeypatch):
    bench.uploads.service.on_forwarding = lambda upload_id: None
    begun = await bench.announce(TEXT, FAR)
    await bench.append(begun.upload_id, 0, TEXT)
    other = await bench.again()
    await other.uploads.keeper.look_after()
    await forwarded(other)
    assert (await bench.status(begun.upload_id)).stage is Stage.STORED


@pytest.mark.parametrize("target", ["http://elsewhere.example/x", "ftp://origin.example/data/x", "nowhere/x"])
async def test_a_place_that_nobody_allows_is_refused_at_once(bench, target):
    with pytest.raises((AccessDenied, InputError, NotFoundError)):
        await bench.announce(TEXT, target)


async def pieces(bench, *texts):
    ids = []
    for text in texts:
        begun = await bench.announce(text, "", part=Part.PARTIAL)
        if text:
            await bench.append(begun.upload_id, 0, text)
        ids.append(begun.upload_id)
    return ids


async def test_a_file_is_made_of_pieces(bench):
    ids = await pieces(bench, TEXT[:5000], b"", TEXT[5000:])
    announced = Announced("site_temp/x", None, {"sha256": sha256(TEXT)}, part=Part.FINAL)

    view = await bench.uploads.joining.join(ADMIN, announced, ids)

    assert (view.stage, view.offset, view.part) == (Stage.STORED, len(TEXT), Part.FINAL)
    assert await bench.stored() == TEXT
    for upload_id in ids:
        with pytest.raises(NotFoundError):
            await bench.status(upload_id)
    with pytest.raises(AccessDenied):
        await bench.append(view.upload_id, len(TEXT), b"x")


async def test_pieces_must_be_whole_and_the_callers_own(bench):
    whole, far = await pieces(bench, b"a", b"b")
    open_piece = (await bench.announce(b"abc", "", part=Part.PARTIAL)).upload_id
    no_piece = (await bench.announce(b"abc")).upload_id
    joining = bench.uploads.joining
    announced = Announced("site_temp/x", None, part=Part.FINAL)

    for ids, error in (
        ([whole, open_piece], ConflictError),
        ([whole, no_piece], InputError),
        ([whole, whole], InputError),
        ([], InputError),
        ([whole, "0" * 16 + "x" * 13], NotFoundError),
    ):
        with pytest.raises(error):
            await joining.join(ADMIN, announced, ids)
    with pytest.raises(NotFoundError):
        await joining.join(ALICE, Announced(FAR, None, part=Part.FINAL), [far])
    assert await bench.stored() is None
    assert (await bench.status(whole)).offset == 1


async def test_pieces_outlive_a_file_that_could_not_be_made(bench):
    ids = await pieces(bench, b"a", b"b")
    announced = Announced("site_temp/x", None, {"sha256": sha256(b"other")}, part=Part.FINAL)
    with pytest.raises(InputError):
        await bench.uploads.joining.join(ADMIN, announced, ids)
    assert [(await bench.status(each)).stage for each in ids] == [Stage.OPEN, Stage.OPEN]
    assert len(await bench.uploads.service.list(ADMIN, limit=10)) == 2


async def test_an_upload_that_ended_and_was_not_put_away_is(bench, monkeypatch):
    begun = await bench.announce(TEXT)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            await bench.append(begun.upload_id, 0, TEXT)
    (lock,) = bench.folder.rglob(f"{begun.upload_id[16:]}/lock")
    assert lock.parent.parent.name != "over"
    other = await bench.again()
    await other.uploads.keeper.look_after()
    assert (await other.status(begun.upload_id)).stage is Stage.STORED
    assert list(bench.folder.rglob(f"over/{begun.upload_id[16:]}/about.json"))
    assert await bench.stored() == TEXT


async def test_what_is_over_is_listed_after_what_is_not(bench):
    ids = [(await bench.announce(b"", f"site_temp/{number}")).upload_id for number in range(3)]
    open_one = (await bench.announce(TEXT)).upload_id
    service = bench.uploads.service
    listed = [view.upload_id for view in await service.list(ADMIN, limit=10)]
    assert listed == [open_one, *reversed(ids)]
    assert [view.upload_id for view in await service.list(ADMIN, limit=2)] == [open_one, ids[2]]


async def test_the_catalogue_knows_of_a_file_though_its_registration_was_cut_off(bench, monkeypatch):
    begun = await bench.announce(TEXT)
    files = bench.site.services.files

    async def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "register", killed)
        with pytest.raises(KeyboardInterrupt):
            await bench.append(begun.upload_id, 0, TEXT)
    assert await bench.site.store.files.get("", "site_temp/x") is None

    assert (await (await bench.again()).status(begun.upload_id)).stage is Stage.STORED

    record = await bench.site.store.files.get("", "site_temp/x")
    assert (record.size_bytes, record.checksums["sha256"]) == (len(TEXT), sha256(TEXT))
