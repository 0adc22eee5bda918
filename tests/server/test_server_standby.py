"""Standby copies of a site, and the terms that begin when something old takes the place of a site."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iceprod.config import Settings
from iceprod.errors import AlreadyExists, InputError, NotFoundError
from iceprod.server import backups, standby, stores
from iceprod.site_sync import terms
from iceprod.site_sync.terms import Term


def site(folder: Path, url: str = "") -> Settings:
    return Settings(server={"data_dir": folder}, grids={}, store={"url": url} if url else {})


async def values(settings: Settings, **more: str) -> dict[str, str | None]:
    """Some documents of a store, after others were put into it."""
    async with stores.opened(stores.own(settings)) as store:
        for name, text in more.items():
            await store.values.put(name, text)
        return {name: await store.values.get(name) for name in ("one", "two")}


async def term(settings: Settings) -> Term:
    async with stores.opened(stores.own(settings)) as store:
        return await terms.current(store.values)


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_every_restoration_begins_a_term_above_all_that_are_known(tmp_path: Path):
    north, copy, ahead = site(tmp_path / "north"), tmp_path / "copy", 4_000_000_000
    await values(north, one="1")
    await backups.backup(north, copy)
    assert await term(north) == Term()

    await backups.restore(north, copy)
    first = await term(north)
    await backups.restore(site(tmp_path / "other"), copy)
    async with stores.opened(stores.own(north)) as store:
        await terms.keep(store.values, Term(ahead))
    await backups.restore(north, copy)

    assert first.is_recovering
    assert first.number > 1_700_000_000  # another one wherever else the same backup is restored
    assert await term(north) == Term(ahead + 1, is_recovering=True)


async def test_a_database_that_was_restored_by_other_means_gets_a_term(tmp_path: Path):
    north = site(tmp_path)
    await values(north)

    began = await backups.begin_term(north)

    assert await term(north) == Term(began, is_recovering=True)
    with pytest.raises(NotFoundError):
        await backups.begin_term(site(tmp_path / "none"))


async def test_a_standby_copy_becomes_the_site(tmp_path: Path):
    north, other, folder = site(tmp_path / "north"), site(tmp_path / "other"), tmp_path / "standby"
    await values(north, one="1")
    for name in ("ca/ca.pem", "federation/top/key.pem", "credentials.key", "files/job_temp/d/0/f"):
        path = north.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    await standby.copy_to(north, folder, with_files=True)
    await values(north, two="2")
    (north.data_dir / "credentials.key").write_text("new")
    made = await standby.copy_to(north, folder, with_files=True)
    await values(other, one="0")

    former = await standby.promote(other, folder)

    assert former is not None
    assert copies(folder) == [made.name, "current"]
    assert await values(other) == {"one": "1", "two": "2"}
    assert (await term(other)).is_recovering
    assert await term(north) == Term()
    kept = {"ca/ca.pem", "federation/top/key.pem", "files/job_temp/d/0/f"}
    assert {name: (other.data_dir / name).read_text() for name in kept} == {name: name for name in kept}
    assert (other.data_dir / "credentials.key").read_text() == "new"


async def test_what_is_unchanged_is_on_the_disk_once(tmp_path: Path):
    north, folder = site(tmp_path / "north"), tmp_path / "standby"
    await values(north)
    (north.data_dir / "files").mkdir()
    (north.data_dir / "files" / "a").write_bytes(b"a")
    first = await asyncio.to_thread((await standby.copy_to(north, folder, with_files=True) / "files/a").stat)

    second = await standby.copy_to(north, folder, with_files=True)

    assert (second / "files" / "a").stat().st_ino == first.st_ino
    assert (second / "files" / "a").stat().st_ino != (north.data_dir / "files" / "a").stat().st_ino
    assert not (await standby.copy_to(north, folder) / "files").exists()


async def test_a_copy_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    north, folder = site(tmp_path / "north"), tmp_path / "standby"
    await values(north, one="1")
    made = await standby.copy_to(north, folder)

    async def refuse(*_: object) -> int:
        raise AlreadyExists("no room")

    monkeypatch.setattr(backups, "backup", refuse)
    with pytest.raises(AlreadyExists):
        await standby.copy_to(north, folder)

    assert copies(folder) == [made.name, "current"]
    assert (folder / "current" / "iceprod.db").exists()


async def test_only_sites_with_a_file_have_standby_copies(tmp_path: Path):
    mongo = site(tmp_path / "m", "mongodb://127.0.0.1:1/x")

    with pytest.raises(InputError, match="replica set"):
        await standby.copy_to(mongo, tmp_path / "standby")
    with pytest.raises(NotFoundError):
        await standby.promote(site(tmp_path), tmp_path)
