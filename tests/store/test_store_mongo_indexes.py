"""No query scans a collection, and every index serves one.

Every test that has a store by `conftest.open_mongo` checks its own queries too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mongo_queries import Query, Recorder, explained_scans, is_served, queries
from store_samples import CHAIN, claim, errand, finish, make, move, operation

from iceprod.model.federation import ErrandStatus, Peer, PeerRole, PeerStatus
from iceprod.model.file import Direction, FileRecord, Flow, OriginCredential, Quota, Replica, Usage
from iceprod.model.lifecycle import JobStatus, TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.pilot import PilotStatus
from iceprod.model.principal import PrincipalKind
from iceprod.model.resources import Requirements
from iceprod.store import cursors
from iceprod.store.base import DatasetFilter, Store, TaskClass, TaskFilter
from iceprod.store.federation import PeerPatch
from iceprod.store.files import FileFilter, UsageFilter
from iceprod.store.mongo import MongoStore
from iceprod.store.mongo.migrations import indexes

KEYS = {"$gte": 1, "$lt": 9}


@pytest.mark.parametrize(
    ("where", "sort"),
    [
        ({"_id": "d-0", "version": 3}, ()),
        ({"_id": {"$in": ["d-0"]}}, ()),
        ({"key": KEYS}, [("key", 1)]),
        ({"status": "complete", "key": KEYS}, [("key", 1)]),
        ({"statuses": {"$in": ["idle"]}, "key": KEYS}, [("key", 1)]),
        ({"lease_until": {"$lt": 5.0}}, [("lease_until", 1)]),
        ({"$or": [{"held": "p"}, {"ready": 5}]}, ()),
    ],
)
def test_what_an_index_leads_to_is_served(where, sort):
    assert is_served(Query("jobs", where, sort))


@pytest.mark.parametrize(
    ("where", "sort", "limit"),
    [
        ({}, (), 5),
        ({}, [("status_changed_at", 1)], 5),
        ({"version": 3}, (), 0),
        ({"key": {"$ne": 5}}, (), 0),
        ({"due": {"$exists": True}}, (), 0),
        ({"key": KEYS}, [("status", 1)], 0),
        ({"status": {"$gt": "a"}}, [("key", 1)], 0),
        ({"held": "p"}, [("status", 1)], 5),
        ({"$or": [{"held": "p"}, {"version": 5}]}, (), 0),
    ],
)
def test_what_no_index_leads_to_is_found_out(where, sort, limit):
    assert not is_served(Query("attempts" if not where and not sort else "jobs", where, sort, limit))


def test_every_kind_of_command_is_looked_at():
    q = {"a": 1}
    for name, command in {
        "find": {"filter": q},
        "findAndModify": {"query": q},
        "update": {"updates": [{"q": q}]},
        "delete": {"deletes": [{"q": q}]},
        "aggregate": {"pipeline": [{"$match": q}, {"$group": {"_id": None}}]},
        "count": {"query": q},
    }.items():
        assert [query.where for query in queries(name, {name: "c", **command})] == [q]
    assert list(queries("insert", {"insert": "c", "documents": [{}]})) == []


@pytest.mark.mongo
async def test_every_query_has_its_index_and_every_index_its_query(mongo_url: str, tmp_path: Path):
    recorder = Recorder()
    store = MongoStore(mongo_url, listeners=[recorder])
    await store.open()
    await _ask_everything(store)
    await store.check()
    await store.close()

    assert recorder.scans() == []
    assert explained_scans(mongo_url, recorder.queries) == []
    asked = {
        (query.collection, name)
        for query in recorder.queries
        for name in [*query.where, *(key for branch in query.where.get("$or", ()) for key in branch)]
    }
    for collection in (
        "datasets", "jobs", "attempts", "classes", "files", "stored", "usage", "quotas", "credentials",
        "errands", "outbox",
    ):  # fmt: skip
        for index in indexes()[collection]:
            assert (collection, next(iter(index.document["key"]))) in asked


async def _ask_everything(store: Store) -> None:
    """Each question of the port that asks for datasets, jobs, tasks, attempts or classes by what they are."""
    await make(store, depends=CHAIN)
    await store.datasets.add_classes([TaskClass(5, "d", 0, Requirements())])
    await claim(store, "d-0-0")
    await finish(store, "d-0-0")
    await claim(store, "d-0-1")
    await move(store, "d-0-1", TaskEvent.DEFERRED, lease_id="L", release_at=50.0)
    for wanted in (
        DatasetFilter(),
        DatasetFilter(status=JobStatus.COMPLETE),
        DatasetFilter(owner="ada", visible_to=("ada", frozenset({"x"}))),
        DatasetFilter(group="users"),
    ):
        await store.datasets.select(wanted, Page())
    await store.datasets.find(1)
    await store.datasets.active()
    await store.datasets.classes()
    await store.datasets.recount("d")
    for status in (None, JobStatus.COMPLETE):
        await store.jobs.select("d", status, Page())
    for task_filter in (
        TaskFilter(),
        TaskFilter(status=TaskStatus.IDLE),
        TaskFilter(status=TaskStatus.IDLE, task_index=1),
        TaskFilter(job_index=1, task_index=1),
    ):
        await store.tasks.select("d", task_filter, Page(limit=2))
    await store.tasks.ids("d", frozenset({TaskStatus.IDLE, TaskStatus.WAITING}), "d-0-0", 5)
    await store.tasks.among(["d-0-0", "d-1-0"])
    await store.tasks.held_by("p")
    await store.tasks.held_after("p", "d-0-0", 5)
    await store.tasks.count_held("p")
    await store.tasks.held_of("p", ["d"])
    await store.tasks.expired(9.0, 5)
    await store.tasks.due(90.0, 5)
    await store.tasks.ready_counts()
    await store.tasks.ready(100, "d-0-0", 5)
    await store.tasks.ids_of_jobs(["d-0", "d-1"])
    await store.tasks.attempts("d-0-0")
    await store.tasks.recent_attempts("d", 0, 5)
    await store.tasks.renew([("d-0-0", "L")], until=5.0)
    await store.pilots.select(frozenset(PilotStatus), Page())
    await store.accounts.tokens(PrincipalKind.USER, "ada")
    await store.accounts.drop_expired_tokens(5.0)
    await store.audit.select("d", Page())
    await store.logs.of_task("d-0-0")
    await ask_of_files(store)
    await ask_of_sites(store)


async def ask_of_files(store: Store) -> None:
    """Each question of the port that asks for files, usage, quotas or credentials."""
    await store.files.put([FileRecord("d", "a/b", 5, {"sha256": "ab"}, "ada", "ice", 1.0, 0, 0)])
    for wanted in FILTERS:
        for cursor in (None, cursors.encode("a", "d")):
            await store.files.select(wanted, Page(cursor=cursor))
    await store.files.add_replica("d", "a/b", Replica("u", "", 1.0))
    await store.files.drop_replica("d", "a/b", "u")
    await store.files.delete("d", ["a/b"])
    await store.files.stored("user", "ada")
    await store.files.holders("user", Page())
    await store.files.recount()
    day = "2026-01-01"
    await store.usage.add([Usage(day, Flow("ada", Direction.IN, "proxy"), 1, 1)])
    for asked in (
        UsageFilter(),
        UsageFilter(since=day),
        UsageFilter(until=day, user="ada"),
        UsageFilter(dataset_id="d"),
    ):
        await store.usage.select(asked, Page())
    await store.usage.set_quota(Quota("user", "", 5))
    await store.usage.quotas()
    await store.credentials.put(OriginCredential("o", "ada", "token", b"", 1.0))
    await store.credentials.get("o", "ada")
    await store.credentials.of_user("ada")
    await store.credentials.expiring(5.0, 5)
    await store.credentials.delete("o", "ada")


async def ask_of_sites(store: Store) -> None:
    """Each question of the port that asks for peers, errands or what waits in the outbox."""
    await store.peers.put(Peer("north", PeerRole.PARENT, PeerStatus.JOINED, 1.0))
    await store.peers.update(PeerRole.PARENT, "north", PeerPatch(share=2.0))
    await store.peers.get(PeerRole.PARENT, "north")
    await store.peers.all()
    await store.peers.drop(PeerRole.PARENT, "north")
    await store.errands.add([errand(0), errand(1)])
    await store.errands.end(["m-0-0", "m-5-0"], ErrandStatus.ENDED, now=5.0)
    await store.errands.of_tasks(["m-0-0", "m-1-0"])
    await store.errands.of_leases("north", ["lease-0", "lease-1"])
    await store.errands.open("north", "m-0-0", 5)
    await store.errands.counts("north")
    await store.errands.closed(9.0, 5)
    await store.errands.forget(["x"])
    await store.outbox.add([operation("a"), operation("b")])
    await store.outbox.add([operation("b"), operation("a")])
    await store.outbox.bury("north", 1, "why", now=5.0)
    for peer in (None, "north"):
        await store.outbox.dead(peer, Page())
    await store.outbox.revive(1)
    await store.outbox.next("north", 0, 5)
    await store.outbox.backlog("north")
    await store.outbox.discard(2)
    await store.outbox.done("north", [2, 3])


FILTERS = (
    FileFilter(),
    FileFilter(prefix="a"),
    FileFilter(dataset_id="d"),
    FileFilter(dataset_id="d", prefix="a"),
    FileFilter(dataset_id="d", job_index=0),
    FileFilter(dataset_id="d", task_index=0),
    FileFilter(dataset_id="d", job_index=0, task_index=0),
    FileFilter(sha256="ab"),
    FileFilter(prefix="a", visible_to=("ada", frozenset({"ice", "users"}))),
    FileFilter(dataset_id="d", visible_to=("ada", frozenset())),
)
