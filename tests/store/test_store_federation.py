"""What every store promises of other sites: peers, errands, the outbox, and datasets of theirs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from store_samples import dataset, errand, operation, pages

from iceprod.errors import QueryError
from iceprod.model.federation import (
    Backlog,
    DeadLetter,
    ErrandStatus,
    OperationKind,
    Peer,
    PeerRole,
    PeerStatus,
    Queued,
    SiteRules,
)
from iceprod.model.paging import Page
from iceprod.store.base import DatasetPatch, Store
from iceprod.store.federation import PeerPatch

PARENT, CHILD = PeerRole.PARENT, PeerRole.CHILD
OPEN, ENDED, LOST = ErrandStatus.OPEN, ErrandStatus.ENDED, ErrandStatus.LOST


def peer(name: str = "north", role: PeerRole = PARENT, **fields: Any) -> Peer:
    return Peer(name, role, PeerStatus.JOINED, 1.5, **fields)


async def waiting(store: Store, to: str = "north", after: int = 0, limit: int = 100) -> list[str]:
    """The ids of what waits for a peer, in order; numbers ascend."""
    found = await store.outbox.next(to, after, limit)
    numbers = [queued.number for queued in found]
    assert numbers == sorted(set(numbers))
    assert all(number > after for number in numbers)
    return [queued.operation.operation_id for queued in found]


async def number_of(store: Store, operation_id: str, to: str = "north") -> int:
    """The number of something that waits."""
    found = await store.outbox.next(to, 0, 1000)
    return next(queued.number for queued in found if queued.operation.operation_id == operation_id)


async def bury(store: Store, operation_id: str, to: str = "north", *, now: float = 50.0) -> int:
    """Make something that waits a dead letter; its number."""
    number = await number_of(store, operation_id, to)
    assert await store.outbox.bury(to, number, f"no {operation_id}", now=now)
    return number


# -- datasets ----------------------------------------------------------------------------------


async def test_a_dataset_says_what_it_stands_for_and_where_it_may_run(store: Store):
    rules = SiteRules(only=("north", ""), never=("süd",))

    await store.datasets.add(dataset("d", source="north/abc", sites=rules), "{}")
    await store.datasets.add(dataset("e"), "{}")

    found, other = await store.datasets.get("d"), await store.datasets.get("e")
    assert found
    assert other
    assert (found.source, found.sites, found.is_mirror) == ("north/abc", rules, True)
    assert (other.source, other.sites, other.is_mirror) == ("", SiteRules(), False)


async def test_where_tasks_may_run_is_changed_and_else_left_as_it_is(store: Store):
    await store.datasets.add(dataset("d", source="north/abc"), "{}")
    rules = SiteRules(never=("a", "b"))

    changed = await store.datasets.update("d", DatasetPatch(sites=rules, priority=0.25), now=5.0)
    assert changed
    assert (changed.sites, changed.priority, changed.source) == (rules, 0.25, "north/abc")
    assert await store.datasets.update("d", DatasetPatch(sites=rules), now=5.0) == changed
    assert await store.datasets.update("d", DatasetPatch(debug=True), now=6.0) == replace(changed, debug=True)

    assert await store.datasets.get("d") == replace(changed, debug=True)
    freed = await store.datasets.update("d", DatasetPatch(sites=SiteRules()), now=7.0)
    assert freed
    assert freed.sites == SiteRules()


# -- peers -------------------------------------------------------------------------------------


async def test_peers_are_kept_by_role_and_name(store: Store):
    parent = peer(
        url="https://north.org", version="3.1", protocol=2, share=2.5, most_tasks=7, lease_s=60.0,
        contact_at=9.5, expires_at=99.0, note="µ",
    )  # fmt: skip
    child, other = peer(role=CHILD), peer("east", CHILD)
    for one in (parent, child, other):
        await store.peers.put(one)

    assert await store.peers.get(PARENT, "north") == parent
    assert await store.peers.get(CHILD, "north") == child
    assert await store.peers.get(PARENT, "east") is None
    assert await store.peers.all() == [other, child, parent]


async def test_of_changes_of_a_peer_by_many_at_once_none_is_lost(store: Store):
    await store.peers.put(peer(most_tasks=3))
    patches = [
        PeerPatch(status=PeerStatus.PAUSED),
        PeerPatch(share=2.5, note="µ"),
        PeerPatch(contact_at=9.5, version="3.1", protocol=2, url="https://north.org"),
        PeerPatch(lease_s=60.0, expires_at=99.0, most_tasks=0),
        PeerPatch(),
    ]

    found = await asyncio.gather(*(store.peers.update(PARENT, "north", patch) for patch in patches))

    assert all(found)
    expected = peer()
    for patch in patches:
        expected = replace(expected, **patch.changes())
    assert await store.peers.get(PARENT, "north") == expected
    assert await store.peers.update(PARENT, "north", PeerPatch(share=3.0)) == replace(expected, share=3.0)
    for patch in patches:
        assert await store.peers.update(CHILD, "north", patch) is None
    assert len(await store.peers.all()) == 1


async def test_a_peer_is_changed_only_while_it_stands_as_expected(store: Store):
    joined, revoked = PeerStatus.JOINED, PeerStatus.REVOKED
    await store.peers.put(peer())
    end, pause = PeerPatch(status=revoked), PeerPatch(status=PeerStatus.PAUSED)

    ended = await store.peers.update(PARENT, "north", end, expected=joined)

    assert ended == replace(peer(), status=revoked)
    for patch in (pause, PeerPatch()):
        assert await store.peers.update(PARENT, "north", patch, expected=joined) is None
    assert await store.peers.update(PARENT, "north", PeerPatch(), expected=revoked) == ended
    assert await store.peers.get(PARENT, "north") == ended


async def test_a_peer_takes_the_place_of_the_former_and_is_forgotten(store: Store):
    await store.peers.put(peer())
    await store.peers.put(replace(peer(), status=PeerStatus.REVOKED))

    assert await store.peers.all() == [replace(peer(), status=PeerStatus.REVOKED)]
    assert not await store.peers.drop(CHILD, "north")
    assert await store.peers.drop(PARENT, "north")
    assert not await store.peers.drop(PARENT, "north")
    assert await store.peers.all() == []


# -- errands -----------------------------------------------------------------------------------


async def test_errands_are_found_by_task_and_by_lease(store: Store):
    given = [errand(n) for n in range(3)]
    await store.errands.add(given)
    elsewhere = replace(errand(9), parent="east", lease_id=given[0].lease_id)
    await store.errands.add([elsewhere])

    assert await store.errands.of_tasks(["m-0-0", "nope", "m-2-0", "m-0-0"]) == {
        "m-0-0": given[0],
        "m-2-0": given[2],
    }
    assert await store.errands.of_leases("north", ["lease-0", "lease-1", "nope"]) == {
        "lease-0": given[0],
        "lease-1": given[1],
    }
    assert await store.errands.of_leases("east", ["lease-0"]) == {"lease-0": elsewhere}
    assert await store.errands.of_tasks([]) == await store.errands.of_leases("north", []) == {}


async def test_many_errands_are_found_at_once(store: Store):
    given = [errand(n) for n in range(300)]
    await store.errands.add(given)

    assert await store.errands.of_tasks([one.task_id for one in given]) == {e.task_id: e for e in given}
    leases = await store.errands.of_leases("north", [one.lease_id for one in given])
    assert leases == {e.lease_id: e for e in given}


async def test_an_errand_of_a_task_that_is_known_stays_as_it_is(store: Store):
    await store.errands.add([])
    await store.errands.add([errand(0)])
    await store.errands.end(["m-0-0"], ENDED, now=7.0)

    await store.errands.add([replace(errand(0), lease_id="other"), errand(1), errand(1, token="other")])

    assert await store.errands.of_tasks(["m-0-0", "m-1-0"]) == {
        "m-0-0": replace(errand(0), status=ENDED, ended_at=7.0),
        "m-1-0": errand(1),
    }
    assert await store.errands.of_leases("north", ["other"]) == {}


async def test_open_errands_come_page_by_page_in_the_order_of_their_tasks(store: Store):
    await store.errands.add([errand(n) for n in (12, 3, 1, 2)] + [replace(errand(5), parent="east")])
    await store.errands.end(["m-2-0"], LOST, now=7.0)

    assert await store.errands.open("north", None, 2) == [errand(1), errand(12)]
    assert await store.errands.open("north", "m-12-0", 2) == [errand(3)]
    assert await store.errands.open("north", "m-3-0", 2) == []
    assert await store.errands.open("west", None, 2) == []


async def test_errands_whose_ends_were_taken_in_are_found_and_opened_again(store: Store):
    await store.errands.add([errand(n) for n in range(5)] + [replace(errand(9), parent="east")])
    await store.errands.end(["m-0-0", "m-1-0", "m-3-0", "m-9-0"], ENDED, now=7.0)
    await store.errands.end(["m-2-0"], LOST, now=7.0)
    ended = [replace(errand(n), status=ENDED, ended_at=7.0) for n in (0, 1, 3)]

    assert await store.errands.ended("north", None, 2) == ended[:2]
    assert await store.errands.ended("north", "m-1-0", 9) == ended[2:]

    await store.errands.reopen([])
    await store.errands.reopen(["m-0-0", "m-2-0", "m-3-0", "m-4-0", "nope"])

    assert await store.errands.open("north", None, 9) == [errand(0), errand(3), errand(4)]
    assert await store.errands.ended("north", None, 9) == ended[1:2]
    assert len(await store.errands.closed(100.0, 9)) == 3
    assert await store.errands.end(["m-0-0", "m-2-0"], ENDED, now=9.0) == [True, False]


async def test_an_errand_is_closed_once(store: Store):
    await store.errands.add([errand(0), errand(1)])

    assert await store.errands.end(["m-0-0", "nope", "m-0-0"], ENDED, now=7.0) == [True, False, False]
    assert await store.errands.end(["m-0-0", "m-1-0"], LOST, now=8.0) == [False, True]
    assert await store.errands.end([], LOST, now=8.0) == []

    assert await store.errands.of_tasks(["m-0-0", "m-1-0"]) == {
        "m-0-0": replace(errand(0), status=ENDED, ended_at=7.0),
        "m-1-0": replace(errand(1), status=LOST, ended_at=8.0),
    }


async def test_of_many_who_close_errands_at_once_each_gets_its_own(store: Store):
    await store.errands.add([errand(n) for n in range(20)])
    tasks = [f"m-{n}-0" for n in range(20)]

    found = await asyncio.gather(*(store.errands.end(tasks, ENDED, now=float(n)) for n in range(5)))

    assert [sum(one) for one in zip(*found, strict=True)] == [1] * 20
    kept = await store.errands.of_tasks(tasks)
    for at, mine in enumerate(found):
        assert all(kept[task].ended_at == at for task, is_mine in zip(tasks, mine, strict=True) if is_mine)


async def test_errands_are_counted_and_forgotten_when_they_were_closed_long_ago(store: Store):
    await store.errands.add([errand(n) for n in range(6)] + [replace(errand(7), parent="east")])
    await store.errands.end(["m-0-0", "m-1-0", "m-7-0"], ENDED, now=10.0)
    await store.errands.end(["m-2-0"], LOST, now=20.0)

    assert await store.errands.counts("north") == {OPEN: 3, ENDED: 2, LOST: 1}
    assert await store.errands.counts("west") == {}
    assert await store.errands.closed(10.0, 10) == []
    assert len(await store.errands.closed(15.0, 2)) == 2
    closed = [each.task_id for each in await store.errands.closed(99.0, 10)]
    assert sorted(closed) == ["m-0-0", "m-1-0", "m-2-0", "m-7-0"]
    assert closed[-1] == "m-2-0"
    assert await store.errands.forget([]) == 0
    assert await store.errands.forget(["m-0-0", "m-2-0", "m-3-0", "nope"]) == 2
    assert await store.errands.counts("north") == {OPEN: 3, ENDED: 1}


# -- the outbox --------------------------------------------------------------------------------


async def test_operations_come_back_as_they_were_given_in_their_order(store: Store):
    body = {"n": 1, "x": ["µ", None, 1.5], "$a.b": {"": True}}
    given = [replace(operation(f"{n}"), kind=kind, body=body) for n, kind in enumerate(OperationKind)]

    await store.outbox.add(given)
    await store.outbox.add([operation("last"), operation("other", "east")])
    await store.outbox.add([])

    found = await store.outbox.next("north", 0, 100)
    assert [queued.operation for queued in found] == [*given, operation("last")]
    assert await waiting(store, limit=2) == ["0", "1"]
    assert await waiting(store, after=found[4].number, limit=2) == ["5", "last"]
    assert await waiting(store, after=found[-1].number) == []
    assert await waiting(store, "east") == ["other"]
    assert await waiting(store, "west") == []


async def test_a_statement_is_queued_once_however_often_it_is_made(store: Store):
    await store.outbox.add([operation("a"), operation("b")])
    first = await number_of(store, "a")
    await bury(store, "b")

    again = [replace(operation(name), at=99.0) for name in ("a", "b", "c", "c")]
    await store.outbox.add([*again, operation("a", "east")])

    assert await waiting(store) == ["a", "c"]
    assert await store.outbox.next("north", 0, 1) == [Queued(first, operation("a"))]
    assert await waiting(store, "east") == ["a"]


async def test_what_was_taken_in_is_dropped_and_may_be_said_again(store: Store):
    await store.outbox.add([operation("a"), operation("b"), operation("c")])
    numbers = [await number_of(store, name) for name in "abc"]
    dead = await bury(store, "b")

    await store.outbox.done("east", numbers)
    assert await waiting(store) == ["a", "c"]
    await store.outbox.done("north", [numbers[0], dead, 10**9])
    await store.outbox.done("north", [])

    assert await waiting(store) == ["c"]
    assert await store.outbox.backlog("north") == Backlog(1, 1, 5.0)
    await store.outbox.add([operation("a")])
    assert await waiting(store) == ["c", "a"]


async def test_numbers_ascend_even_when_all_was_taken_in(store: Store):
    last = 0
    for _ in range(3):
        await store.outbox.add([operation("a")])
        number = await number_of(store, "a")
        assert number > last
        last = number
        await store.outbox.done("north", [number])


async def test_what_is_refused_for_good_becomes_a_dead_letter(store: Store):
    await store.outbox.add([operation("a"), operation("b")])
    number = await number_of(store, "a")

    assert not await store.outbox.bury("east", number, "why", now=50.0)
    assert await store.outbox.bury("north", number, "why", now=50.0)
    assert not await store.outbox.bury("north", number, "again", now=60.0)
    assert not await store.outbox.bury("north", 10**9, "why", now=50.0)

    assert await waiting(store) == ["b"]
    letter = DeadLetter(number, operation("a"), "why", 50.0)
    assert (await store.outbox.dead(None, Page())).items == (letter,)


async def test_dead_letters_are_listed_newest_first(store: Store):
    await store.outbox.add([operation(f"{n}", ("north", "east")[n % 2]) for n in range(7)])
    for n in (4, 0, 3, 2, 1):
        await bury(store, f"{n}", ("north", "east")[n % 2])

    async def listed(to: str | None) -> list[str]:
        found = await pages(store.outbox.dead, to, limit=2)
        return [letter.operation.operation_id for part in found for letter in part]

    assert await listed(None) == ["4", "3", "2", "1", "0"]
    assert await listed("north") == ["4", "2", "0"]
    assert await listed("east") == ["3", "1"]
    assert await listed("west") == []
    for page in (Page(cursor="x"), Page(limit=0)):
        with pytest.raises(QueryError):
            await store.outbox.dead(None, page)


async def test_a_dead_letter_is_queued_again_behind_all_others_or_dropped(store: Store):
    await store.outbox.add([operation("a"), operation("b"), operation("c")])
    alive = await number_of(store, "b")
    first, third = await bury(store, "a"), await bury(store, "c")

    assert not await store.outbox.revive(alive)
    assert not await store.outbox.discard(alive)
    assert await store.outbox.revive(first)
    assert not await store.outbox.revive(first)
    assert await store.outbox.discard(third)
    assert not await store.outbox.discard(third)

    assert await waiting(store) == ["b", "a"]
    assert await number_of(store, "a") > third
    assert (await store.outbox.next("north", alive, 1))[0].operation == operation("a")
    assert (await store.outbox.dead(None, Page())).items == ()


async def test_a_backlog_tells_how_much_waits_and_since_when(store: Store):
    assert await store.outbox.backlog("north") == Backlog()
    await store.outbox.add(
        [replace(operation(name), at=at) for name, at in (("a", 3.0), ("b", 4.0), ("c", 5.0))]
    )
    assert await store.outbox.backlog("north") == Backlog(3, 0, 3.0)

    await bury(store, "a")

    assert await store.outbox.backlog("north") == Backlog(2, 1, 4.0)
    assert await store.outbox.backlog("east") == Backlog()


async def test_a_backlog_is_counted_so_far_and_no_further(store: Store, monkeypatch: pytest.MonkeyPatch):
    for module in ("sqlite", "mongo"):
        monkeypatch.setattr(f"iceprod.store.{module}.federation.MOST_COUNTED", 3)
    await store.outbox.add([operation(name) for name in "abcdefgh"])
    for name in "abcd":
        await bury(store, name)

    found = await store.outbox.backlog("north")

    assert (found.waiting, found.dead) == (3, 3)
    assert found.oldest_at is not None


async def test_many_who_queue_at_once_lose_nothing_and_keep_their_order(store: Store):
    async def say(who: int) -> None:
        for part in range(4):
            await store.outbox.add([operation(f"{who}:{part}:{n}") for n in range(3)])

    await asyncio.gather(*(say(who) for who in range(8)))

    found = await waiting(store)
    assert len(found) == 8 * 4 * 3
    for who in range(8):
        assert [name for name in found if name.startswith(f"{who}:")] == [
            f"{who}:{part}:{n}" for part in range(4) for n in range(3)
        ]
