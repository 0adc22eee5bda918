"""Certificates as credentials."""

from __future__ import annotations

from dataclasses import replace

import pytest
from site_harness import ADMIN, ALICE, BOB, START, Site, spread
from x509_harness import holder

from iceprod import ids
from iceprod.errors import AccessDenied, AlreadyExists, InputError, NotAuthenticated, NotFoundError
from iceprod.model.paging import Page
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.services.ca import SiteCA
from iceprod.services.certificates import certificate_id, names_of
from iceprod.services.client_chain import ClientIdentity
from iceprod.services.peer_keys import facts_of, new_key
from iceprod.site_sync.invitation import Invitation
from iceprod.site_sync.messages import Join

SUBJECT, ISSUER = "CN=Ada,O=Grid", "CN=CA,O=Grid"
SHOWN = ClientIdentity(SUBJECT, ISSUER, False, START - 100, START + 1000, ())


async def who(site: Site, identity: ClientIdentity = SHOWN) -> Principal:
    found = site.services.certificates.authenticate(identity)
    return found if isinstance(found, Principal) else await found


async def account(site: Site, name: str, *roles: str) -> None:
    await site.services.accounts.create_user(ADMIN, name, "correct horse battery", roles=roles)


async def add(site: Site, kind: PrincipalKind, name: str, **more: str):
    given = {"subject": SUBJECT, "issuer": ISSUER, **more}
    return await site.services.certificates.add(ADMIN, kind=kind, name=name, **given)


async def test_a_certificate_is_as_good_as_a_token_of_that_kind(site: Site) -> None:
    await account(site, "alice")
    pilot = await site.pilot()

    await add(site, PrincipalKind.USER, "alice")
    await add(site, PrincipalKind.PILOT, pilot.id, subject="CN=p,O=Grid")
    await add(site, PrincipalKind.SITE, "child", subject="CN=s,O=Grid")

    token = (await site.services.accounts.create_token(ALICE)).secret
    by_token = site.services.accounts.authenticate(token)
    assert await who(site) == await by_token
    assert await who(site, replace(SHOWN, subject="CN=p,O=Grid")) == pilot
    assert await who(site, replace(SHOWN, subject="CN=s,O=Grid")) == Principal(PrincipalKind.SITE, "child")


async def test_an_administrators_certificate_has_that_role(site: Site) -> None:
    await account(site, "root", "admin")
    await add(site, PrincipalKind.USER, "root")

    assert (await who(site)).is_admin


async def test_a_certificate_that_is_nobodys_is_told(site: Site) -> None:
    stranger = await who(site)

    assert stranger == Principal(PrincipalKind.ANONYMOUS, certificate=SUBJECT)
    with pytest.raises(NotAuthenticated, match=SUBJECT):
        await site.services.certificates.add(
            stranger, kind=PrincipalKind.SITE, name="s", subject="CN=a", issuer="CN=b"
        )


async def test_the_same_name_from_another_issuer_is_somebody_else(site: Site) -> None:
    await add(site, PrincipalKind.SITE, "child")

    assert (await who(site, replace(SHOWN, issuer="CN=Other CA"))).kind is PrincipalKind.ANONYMOUS
    assert (await who(site, replace(SHOWN, subject=ISSUER, issuer=SUBJECT))).kind is PrincipalKind.ANONYMOUS


async def test_any_spelling_of_the_names_will_do(site: Site) -> None:
    await add(
        site, PrincipalKind.SITE, "child", subject="/O=Grid/CN=Zo\\xC3\\xAB, B.", issuer="/O=Grid/CN=CA"
    )

    found = site.services.certificates.holder("CN=Zo\\C3\\AB\\, B.,O=Grid", "CN=CA,O=Grid")

    assert not isinstance(found, Principal)
    assert (await found).id == "child"


async def test_who_is_known_is_told_at_once_and_revoked_at_once(site: Site) -> None:
    made = await add(site, PrincipalKind.SITE, "child")
    await who(site)

    known = site.services.certificates.authenticate(SHOWN)
    await site.services.certificates.revoke(ADMIN, certificate_id(made))

    assert isinstance(known, Principal)
    assert (await who(site)).kind is PrincipalKind.ANONYMOUS


