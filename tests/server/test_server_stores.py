"""Stores beside their servers: which one is meant, who uses it, backups into either kind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from iceprod.config import Settings, load
from iceprod.errors import AlreadyExists, ConfigError, ConflictError, InputError, NotFoundError
from iceprod.model.dataset import Dataset
from iceprod.model.lifecycle import JobStatus
from iceprod.model.principal import PrincipalKind
from iceprod.model.resources import Requirements
from iceprod.model.user import Token, User
from iceprod.server import backups, beside, stores
from iceprod.server.diagnosis import diagnose
from iceprod.server.process import Server
from iceprod.server.processes.directory import data_directory
from iceprod.services import duty, news
from iceprod.store.archive import Kind
from iceprod.store.base import Message, Store, TaskClass
from iceprod.store.canonical import Sum
from iceprod.store.copying import digest, silent
from tests.store import mongo_server

needs_mongo = pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT)


def site(folder: Path, url: str = "") -> Settings:
    """The settings of a site with its data in ``folder``."""
    server = {"data_dir": folder, "port": 0, "rpc_port": 0, "drain_s": 1.0}
    return load(overrides={"server": server, "store": {"url": url}, "grids": {}})


@pytest.fixture
def mongo_url() -> Iterator[str]:
    """The URL of a database that there is not yet."""
    with mongo_server.database() as url:
        yield url


async def fill(settings: Settings) -> dict[Kind, object]:
    """Something in the store of a site; what there is then."""
    async with stores.opened(stores.own(settings)) as store:
        dataset = Dataset("d", 0, "ada", JobStatus.PROCESSING, 1.0, 1.0, 3, ("a",), ((),), ((),))
        await store.datasets.add(dataset, "{}")
        await store.datasets.add_classes([TaskClass(7, "d", 0, Requirements())])
        await store.datasets.materialise("d", 0, [[7]] * 2, now=2.0)
        await store.accounts.add_user(User("ada", "hash", 1.0))
        await store.accounts.add_token(Token("0f" * 32, PrincipalKind.USER, "ada", 1.0, None))
        await store.values.put("key", "value", fence=3)
        return await content(store)


async def content(store: Store) -> dict[Kind, object]:
    return {kind: await digest(kind, store.archive) for kind in Kind}


async def content_of(settings: Settings) -> dict[Kind, object]:
    async with stores.opened(stores.own(settings)) as store:
        assert await store.check() == []
        return await content(store)


def as_in_backup(found: dict[Kind, object], expected: dict[Kind, object]) -> bool:
    """Whether all is as in a backup, but for the document of the term that began when it was restored."""
    there, here = found[Kind.VALUE], expected[Kind.VALUE]
    assert isinstance(there, Sum)
    assert isinstance(here, Sum)
    return {**found, Kind.VALUE: there.count - 1} == {**expected, Kind.VALUE: here.count}


# -- which store is meant --------------------------------------------------------------------------


def test_a_url_says_which_store_is_meant(tmp_path: Path):
    settings = site(tmp_path)

    assert stores.at(settings, f"sqlite:///{tmp_path}/iceprod.db") == stores.own(settings)
    other = stores.at(settings, f"sqlite:///{tmp_path}/other/x.db")
    assert (other.path, other.lock_dir) == (tmp_path / "other/x.db", None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "server.lock").touch()
    assert stores.at(settings, f"sqlite:///{tmp_path}/other/x.db").lock_dir == tmp_path / "other"


@pytest.mark.parametrize("password", ["secret", "secret#1", "secret?1", "secret/1", "secret[1", "secret℀"])
def test_a_name_of_a_store_holds_no_password(tmp_path: Path, password: str):
    url = f"mongodb://ada:{password}@db.example:27017,db2.example/ice?authSource=admin"

    place = stores.at(site(tmp_path), url)

    assert place.name == "mongodb://db.example:27017,db2.example/ice"


@pytest.mark.parametrize("url", ["", "x", "sqlite:///", "mongodb://", "postgres://x/y", "/path/to/file"])
def test_what_is_no_url_of_a_store_is_refused(url: str, tmp_path: Path):
    with pytest.raises(InputError, match="sqlite:///PATH or mongodb://"):
        stores.at(site(tmp_path), url)


# -- who uses it -----------------------------------------------------------------------------------


async def copied(source: Settings, target: Settings, *, force: bool = False) -> None:
    places = stores.own(source), stores.own(target)
    await stores.copy(*places, progress=silent, force=force, restart=False)


async def test_a_store_is_copied_while_nobody_uses_it(tmp_path: Path):
    source, target = site(tmp_path / "a"), site(tmp_path / "b")
    expected = await fill(source)

    with data_directory(source.data_dir), pytest.raises(ConflictError, match=r"a server uses .*stop it"):
        await copied(source, target)
    with data_directory(target.data_dir), pytest.raises(ConflictError, match="a server uses"):
        await copied(source, target)
    await copied(source, target)

    assert await content_of(target) == expected


async def test_a_store_is_copied_within_the_directory_of_a_site(tmp_path: Path):
    source = site(tmp_path)
    expected = await fill(source)
    (tmp_path / "server.lock").touch()
    target = stores.at(source, f"sqlite:///{tmp_path}/new.db")

    await stores.copy(stores.own(source), target, progress=silent, force=False, restart=False)

    assert await content_of(target.settings) == expected


async def test_a_store_that_somebody_else_has_open_is_in_use(tmp_path: Path):
    source, target = site(tmp_path / "a"), site(tmp_path / "c")
    expected = await fill(source)
    elsewhere = stores.at(site(tmp_path / "b"), f"sqlite:///{source.store_path}")
    async with stores.opened(stores.own(source)) as store:
        await store.ping()

        with pytest.raises(ConflictError, match="another process uses"):
            await stores.check(elsewhere, progress=silent, force=False, repair=False)
        await copied(source, target, force=True)

    assert await content_of(target) == expected


async def test_a_store_cannot_be_copied_into_itself_or_from_nowhere(tmp_path: Path):
    with pytest.raises(InputError, match="into itself"):
        await copied(site(tmp_path), site(tmp_path))
    with pytest.raises(NotFoundError):
        await copied(site(tmp_path / "a"), site(tmp_path / "b"))
    assert not (tmp_path / "a").exists()


@pytest.mark.mongo
@needs_mongo
@pytest.mark.slow
async def test_a_database_is_in_use_while_a_holder_of_its_duties_lives(
    tmp_path: Path, mongo_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(duty, "TTL_S", 0.5)
    monkeypatch.setattr(news, "HEARTBEAT_S", 0.25)
    source, target = site(tmp_path / "a", mongo_url), site(tmp_path / "b")
    expected = await fill(source)
    async with stores.opened(stores.own(source)) as store:
        assert store.sharing
        hold = await store.sharing.take(duty.NAME, "p", expected=None)
        assert hold

        async def live() -> None:
            while True:
                await store.sharing.beat(hold)

        beating = asyncio.create_task(live())
        with pytest.raises(ConflictError, match=r"a server uses mongodb://127\.0\.0\.1"):
            await copied(source, target)
        with pytest.raises(ConflictError, match="a server uses"):
            await backups.backup(source, tmp_path / "refused")
        beating.cancel()
        await store.sharing.publish([Message("q", 1, b"")])

        async def tell() -> None:
            number = 1
            while True:
                number += 1
                assert store.sharing
                await store.sharing.publish([Message("q", number, b"")])

        telling = asyncio.create_task(tell())
        with pytest.raises(ConflictError, match="a server uses"):
            await stores.migrate(stores.own(source))
        telling.cancel()
    # One that was killed has gone silent.
    await copied(source, target)

    assert await content_of(target) == expected
    assert not (tmp_path / "refused").exists()


async def test_no_server_starts_with_an_unfinished_copy(tmp_path: Path):
    settings = site(tmp_path)
    await fill(settings)
    async with stores.opened(stores.own(settings)) as store:
        await store.archive.set_mark("note")

    with pytest.raises(ConfigError, match="unfinished copy"):
        await Server(settings).start()
    with pytest.raises(ConfigError, match="unfinished copy"):
        await beside.make_token(settings, name="ada", label="")
    with pytest.raises(ConflictError, match="unfinished copy"):
        await copied(settings, site(tmp_path / "b"))
    (told,) = [finding for finding in await diagnose(settings) if finding.check == "store"]
    found = await stores.check(stores.own(settings), progress=silent, force=False, repair=False)
    assert (told.verdict, told.message) == ("failed", "it is an unfinished copy")
    assert found.unfinished
    assert not found.is_sound


# -- checking and migrating ------------------------------------------------------------------------


async def test_a_repair_counts_afresh(tmp_path: Path):
    settings = site(tmp_path)
    await fill(settings)
    connection = sqlite3.connect(tmp_path / "iceprod.db")
    connection.execute("UPDATE job_counts SET processing = 5")
    connection.commit()
    connection.close()
    place = stores.own(settings)

    wrong = await stores.check(place, progress=silent, force=False, repair=False)
    repaired = await stores.check(place, progress=silent, force=False, repair=True)

    assert wrong.damage == ("dataset d: jobs/processing is 5, counted 2",)
    assert not wrong.is_sound
    assert [(d.what, d.stored, d.counted) for d in repaired.repaired] == [("jobs/processing", 5, 2)]
    assert repaired.is_sound


async def test_an_older_schema_is_brought_up_to_date(tmp_path: Path):
    settings = site(tmp_path)
    place = stores.own(settings)
    with pytest.raises(NotFoundError):
        await stores.migrate(place)
    (tmp_path / "iceprod.db").touch()

    made = await stores.migrate(place)
    again = await stores.migrate(place)

    assert made.before == 0
    assert made.after == again.before == again.after > 1


@pytest.mark.mongo
@needs_mongo
async def test_the_schema_of_a_database_is_told(tmp_path: Path, mongo_url: str):
    place = stores.own(site(tmp_path, mongo_url))

    made = await stores.migrate(place)

    assert made.before == 0
    assert (await stores.migrate(place)).before == made.after >= 1


# -- backups ---------------------------------------------------------------------------------------


@pytest.fixture
async def filled(tmp_path: Path) -> tuple[Settings, dict[Kind, object]]:
    """A site with a SQLite store, and what is in it."""
    settings = site(tmp_path / "filled")
    return settings, await fill(settings)


async def test_a_database_file_comes_back(filled: tuple[Settings, dict[Kind, object]], tmp_path: Path):
    settings, expected = filled
    size = await backups.backup(settings, tmp_path / "copy")
    other = site(tmp_path / "other")

    former = await backups.restore(other, tmp_path / "copy")
    second = await backups.restore(other, tmp_path / "copy")

    assert size == (tmp_path / "copy").stat().st_size
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert former is None
    assert second
    assert second.exists()
    assert as_in_backup(await content_of(other), expected)


@pytest.mark.mongo
@needs_mongo
@pytest.mark.slow
async def test_either_backup_fills_either_kind_of_store(
    filled: tuple[Settings, dict[Kind, object]], tmp_path: Path, mongo_url: str
):
    settings, expected = filled
    mongo, back = site(tmp_path / "m", mongo_url), site(tmp_path / "back")
    await backups.backup(settings, tmp_path / "file")

    await backups.restore(mongo, tmp_path / "file")
    size = await backups.backup(mongo, tmp_path / "archive")
    await backups.restore(back, tmp_path / "archive")

    assert as_in_backup(await content_of(mongo), expected)
    assert as_in_backup(await content_of(back), expected)
    assert size == (tmp_path / "archive").stat().st_size
    with pytest.raises(ConflictError, match="not empty"):
        await backups.restore(mongo, tmp_path / "archive")
    with mongo_server.database() as url:
        again = site(tmp_path / "again", url)
        await backups.restore(again, tmp_path / "archive")
        assert as_in_backup(await content_of(again), expected)


async def test_a_damaged_archive_leaves_the_store_as_it_was(
    filled: tuple[Settings, dict[Kind, object]], tmp_path: Path
):
    settings, expected = filled
    archive = tmp_path / "archive"
    archive.write_bytes(b"\x1f\x8b and nothing else")

    with pytest.raises(InputError, match="no whole archive"):
        await backups.restore(settings, archive)

    assert await content_of(settings) == expected


async def test_a_backup_overwrites_nothing_and_needs_a_directory(
    filled: tuple[Settings, dict[Kind, object]], tmp_path: Path
):
    (tmp_path / "here").write_text("mine")

    with pytest.raises(AlreadyExists):
        await backups.backup(filled[0], tmp_path / "here")
    with pytest.raises(InputError, match="no directory"):
        await backups.backup(filled[0], tmp_path / "none" / "here")
    with pytest.raises(NotFoundError):
        await backups.backup(site(tmp_path / "new"), tmp_path / "there")
