"""A store with something of every kind in it, for tests of copying."""

from __future__ import annotations

import zlib

from store_samples import CHAIN, claim, errand, finish, make, make_jobs, move, operation

from iceprod.model.federation import ErrandStatus, Peer, PeerRole, PeerStatus, SiteRules
from iceprod.model.file import Direction, FileRecord, Flow, OriginCredential, Quota, Replica, Usage
from iceprod.model.lifecycle import TaskEvent
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.principal import PrincipalKind
from iceprod.model.resources import Offer, Requirements, Resources
from iceprod.model.task import Ended, Outcome
from iceprod.model.user import Token, User
from iceprod.store.archive import Kind
from iceprod.store.base import AuditEntry, DatasetConfig, DatasetPatch, LogInfo, Store, TaskClass
from iceprod.store.copying import digest, pages

E = TaskEvent


async def fill(store: Store) -> None:
    """Datasets with work in every status, pilots, people, logs and a trail."""
    await _datasets(store)
    await _work(store)
    await _records(store)
    await _files(store)
    await _federation(store)


async def _datasets(store: Store) -> None:
    first = await make(
        store,
        "first",
        depends=CHAIN,
        jobs_wanted=12,
        jobs=11,
        description="π → µ",
        priority=1,
        group="ice",
        retain_until=9e9,
        public=False,
        source="north/abc",
        sites=SiteRules(only=("", "east"), never=("west",)),
    )
    await make(
        store, "second", depends=((), (0,)), external=((("first", 2),), ()), jobs_wanted=4, always_active=True
    )
    await make(store, "empty", jobs_wanted=1, jobs=0)
    await store.datasets.add_classes(
        [
            TaskClass(100 + index, "first", index, Requirements(Resources(cpu=2, memory=0.5), os=("el9",)))
            for index in range(3)
        ]
        + [TaskClass((1 << 63) - 1, "second", 0, Requirements(site="north"))]
    )
    config = DatasetConfig('{"a": 1}', first.task_names, first.depends, first.external)
    await store.datasets.set_config("first", config, expected_version=1, now=3.5)
    await store.datasets.update(
        "empty", DatasetPatch(truncated=True, debug=True, suspended=True, jobs_immutable=True), now=4.0
    )


async def _work(store: Store) -> None:
    for task in ("first-0-0", "first-0-1", "first-0-2", "first-1-0"):
        await claim(store, task, pilot="p1")
        await finish(
            store,
            task,
            hostname="node",
            walltime_s=3.25,
            usage={"cpu": 1, "time_h": 0.5},
            stats={"a": [1, "µ"]},
        )
    await claim(store, "first-2-0", pilot="p2")
    failed = Ended(Outcome.FAILED, failure_class="exit", summary="exit 1")
    await move(store, "first-2-0", E.RETRIED, lease_id="L", ended=failed)
    await claim(store, "first-2-0", pilot="p2", lease="M")
    await move(store, "first-2-0", E.FAILED, lease_id="M", ended=failed)
    await claim(store, "first-3-0", pilot="p2", until=77.5)
    await claim(store, "first-4-0", pilot="p2")
    await move(store, "first-4-0", E.EVICTED, lease_id="L", ended=Ended(Outcome.EVICTED))
    await move(store, "first-4-0", E.SUSPENDED)
    await claim(store, "first-5-0", pilot="p1")
    await move(store, "first-5-0", E.DEFERRED, lease_id="L", ended=failed, release_at=500.25)
    for index in range(2):
        await move(store, f"second-3-{index}", E.SUSPENDED)
    assert await store.datasets.remove_jobs("second", [3], now=30.0) == 1


