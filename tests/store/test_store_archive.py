"""Copying stores: what every archive promises, and copies that are cut off anywhere."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
from store_filled import content, fill, more_jobs, sums
from store_samples import OpenStore, claim, dataset, finish, operation

from iceprod.errors import AlreadyExists, ConflictError, InputError
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page
from iceprod.model.task import Outcome
from iceprod.model.user import User
from iceprod.store.archive import Archive, JobRecord, Key, Kind, LogRecord, Record, Value
from iceprod.store.archive_file import ArchiveFile, write_archive
from iceprod.store.base import DatasetFilter, Store
from iceprod.store.copying import copy, pages
from iceprod.store.sqlite import SqliteStore


@pytest.fixture
async def target(open_store: OpenStore, tmp_path: Path) -> AsyncIterator[Store]:
    """A second store of the same kind, empty."""
    folder = tmp_path / "target"
    folder.mkdir()
    async with open_store(folder) as opened:
        yield opened


@asynccontextmanager
async def open_sqlite(path: Path) -> AsyncIterator[Store]:
    """A SQLite store."""
    store = SqliteStore(path, synchronous="OFF")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[Store]:
    """A store to copy from; of the kind that is quick to fill."""
    async with open_sqlite(tmp_path / "filled.db") as opened:
        await fill(opened)
        yield opened


class CutOff(Exception):
    """The process is gone."""


class Failing(Archive):
    """An archive that fails at one of the calls that change it, before or after it did so."""

    def __init__(self, inner: Archive, fails_at: int, *, after: bool) -> None:
        self._inner = inner
        self._left = fails_at
        self._after = after

    async def identity(self) -> str:
        return await self._inner.identity()

    async def count(self, kind: Kind) -> int:
        return await self._inner.count(kind)

    async def read(self, kind: Kind, after: Key | None, limit: int) -> list[Record]:
        return await self._inner.read(kind, after, limit)

    async def mark(self) -> str | None:
        return await self._inner.mark()

    async def write(self, kind: Kind, records: Sequence[Record]) -> None:
        await self._perhaps(self._inner.write(kind, records))

    async def finish(self) -> None:
        await self._perhaps(self._inner.finish())

    async def clear(self) -> None:
        await self._perhaps(self._inner.clear())

    async def set_mark(self, text: str | None) -> None:
        await self._perhaps(self._inner.set_mark(text))

    async def _perhaps(self, call) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            call.close()
            raise CutOff
        await call
        if self._left == 0:
            raise CutOff


async def all_values(store: Store, kind: Kind) -> list[Value]:
    return [record.value async for part in pages(kind, store.archive) for record in part]


async def test_records_come_in_the_order_of_their_keys_whatever_the_page(store: Store):
    await fill(store)

    for kind in Kind:
        whole = [record async for part in pages(kind, store.archive) for record in part]
        one_by_one, after = [], None
        while part := await store.archive.read(kind, after, 1):
            one_by_one += part
            after = part[-1].key
        assert one_by_one == whole
        assert [record.key for record in whole] == sorted(record.key for record in whole)
        assert len(whole) == await store.archive.count(kind) > 0


async def test_a_copy_is_equal_and_works_on(store: Store, target: Store):
    await fill(store)
    before = await content(store)

    copied = await copy(store.archive, target.archive)

    assert not copied.resumed
    assert copied.sums == await sums(store) == await sums(target)
    assert await content(target) == before
    assert await target.archive.mark() is None
    assert await target.check() == await store.check() == []
    for name in ("first", "second", "empty"):
        assert await target.datasets.progress(name) == await store.datasets.progress(name)
        assert await target.datasets.recount(name) == []
    assert await target.tasks.ready_counts() == await store.tasks.ready_counts()
    assert await target.tasks.due(1e9, 10) == await store.tasks.due(1e9, 10)
    assert await target.tasks.expired(1e9, 10) == await store.tasks.expired(1e9, 10)
    assert await target.tasks.recent_attempts("first", 0, 9) == await store.tasks.recent_attempts(
        "first", 0, 9
    )


async def test_what_other_sites_ended_is_counted_in_the_copy(store: Store, target: Store):
    await fill(store)
    await claim(store, "first-1-1", lease="lent", pilot="site:a.b")
    await finish(store, "first-1-1", lease="lent")

    await copy(store.archive, target.archive)
    await target.archive.finish()

    found = await target.tasks.ended_at_sites("first")
    assert found == await store.tasks.ended_at_sites("first") == {"a.b": {Outcome.FINISHED: 1}}


async def test_a_copy_into_the_other_kind_and_back_is_equal(filled: Store, store: Store, tmp_path: Path):
    await copy(filled.archive, store.archive)
    async with open_sqlite(tmp_path / "back.db") as back:
        await copy(store.archive, back.archive)

        assert await content(back) == await content(filled)
        assert await sums(back) == await sums(store) == await sums(filled)
        assert await back.check() == []


async def test_work_goes_on_in_the_copy_where_it_was(filled: Store, target: Store):
    await copy(filled.archive, target.archive)

    added = await target.datasets.add(dataset("later"), "{}")
    finished = await finish(target, "first-3-0")
    for task in ("first-1-1", "first-1-2"):
        assert await claim(target, task)
        released = await finish(target, task)

    assert added.number == 4
    assert finished
    assert released
    # What another dataset's task waits for is known in the copy too.
    assert "second-1-0" in {name for name, _ in released.released}
    assert await target.check() == []


async def test_numbers_and_the_order_of_the_trail_are_kept(filled: Store, target: Store):

    await copy(filled.archive, target.archive)

    async def listed(one: Store) -> list[tuple[int, str]]:
        found = await one.datasets.select(DatasetFilter(), Page(limit=10))
        return [(item.number, item.dataset_id) for item in found.items]

    assert await listed(target) == await listed(filled) == [(3, "empty"), (2, "second"), (1, "first")]
    trail = (await target.audit.select(None, Page(limit=10))).items
    assert trail == (await filled.audit.select(None, Page(limit=10))).items


async def test_the_outbox_goes_on_in_the_copy_where_it_was(filled: Store, target: Store):
    await copy(filled.archive, target.archive)

    await target.outbox.add([operation("4"), operation("new")])
    assert await target.outbox.revive(3)

    found = await target.outbox.next("north", 0, 10)
    assert [one.operation.operation_id for one in found] == ["4", "new", "2"]
    assert found[0].number == 5
    assert 6 < found[1].number < found[2].number
    assert await target.outbox.backlog("east") == await filled.outbox.backlog("east")
    assert await target.errands.counts("north") == await filled.errands.counts("north")


async def test_any_process_may_write_the_documents_of_a_copy(filled: Store, target: Store):
    await filled.values.put("usage", "old", fence=7)
    await copy(filled.archive, target.archive)

    assert await target.values.put("usage", "new", fence=0)


async def test_a_page_that_is_written_twice_changes_nothing(filled: Store, target: Store):
    for kind in Kind:
        async for part in pages(kind, filled.archive):
            # A store's own keys of the trail mean nothing to others.
            placed = [replace(record, key=(place,)) for place, record in enumerate(part, start=1)]
            await target.archive.write(kind, placed if kind is Kind.AUDIT else part)
            await target.archive.write(kind, placed if kind is Kind.AUDIT else part)
    await target.archive.finish()

    once = await sums(target)
    await target.archive.finish()

    assert await sums(target) == once == await sums(filled)
    assert await target.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_copy_cut_off_anywhere_goes_on(
    open_store: OpenStore, filled: Store, tmp_path: Path, after: bool, request: pytest.FixtureRequest
):
    expected = await sums(filled)
    # Of a slow database every seventh call is enough: other tests cut off its own writes.
    step, calls = (7, 3) if "mongo" in request.node.name else (1, 1)
    while True:
        (tmp_path / str(calls)).mkdir()
        async with open_store(tmp_path / str(calls)) as target:
            try:
                await copy(filled.archive, Failing(target.archive, calls, after=after))
                break  # it was not cut off: every call has been tried
            except CutOff:
                pass
            if await target.archive.mark() is not None or not await target.archive.count(Kind.DATASET):
                copied = await copy(filled.archive, target.archive)
                assert copied.sums == expected
            assert await sums(target) == expected
            assert await target.check() == []
        calls += step
    # A page and a note for each kind, at least.
    assert calls > 2 * len(Kind)


async def test_a_store_that_holds_something_else_is_refused(filled: Store, target: Store):
    await target.accounts.add_user(User("eve", "hash", 1.0))
    before = await content(target)

    with pytest.raises(ConflictError, match=r"not empty.*user 1"):
        await copy(filled.archive, target.archive)

    assert await content(target) == before


async def test_a_copy_of_another_store_is_not_gone_on_with(filled: Store, target: Store, tmp_path: Path):
    with pytest.raises(CutOff):
        await copy(filled.archive, Failing(target.archive, 5, after=True))

    async with open_sqlite(tmp_path / "other.db") as other:
        with pytest.raises(ConflictError, match="something else is under way"):
            await copy(other.archive, target.archive)
        await copy(other.archive, target.archive, restart=True)

        assert await sums(target) == await sums(other)


async def test_a_target_that_was_tampered_with_is_found(filled: Store, target: Store):
    with pytest.raises(CutOff):
        await copy(filled.archive, Failing(target.archive, 14, after=True))
    await target.archive.write(Kind.USER, [Record(("eve",), User("eve", "hash", 1.0))])

    with pytest.raises(ConflictError, match=r"not equal to its source in: .*user") as refused:
        await copy(filled.archive, target.archive)

    told = refused.value.detail["kinds"]["user"]
    assert told["target"]["count"] == told["source"]["count"] + 1
    assert await target.archive.mark() is not None
    await copy(filled.archive, target.archive, restart=True)
    assert await sums(target) == await sums(filled)


async def test_a_source_that_changed_in_between_is_found(filled: Store, target: Store):
    with pytest.raises(CutOff):
        await copy(filled.archive, Failing(target.archive, 12, after=True))
    await finish(filled, "first-3-0")

    with pytest.raises(ConflictError, match="not equal to its source in: job"):
        await copy(filled.archive, target.archive)

    await copy(filled.archive, target.archive, restart=True)
    assert await sums(target) == await sums(filled)


async def test_clearing_leaves_an_empty_store(store: Store):
    await fill(store)

    await store.archive.clear()

    assert [await store.archive.count(kind) for kind in Kind] == [0] * len(Kind)
    assert await store.check() == []
    added = await store.datasets.add(dataset("new"), "{}")
    assert added.number == 1
    assert added.status is JobStatus.PROCESSING


async def test_what_is_about_the_store_itself_is_no_content(store: Store):
    identity = await store.archive.identity()
    await store.ping()
    await store.archive.set_mark("note")

    assert await store.archive.identity() == identity
    assert await store.archive.count(Kind.VALUE) == 0
    assert await store.archive.read(Kind.VALUE, None, 9) == []
    await store.archive.set_mark(None)
    await store.archive.set_mark(None)
    assert await store.archive.mark() is None


async def test_many_jobs_come_page_by_page(filled: Store, target: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("iceprod.store.archive.PAGE_WEIGHT", 90)
    await more_jobs(filled, 70)
    shown = []

    await copy(filled.archive, target.archive, progress=lambda *told: shown.append(told))

    assert await sums(target) == await sums(filled)
    jobs = [told[2:] for told in shown if told[:2] == ("copy", Kind.JOB)]
    assert len(jobs) > 3
    assert jobs[-1] == (84, 84)


async def test_the_samples_leave_no_field_at_its_default(store: Store):
    # So that a field that a model gets later cannot be forgotten in copies.
    await fill(store)
    values = [value for kind in Kind for value in await all_values(store, kind)]
    jobs = [value for value in values if isinstance(value, JobRecord)]
    values += [task for job in jobs for task in job.tasks]
    values += [log.info for log in values if isinstance(log, LogRecord)]
    plain, used = set(), set()

    for value in values:
        for field in fields(value):
            has_factory = field.default_factory is not MISSING
            default = field.default_factory() if has_factory else field.default
            if default is not MISSING:
                plain.add((type(value).__name__, field.name))
                if getattr(value, field.name) != default:
                    used.add((type(value).__name__, field.name))

    assert plain - used == set()


# -- archive files ---------------------------------------------------------------------------------


async def test_a_file_holds_it_all_and_fills_a_store(store: Store, target: Store, tmp_path: Path):
    await fill(store)
    path = tmp_path / "site.archive"

    size = await write_archive(store.archive, path)
    file = ArchiveFile(path)
    told = await file.open()
    await copy(file, target.archive)

    assert size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert told == await sums(store) == await sums(target)
    assert await content(target) == await content(store)
    assert await target.check() == []
    with pytest.raises(AlreadyExists):
        await write_archive(store.archive, path)


async def test_a_file_is_read_from_any_key_on(filled: Store, tmp_path: Path):
    path = tmp_path / "site.archive"
    await write_archive(filled.archive, path)
    file = ArchiveFile(path)
    await file.open()

    for kind in reversed(Kind):
        whole = [record async for part in pages(kind, filled.archive) for record in part]
        for start, record in enumerate(whole, start=1):
            rest = await file.read(kind, record.key, 1000)
            assert [item.key for item in rest] == [item.key for item in whole[start:]]


async def test_filling_from_a_file_goes_on_where_it_was_cut_off(filled: Store, target: Store, tmp_path: Path):
    path = tmp_path / "site.archive"
    await write_archive(filled.archive, path)
    file = ArchiveFile(path)
    await file.open()
    with pytest.raises(CutOff):
        await copy(file, Failing(target.archive, 9, after=True))

    again = ArchiveFile(path)
    await again.open()
    copied = await copy(again, target.archive)

    assert copied.resumed
    assert await sums(target) == await sums(filled)


@pytest.fixture
async def archive(filled: Store, tmp_path: Path) -> Path:
    """A file with something in it."""
    path = tmp_path / "site.archive"
    await write_archive(filled.archive, path)
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"something else",
        lambda data: gzip.compress(b"{}\n"),
        lambda data: gzip.compress(gzip.decompress(data).replace(b"ada", b"eve")),
        lambda data: gzip.compress(b"\n".join(gzip.decompress(data).split(b"\n")[:-3])),
        lambda data: gzip.compress(gzip.decompress(data).replace(b'"version":1', b'"version":9', 1)),
        lambda data: gzip.compress(gzip.decompress(data) + b"[]\n"),
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    ],
)
def test_a_damaged_file_is_refused(archive: Path, damage):
    archive.write_bytes(damage(archive.read_bytes()))

    with pytest.raises(InputError, match="no whole archive"):
        asyncio.run(ArchiveFile(archive).open())
