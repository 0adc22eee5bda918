"""What is particular to MongoDB: its URL, its schema, and a server that goes away and comes back."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pymongo
import pytest
import uvloop
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DocumentTooLarge,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from store_samples import dataset

from iceprod import clock
from iceprod.errors import AlreadyExists, ConfigError, StoreUnavailable, TooLarge
from iceprod.model.federation import SiteRules
from iceprod.store.base import DatasetPatch
from iceprod.store.mongo import MongoStore, migrations
from iceprod.store.mongo.client import Collection, Database, DeleteOne, InsertOne, UpdateOne
from tests.store import mongo_server
from tests.store.mongo_server import MongoServer

pytestmark = pytest.mark.mongo

needs_ferretdb = pytest.mark.skipif(mongo_server.ferretdb() is None, reason=mongo_server.ABSENT)


@pytest.fixture
async def database(mongo_url: str) -> AsyncIterator[Database]:
    opened = Database(mongo_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def collection(database: Database) -> Collection:
    return database.collection("things")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[MongoServer]:
    """A server that the test may kill."""
    with MongoServer(tmp_path / "mongo") as server:
        yield server


# -- the URL -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ada:secret/1@host/db",
        "mongodb://ada:secret@host:port/db",
        "mongodb://ada:secret@host/a secret name",
        "mongodb://ada:secret@/db",
        "mongodb://ada:secret[1@host:port/db",
        "mongodb://ada:secret℀@host:port/db",
    ],
)
async def test_a_wrong_url_is_refused_without_its_password(url: str):
    with pytest.raises(ConfigError) as caught:
        await MongoStore(url).open()

    assert "store.url" in caught.value.message
    assert "secret" not in str(caught.value.message) + str(caught.value.detail)


async def test_a_url_without_a_password_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="Port"):
        await MongoStore("mongodb://host:port/db").open()


async def test_the_database_has_a_default_name(mongo_url: str):
    address = mongo_url.rpartition("/")[0]
    database = Database(f"{address}/")

    await database.open()
    await database.close()

    assert database.name == "iceprod"
    assert database.where == address.rpartition("/")[2].rpartition("@")[2]


async def test_an_absent_server_is_told_quickly_and_without_the_password():
    store = MongoStore("mongodb://ada:secret@127.0.0.1:1/db")
    begin = clock.monotonic()

    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as caught:
        await store.open()

    assert clock.monotonic() - begin < 10
    assert "secret" not in str(caught.value.message)
    assert caught.value.detail["retry_after_s"] > 0


@needs_ferretdb
async def test_retryable_writes_are_left_out_where_the_server_has_none(own_server: MongoServer):
    # A single server has none, whatever the URL says.
    store = MongoStore(f"{own_server.url('db')}?retryWrites=true")
    await store.open()

    assert await store.values.put("a", "1")
    assert await store.values.put("a", "2")

    await store.close()


@needs_ferretdb
async def test_a_user_that_is_refused_is_told_so(own_server: MongoServer):
    # FerretDB knows no user, which it tells with the same code as MongoDB.
    url = own_server.url("db").replace("://", "://ada:secret@")

    with pytest.raises(ConfigError, match="refuses this user") as caught:
        await MongoStore(url).open()

    assert "secret" not in str(caught.value.message)


def test_it_works_on_the_loop_that_the_server_uses(mongo_url: str):
    async def use() -> str | None:
        store = MongoStore(mongo_url)
        await store.open()
        await asyncio.gather(*(store.values.put(f"v{n}", str(n)) for n in range(100)))
        found = await store.values.get("v99")
        await store.close()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(use()) == "99"


# -- the driver ----------------------------------------------------------------------------


async def test_what_a_unique_key_refuses_can_be_told_from_other_errors(collection: Collection):
    await collection.insert({"_id": "a", "n": 1})

    with pytest.raises(AlreadyExists):
        await collection.insert({"_id": "a", "n": 2})
    done = await collection.bulk(
        [InsertOne({"_id": "a"}), InsertOne({"_id": "b"}), UpdateOne({"_id": "b"}, {"$set": {"n": 5}})],
        ordered=False,
    )

    assert done.duplicates == {0}
    assert (done.inserted, done.matched) == (1, 1)
    assert (await collection.bulk([InsertOne({"_id": "b"})])).duplicates == {0}
    assert (await collection.bulk([DeleteOne({"_id": "b"})])).deleted == 1
    assert (await collection.bulk([])).matched == 0
    assert await collection.insert_missing([{"_id": "a"}, {"_id": "c"}]) == 1
    assert await collection.find_one({"_id": "a"}) == {"_id": "a", "n": 1}


async def test_of_many_who_put_the_same_document_none_fails(collection: Collection):
    await asyncio.gather(*(collection.put({"_id": "a", "n": n}) for n in range(20)))
    await asyncio.gather(*(collection.put_all([{"_id": "b", "n": n}, {"_id": "c"}]) for n in range(20)))

    assert await collection.count({}) == 3


async def test_more_documents_than_one_answer_holds_are_read(collection: Collection):
    await collection.bulk([InsertOne({"_id": n, "text": "x" * 100}) for n in range(450)])

    parts = [part async for part in collection.scan({}, ("_id",), sort=[("_id", 1)], batch=200)]

    assert [len(part) for part in parts] == [200, 200, 50]
    assert [document["_id"] for part in parts for document in part] == list(range(450))
    assert len(await collection.find({})) == 450
    assert await collection.aggregate([{"$group": {"_id": None, "n": {"$sum": 1}}}]) == [
        {"_id": None, "n": 450}
    ]
    assert await collection.count({"_id": {"$gte": 400}}) == 50
    assert await collection.update_many({"_id": {"$lt": 5}}, {"$set": {"text": ""}}) == 5
    assert await collection.delete({}) == 450


@pytest.mark.expects_logs
@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (AutoReconnect("gone"), StoreUnavailable),
        (NetworkTimeout("slow"), StoreUnavailable),
        (NotPrimaryError("stepped down"), StoreUnavailable),
        (ServerSelectionTimeoutError("none"), StoreUnavailable),
        (WriteConcernError("no majority", 100), StoreUnavailable),
        (WTimeoutError("too slow", 64), StoreUnavailable),
        (ExecutionTimeout("too slow", 50), StoreUnavailable),
        (OperationFailure("disk full", 14031), StoreUnavailable),
        (OperationFailure("shutting down", 91), StoreUnavailable),
        (OperationFailure("not allowed", 13), StoreUnavailable),
        (DocumentTooLarge("17 MB"), TooLarge),
        (OperationFailure("bad query", 2), OperationFailure),
        (ConfigurationError("wrong use"), ConfigurationError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_errors_of_the_driver_become_those_of_the_port(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: type[Exception]
):
    collection = database.collection("things")

    class Failing:
        def find_one(self, *_: object) -> None:
            raise error

    monkeypatch.setattr(collection, "_raw", Failing())

    with pytest.raises(wanted) as caught:
        await collection.find_one({})

    if wanted is StoreUnavailable:
        assert caught.value.detail["retry_after_s"] > 0
        may_be_done = isinstance(error, WriteConcernError) or type(error) in (AutoReconnect, NetworkTimeout)
        assert (caught.value.detail.get("outcome") == "unknown") is may_be_done


async def test_a_store_that_is_not_open_is_unavailable(mongo_url: str):
    store = MongoStore(mongo_url)
    with pytest.raises(StoreUnavailable):
        await store.check()

    await store.open()
    await store.close()
    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.values.get("x")


# -- the schema ----------------------------------------------------------------------------


async def test_a_database_is_opened_by_many_at_once_and_again(mongo_url: str):
    stores = [MongoStore(mongo_url) for _ in range(4)]

    await asyncio.gather(*(store.open() for store in stores))

    for store in stores:
        assert await store.check() == []
        await store.ping()
        await store.close()


async def test_a_database_of_a_newer_release_is_refused(database: Database, mongo_url: str):
    store = MongoStore(mongo_url)
    await store.open()
    await store.close()
    await database.collection(migrations.META).update({"_id": "schema"}, {"$set": {"version": 99}})

    with pytest.raises(ConfigError, match="has schema 99, made by a newer release"):
        await store.open()


async def test_a_database_of_another_program_is_refused_and_left_alone(database: Database, mongo_url: str):
    await database.collection("customers").insert({"_id": 1})

    with pytest.raises(ConfigError, match="customers"):
        await MongoStore(mongo_url).open()

    assert await database.collection_names() == ["customers"]


async def test_a_migration_leads_to_the_next_version(
    database: Database, mongo_url: str, monkeypatch: pytest.MonkeyPatch
):
    store = MongoStore(mongo_url)
    await store.open()
    await store.values.put("a", "old")
    await store.close()
    calls = []

    async def migrate(given: Database) -> None:
        calls.append(given.name)
        await given.collection("vals").update_many({}, {"$set": {"text": "new"}})
        if len(calls) == 1:
            raise StoreUnavailable("cut off")

    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, migrate))
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.open()
    assert await store.values.get("a") == "new"
    await store.close()
    await store.open()
    await store.close()

    assert len(calls) == 2


async def test_a_dataset_of_an_older_release_may_run_anywhere(database: Database, mongo_url: str):
    store = MongoStore(mongo_url)
    await store.open()
    added = await store.datasets.add(dataset("d"), "{}")
    await database.collection("datasets").update({"_id": "d"}, {"$unset": {"source": "", "sites": ""}})

    assert await store.datasets.get("d") == added
    rules = SiteRules(never=("east",))
    changed = await store.datasets.update("d", DatasetPatch(sites=rules), now=5.0)
    assert changed == replace(added, sites=rules)
    assert await store.datasets.get("d") == changed
    await store.close()


async def test_an_index_that_is_missing_is_told_and_made_again(database: Database, mongo_url: str):
    store = MongoStore(mongo_url)
    await store.open()
    with pymongo.MongoClient(mongo_url) as client:
        client[database.name]["pilots"].drop_index("newest")

    assert await store.check() == ["collection pilots has no index newest"]
    await store.close()
    await store.open()

    assert await store.check() == []
    await store.close()


# -- a server that goes away ---------------------------------------------------------------


@needs_ferretdb
async def test_a_store_recovers_by_itself(own_server: MongoServer, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    store = MongoStore(own_server.url("db"))
    await store.open()
    await store.values.put("a", "1")
    own_server.kill()

    begin = clock.monotonic()
    failed = await asyncio.gather(*(store.values.get("a") for _ in range(200)), return_exceptions=True)
    assert {type(error) for error in failed} == {StoreUnavailable}
    assert clock.monotonic() - begin < 15

    begin = clock.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.values.put("a", "2")
    assert clock.monotonic() - begin < 1, "once it is known to be away no call waits"

    own_server.start()
    found = None
    while found is None:
        try:
            found = await store.values.get("a")
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    await store.values.put("a", "3")

    assert found == "1"
    assert await store.values.get("a") == "3"
    told = [record.getMessage() for record in caplog.records]
    assert sum("is away" in line for line in told) == 1
    assert sum("is back" in line for line in told) == 1
    await store.close()


@needs_ferretdb
@pytest.mark.expects_logs
async def test_a_server_that_hangs_holds_nobody_for_long(own_server: MongoServer):
    store = MongoStore(own_server.url("db"))
    await store.open()
    await store.values.put("a", "1")
    assert own_server.process

    own_server.process.send_signal(signal.SIGSTOP)
    begin = clock.monotonic()
    failed = await asyncio.gather(*(store.values.get("a") for _ in range(200)), return_exceptions=True)
    took_s = clock.monotonic() - begin
    own_server.process.send_signal(signal.SIGCONT)

    assert {type(error) for error in failed} == {StoreUnavailable}
    assert took_s < 15, "less than the time-out of a single call"
    while True:
        try:
            assert await store.values.get("a") == "1"
            break
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    await store.close()


@needs_ferretdb
async def test_a_short_absence_only_delays(own_server: MongoServer):
    store = MongoStore(own_server.url("db"))
    await store.open()
    await store.values.put("a", "1")
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await store.values.get("a")  # the driver learns of it by the connection that broke

    waiting = asyncio.ensure_future(store.values.get("a"))
    own_server.start()

    assert await waiting == "1"
    await store.close()


@needs_ferretdb
async def test_what_was_answered_survives_a_kill(tmp_path: Path):
    with MongoServer(tmp_path / "mongo", durable=True) as server:
        store = MongoStore(server.url("db"))
        await store.open()
        answered = 0
        for number in range(30):
            await store.values.put(f"v{number}", str(number))
            answered += 1
        server.kill()
        server.start()
        with pymongo.MongoClient(server.url("db")) as client:
            kept = client["db"]["vals"].count_documents({})
        await store.close()

    assert kept == answered
