"""Commands on a site's database as a whole."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from iceprod.cli.progress import shown
from iceprod.model.user import User
from iceprod.store.sqlite import SqliteStore
from tests.servers import Ran

Command = Callable[..., Ran]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A database with two users and a document."""
    path = tmp_path / "site" / "iceprod.db"
    path.parent.mkdir()

    async def make() -> None:
        store = SqliteStore(path, synchronous="OFF")
        await store.open()
        await store.accounts.add_user(User("ada", "hash", 1.0))
        await store.accounts.add_user(User("eve", "hash", 2.0))
        await store.values.put("key", "value")
        await store.close()

    asyncio.run(make())
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where there is no database yet."""
    return tmp_path / "new" / "iceprod.db"


def test_copy_shows_what_both_have(bare: Command, source: Path, target: Path) -> None:
    ran = bare("store", "copy", f"sqlite:///{source}", f"sqlite:///{target}")

    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert ran.code == 0
    assert rows[0] == ["kind", "records", "sha256"]
    assert {row[0]: row[1] for row in rows[1:]}["user"] == "2"
    assert "copying user: 2 of 2\n" in ran.err
    assert "verifying user: 4 of 4\n" in ran.err
    assert ran.err.endswith(f"{target} is now equal to {source}\n")


def test_copy_prints_one_document_for_programs(bare: Command, source: Path, target: Path) -> None:
    ran = bare("store", "copy", f"sqlite:///{source}", f"sqlite:///{target}", "--json")

    assert {name: ran.json[name] for name in ("from", "to", "resumed", "verified")} == {
        "from": str(source),
        "to": str(target),
        "resumed": False,
        "verified": True,
    }
    assert ran.json["kinds"]["value"]["count"] == 1
    assert len(ran.json["kinds"]["value"]["sha256"]) == 64


def test_urls_come_by_ways_that_nobody_sees(
    bare: Command, source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_TARGET", f"sqlite:///{target}")
    lines = f"sqlite:///{target}\nsqlite:///{tmp_path}/third.db\n"

    first = bare("store", "copy", "settings", "env:THE_TARGET", "--data", str(source.parent))
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    second = bare("store", "copy", "-", "-")

    assert (first.code, second.code) == (0, 0)
    assert second.err.endswith(f"{tmp_path}/third.db is now equal to {target}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nonsense", "settings"], 2, "sqlite:///PATH or mongodb://"),
        (["env:NO_SUCH_VARIABLE", "settings"], 2, "NO_SUCH_VARIABLE is not set"),
        (["settings", "settings"], 2, "into itself"),
        (["sqlite:////no/such/file", "settings"], 3, "no site database"),
        (["settings"], 2, "Missing argument 'TO'"),
    ],
)
def test_what_cannot_be_copied_says_why(
    bare: Command, source: Path, arguments: list[str], code: int, told: str
) -> None:
    ran = bare("store", "copy", *arguments, "--data", str(source.parent))

    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err


def test_a_database_that_is_not_there_ends_with_5(bare: Command, source: Path) -> None:
    ran = bare("store", "copy", f"sqlite:///{source}", "mongodb://ada:secret@127.0.0.1:1/x")

    assert ran.code == 5
    assert "secret" not in ran.err


def test_check_finds_and_repairs(bare: Command, source: Path) -> None:
    sound = bare("store", "check", "--data", str(source.parent))
    connection = sqlite3.connect(source)
    connection.execute("INSERT INTO tokens VALUES ('f', 'user', 'nobody', 1, NULL, '', 0, '')")
    connection.commit()
    connection.close()
    wrong = bare("store", "check", "--data", str(source.parent))
    told = bare("store", "check", "--data", str(source.parent), "--json", "--repair")

    assert sound.code == 0
    assert sound.err.endswith(f"{source} is sound\n")
    assert wrong.code == told.code == 1
    problem = "a token is of the user 'nobody', who does not exist"
    assert f"wrong: {problem}\n{source} is not sound\n" in wrong.err
    assert (told.json["sound"], told.json["problems"], told.json["repaired"]) == (False, [problem], [])


def test_migrate_tells_the_versions(bare: Command, source: Path) -> None:
    connection = sqlite3.connect(source)
    (present,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()

    ran = bare("store", "migrate", "--data", str(source.parent))
    told = bare("store", "migrate", "--data", str(source.parent), "--json").json

    assert (ran.code, ran.err) == (0, f"{source} has schema {present} already\n")
    assert told == {"store": str(source), "before": present, "after": present}


def test_backup_and_restore_are_there_too(bare: Command, source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"

    taken = bare("store", "backup", str(copy), "--data", str(source.parent))
    restored = bare("store", "restore", str(copy), "--data", str(source.parent))

    assert (taken.code, restored.code) == (0, 0)
    assert restored.err.startswith(f"{source} is now as in {copy}\n")


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)

    with shown() as progress:
        for done in range(4):
            progress("copy", "job", done, 3)

    assert "copying job" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
