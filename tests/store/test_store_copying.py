"""``iceprod store copy`` in processes of its own, killed and repeated."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_filled import fill, more_jobs

from iceprod.store.sqlite import SqliteStore
from tests.servers import run
from tests.store import mongo_server

COPIER = Path(__file__).with_name("store_copier.py")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a filled SQLite store."""
    path = tmp_path_factory.mktemp("source") / "iceprod.db"

    async def make() -> None:
        store = SqliteStore(path, synchronous="OFF")
        await store.open()
        await fill(store)
        await more_jobs(store, 60)
        await store.close()

    asyncio.run(make())
    return f"sqlite:///{path}"


@contextmanager
def sqlite_target(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/target.db"


@contextmanager
def mongo_target(folder: Path) -> Iterator[str]:
    del folder
    with mongo_server.database() as url:
        yield url


TARGETS = [
    pytest.param(sqlite_target, id="sqlite"),
    pytest.param(
        mongo_target,
        id="mongo",
        marks=(
            pytest.mark.mongo,
            pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
        ),
    ),
]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a store of each kind that there is not yet."""
    with request.param(tmp_path) as url:
        yield url


def kill_after(writes: int, source: str, target: str) -> None:
    """Copy in a process that is killed after so many writes."""
    command = [sys.executable, str(COPIER), source, target, str(writes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.kill()


@pytest.mark.slow
def test_a_killed_copy_goes_on_when_it_is_repeated(source: str, target: str):
    kill_after(4, source, target)

    done = run("store", "copy", source, target, "--json")

    assert done.code == 0, done.err
    assert done.json["resumed"]
    assert done.json["verified"]
    assert done.json["kinds"]["job"]["count"] == 74
    assert (done.json["from"], done.json["to"]) == (source.removeprefix("sqlite:///"), named(target))


def named(url: str) -> str:
    """How a store is called in what is printed."""
    return url.removeprefix("sqlite:///")


@pytest.mark.slow
def test_a_killed_copy_that_was_tampered_with_is_found(source: str, tmp_path: Path):
    target = f"sqlite:///{tmp_path}/target.db"
    kill_after(7, source, target)
    connection = sqlite3.connect(tmp_path / "target.db")
    connection.execute("UPDATE tasks SET failures = 2 WHERE key = (SELECT max(key) FROM tasks)")
    connection.commit()
    connection.close()

    refused = run("store", "copy", source, target)
    afresh = run("store", "copy", source, target, "--restart")

    assert (refused.code, afresh.code) == (1, 0)
    assert "error: the copy is not equal to its source in: job; --restart" in refused.err