async def test_a_certificate_that_is_added_counts_at_once(site: Site) -> None:
    assert (await who(site)).kind is PrincipalKind.ANONYMOUS

    await add(site, PrincipalKind.SITE, "child")

    assert (await who(site)).kind is PrincipalKind.SITE


async def test_another_process_hears_of_a_revocation_within_seconds(site: Site) -> None:
    made = await add(site, PrincipalKind.SITE, "child")
    other = await site.restarted()
    assert (await who(other)).kind is PrincipalKind.SITE

    await site.services.certificates.revoke(ADMIN, certificate_id(made))
    site.advance(10.0)

    assert (await who(other)).kind is PrincipalKind.ANONYMOUS


async def test_news_of_it_come_sooner(two: list[Site]) -> None:
    here, there = two
    assert (await who(there)).kind is PrincipalKind.ANONYMOUS
    made = await add(here, PrincipalKind.SITE, "child")
    await spread(here, there)
    added = await who(there)

    await here.services.certificates.revoke(ADMIN, certificate_id(made))
    await spread(here, there)

    assert added.id == "child"
    assert (await who(there)).kind is PrincipalKind.ANONYMOUS


async def test_a_closed_account_has_no_certificate_until_it_opens(site: Site) -> None:
    await account(site, "alice")
    await add(site, PrincipalKind.USER, "alice")
    assert (await who(site)).id == "alice"

    await site.services.accounts.disable_user(ADMIN, "alice")
    closed = await who(site)
    await site.services.accounts.disable_user(ADMIN, "alice", disabled=False)

    assert closed.kind is PrincipalKind.ANONYMOUS
    assert (await who(site)).id == "alice"


async def test_a_new_password_leaves_certificates_alone(site: Site) -> None:
    await account(site, "alice")
    await add(site, PrincipalKind.USER, "alice")

    await site.services.accounts.set_password(ADMIN, "alice", "another good password")

    assert (await who(site)).id == "alice"
    assert await site.services.accounts.tokens(ALICE) == []


async def test_a_pilot_that_is_gone_has_no_certificate(site: Site) -> None:
    pilot = await site.pilot()
    await add(site, PrincipalKind.PILOT, pilot.id)

    await site.services.accounts.revoke_pilot_tokens(pilot.id)

    assert (await who(site)).kind is PrincipalKind.ANONYMOUS


async def test_a_limited_proxy_speaks_for_pilots_alone(site: Site) -> None:
    pilot = await site.pilot()
    await account(site, "alice")
    await add(site, PrincipalKind.PILOT, pilot.id, subject="CN=p")
    await add(site, PrincipalKind.USER, "alice", subject="CN=u")
    await add(site, PrincipalKind.SITE, "child", subject="CN=s")
    limited = replace(SHOWN, is_limited=True)

    assert await who(site, replace(limited, subject="CN=p")) == pilot
    for subject in ("CN=u", "CN=s", "CN=u", "CN=s"):  # looked up, and known
        with pytest.raises(NotAuthenticated, match="limited"):
            await who(site, replace(limited, subject=subject))


async def test_a_chain_counts_while_it_lasts(site: Site) -> None:
    await add(site, PrincipalKind.SITE, "child")
    assert (await who(site)).id == "child"

    site.advance(1000.0)

    with pytest.raises(NotAuthenticated, match="expired"):
        await who(site)
    with pytest.raises(NotAuthenticated, match="expired"):
        await who(site, replace(SHOWN, begins_at=START + 2000, ends_at=START + 3000))


async def test_no_token_opens_what_a_certificate_does(site: Site) -> None:
    made = await add(site, PrincipalKind.SITE, "child")
    await who(site)

    for secret in (made.certificate, f"x509:{made.certificate}", made.digest, SUBJECT):
        found = site.services.accounts.authenticate(secret)
        assert not isinstance(found, Principal)
        with pytest.raises(NotAuthenticated):
            await found
    assert made.digest != ids.digest(made.certificate)


@pytest.mark.expects_logs
async def test_names_that_cannot_be_read_are_nobody(site: Site) -> None:
    for subject in ("", "garbage", "CN=" + "a" * 9000, 'CN="x"', "/CN=Ada"):
        found = await who(site, replace(SHOWN, subject=subject))
        assert found.kind is PrincipalKind.ANONYMOUS
        assert len(found.certificate) <= 4096


