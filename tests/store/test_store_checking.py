"""What is found wrong in a store, and what of it a recount repairs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from store_filled import fill, sums

from iceprod.errors import StoreUnavailable
from iceprod.store.archive import Kind, Record
from iceprod.store.base import Store
from iceprod.store.checking import check
from iceprod.store.sqlite import SqliteStore, upkeep


async def test_a_sound_store_has_no_problems(store: Store):
    await fill(store)

    checked = await check(store.archive)

    assert checked.problems == ()
    assert checked.faults == 0
    assert checked.sums == await sums(store)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A filled store that is closed."""
    path = tmp_path / "store.db"
    store = SqliteStore(path, synchronous="OFF")
    await store.open()
    await fill(store)
    await store.close()
    return path


FAULTS = {
    "DELETE FROM configs WHERE number = 1 AND version = 2": "dataset 1 has no configuration 2",
    "UPDATE datasets SET jobs_made = 7 WHERE number = 1": "dataset 1 has 11 jobs, not 7 as it says",
    "DELETE FROM jobs WHERE key = (1 << 28) + 3": "job 1/4 follows no other",
    "DELETE FROM tasks WHERE key = (1 << 40) + (3 << 12) + 1": "job 1/3 lacks tasks",
    "DELETE FROM classes WHERE class_id = 100": "job 1/0 has tasks of a class that does not exist",
    "DELETE FROM users WHERE name = 'ada'": "a token is of the user 'ada', who does not exist",
    "UPDATE attempts SET key = key + (50 << 12) WHERE attempt = 2": "attempt 1/52/0/2 is of no task",
    "DELETE FROM datasets WHERE number = 2": "config: something belongs to dataset 2, which does not exist",
}


@pytest.mark.parametrize(("sql", "told"), FAULTS.items(), ids=FAULTS.values())
async def test_what_refers_to_nothing_is_told(path: Path, sql: str, told: str):
    _spoil(path, sql)
    store = SqliteStore(path, synchronous="OFF")
    await store.open()

    checked = await check(store.archive)

    assert told in checked.problems
    assert checked.faults == len(checked.problems)
    await store.close()


ORPHANS = {
    "DELETE FROM datasets WHERE number = 2": "jobs: 3 of datasets 2 to 2, which do not exist",
    "DELETE FROM datasets WHERE number = 3": "configs: 1 of datasets 3 to 8388607, which do not exist",
    "DELETE FROM jobs WHERE key = (1 << 28) + 10": "tasks: 3 of jobs that do not exist",
}


@pytest.mark.parametrize(("sql", "told"), ORPHANS.items(), ids=ORPHANS.values())
async def test_rows_that_belong_to_nothing_are_damage(path: Path, sql: str, told: str):
    _spoil(path, sql)
    store = SqliteStore(path, synchronous="OFF")
    await store.open()

    assert told in await store.check()
    await store.close()


async def test_of_many_faults_only_some_are_told(store: Store):
    await fill(store)

    checked = await check(_Doubled(store))

    assert checked.faults > len(checked.problems) == 100


class _Doubled:
    """The records of a store, in which every job is told a hundred times."""

    def __init__(self, store: Store) -> None:
        self._archive = store.archive

    def __getattr__(self, name: str) -> Callable[..., object]:
        return getattr(self._archive, name)

    async def read(self, kind: Kind, after, limit: int) -> list[Record]:
        records = await self._archive.read(kind, after, limit)
        return [record for record in records for _ in range(100)] if kind is Kind.JOB else records


async def test_an_open_store_is_known_to_be_open(path: Path):
    assert not upkeep.is_open(path)

    store = SqliteStore(path)
    await store.open()
    await store.ping()

    assert upkeep.is_open(path)
    await store.tasks.get("first-0-0")
    await store.close()
    assert not upkeep.is_open(path)


def test_the_database_of_another_program_is_left_alone(tmp_path: Path):
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("CREATE TABLE things (name)")
    other.commit()

    assert not upkeep.is_open(path)

    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert not upkeep.is_open(path)
    with closing(sqlite3.connect(path)) as again:
        assert again.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_no_database_is_told(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("no database " * 1000)

    with pytest.raises(StoreUnavailable):
        upkeep.is_open(path)
    with pytest.raises(StoreUnavailable):
        upkeep.version(path)


async def test_the_version_of_a_store_is_told(path: Path):
    assert upkeep.version(path) > 1
    _spoil(path, "PRAGMA user_version = 1")
    assert upkeep.version(path) == 1


def _spoil(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(sql).rowcount != 0
    connection.close()
