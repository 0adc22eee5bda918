"""Which origins may be used, by whom, and how many may be there at a time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from site_harness import ADMIN, ALICE, BOB, Site, task, user

from iceprod.errors import AccessDenied, InputError, LeaseLost, NotAuthenticated, NotFoundError
from iceprod.model.location import Location, parse_location
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.movers.base import Access, Credential, Facts, Mover, Span
from iceprod.services.fair_turns import FairTurns
from iceprod.services.origins import NoVault, OriginRule, Origins
from iceprod.services.task_reach import TaskReach

WHOLE = Span()
SITE = Principal(PrincipalKind.SITE, "far")


class AnyAddress:
    def check(self, address: str, port: int) -> None:
        pass


class NoMover(Mover):
    schemes = frozenset({"http", "gsiftp"})

    async def stat(self, location: Location, access: Access) -> Facts:
        raise NotImplementedError

    def fetch(self, location: Location, access: Access, *, span: Span = WHOLE) -> Any:
        raise NotImplementedError


class Safe:
    """A vault with a site's credential and one of alice's."""

    def __init__(self) -> None:
        self.secrets = {("wide", ""): b"site", ("wide", "alice"): b"alice"}

    async def credential(self, origin: str, user: str) -> Credential | None:
        found = self.secrets.get((origin, user)) or self.secrets.get((origin, ""))
        return Credential("token", found) if found else None


def rule(name: str, url: str, **more: Any) -> OriginRule:
    return OriginRule(name, parse_location(url), AnyAddress(), **more)


WIDE = rule("wide", "http://origin.example/data")
NARROW = rule("narrow", "http://origin.example/data/ours", groups=frozenset({"ours"}), write=True)
GRID = rule("grid", "gsiftp://grid.example/", options={"streams": "4"}, connections=2)


@pytest.fixture
def origins(site: Site) -> Origins:
    return made(site)


def made(site: Site, vault: Any = None) -> Origins:
    reach = TaskReach(site.store, site.services.catalogue)
    movers = dict.fromkeys(("http", "gsiftp"), NoMover())
    return Origins((WIDE, NARROW, GRID), movers, vault or NoVault(), reach=reach)


AT_WIDE = parse_location("http://origin.example/data/a")
AT_NARROW = parse_location("http://origin.example/data/ours/a")


async def test_the_longest_address_counts(origins):
    assert (await origins.find(AT_WIDE, ALICE)).name == "wide"
    assert (await origins.find(AT_NARROW, user("carol", "ours"))).name == "narrow"
    assert (await origins.find(AT_NARROW, ADMIN)).name == "narrow"
    with pytest.raises(AccessDenied, match="other groups"):
        await origins.find(AT_NARROW, ALICE)


@pytest.mark.parametrize(
    "url",
    [
        "http://origin.example/database/a",  # not below data
        "http://origin.example:81/data/a",
        "http://origin.example.evil.org/data/a",
        "http://elsewhere.example/data/a",
        "ftp://origin.example/data/a",
    ],
)
async def test_what_no_setting_allows_is_refused_with_the_name_of_the_setting(origins, url):
    with pytest.raises(AccessDenied, match=r"files\.origins"):
        await origins.find(parse_location(url), ADMIN)


async def test_a_refusal_never_proposes_to_open_the_whole_disk(origins):
    with pytest.raises(AccessDenied, match='"file:///etc/"'):
        await origins.find(parse_location("file:///etc/passwd"), ADMIN)


async def test_strangers_are_told_nothing(origins):
    with pytest.raises(NotAuthenticated) as known:
        await origins.find(AT_WIDE, ANONYMOUS)
    with pytest.raises(NotAuthenticated) as unknown:
        await origins.find(parse_location("http://no.example/"), ANONYMOUS)

    assert known.value.message == unknown.value.message


async def test_only_origins_for_writing_are_written_to(origins):
    assert (await origins.find(AT_NARROW, user("carol", "ours"), writing=True)).name == "narrow"
    with pytest.raises(AccessDenied, match="written"):
        await origins.find(AT_WIDE, ALICE, writing=True)
    with pytest.raises(AccessDenied):
        await origins.find(AT_NARROW, SITE, writing=True)


async def test_options_reach_the_mover(origins):
    found = await origins.find(parse_location("gsiftp://grid.example/a"), ALICE)

    assert found.access.options == {"streams": "4"}
    assert (found.user, found.reader) == ("alice", "")


async def test_what_a_users_own_credential_opens_is_for_that_user(site):
    origins = made(site, Safe())

    own, sites = await origins.find(AT_WIDE, ALICE), await origins.find(AT_WIDE, BOB)

    assert (own.reader, own.access.credential.secret) == ("alice", b"alice")
    assert (sites.reader, sites.access.credential.secret) == ("", b"site")


async def test_a_task_reaches_what_its_configuration_names(site, origins):
    entry = {"local": "x", "movement": "input"}
    named = {
        **task("only"),
        "data": [
            {**entry, "remote": "http://origin.example/data/$(job)/in"},
            {**entry, "remote": "http://origin.example/data/ours/in"},
            {"remote": "http://origin.example/data/out", "local": "y", "movement": "output"},
        ],
        "resources": [{"remote": "http://origin.example/data/tool.tgz", "local": "tool.tgz"}],
    }
    await site.submit(named, njobs=2)
    pilot = await site.pilot()
    held = await site.one(pilot)
    caller = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
    own = parse_location(f"http://origin.example/data/{held.job_index}/in")
    other = parse_location(f"http://origin.example/data/{1 - held.job_index}/in")

    found = await origins.find(own, caller)
    assert (found.user, found.dataset_id) == ("alice", held.dataset_id)
    await origins.find(parse_location("http://origin.example/data/tool.tgz"), caller)
    with pytest.raises(NotFoundError):
        await origins.find(other, caller)
    signed = parse_location(f"{own}?signature=secret")
    with pytest.raises(NotFoundError) as raised:  # which is logged
        await origins.find(signed, caller)
    assert "secret" not in str(raised.value)
    with pytest.raises(NotFoundError):
        await origins.find(own, caller, writing=True)
    with pytest.raises(NotFoundError):
        await origins.find(parse_location("http://origin.example/data/out"), caller)
    # Its dataset is of a group that the origin is not for.
    with pytest.raises(AccessDenied):
        await origins.find(parse_location("http://origin.example/data/ours/in"), caller)
    with pytest.raises(LeaseLost):
        await origins.find(own, Principal(PrincipalKind.TASK, held.task_id, lease_id="old"))


async def test_tasks_of_many_addresses_take_no_more_memory(site, monkeypatch):
    monkeypatch.setattr("iceprod.services.task_reach._KEPT_ADDRESSES", 250)
    entry = {"local": "x", "movement": "input"}
    named = {**task("only"), "data": [entry | {"remote": f"{AT_WIDE}/{n}"} for n in range(100)]}
    await site.submit(named, njobs=5)
    pilot = await site.pilot()
    reach = TaskReach(site.store, site.services.catalogue)
    for _ in range(5):
        held = await site.one(pilot)
        caller = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
        found = await asyncio.gather(*(reach.of(caller) for _ in range(3)))
        assert [len(each.inputs) for each in found] == [100] * 3
    assert sum(len(known[0]) for known in reach._known.values()) == 200 == reach._addresses
    reach.close()


async def test_an_origin_that_no_program_speaks_to_is_refused(site):
    origins = Origins((WIDE,), {}, NoVault(), reach=TaskReach(site.store, site.services.catalogue))

    with pytest.raises(InputError):
        await origins.find(AT_WIDE, ALICE)


async def test_those_who_wait_get_their_turn_user_by_user():
    turns, order = FairTurns(1), []

    async def work(who: str) -> None:
        async with turns.turn(who):
            order.append(who)
            await asyncio.sleep(0)

    async with turns.turn("first"):
        waiting = [asyncio.create_task(work(who)) for who in ("a", "a", "a", "b", "c", "c")]
        await asyncio.sleep(0)
        assert turns.waiting == 6
    await asyncio.gather(*waiting)

    assert order == ["a", "b", "c", "a", "c", "a"]
    assert turns.waiting == 0


async def test_who_gives_up_waiting_holds_nobody_up():
    turns = FairTurns(2)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(turns.turn("a"))
        gone = asyncio.create_task(turns.turn("b").__aenter__())
        given = asyncio.create_task(turns.turn("c").__aenter__())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    given.cancel()  # at the moment when it gets its place
    await asyncio.gather(given, return_exceptions=True)

    async with asyncio.timeout(1), turns.turn("d"), turns.turn("e"):
        pass
