"""What every store promises about pilots, accounts, logs, the audit trail and values."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace

import pytest
from store_samples import make, pages

from iceprod.errors import NotFoundError, QueryError
from iceprod.model.paging import Page
from iceprod.model.pilot import Pilot, PilotPatch, PilotStatus
from iceprod.model.principal import PrincipalKind
from iceprod.model.resources import Offer, Resources
from iceprod.model.user import Token, User
from iceprod.store.base import AuditEntry, LogInfo, Store

P = PilotStatus


async def test_a_pilot_comes_back_as_it_was_put(store: Store):
    pilot = Pilot(
        "p1",
        P.RUNNING,
        created_at=1.5,
        seen_at=2.5,
        grid="local",
        grid_job_id="17",
        hostname="node1",
        version="1.0",
        offer=Offer(Resources(cpu=4, gpu=1, memory=7.25), os="RHEL_7_x86_64", site="north"),
        claimed=Resources(cpu=2),
        finished=3,
        failed=1,
        reason="because",
    )

    await store.pilots.put([pilot])
    assert await store.pilots.get("p1") == pilot
    changed = replace(pilot, status=P.ENDED, seen_at=9.0)
    await store.pilots.put([changed, replace(pilot, pilot_id="p2")])

    assert await store.pilots.get("p1") == changed
    assert await store.pilots.get("p3") is None
    await store.pilots.put([])


async def test_patches_of_a_pilot_add_up_in_whatever_order_they_come(store: Store):
    await store.pilots.put([Pilot("p1", P.QUEUED, created_at=1.0, seen_at=1.0)])

    patches = [
        PilotPatch("p1", status=P.RUNNING, seen_at=9.0, hostname="n1", claimed=Resources(cpu=3), finished=1),
        PilotPatch("p1", grid_job_id="17"),
        PilotPatch("p1", status=P.DRAINING, reason="bad luck", failed=5),
        PilotPatch("p1", status=P.RUNNING, seen_at=5.0, claimed=Resources(cpu=1), finished=2),
    ]
    answers = await asyncio.gather(*(store.pilots.update([patch]) for patch in patches))

    known = await store.pilots.get("p1")
    assert known is not None
    assert (known.status, known.seen_at, known.hostname, known.grid_job_id) == (P.DRAINING, 9.0, "n1", "17")
    assert (known.finished, known.failed, known.reason) == (3, 5, "bad luck")
    assert [pilot.pilot_id for answer in answers for pilot in answer if pilot] == ["p1"] * 4
    assert await store.pilots.update([PilotPatch("p1"), PilotPatch("nobody")]) == [known, None]


async def test_a_pilot_that_was_seen_or_has_ended_is_not_ended_again(store: Store):
    await store.pilots.put([Pilot("p1", P.RUNNING, created_at=1.0, seen_at=50.0)])
    end = PilotPatch("p1", status=P.ENDED, reason="silent")

    (seen,) = await store.pilots.update([replace(end, unless_seen_after=49.0)])
    assert seen is not None
    assert seen.status is P.RUNNING
    await store.pilots.update([replace(end, unless_seen_after=50.0)])
    (ended,) = await store.pilots.update([PilotPatch("p1", status=P.RUNNING, seen_at=99.0, reason="alive")])

    assert ended == Pilot("p1", P.ENDED, created_at=1.0, seen_at=50.0, reason="silent")
    assert await store.pilots.get("p1") == ended


async def test_pilots_are_listed_newest_first(store: Store):
    status = (P.RUNNING, P.QUEUED, P.ENDED)
    await store.pilots.put(
        [Pilot(f"p{i}", status[i % 3], created_at=float(i // 2), seen_at=0.0) for i in range(12)]
    )

    async def names(*wanted: PilotStatus, limit: int = 3) -> list[str]:
        found = await pages(store.pilots.select, frozenset(wanted), limit=limit)
        return [pilot.pilot_id for page in found for pilot in page]

    assert await names(P.RUNNING, P.QUEUED) == ["p10", "p9", "p7", "p6", "p4", "p3", "p1", "p0"]
    assert await names(P.ENDED) == ["p11", "p8", "p5", "p2"]
    assert await names(limit=1) == []
    with pytest.raises(QueryError):
        await store.pilots.select(frozenset({P.ENDED}), Page(cursor="WzFd"))


async def test_users_are_kept_by_name(store: Store):
    ada = User("ada", "$argon2id$x", 1.5, frozenset({"admin"}), frozenset({"users", "physics"}))

    assert await store.accounts.add_user(ada)
    assert not await store.accounts.add_user(replace(ada, password_hash="other"))
    assert await store.accounts.user("ada") == ada
    changed = replace(ada, disabled=True, groups=frozenset())
    assert await store.accounts.put_user(changed)
    assert not await store.accounts.put_user(replace(ada, name="bob"))

    assert await store.accounts.user("ada") == changed
    assert await store.accounts.user("bob") is None
    for name in ("cyd", "bob", "élodie"):
        await store.accounts.add_user(replace(ada, name=name))
    found = await pages(store.accounts.users, limit=2)
    assert [[user.name for user in page] for page in found] == [["ada", "bob"], ["cyd", "élodie"]]


async def test_one_of_two_gets_a_user_name(store: Store):
    users = [User("ada", str(i), 1.0) for i in range(5)]

    added = await asyncio.gather(*map(store.accounts.add_user, users))

    assert added.count(True) == 1
    assert await store.accounts.user("ada") == users[added.index(True)]


async def test_tokens_are_found_by_digest_and_by_subject(store: Store):
    kind = PrincipalKind.PILOT
    tokens = [
        Token("a", kind, "p1", 1.0, 50.0, "first"),
        Token("b", kind, "p1", 2.0, None, session=True),
        Token("c", kind, "p2", 3.0, 40.0),
        Token("d", PrincipalKind.USER, "p1", 3.0, None),
    ]
    for token in tokens:
        await store.accounts.add_token(token)

    assert [await store.accounts.token(digest) for digest in "abcde"] == [*tokens, None]
    assert await store.accounts.tokens(kind, "p1") == [tokens[1], tokens[0]]
    assert await store.accounts.drop_tokens(["d", "nope"]) == 1
    assert await store.accounts.drop_tokens([]) == 0
    assert await store.accounts.drop_expired_tokens(45.0) == 1
    assert [await store.accounts.token(digest) for digest in "abcd"] == [tokens[0], tokens[1], None, None]


async def test_certificates_are_credentials_that_are_listed(store: Store):
    made = [
        Token(f"x509:{name}", PrincipalKind.PILOT, name, 1.0, None, certificate=f"CN={name},O=é\nCN=CA")
        for name in ("c", "a", "b")
    ]
    for token in [*made, Token("d", PrincipalKind.PILOT, "a", 2.0, None)]:
        await store.accounts.add_token(token)
    c, a, b = made

    first = await store.accounts.certificates(Page(limit=2))
    second = await store.accounts.certificates(Page(limit=2, cursor=first.next))

    assert (first.items, second.items, second.next) == ((a, b), (c,), None)
    assert await store.accounts.token(b.digest) == b
    assert a in await store.accounts.tokens(PrincipalKind.PILOT, "a")
    assert await store.accounts.drop_tokens([a.digest, b.digest]) == 2
    assert (await store.accounts.certificates(Page(limit=2))).items == (c,)


async def test_a_log_is_replaced_by_its_successor(store: Store):
    await make(store)
    info = LogInfo("d-0-0", 1, "stdout", 5, 10.0)

    await store.logs.put(info, zlib.compress(b"first"))
    await store.logs.put(replace(info, name="err"), b"\0\xff")
    await store.logs.put(replace(info, attempt=2, size_bytes=6), zlib.compress(b"second"))
    newer = replace(info, size_bytes=6, uploaded_at=11.0)
    await store.logs.put(newer, zlib.compress(b"longer"))

    data = await store.logs.get("d-0-0", 1, "stdout")
    assert data
    assert zlib.decompress(data) == b"longer"
    assert await store.logs.get("d-0-0", 1, "err") == b"\0\xff"
    assert await store.logs.of_task("d-0-0") == [
        replace(info, name="err"),
        newer,
        replace(info, attempt=2, size_bytes=6),
    ]
    assert await store.logs.get("d-0-0", 3, "stdout") is None
    assert await store.logs.get("nope-0-0", 1, "stdout") is None
    assert await store.logs.of_task("d-1-0") == []
    with pytest.raises(NotFoundError):
        await store.logs.put(replace(info, task_id="nope-0-0"), b"")


async def test_the_audit_trail_is_read_newest_first(store: Store):
    entries = [AuditEntry(float(i), "ada", "suspend", f"d{i % 2}", {"n": i, "x": ["µ"]}) for i in range(5)]
    for entry in entries:
        await store.audit.add(entry)

    everything = await pages(store.audit.select, None, limit=2)
    assert [entry for page in everything for entry in page] == entries[::-1]
    assert await pages(store.audit.select, "d0", limit=2) == [(entries[4], entries[2]), (entries[0],)]
    assert await pages(store.audit.select, "d7", limit=2) == [()]


async def test_values_are_put_or_put_once(store: Store):
    assert await store.values.get("key") is None
    kept = await asyncio.gather(*(store.values.put_new("key", str(i)) for i in range(5)))
    assert len(set(kept)) == 1
    assert await store.values.get("key") == kept[0]

    await store.values.put("key", "other")

    assert await store.values.put_new("key", "late") == "other"


async def test_a_former_holder_of_a_duty_cannot_overwrite_what_the_next_one_wrote(store: Store):
    assert await store.values.put("usage", "first", fence=1)
    assert await store.values.put("usage", "second", fence=2)
    assert not await store.values.put("usage", "late", fence=1)
    assert await store.values.get("usage") == "second"
    assert await store.values.put("usage", "third", fence=2)
    assert await store.values.get("usage") == "third"