async def _records(store: Store) -> None:
    offer = Offer(Resources(cpu=4, gpu=1, memory=7.25), os="el9", site="north")
    await store.pilots.put(
        [
            Pilot(
                f"p{i}",
                status,
                1.5,
                2.5 + i,
                "local",
                "17",
                "node",
                "1",
                offer,
                Resources(cpu=2),
                i,
                1,
                "why",
            )
            for i, status in enumerate(PilotStatus)
        ]
    )
    await store.accounts.add_user(User("ada", "hash", 1.0, frozenset({"admin"}), frozenset({"ice", "users"})))
    await store.accounts.add_user(User("Émile", "hash", 2.0, disabled=True))
    for i in range(3):
        kind = (PrincipalKind.USER, PrincipalKind.PILOT, PrincipalKind.SITE)[i]
        subject = ("ada", "p1", "north")[i]
        await store.accounts.add_token(
            Token(
                f"{i}f" * 32,
                kind,
                subject,
                5.0 + i,
                (None, 60.0, 70)[i],
                f"label {i}",
                i == 1,
                "CN=a" * (i == 2),
            )
        )
    for task, name in (
        ("first-0-0", "stdout"),
        ("first-0-0", "err"),
        ("first-10-0", "stdout"),
        ("second-2-1", "x"),
    ):
        data = zlib.compress(name.encode())
        await store.logs.put(LogInfo(task, 1, name, len(name), 12.5), data)
    for i in range(5):
        await store.audit.add(AuditEntry(float(i), "ada", "suspend", f"d{i % 2}", {"n": i, "x": ["µ", None]}))
    await store.values.put("usage", '{"a": 1}', fence=3)
    await store.values.put("key", "secret")


async def _files(store: Store) -> None:
    places = (Replica("gsiftp://x.org/a", "north", 3.5), Replica("/files/a", "", 4))
    await store.files.put(
        [
            FileRecord(
                "first", "job_temp/0/µ.npz", 17, {"sha256": "ab", "md5": "c.d"}, "ada", "ice", 5, 0, 2, places
            ),
            FileRecord("first", "job_temp/0/a", 0, {"sha256": "00"}, "ada", "ice", 6.5),
            FileRecord("second", "a", 1 << 40, {"sha256": "ab"}, "Émile", "users", 7.25, 2, 1, places[:1]),
            FileRecord("", "site_temp/table", 3, {"sha256": "11"}, "", "", 8.0),
        ]
    )
    flow = Flow("ada", Direction.OUT, "proxy", "ice", "first", "tape", "north")
    await store.usage.add([Usage("2026-01-02", flow, 1 << 50, 7), Usage("2026-01-03", flow, 5, 1)])
    await store.usage.add([Usage("2026-01-03", Flow("Émile", Direction.IN, "upload"), 6, 1)])
    for quota in (
        Quota("user", "", 100, None),
        Quota("user", "ada", None, 5),
        Quota("group", "ice", 1 << 60, 0),
    ):
        await store.usage.set_quota(quota)
    for origin, user, sealed in (("tape", "", b"\0\xff"), ("tape", "ada", b"x"), ("disk", "ada", b"")):
        expires_at = 9.5 if user else None
        await store.credentials.put(
            OriginCredential(origin, user, "token", sealed, 3.0, expires_at, "note" * bool(user))
        )


async def _federation(store: Store) -> None:
    times = {"contact_at": 9.5, "expires_at": 99.0}
    for role, name in ((PeerRole.PARENT, "north"), (PeerRole.CHILD, "north"), (PeerRole.CHILD, "süd")):
        url = "https://north.org" * (role is PeerRole.PARENT)
        await store.peers.put(
            Peer(
                name,
                role,
                PeerStatus.PAUSED,
                1.5,
                url,
                "3.1",
                2,
                2.5,
                7,
                60.0,
                note="why",
                at_once=True,
                term=3,
                **times,
            )
        )
    await store.errands.add([errand(n) for n in (2, 11, 0, 1)])
    await store.errands.end(["m-1-0"], ErrandStatus.ENDED, now=7.5)
    await store.errands.end(["m-11-0"], ErrandStatus.LOST, now=8)
    await store.outbox.add([operation(f"{n}", ("north", "east")[n % 2]) for n in range(6)])
    for number, peer in ((3, "north"), (4, "east")):
        assert await store.outbox.bury(peer, number, "no such lease", now=50.5)
    await store.outbox.done("north", [1])


async def more_jobs(store: Store, jobs: int) -> None:
    """Make the first dataset wider than a page."""
    dataset = await store.datasets.get("first")
    assert dataset
    await make_jobs(store, dataset, dataset.jobs_made, jobs)


async def content(store: Store) -> dict[Kind, list[object]]:
    """All records with the keys that any store gives them."""
    found: dict[Kind, list[object]] = {}
    for kind in Kind:
        records = [record async for part in pages(kind, store.archive) for record in part]
        found[kind] = [record.value if kind is Kind.AUDIT else record for record in records]
    return found


async def sums(store: Store) -> dict[Kind, object]:
    """What both sides of a copy have in common."""
    return {kind: await digest(kind, store.archive) for kind in Kind}