async def test_a_certificate_speaks_for_one(site: Site) -> None:
    await add(site, PrincipalKind.SITE, "child")

    with pytest.raises(AlreadyExists, match="site child"):
        await add(site, PrincipalKind.SITE, "other")


async def test_a_certificate_is_added_from_its_file(site: Site, tmp_path) -> None:
    ca = SiteCA.create(tmp_path / "ca", name="Test")

    made = await site.services.certificates.add(
        ADMIN, kind=PrincipalKind.SITE, name="child", pem=holder(ca, "child").pem().decode(), label="new"
    )

    assert names_of(made) == ("CN=child,OU=users,O=Test", "CN=Test CA,O=Test")
    assert made.label == "new"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"kind": PrincipalKind.USER, "name": "nobody"}, NotFoundError),
        ({"kind": PrincipalKind.PILOT, "name": "nobody"}, NotFoundError),
        ({"kind": PrincipalKind.ADMIN, "name": "root"}, InputError),
        ({"kind": PrincipalKind.TASK, "name": "t"}, InputError),
        ({"kind": PrincipalKind.SITE, "name": "a/b"}, InputError),
        ({"issuer": ""}, InputError),
        ({"subject": ""}, InputError),
        ({"subject": "Ada"}, InputError),
        ({"pem": "x"}, InputError),
        ({"pem": "x", "subject": "", "issuer": ""}, InputError),
        ({"label": "x" * 201}, InputError),
    ],
)
async def test_what_will_not_do_is_refused(site: Site, given: dict, error: type[Exception]) -> None:
    given = {"kind": PrincipalKind.SITE, "name": "child", **given}

    with pytest.raises(error):
        await add(site, **given)

    assert (await site.services.certificates.certificates(ADMIN, Page(limit=10))).items == ()


async def test_users_see_and_revoke_their_own(site: Site) -> None:
    await account(site, "alice")
    await account(site, "bob")
    own = await add(site, PrincipalKind.USER, "alice", subject="CN=z")
    await add(site, PrincipalKind.USER, "bob", subject="CN=b")
    services = site.services.certificates

    assert (await services.certificates(ALICE, Page(limit=10))).items == (own,)
    everything = (await services.certificates(ADMIN, Page(limit=10))).items
    assert [token.subject for token in everything] == ["bob", "alice"]
    with pytest.raises(NotFoundError):
        await services.revoke(BOB, certificate_id(own))
    with pytest.raises(AccessDenied):
        await services.add(ALICE, kind=PrincipalKind.USER, name="alice", subject="CN=c", issuer="CN=d")
    await services.revoke(ALICE, certificate_id(own))
    assert (await services.certificates(ALICE, Page(limit=10))).items == ()


async def test_what_was_done_is_in_the_audit_trail(site: Site) -> None:
    made = await add(site, PrincipalKind.SITE, "child")
    await site.services.certificates.revoke(ADMIN, certificate_id(made))

    trail = (await site.store.audit.select(certificate_id(made), Page(limit=10))).items

    assert [(entry.principal, entry.action) for entry in trail] == [
        ("root", "certificate.revoke"),
        ("root", "certificate.add"),
    ]
    assert trail[0].detail == {"kind": "site", "name": "child", "subject": SUBJECT, "issuer": ISSUER}


async def test_a_site_that_one_process_revokes_is_a_stranger_to_all(two):
    one, other = two
    one.services.addresses.url = "https://top.example.org"
    code, _ = await one.services.federation.enrolment.invite(ADMIN, "desy")
    sent = Join(Invitation.read(code).secret, [1], csr=new_key("desy").csr)
    facts = facts_of((await one.services.federation.enrolment.join(ANONYMOUS, sent, remote="")).certificate)
    await spread(one, other)
    known = await other.services.certificates.holder(facts.subject, facts.issuer)
    assert known == Principal(PrincipalKind.SITE, "desy")
    assert other.services.certificates.holder(facts.subject, facts.issuer) == known  # at hand

    await one.services.federation.registry.revoke(ADMIN, "desy")
    await spread(one, other)

    found = await other.services.certificates.holder(facts.subject, facts.issuer)
    assert found.kind is PrincipalKind.ANONYMOUS
    with pytest.raises(AccessDenied):
        await other.services.federation.registry.child(known)
