"""What SQLite's adapter promises beyond the contract: group commit, crashes, full disks, indexes."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import test_store_contract
import test_store_federation
import test_store_files
import test_store_records
from store_samples import CHAIN, claim, dataset, finish, make, run

from iceprod.errors import ConfigError, QueryError, StoreUnavailable
from iceprod.model.file import FileRecord
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.task import Ended, Move, Outcome
from iceprod.store.base import LogInfo
from iceprod.store.sqlite import SqliteStore, keys, rows, schema
from iceprod.store.sqlite.transaction import SqliteTransaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, synchronous="OFF")
    await store.open()
    return store


@pytest.fixture
async def store(path: Path):
    store = await opened(path)
    yield store
    await store.close()


def size_of(path: str | Path) -> int:
    return os.stat(path).st_size


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# -- group commit ----------------------------------------------------------------------------


async def test_many_callers_share_one_commit(store: SqliteStore):
    await make(store, jobs_wanted=200)
    before = replace(store.statistics)

    claimed = await asyncio.gather(*(claim(store, f"d-{job}-0", lease=f"L{job}") for job in range(200)))

    assert all(claimed)
    assert store.statistics.commits - before.commits <= 2
    assert store.statistics.operations - before.operations == 200
    assert store.statistics.largest_batch >= 100


async def test_an_operation_that_raises_is_undone_alone(store: SqliteStore):
    await make(store, jobs_wanted=3)

    def broken(transaction: SqliteTransaction) -> None:
        transaction.work.move(keys.task_key(1, 1, 0), Move("d-1-0", TaskEvent.SUSPENDED), now=3.0)
        transaction.settled().execute("DELETE FROM jobs")
        raise ValueError("a bug")

    first, error, last = await asyncio.gather(
        claim(store, "d-0-0"), store._writer.run(broken), claim(store, "d-2-0"), return_exceptions=True
    )

    assert isinstance(error, ValueError)
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)
    assert first is not None
    assert last is not None
    task = await store.tasks.get("d-1-0")
    assert task
    assert task.status is TaskStatus.WAITING
    assert store.statistics.failures == 1
    assert await store.check() == []


async def test_a_closed_store_is_one_file(path: Path):
    store = await opened(path)
    await make(store, jobs_wanted=5)
    await store.tasks.get("d-0-0")

    await store.close()

    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_closing_carries_out_what_was_accepted(path: Path):
    store = await opened(path)
    await make(store, jobs_wanted=50)
    claims = [asyncio.ensure_future(claim(store, f"d-{job}-0")) for job in range(50)]
    await asyncio.sleep(0)

    await store.close()
    await store.close()

    assert all(await asyncio.gather(*claims))
    for call in (store.tasks.get("d-0-0"), store.tasks.due(1.0, 1), claim(store, "d-0-0"), store.check()):
        with pytest.raises(StoreUnavailable):
            await call
    store = await opened(path)
    assert len(await store.tasks.held_by("p")) == 50
    await store.close()


async def test_a_store_that_was_never_opened_says_so(path: Path):
    store = SqliteStore(path)

    with pytest.raises(StoreUnavailable):
        await store.check()
    await store.close()


async def test_what_another_process_writes_is_noticed(store: SqliteStore, path: Path):
    await make(store, jobs_wanted=1)
    other = await opened(path)
    await other.datasets.update("d", test_store_contract.DatasetPatch(always_active=True), now=3.0)

    (finished,) = await run(store, "d-0-0")

    assert finished
    assert finished.dataset is None
    await other.close()


async def test_a_value_that_no_row_can_hold_is_refused(store: SqliteStore):
    await make(store)

    with pytest.raises(QueryError):
        await store.logs.get("d-0-0", 10**30, "stdout")
    with pytest.raises(QueryError):
        await store.accounts.user("\ud800")


# -- crashes -----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_killed_process_loses_nothing_it_has_answered(path: Path):
    store = await opened(path)
    await make(store, jobs_wanted=8)
    await store.close()

    for answers in (1, 40, 300):
        last = _killed_after(answers, path)
        store = await opened(path)
        for job, (attempt, status) in last.items():
            task = await store.tasks.get(f"d-{job}-0")
            assert task
            # The answer to one more move may have been on its way when the process died.
            assert (task.attempt, task.status) == (attempt, status) or _follows(task, attempt, status)
        assert await store.check() == []
        await store.close()


def _follows(task, attempt: int, status: str) -> bool:
    if status == TaskStatus.PROCESSING:
        return task.attempt == attempt and task.status is TaskStatus.WAITING
    return task.attempt == attempt + 1 and task.status is TaskStatus.PROCESSING


def _killed_after(answers: int, path: Path) -> dict[int, tuple[int, str]]:
    """Kill the victim after that many answers; the last one for each job."""
    victim = Path(__file__).with_name("store_victim.py")
    last = {}
    with subprocess.Popen([sys.executable, victim, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(answers):
            process.stdout.readline()
        process.kill()
        # All that it wrote before it died counts as answered, but for a torn last line.
        lines = [line for line in process.stdout.readlines() if line.endswith("\n")]
    for line in lines:
        job, attempt, status = line.split()
        last[int(job)] = (int(attempt), status)
    return last


# -- disks that are full --------------------------------------------------------------------------


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does, without one: a write beyond that size fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_told_to_every_caller_and_changes_nothing(store: SqliteStore, path: Path):
    await make(store, jobs_wanted=20)
    await claim(store, "d-0-0")

    with files_no_larger_than(size_of(f"{path}-wal")):
        results = await asyncio.gather(
            *(claim(store, f"d-{job}-0", lease=f"M{job}") for job in range(20)), return_exceptions=True
        )
        assert await store.tasks.get("d-0-0") is not None
        with pytest.raises(StoreUnavailable):
            await store.ping()

    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert [task.task_id for task in await store.tasks.held_by("p")] == ["d-0-0"]
    assert await claim(store, "d-1-0") is not None
    assert await finish(store, "d-0-0") is not None
    await store.ping()
    assert await store.check() == []


async def test_an_operation_too_large_for_the_disk_fails_alone(store: SqliteStore, path: Path):
    await make(store, jobs_wanted=20)
    room = size_of(f"{path}-wal") + 200_000

    def large(transaction: SqliteTransaction) -> None:
        transaction.connection.execute("PRAGMA cache_size=5")
        transaction.connection.executemany(
            "INSERT INTO vals VALUES (?, ?)", ((str(i), "x" * 3000) for i in range(500))
        )

    with files_no_larger_than(room):
        error, moved = await asyncio.gather(
            store._writer.run(large), claim(store, "d-0-0"), return_exceptions=True
        )

    assert isinstance(error, StoreUnavailable)
    assert not isinstance(moved, BaseException)
    assert moved is not None
    assert await store.check() == []


# -- the file --------------------------------------------------------------------------------------


async def test_the_file_is_its_owners_alone(store: SqliteStore, path: Path):
    await store.ping()

    assert (mode_of(path), mode_of(f"{path}-wal")) == (0o600, 0o600)


async def test_a_store_of_a_newer_release_is_refused(path: Path):
    await (await opened(path)).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={len(schema.migrations()) + 1}")
    connection.close()

    with pytest.raises(ConfigError, match="newer release"):
        await opened(path)


async def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but rather long for a note " * 50)
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = text.read_bytes(), foreign.read_bytes()

    for path in (text, foreign, tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(ConfigError):
            await opened(path)

    assert (text.read_bytes(), foreign.read_bytes()) == before


async def test_a_dataset_of_an_older_release_may_run_anywhere(path: Path, monkeypatch: pytest.MonkeyPatch):
    older, given = schema.migrations()[:4], dataset("d", number=1)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: older)
        schema.prepare(path, synchronous="OFF")
    columns = rows.DATASET_COLUMNS.removesuffix(", source, sites, jobs_removed")
    row = (1, *rows.dataset_row(given)[:-3])
    with contextlib.closing(schema.connect(path)) as connection:
        connection.execute(f"INSERT INTO datasets ({columns}) VALUES ({', '.join('?' * len(row))})", row)

    store = await opened(path)

    assert await store.datasets.get("d") == given
    await store.close()


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    good = schema.migrations()
    bad = [*good, "CREATE TABLE extra (x);\nCREATE TABLE tasks (again);\n"]

    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: bad)
        with pytest.raises(ConfigError, match="tasks already exists"):
            await opened(path)
    store = await opened(path)

    assert await store.check() == []
    await store.close()
    assert await asyncio.to_thread(_tables_named, path, "extra") == 0


def _tables_named(path: Path, name: str) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    connection.close()
    return count


async def test_a_backup_while_writing_is_a_store(store: SqliteStore, tmp_path: Path):
    await make(store, jobs_wanted=300, depends=CHAIN)
    await store.logs.put(LogInfo("d-0-0", 1, "stdout", 1, 1.0), os.urandom(3_000_000))
    target = tmp_path / "copy.db"

    async def write() -> None:
        for job in range(300):
            await claim(store, f"d-{job}-0")

    writing = asyncio.ensure_future(write())
    size = await store.backup(target)
    await writing

    assert size == size_of(target) > 3_000_000
    assert mode_of(target) == 0o600
    assert [name for name in os.listdir(tmp_path) if "copy" in name] == ["copy.db"]
    copy = await opened(target)
    assert await copy.check() == []
    assert await copy.datasets.get("d") == await store.datasets.get("d")
    await copy.close()


# -- counters ---------------------------------------------------------------------------------------


async def test_drift_is_told_and_corrected(store: SqliteStore):
    await make(store, jobs_wanted=3, depends=CHAIN)
    await run(store, "d-0-0", "d-0-1", "d-0-2", "d-1-0")
    await claim(store, "d-2-0")
    await store.tasks.move(
        [Move("d-2-0", TaskEvent.FAILED, lease_id="L", ended=Ended(Outcome.FAILED))], now=3.0
    )
    good = await store.datasets.progress("d")

    def damage(transaction: SqliteTransaction) -> None:
        connection = transaction.settled()
        connection.execute("UPDATE task_counts SET complete = complete + 5 WHERE kind & 4095 = 1")
        connection.execute("UPDATE job_counts SET errors = 7")
        connection.execute("UPDATE jobs SET complete = 3, status = 1 WHERE key & 268435455 = 1")
        connection.execute("UPDATE datasets SET status = 1, jobs_made = 9")

    await store._writer.run(damage)

    assert len(await store.check()) == 7
    found = await store.datasets.recount("d")
    told = {drift.what: (drift.stored, drift.counted) for drift in found}
    assert told == {
        "jobs/1/complete": (3, 1),
        "tasks/1/complete": (6, 1),
        "jobs/processing": (1, 0),
        "jobs/complete": (1, 2),
        "jobs/errors": (7, 1),
        "jobs_made": (9, 3),
        "status": (1, 2),
    }
    assert await store.datasets.recount("d") == []
    assert await store.check() == []
    assert await store.datasets.progress("d") == good
    *_, last = await run(store, "d-1-1", "d-1-2")
    assert last
    assert last.job == "complete"


async def test_wrong_counters_of_files_are_told_and_corrected(store: SqliteStore):
    await store.files.put([FileRecord("d", name, 5, {"sha256": "a"}, "ada", "ice", 1.0) for name in "abc"])

    def damage(transaction: SqliteTransaction) -> None:
        transaction.connection.execute("UPDATE stored SET bytes = 99 WHERE kind = 'user'")
        transaction.connection.execute("DELETE FROM stored WHERE kind = 'group'")
        transaction.connection.execute("INSERT INTO stored VALUES ('user', 'eve', 1, 1)")

    await store._writer.run(damage)

    assert await store.check() == [
        "group ice: stored is 0 bytes in 0 files, counted 15 in 3",
        "user ada: stored is 99 bytes in 3 files, counted 15 in 3",
        "user eve: stored is 1 bytes in 1 files, counted 0 in 0",
    ]
    assert await store.files.recount() == 3
    assert await store.check() == []
    assert await store.files.recount() == 0


# -- indexes ----------------------------------------------------------------------------------------

WHOLE_TABLES_ON_PURPOSE = (
    "GROUP BY class_id",  # ready counts: only the index of what is waiting, at start and for explanations
    "SELECT number FROM datasets ORDER BY number",  # check: looks at everything
    "SELECT count(*) FROM tasks WHERE NOT EXISTS",  # check, too
    "sum(size_bytes), count(*) FROM files WHERE here",  # check, and counting anew: by a reader
    "SELECT kind, holder, bytes, files FROM stored",  # the same
    "FROM quotas",  # a few that people have set
    "FROM peers ORDER BY",  # some dozens of sites
    "SELECT (SELECT",  # counts in one row, each of them by an index
    "sqlite_schema",  # the dozen of tables themselves
)


async def test_no_statement_searches_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    statements = await _statements_of_the_contract(tmp_path, monkeypatch)
    connection = sqlite3.connect(tmp_path / "0.db", isolation_level=None)

    bad = {}
    for statement in sorted(statements):
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        scans = [step for step in plan if step.startswith("SCAN ") and "json_each" not in step]
        if scans and not any(part in statement for part in WHOLE_TABLES_ON_PURPOSE):
            bad[statement] = scans
        if any("USE TEMP B-TREE FOR ORDER BY" in step for step in plan):
            bad[statement] = plan
    connection.close()

    assert len(statements) > 60
    assert bad == {}


async def _statements_of_the_contract(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every statement that SQLite was given during the contract tests."""
    found: set[str] = set()
    for name in ("connect", "connect_reader"):
        connect = getattr(schema, name)

        def traced(*args, connect=connect, **options):
            connection = connect(*args, **options)
            connection.set_trace_callback(found.add)
            return connection

        monkeypatch.setattr(schema, name, traced)
    contracts = (test_store_contract, test_store_federation, test_store_files, test_store_records)
    tests = [named for contract in contracts for named in vars(contract).items()]
    plain = [
        test
        for name, test in tests
        if name.startswith("test_") and list(inspect.signature(test).parameters) == ["store"]
    ]
    for number, test in enumerate(plain):
        store = await opened(folder / f"{number}.db")
        try:
            await test(store)
        finally:
            await store.close()
    return {
        statement for statement in found if statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT")
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such policy")
async def test_the_writer_gives_way_to_the_loop(store: SqliteStore):
    await store.values.put("a", "b")
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "store-writer"]

    assert os.sched_getscheduler(writer.native_id) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
