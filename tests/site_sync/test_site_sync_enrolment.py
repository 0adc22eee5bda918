"""Inviting sites, letting them in, and ending it with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from site_harness import ADMIN, ALICE, LARGE, Site, open_site, task
from x509_harness import name_of, self_signed

from iceprod.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    InputError,
    InvalidTransition,
    NotAuthenticated,
    NotFoundError,
    RateLimited,
)
from iceprod.model.federation import Peer, PeerRole, PeerStatus, holder_of
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.paging import Page
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.model.task import Lease, Move
from iceprod.services.ca import SiteCA
from iceprod.services.peer_keys import facts_of, fingerprint, fits, new_key
from iceprod.site_sync.as_child.greeting import greet
from iceprod.site_sync.invitation import Invitation
from iceprod.site_sync.messages import PROTOCOLS, Certify, Hello, Join, Joined, Welcome
from iceprod.store.federation import PeerPatch

DESY = Principal(PrincipalKind.SITE, "desy")
ELSEWHERE = "192.0.2.7"
KEY = new_key("desy")


@pytest.fixture
async def parent(tmp_path: Path) -> AsyncIterator[Site]:
    """A site that others join, called ``top``."""
    async with open_site(tmp_path, federation={"name": "top"}) as made:
        made.services.addresses.url = "https://top.example.org"
        yield made


async def invited(site: Site, name: str = "desy", **more: Any) -> Invitation:
    code, _ = await site.services.federation.enrolment.invite(ADMIN, name, **more)
    return Invitation.read(code)


def message(code: Invitation | str, **more: Any) -> Join:
    secret = code if isinstance(code, str) else code.secret
    return Join(**{"code": secret, "protocols": list(PROTOCOLS), "csr": KEY.csr, "version": "1", **more})


async def join(site: Site, sent: Join, *, remote: str = ELSEWHERE, caller: Principal = ANONYMOUS) -> Joined:
    return await site.services.federation.enrolment.join(caller, sent, remote=remote)


async def joined(site: Site, name: str = "desy", **more: Any) -> Joined:
    return await join(site, message(await invited(site, name, **more)))


async def holder(site: Site, certificate: str) -> Principal:
    facts = facts_of(certificate)
    found = site.services.certificates.holder(facts.subject, facts.issuer)
    return found if isinstance(found, Principal) else await found


async def audit(site: Site, action: str) -> list[tuple[str, str, dict[str, Any]]]:
    entries = (await site.store.audit.select(None, Page(100))).items
    return [(e.principal, e.target, dict(e.detail)) for e in reversed(entries) if e.action == action]


async def peer(site: Site, name: str = "desy"):
    return await site.store.peers.get(PeerRole.CHILD, name)


# Inviting


async def test_an_invitation_tells_whom_to_believe(parent: Site) -> None:
    code, expires_at = await parent.services.federation.enrolment.invite(ADMIN, "desy", lifetime_s=60.0)

    read = Invitation.read(f" {code[:20]}\n{code[20:]} ")
    introduction = await parent.services.federation.enrolment.introduction()
    assert read.code == code
    assert fingerprint(introduction.authority) == read.fingerprint
    assert introduction.site == "top"
    assert expires_at == parent.clock() + 60.0
    assert await audit(parent, "site.invite") == [("root", "desy", {"expires_at": expires_at})]


async def test_the_code_is_kept_nowhere(parent: Site) -> None:
    secret = (await invited(parent)).secret

    everything = parent.settings.store_path.read_bytes()
    wal = parent.settings.store_path.with_name("iceprod.db-wal")
    everything += wal.read_bytes() if wal.exists() else b""
    assert secret.encode() not in everything
    # And it is no token: it opens nothing but the door.
    with pytest.raises(NotAuthenticated):
        await parent.services.accounts.authenticate(secret)


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65, "é", ".x"])
async def test_a_name_has_to_be_one(parent: Site, name: str) -> None:
    with pytest.raises(InputError):
        await invited(parent, name)


async def test_a_site_does_not_invite_itself(parent: Site) -> None:
    with pytest.raises(InputError, match="itself"):
        await invited(parent, "top")


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, 1e9])
async def test_an_invitation_does_not_last_for_ever(parent: Site, lifetime_s: float) -> None:
    with pytest.raises(InputError):
        await invited(parent, lifetime_s=lifetime_s)


async def test_only_administrators_invite(parent: Site) -> None:
    for caller in (ALICE, DESY, ANONYMOUS):
        with pytest.raises((AccessDenied, NotAuthenticated)):
            await parent.services.federation.enrolment.invite(caller, "desy")


@pytest.mark.parametrize("code", ["", "ij1_", "ij1_AAAA", "ij1_" + "A" * 71, "ij1_é", "is_x" + "A" * 66])
def test_half_a_code_is_none(code: str) -> None:
    with pytest.raises(InputError, match="code"):
        Invitation.read(code)


# Joining


async def test_a_site_joins_by_a_certificate(parent: Site) -> None:
    answer = await joined(parent)

    assert (answer.name, answer.site, answer.protocol, answer.token) == ("desy", "top", 2, "")
    assert fits(KEY.key, answer.certificate)
    assert answer.authority == SiteCA.open(parent.settings.authority_path).certificate.read_text()
    assert await holder(parent, answer.certificate) == DESY
    known = await peer(parent)
    assert (known.status, known.version, known.lease_s) == (PeerStatus.JOINED, "1", 3 * 3600.0)
    assert known.expires_at == facts_of(answer.certificate).ends_at
    assert (await audit(parent, "site.join"))[0][:2] == ("desy", "desy")
    assert (await parent.services.federation.registry.child(DESY)).name == "desy"


async def test_a_code_is_good_once(parent: Site) -> None:
    code = await invited(parent)
    await join(parent, message(code))

    with pytest.raises(NotAuthenticated, match="was used"):
        await join(parent, message(code))

    refused = (await audit(parent, "site.join"))[-1]
    assert refused == ("", "", {"remote": ELSEWHERE, "refused": "no such invitation"})


async def test_a_code_runs_out(parent: Site) -> None:
    code = await invited(parent, lifetime_s=60.0)
    parent.advance(60.0)

    with pytest.raises(NotAuthenticated):
        await join(parent, message(code))
    assert await peer(parent) is None


async def test_a_later_code_takes_the_place_of_the_former(parent: Site) -> None:
    former, later = await invited(parent), await invited(parent)

    with pytest.raises(NotAuthenticated):
        await join(parent, message(former))
    await join(parent, message(later))


async def test_the_code_of_another_site_opens_nothing(parent: Site) -> None:
    with pytest.raises(NotAuthenticated):
        await join(parent, message(Invitation.new("00" * 32)))


async def test_who_guesses_is_slowed_down(parent: Site) -> None:
    for n in range(5):
        with pytest.raises(NotAuthenticated):
            await join(parent, message(f"{n:040}"))

    with pytest.raises(RateLimited):
        await join(parent, message(await invited(parent)))
    await join(parent, message(await invited(parent)), remote="198.51.100.1")


@pytest.mark.parametrize("wrong", [{"csr": "nonsense"}, {"protocols": [99]}, {"csr": ""}])
async def test_what_cannot_be_done_uses_up_no_code(parent: Site, wrong: dict[str, Any]) -> None:
    code = await invited(parent)
    with pytest.raises((InputError, ConflictError)):
        await join(parent, message(code, **wrong))

    await join(parent, message(code))


async def test_a_joined_site_is_not_invited_by_mistake(parent: Site) -> None:
    first = await joined(parent)
    await parent.services.federation.registry.set(ADMIN, "desy", {"share": 3.0, "note": "ours"})
    with pytest.raises(AlreadyExists):
        await invited(parent)

    again = await joined(parent, again=True)

    assert await holder(parent, again.certificate) == DESY
    assert (await holder(parent, first.certificate)).kind is PrincipalKind.ANONYMOUS
    known = await peer(parent)
    assert (known.share, known.note) == (3.0, "ours")


async def test_a_site_that_has_a_certificate_keeps_it(parent: Site) -> None:
    own = self_signed(name_of(("2.5.4.10", "Grid"), ("2.5.4.3", "desy.de")))
    pem = own.certificate.public_bytes(serialization.Encoding.PEM).decode()
    code = await invited(parent)
    sent = message(code, csr="", certificate=pem)

    with pytest.raises(InputError, match="not shown"):
        await join(parent, sent)
    shown = replace(ANONYMOUS, certificate="CN=desy.de,O=Grid")
    answer = await join(parent, sent, caller=shown)

    assert answer.certificate == ""
    assert await holder(parent, pem) == DESY
    # Known by it already, it may join anew, and nobody else by its code.
    again = message(await invited(parent, again=True), csr="", certificate=pem)
    with pytest.raises(AccessDenied):
        await join(parent, again, caller=Principal(PrincipalKind.SITE, "other"))
    await join(parent, again, caller=DESY)
    assert await holder(parent, pem) == DESY


async def test_nobody_brings_the_certificate_of_others(parent: Site) -> None:
    mine = (await joined(parent)).certificate
    code = await invited(parent, "other")
    for caller in (
        ANONYMOUS,
        replace(ANONYMOUS, certificate="CN=other"),
        Principal(PrincipalKind.SITE, "other"),
    ):
        with pytest.raises(InputError, match="not shown"):
            await join(parent, message(code, csr="", certificate=mine), caller=caller)
    assert await holder(parent, mine) == DESY


async def test_a_token_is_for_the_same_machine_alone(parent: Site) -> None:
    code = await invited(parent)
    for url, remote in (
        ("http://127.0.0.1:8080", ELSEWHERE),
        ("https://top.example.org", "127.0.0.1"),
        ("http://127.0.0.1:8080", ""),
    ):
        parent.services.addresses.url = url
        with pytest.raises(InputError):
            await join(parent, message(code, csr=""), remote=remote)

    parent.services.addresses.url = "http://127.0.0.1:8080"
    answer = await join(parent, message(code, csr=""), remote="127.0.0.1")

    assert (answer.certificate, answer.authority) == ("", "")
    assert await parent.services.accounts.authenticate(answer.token) == DESY
    with pytest.raises(ConflictError):
        await parent.services.federation.enrolment.renew_certificate(DESY, Certify(KEY.csr))


# Being known


async def test_versions_are_negotiated(parent: Site) -> None:
    await joined(parent)
    hello = parent.services.federation.registry.hello

    welcome = await hello(DESY, Hello([1, 2, 99], "2.0"))

    assert (welcome.site, welcome.protocol, welcome.lease_s) == ("top", 2, 3 * 3600.0)
    assert (await peer(parent)).version == "2.0"
    with pytest.raises(ConflictError) as caught:
        await hello(DESY, Hello([99]))
    assert caught.value.detail == {"protocols": list(PROTOCOLS)}
    with pytest.raises(AccessDenied):
        await hello(Principal(PrincipalKind.SITE, "nobody"), Hello([1]))


async def test_a_renewed_certificate_is_of_the_same_subject(parent: Site) -> None:
    first = await joined(parent)
    other = new_key("desy")
    parent.advance(3600.0)

    made = await parent.services.federation.enrolment.renew_certificate(DESY, Certify(other.csr))

    assert facts_of(made.certificate).subject == facts_of(first.certificate).subject
    assert fits(other.key, made.certificate)
    assert (await peer(parent)).expires_at == facts_of(made.certificate).ends_at
    assert (await audit(parent, "site.renew_certificate"))[0][:2] == ("desy", "desy")
    with pytest.raises(InputError):
        await parent.services.federation.enrolment.renew_certificate(DESY, Certify("nonsense"))


async def test_a_revoked_site_is_a_stranger_at_once(parent: Site) -> None:
    first = await joined(parent)
    assert await holder(parent, first.certificate) == DESY

    await parent.services.federation.registry.revoke(ADMIN, "desy")

    assert (await holder(parent, first.certificate)).kind is PrincipalKind.ANONYMOUS
    with pytest.raises(AccessDenied):
        await parent.services.federation.registry.child(DESY)
    (issued,) = SiteCA.open(parent.settings.authority_path).issued()
    assert issued.revoked_at is not None
    # The name may be given anew; what was revoked stays revoked.
    again = await joined(parent)
    assert facts_of(again.certificate).subject != facts_of(first.certificate).subject
    assert (await holder(parent, first.certificate)).kind is PrincipalKind.ANONYMOUS


async def test_a_revoked_site_loses_its_tasks(parent: Site) -> None:
    await joined(parent)
    dataset = await parent.submit(task("only"), njobs=3)
    ids = [f"{dataset.dataset_id}-{job}-0" for job in range(3)]
    await lent(parent, ids[:2])

    taken = await parent.services.federation.registry.revoke(ADMIN, "desy")

    assert taken == 2
    assert await parent.statuses(dataset) == [TaskStatus.WAITING] * 3
    assert (await audit(parent, "site.revoke")) == [("root", "desy", {"tasks": 2})]
    # What was lent in the very moment is taken back soon after.
    await lent(parent, ids[2:])
    assert await parent.services.federation.registry.take_back() == 1
    assert len(await parent.claim(await parent.pilot(), LARGE, max_tasks=9)) == 3


async def lent(site: Site, task_ids: list[str]) -> None:
    moves = [
        Move(
            task_id,
            TaskEvent.CLAIMED,
            lease=Lease(f"lease of {task_id}", holder_of("desy"), site.clock() + 3600.0),
        )
        for task_id in task_ids
    ]
    assert None not in await site.store.tasks.move(moves, now=site.clock())


async def test_a_site_leaves(parent: Site) -> None:
    answer = await joined(parent)

    await parent.services.federation.registry.leave(DESY)

    assert (await peer(parent)).status is PeerStatus.LEFT
    assert (await holder(parent, answer.certificate)).kind is PrincipalKind.ANONYMOUS
    with pytest.raises(AccessDenied):
        await parent.services.federation.registry.leave(DESY)


async def test_a_site_is_paused_and_goes_on(parent: Site) -> None:
    await joined(parent)
    registry = parent.services.federation.registry

    assert (await registry.pause(ADMIN, "desy")).status is PeerStatus.PAUSED
    assert (await registry.child(DESY)).status is PeerStatus.PAUSED
    assert (await registry.resume(ADMIN, "desy")).status is PeerStatus.JOINED

    await registry.revoke(ADMIN, "desy")
    for change in (registry.pause, registry.resume):
        with pytest.raises(InvalidTransition):
            await change(ADMIN, "desy")
    with pytest.raises(NotFoundError):
        await registry.revoke(ADMIN, "nobody")


async def test_what_is_set_belongs_to_the_role(parent: Site) -> None:
    await joined(parent)
    registry = parent.services.federation.registry
    above = replace(await peer(parent), role=PeerRole.PARENT, url="https://a.example.org")
    await parent.store.peers.put(above)

    with pytest.raises(InputError, match="say which"):
        await registry.set(ADMIN, "desy", {"share": 2.0})
    with pytest.raises(InputError, match="a child has none"):
        await registry.set(ADMIN, "desy", {"url": "https://b.example.org"}, PeerRole.CHILD)
    with pytest.raises(InputError, match="a parent has none"):
        await registry.set(ADMIN, "desy", {"share": 2.0}, PeerRole.PARENT)
    with pytest.raises(InputError, match="https only"):
        await registry.set(ADMIN, "desy", {"url": "http://b.example.org"}, PeerRole.PARENT)

    moved = await registry.set(ADMIN, "desy", {"url": "https://b.example.org/"}, PeerRole.PARENT)
    weighed = await registry.set(ADMIN, "desy", {"share": 2.0, "most_tasks": 5}, PeerRole.CHILD)

    assert moved.url == "https://b.example.org"
    assert (weighed.share, weighed.most_tasks) == (2.0, 5)
    assert [known.peer.role for known in await registry.all(ALICE)] == ["child", "parent"]


# What is kept of a parent


class Says:
    """A parent that answers always the same."""

    def __init__(self, answer: Welcome) -> None:
        self.answer = answer

    async def call(self, method: str, message: Hello, answer: type[Welcome]) -> Welcome:
        assert (method, message.protocols, answer) == ("site.hello", list(PROTOCOLS), Welcome)
        return self.answer


async def test_what_a_parent_says_of_itself_is_kept(parent: Site) -> None:
    above = Peer("north", PeerRole.PARENT, PeerStatus.PAUSED, joined_at=1.0, url="https://north")
    await greet(above, Says(Welcome("north", 1, 60.0, "2.0")), parent.store, version="1")
    assert await parent.store.peers.all() == []  # it was left meanwhile

    await parent.store.peers.put(above)
    await greet(above, Says(Welcome("north", 1, 60.0, "2.0")), parent.store, version="1")

    (kept,) = await parent.store.peers.all()
    assert kept == replace(above, version="2.0", lease_s=60.0)
    with pytest.raises(ConflictError, match="version 7"):
        await greet(above, Says(Welcome("north", 7, 60.0)), parent.store, version="1")


async def test_who_was_revoked_meanwhile_stays_so(parent: Site) -> None:
    await joined(parent)
    found, registry = await peer(parent), parent.services.federation.registry
    await registry.revoke(ADMIN, "desy")

    with pytest.raises(ConflictError, match="somebody else"):
        await registry.change(found, PeerPatch(version="2"))

    assert (await peer(parent)).status is PeerStatus.REVOKED


async def test_who_vouches_for_this_site_has_to_be_there(tmp_path: Path) -> None:
    async with open_site(tmp_path, federation={"name": "top", "server_ca": tmp_path / "none.pem"}) as site:
        with pytest.raises(NotFoundError, match="no certificate authority"):
            await invited(site)
        assert (await site.services.federation.enrolment.introduction()).authority == ""


async def test_a_certificate_that_has_run_out_is_not_renewed(parent: Site) -> None:
    await joined(parent)
    parent.advance(91 * 86400.0)

    with pytest.raises(NotFoundError, match="certificate of site"):
        await parent.services.federation.enrolment.renew_certificate(DESY, Certify(KEY.csr))
