"""What every store promises of files, usage, quotas and credentials."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from store_samples import pages

from iceprod.errors import QueryError
from iceprod.model.file import (
    Direction,
    FileRecord,
    Flow,
    OriginCredential,
    Quota,
    Replica,
    Stored,
    Usage,
)
from iceprod.model.paging import Page
from iceprod.store.base import Store
from iceprod.store.files import FileFilter, UsageFilter

HERE = Replica("/files/a", "", 1.0)
THERE = Replica("gsiftp://x.org/a", "north", 2.0)


def record(name: str = "a", dataset_id: str = "d", **fields: Any) -> FileRecord:
    """A file of 10 bytes."""
    values: dict[str, Any] = {
        "size_bytes": 10,
        "checksums": {"sha256": "aa"},
        "owner": "ada",
        "group": "ice",
        "created_at": 1.0,
    }
    return FileRecord(dataset_id, name, **{**values, **fields})


async def kept(store: Store) -> dict[tuple[str, str], tuple[int, int]]:
    """Bytes and files of every holder, as it is listed and as it is asked for."""
    found = {}
    for kind in ("user", "group", "dataset"):
        for part in await pages(store.files.holders, kind, limit=2):
            for one in part:
                assert await store.files.stored(kind, one.holder) == one
                found[kind, one.holder] = (one.bytes_kept, one.files_kept)
    return found


async def names(store: Store, *, limit: int = 2, **wanted: Any) -> list[str]:
    """Dataset and name of what is found, page by page."""
    found = await pages(store.files.select, FileFilter(**wanted), limit=limit)
    assert all(len(part) <= limit for part in found)
    return [f"{one.dataset_id}:{one.name}" for part in found for one in part]


async def test_a_file_comes_back_as_it_was_given(store: Store):
    given = record(
        "µ/1.npz",
        size_bytes=1 << 45,
        checksums={"sha256": "aa", "md5": "bb", "x.$y": "c"},
        job_index=3,
        task_index=0,
        replicas=(HERE, THERE),
    )

    assert await store.files.put([given, record(dataset_id="")]) == [True, True]

    assert await store.files.get("d", "µ/1.npz") == given
    assert await store.files.get("", "a") == record(dataset_id="")
    assert (await store.files.select(FileFilter(dataset_id="d"), Page())).items == (given,)


async def test_unknown_files_are_none_or_nothing(store: Store):
    assert await store.files.get("d", "a") is None
    assert await store.files.put([]) == []
    assert (await store.files.select(FileFilter(), Page())).items == ()
    assert not await store.files.add_replica("d", "a", HERE)
    assert not await store.files.drop_replica("d", "a", HERE.url)
    assert await store.files.delete("d", ["a"]) == await store.files.delete("d", []) == 0
    assert await store.files.stored("user", "ada") == Stored("user", "ada")
    assert await kept(store) == {}


async def test_replicas_outlast_a_record_of_the_same_contents(store: Store):
    await store.files.put([record(replicas=(HERE,))])
    again = replace(HERE, seen_at=9.0)

    assert await store.files.put([record(replicas=(again, THERE), owner="eve")]) == [False]
    assert await store.files.put([record(owner="eve")]) == [False]

    found = await store.files.get("d", "a")
    assert found
    assert found.owner == "eve"
    assert found.replicas == (again, THERE)
    other = record(checksums={"sha256": "bb"}, replicas=(HERE,))
    assert await store.files.put([other]) == [False]
    assert await store.files.get("d", "a") == other


async def test_the_last_of_two_records_of_one_call_stays(store: Store):
    first, last = record(replicas=(HERE,)), record(size_bytes=3, replicas=(THERE,))

    assert await store.files.put([first, last, record("b")]) == [True, False, True]

    assert await store.files.get("d", "a") == replace(last, replicas=(HERE, THERE))
    assert await kept(store) == {
        ("user", "ada"): (13, 2),
        ("group", "ice"): (13, 2),
        ("dataset", "d"): (13, 2),
    }


async def test_places_come_and_go_and_the_file_goes_with_the_last(store: Store):
    await store.files.put([record(replicas=(HERE,))])
    again = replace(THERE, seen_at=7.0)

    assert await store.files.add_replica("d", "a", THERE)
    assert await store.files.add_replica("d", "a", again)
    found = await store.files.get("d", "a")
    assert found
    assert found.replicas == (HERE, again)
    assert not await store.files.drop_replica("d", "a", "elsewhere")
    assert await store.files.drop_replica("d", "a", HERE.url)
    assert await store.files.stored("user", "ada") == Stored("user", "ada")
    assert await store.files.drop_replica("d", "a", THERE.url)

    assert await store.files.get("d", "a") is None
    assert await kept(store) == {}


async def test_what_lies_elsewhere_alone_is_not_kept_here(store: Store):
    await store.files.put([record(replicas=(THERE,)), record("b", replicas=(HERE, THERE))])
    assert await store.files.stored("user", "ada") == Stored("user", "ada", 10, 1)

    assert await store.files.drop_replica("d", "b", HERE.url)
    assert await kept(store) == {}
    assert await store.files.add_replica("d", "a", HERE)
    assert await store.files.stored("dataset", "d") == Stored("dataset", "d", 10, 1)
    await store.files.put([record(size_bytes=7, replicas=(THERE,))])

    assert await store.files.stored("group", "ice") == Stored("group", "ice", 7, 1)
    assert await store.files.recount() == 0
    assert await store.check() == []
    await store.files.put([record(checksums={"sha256": "cc"}, replicas=(THERE,))])
    assert await kept(store) == {}


async def test_what_is_kept_follows_the_files(store: Store):
    await store.files.put([record("a"), record("b", "e", owner="eve", size_bytes=1 << 41)])
    await store.files.put([record("a", size_bytes=4, owner="eve"), record("c", "", owner="")])

    assert await kept(store) == {
        ("user", "eve"): ((1 << 41) + 4, 2),
        ("group", "ice"): ((1 << 41) + 14, 3),
        ("dataset", "d"): (4, 1),
        ("dataset", "e"): (1 << 41, 1),
    }
    assert await store.files.delete("e", ["b", "x", "b"]) == 1
    assert await store.files.delete("d", ["a"]) == 1
    assert await kept(store) == {("group", "ice"): (10, 1)}
    assert await store.files.recount() == 0
    assert await store.check() == []


async def test_files_are_found_by_what_is_wanted(store: Store):
    await store.files.put(
        [
            record("job_temp/0/x", job_index=0, task_index=1),
            record("job_temp/0/y", job_index=0, task_index=0),
            record("job_temp/10/x", job_index=10, task_index=1, checksums={"sha256": "bb"}),
            record("job_temp/10/x", "e", owner="eve", group="dust", job_index=10, task_index=0),
            record("other", "e", owner="eve", group="ice", checksums={"sha256": "bb"}),
            record("site", "", owner="", group=""),
        ]
    )

    everything = [
        "d:job_temp/0/x",
        "d:job_temp/0/y",
        "d:job_temp/10/x",
        "e:job_temp/10/x",
        "e:other",
        ":site",
    ]
    assert await names(store) == everything
    assert await names(store, prefix="job_temp/10/") == ["d:job_temp/10/x", "e:job_temp/10/x"]
    assert await names(store, prefix="job_temp/10/x", limit=1) == ["d:job_temp/10/x", "e:job_temp/10/x"]
    assert await names(store, prefix="zz") == []
    assert await names(store, dataset_id="e") == ["e:job_temp/10/x", "e:other"]
    assert await names(store, dataset_id="") == [":site"]
    assert await names(store, dataset_id="d", prefix="job_temp/0", limit=1) == everything[:2]
    assert await names(store, dataset_id="d", job_index=0) == everything[:2]
    assert await names(store, dataset_id="d", job_index=0, task_index=0) == ["d:job_temp/0/y"]
    assert await names(store, dataset_id="d", task_index=1, limit=1) == ["d:job_temp/0/x", "d:job_temp/10/x"]
    assert await names(store, sha256="bb") == ["d:job_temp/10/x", "e:other"]
    assert await names(store, sha256="bb", dataset_id="e") == ["e:other"]


async def test_files_are_seen_by_owner_and_group_only(store: Store):
    await store.files.put(
        [
            record("1"),
            record("2", owner="eve", group="ice"),
            record("3", owner="ada", group="dust"),
            record("4", owner="eve", group="dust"),
            record("2", "e", owner="ada", group="ice"),
        ]
    )

    assert await names(store, visible_to=("ada", frozenset({"ice"})), limit=1) == ["d:1", "d:2", "e:2", "d:3"]
    assert await names(store, visible_to=("ada", frozenset())) == ["d:1", "e:2", "d:3"]
    assert await names(store, visible_to=("bob", frozenset({"ice", "dust"}))) == [
        "d:1",
        "d:2",
        "e:2",
        "d:3",
        "d:4",
    ]
    assert await names(store, visible_to=("bob", frozenset())) == []
    assert await names(store, visible_to=("ada", frozenset({"ice"})), prefix="2", dataset_id="d") == ["d:2"]
    assert await names(store, visible_to=("eve", frozenset()), sha256="aa") == ["d:2", "d:4"]


async def test_many_pages_hold_every_file_once(store: Store):
    chance = random.Random(5)
    given = [
        record(f"{chance.choice('abc')}/{n}", chance.choice("de"), owner=chance.choice(["ada", "eve"]))
        for n in range(60)
    ]
    await store.files.put(given)

    for wanted in ({}, {"prefix": "b/"}, {"dataset_id": "e"}, {"visible_to": ("ada", frozenset({"ice"}))}):
        expected = sorted(
            (one.name, one.dataset_id)
            for one in given
            if one.name.startswith(str(wanted.get("prefix", "")))
            and one.dataset_id in wanted.get("dataset_id", "de")
        )
        assert await names(store, limit=7, **wanted) == [f"{dataset}:{name}" for name, dataset in expected]


async def test_many_at_once_change_the_same_files(store: Store):
    async def change(number: int) -> None:
        await store.files.put([record(f"{n % 3}", size_bytes=number + n) for n in range(number % 3 + 1)])
        await store.files.add_replica("d", "0", Replica(f"/u{number}", "", 1.0))
        if number % 4 == 0:
            await store.files.delete("d", ["1", "2"])

    await asyncio.gather(*(change(number) for number in range(12)))

    found = (await store.files.select(FileFilter(), Page())).items
    counted = (sum(one.size_bytes for one in found), len(found))
    assert set((await kept(store)).values()) == {counted}
    assert await store.files.recount() == 0
    (first,) = [one for one in found if one.name == "0"]
    assert {replica.url for replica in first.replicas} == {f"/u{number}" for number in range(12)}


async def test_a_wrong_cursor_is_refused(store: Store):
    for call in (
        store.files.select(FileFilter(), Page(cursor="x")),
        store.files.holders("user", Page(cursor="x")),
        store.usage.select(UsageFilter(), Page(cursor="x")),
        store.files.select(FileFilter(), Page(limit=0)),
    ):
        with pytest.raises(QueryError):
            await call


# -- usage, quotas, credentials -----------------------------------------------------------------


async def test_use_adds_up_by_day_and_flow(store: Store):
    ada = Flow("ada", Direction.OUT, "proxy", "ice", "d", "tape", "north")
    eve = Flow("eve", Direction.OUT, "proxy")
    await store.usage.add([Usage("2026-01-02", ada, 1 << 40, 1), Usage("2026-01-02", ada, 2, 1)])
    await store.usage.add([Usage("2026-01-02", ada, 3, 2), Usage("2026-01-03", eve, 5, 1)])
    await store.usage.add([Usage("2026-01-01", replace(ada, direction=Direction.IN), 7, 1)])
    await store.usage.add([])

    async def told(**wanted: Any) -> list[Usage]:
        found = await pages(store.usage.select, UsageFilter(**wanted), limit=1)
        return [one for part in found for one in part]

    newest = [
        Usage("2026-01-03", eve, 5, 1),
        Usage("2026-01-02", ada, (1 << 40) + 5, 4),
        Usage("2026-01-01", replace(ada, direction=Direction.IN), 7, 1),
    ]
    assert await told() == newest
    assert await told(since="2026-01-02") == newest[:2]
    assert await told(until="2026-01-02") == newest[1:]
    assert await told(since="2026-01-02", until="2026-01-02") == newest[1:2]
    assert await told(user="ada") == await told(dataset_id="d") == newest[1:]
    assert await told(user="ada", dataset_id="") == []


async def test_use_added_by_many_at_once_is_not_lost(store: Store):
    use = Usage("2026-01-02", Flow("ada", Direction.IN, "upload"), 3, 1)

    await asyncio.gather(*(store.usage.add([use]) for _ in range(10)))

    assert (await store.usage.select(UsageFilter(), Page())).items == (
        replace(use, bytes_moved=30, transfers=10),
    )


async def test_limits_are_set_and_forgotten(store: Store):
    limits = [Quota("group", "ice", 1 << 50, 7), Quota("user", "", 5, None), Quota("user", "ada", None, 0)]
    for quota in reversed(limits):
        await store.usage.set_quota(replace(quota, bytes_most=1))
        await store.usage.set_quota(quota)

    assert await store.usage.quotas() == limits
    await store.usage.set_quota(Quota("user", ""))
    await store.usage.set_quota(Quota("dataset", "none"))
    assert await store.usage.quotas() == [limits[0], limits[2]]


async def test_a_secret_is_kept_for_origin_and_user(store: Store):
    site = OriginCredential("tape", "", "x509", b"\x00\xff" * 50, 1.0, 60.0, "site's")
    own = OriginCredential("tape", "ada", "token", b"1", 2.0, 50.0)
    lasting = OriginCredential("disk", "ada", "password", b"2", 3.0)
    for credential in (replace(own, sealed=b"old"), site, own, lasting):
        await store.credentials.put(credential)

    assert await store.credentials.get("tape", "") == site
    assert await store.credentials.get("tape", "ada") == own
    assert await store.credentials.get("tape", "eve") is None
    assert await store.credentials.of_user("ada") == [lasting, own]
    assert await store.credentials.of_user("") == [site]
    assert await store.credentials.expiring(60.0, 9) == [own]
    assert await store.credentials.expiring(99.0, 9) == [own, site]
    assert await store.credentials.expiring(99.0, 1) == [own]
    assert await store.credentials.delete("tape", "ada")
    assert not await store.credentials.delete("tape", "ada")
    assert await store.credentials.of_user("ada") == [lasting]
