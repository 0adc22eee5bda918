"""Joining a real server over TLS, and calling it by what came of that."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from site_harness import ADMIN, Site, open_site
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from web_harness import Web, open_web
from x509_harness import holder, name_of, self_signed, signed_by

from iceprod import clock as clocks
from iceprod.config import TlsSettings
from iceprod.errors import (
    AlreadyExists,
    ConflictError,
    InputError,
    NotAuthenticated,
    NotFoundError,
    Unavailable,
)
from iceprod.model.federation import Peer, PeerRole, PeerStatus
from iceprod.server import joining as beside
from iceprod.server.app import make_application
from iceprod.server.federation import identity_files
from iceprod.server.tls_port import DirectPort, TrustFiles
from iceprod.services.ca import CertificateUse, SiteCA
from iceprod.services.peer_keys import new_key
from iceprod.site_sync.as_child.identity import IdentityFiles
from iceprod.site_sync.as_child.joining import Joining, Request
from iceprod.site_sync.as_child.link import LinkState, ParentLink
from iceprod.site_sync.as_child.renewal import Renewal
from iceprod.site_sync.invitation import Invitation
from iceprod.site_sync.messages import PROTOCOLS, Certify, Hello, Nothing, Welcome

HELLO = Hello(list(PROTOCOLS), "1")


@dataclass
class Two:
    """A parent on three ports, and a child: ``open_url`` asks for no certificate, ``url`` for one."""

    web: Web
    child: Site
    ca: SiteCA
    open_url: str
    url: str
    folder: Path

    @property
    def parent(self) -> Site:
        return self.web.site

    def files(self, name: str) -> IdentityFiles:
        return identity_files(self.child.settings, name)

    def link(self, peer: Peer | None = None, **more: Any) -> ParentLink:
        """To where a certificate is asked for, unless another parent is given."""
        name, url = (peer.name, peer.url) if peer else ("top", self.url)
        return ParentLink(**{"name": name, "url": url, "files": self.files(name), **more})

    def joining(self) -> Joining:
        return Joining(self.child.store, clock=clocks.now, files=self.files, connect=self.link, version="1")

    async def code(self, name: str = "desy", **more: Any) -> str:
        return (await self.parent.services.federation.enrolment.invite(ADMIN, name, **more))[0]

    async def joined(self) -> ParentLink:
        """A link to the parent, which the child has joined."""
        await self.joining().join(Request(self.open_url, await self.code()))
        return self.link()


def context_of(ca: SiteCA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = CertificateUse.SERVER
    context.load_cert_chain(ca.certificate_of("localhost", server), ca.key_of("localhost", server))
    return context


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    for name in ("top", "child"):
        (tmp_path / name).mkdir()
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(open_web(tmp_path / "top", federation={"name": "top"}))
        child = await stack.enter_async_context(open_site(tmp_path / "child"))
        web.site.clock.now = child.clock.now = clocks.now()  # certificates are of our days
        ca = SiteCA.create(web.site.settings.authority_path, name="Top")
        ca.issue("localhost", use=CertificateUse.SERVER, hosts=["localhost", "127.0.0.1"])
        tls = TlsSettings(
            certificate=ca.certificate_of("localhost", CertificateUse.SERVER),
            key=ca.key_of("localhost", CertificateUse.SERVER),
            ca_path=ca.certificate,
            crl_path=ca.crl,
        )
        application = make_application(web.context)
        ports = (
            HTTPServer(application, ssl_options=context_of(ca)),
            DirectPort(application, files=TrustFiles(tls), refusals=web.context.services.federation.refusals),
        )
        urls = []
        for port in ports:
            bound, number = bind_unused_port()
            port.add_socket(bound)
            urls.append(f"https://localhost:{number}")
        yield Two(web, child, ca, urls[0], urls[1], tmp_path)
        for port in ports:
            port.stop()
            await port.close_all_connections()


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def in_the_past(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    begin = builder._not_valid_before - timedelta(days=10)
    builder._not_valid_before, builder._not_valid_after = begin, begin + timedelta(days=1)
    return builder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Joining


async def test_a_site_joins_whom_it_was_invited_by(two: Two) -> None:
    made = await two.joining().join(Request(f"{two.open_url}/", await two.code()))

    assert (made.parent.name, made.known_as, made.parent.url) == ("top", "desy", two.open_url)
    assert made.parent == await two.child.store.peers.get(PeerRole.PARENT, "top")
    assert made.parent.expires_at is not None
    # At this port nobody asks for the certificate: the person is told.
    assert "client_ca" in made.trouble
    folder = two.child.settings.federation_path / "top"
    assert mode(folder.parent) == mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {"identity.pem": 0o600, "ca.pem": 0o600}
    welcome = await two.link().call("site.hello", HELLO, Welcome)
    assert (welcome.site, welcome.protocol) == ("top", max(PROTOCOLS))


@pytest.mark.expects_logs
async def test_nothing_is_told_to_somebody_else(two: Two, tmp_path: Path) -> None:
    code = await two.code()
    other = SiteCA.create(tmp_path / "other", name="Other")
    wrong = Invitation(Invitation.read(code).secret, "00" * 32).code

    with pytest.raises(NotAuthenticated, match="not the site that made this invitation"):
        await two.joining().join(Request(two.open_url, wrong))
    with pytest.raises(Unavailable, match="certificate"):
        await two.joining().join(Request(two.open_url, code, authority=other.certificate))

    assert await two.child.store.peers.all() == []
    assert not two.child.settings.federation_path.exists()
    await two.joining().join(Request(two.open_url, code))  # it is as good as before


@pytest.mark.expects_logs
async def test_who_only_repeats_the_authority_is_not_believed(two: Two, tmp_path: Path) -> None:
    # It answers with what the true site answers, but its own certificate is of somebody else.
    other = SiteCA.create(tmp_path / "other", name="Other")
    other.issue("localhost", use=CertificateUse.SERVER, hosts=["localhost"])
    false = HTTPServer(make_application(two.web.context), ssl_options=context_of(other))
    bound, number = bind_unused_port()
    false.add_socket(bound)
    code = await two.code()
    try:
        with pytest.raises(Unavailable, match="certificate"):
            await two.joining().join(Request(f"https://localhost:{number}", code))
    finally:
        false.stop()
        await false.close_all_connections()
    assert (await two.parent.store.peers.all()) == []


async def test_an_authority_may_be_given(two: Two) -> None:
    code = Invitation(Invitation.read(await two.code()).secret, "00" * 32).code

    made = await two.joining().join(Request(two.open_url, code, authority=two.ca.certificate, name="above"))

    assert made.parent.name == "above"
    assert (two.child.settings.federation_path / "above" / "ca.pem").exists()


@pytest.mark.parametrize("url", ["http://192.0.2.1:8080", "http://top.example.org", "http://2130706433"])
async def test_no_other_machine_is_joined_over_plain_http(two: Two, url: str) -> None:
    with pytest.raises(InputError, match="https only"):
        await two.joining().join(Request(url, await two.code()))


@pytest.mark.parametrize(
    "url",
    ["", "top", "ftp://x", "https://", "https://a:b@x", "https://x?y", "https://x#y", "https://x:99999"],
)
async def test_an_address_has_to_be_one(two: Two, url: str) -> None:
    with pytest.raises(InputError):
        await two.joining().join(Request(url, await two.code()))


async def test_on_this_machine_a_token_will_do(two: Two) -> None:
    made = await two.joining().join(Request(two.web.url, await two.code()))

    folder = two.child.settings.federation_path / "top"
    assert made.trouble == ""
    assert made.parent.expires_at is None
    assert {path.name: mode(path) for path in folder.iterdir()} == {"token": 0o600}
    link = two.link(made.parent)
    assert (await link.call("site.hello", HELLO, Welcome)).site == "top"
    link.close()


async def test_two_parents_have_two_names(two: Two) -> None:
    await two.joining().join(Request(two.open_url, await two.code()))

    with pytest.raises(AlreadyExists, match="call this one otherwise"):
        await two.joining().join(Request(two.web.url, await two.code("other")))
    # At the same address it is the same parent, joined anew.
    await two.joining().join(Request(two.open_url, await two.code(again=True)))


async def test_a_site_with_a_certificate_of_its_own_joins_at_the_direct_port(two: Two) -> None:
    own = signed_by(two.ca, name_of(("2.5.4.10", "Grid"), ("2.5.4.3", "desy.de"))).file(
        two.folder / "own.pem"
    )

    made = await two.joining().join(Request(two.url, await two.code(), certificate=own))

    assert made.trouble == ""
    assert made.parent.expires_at is not None
    assert (await two.link(made.parent).call("site.hello", HELLO, Welcome)).site == "top"


async def test_nobody_answers(two: Two) -> None:
    bound, number = bind_unused_port()
    bound.close()

    for url in (f"https://127.0.0.1:{number}", f"http://127.0.0.1:{number}"):
        with pytest.raises(Unavailable):
            await two.joining().join(Request(url, await two.code()))


async def test_joining_and_leaving_is_done_beside_a_server(two: Two) -> None:
    settings = two.child.settings
    made = await beside.join(settings, Request(two.web.url, await two.code()))
    assert made.trouble == ""

    await beside.leave(settings, "top")
    left = await beside.follow(settings, "top", lambda _: None)

    assert left.status is PeerStatus.LEFT
    assert (await two.parent.store.peers.get(PeerRole.CHILD, "desy")).status is PeerStatus.LEFT
    assert (await two.child.store.peers.get(PeerRole.PARENT, "top")).status is PeerStatus.LEFT
    assert not (settings.federation_path / "top").exists()
    with pytest.raises(NotFoundError):
        await beside.leave(settings, "top")


async def test_a_parent_that_is_gone_is_left_anyway(two: Two) -> None:
    settings = two.child.settings
    made = await beside.join(settings, Request(two.web.url, await two.code()))
    bound, number = bind_unused_port()
    bound.close()
    await two.child.store.peers.put(replace(made.parent, url=f"http://127.0.0.1:{number}"))

    await beside.leave(settings, "top")
    with pytest.raises(Unavailable):
        await beside.follow(settings, "top", lambda _: None)
    assert (settings.federation_path / "top").exists()
    assert (await two.child.store.peers.get(PeerRole.PARENT, "top")).status is PeerStatus.LEAVING
    await beside.leave(settings, "top", anyway=True)

    assert not (settings.federation_path / "top").exists()


async def test_a_parent_that_has_ended_it_is_left(two: Two) -> None:
    settings = two.child.settings
    await beside.join(settings, Request(two.web.url, await two.code()))
    await two.parent.services.federation.registry.revoke(ADMIN, "desy")

    await beside.leave(settings, "top")
    await beside.follow(settings, "top", lambda _: None)

    assert (await two.child.store.peers.get(PeerRole.PARENT, "top")).status is PeerStatus.LEFT


# Calling


async def test_errors_of_the_parent_are_its_own(two: Two) -> None:
    link = await two.joined()

    with pytest.raises(ConflictError):
        await link.call("site.hello", Hello([99]), Welcome)
    with pytest.raises(InputError):
        await link.call("site.renew_certificate", Certify("nonsense"), Nothing)
    assert link.state.failures == 0
    assert link.state.contact_at > 0
    link.close()


async def test_a_revoked_site_is_refused_at_once(two: Two) -> None:
    link = await two.joined()
    await link.call("site.hello", HELLO, Welcome)

    await two.parent.services.federation.registry.revoke(ADMIN, "desy")

    with pytest.raises(NotAuthenticated):
        await link.call("site.hello", HELLO, Welcome)
    assert link.state.failures == 1
    assert "certificate" in link.state.reason
    link.close()


@pytest.mark.expects_logs
async def test_forged_certificates_are_refused(two: Two, tmp_path: Path) -> None:
    link = await two.joined()
    link.close()
    identity = two.child.settings.federation_path / "top" / "identity.pem"
    subject = [(one.oid.dotted_string, str(one.value)) for one in certificate_in(identity).subject]
    other = SiteCA.create(tmp_path / "other", name="Top")
    forged = {
        "of nobody": self_signed(name_of(*subject)),
        "of another authority of the same name": signed_by(other, name_of(*subject)),
        "expired": signed_by(two.ca, name_of(*subject), change=in_the_past),
    }
    for who, shown in forged.items():
        shown.file(identity)
        again = two.link()
        with pytest.raises(Unavailable):
            await again.call("site.hello", HELLO, Welcome)
        assert again.state.failures == 1, who
        again.close()


async def test_a_certificate_of_another_kind_opens_nothing(two: Two) -> None:
    link = await two.joined()
    identity = two.child.settings.federation_path / "top" / "identity.pem"
    holder(two.ca, "desy", CertificateUse.USER).file(identity)

    with pytest.raises(NotAuthenticated, match="nobody here has the certificate"):
        await link.call("site.hello", HELLO, Welcome)
    link.close()


async def test_an_answer_that_makes_no_sense_is_none(two: Two) -> None:
    link = await two.joined()

    with pytest.raises(Unavailable, match="not understood"):
        await link.call("site.hello", HELLO, Certify)
    link.close()


async def test_a_call_that_is_not_understood_as_such_was_not_refused(two: Two) -> None:
    """It was garbled on the way, or the parent is an old one for a while: what it says stays to be said."""
    link = await two.joined()

    with pytest.raises(Unavailable, match="Method not found"):
        await link.call("site.unheard_of", HELLO, Welcome)
    assert link.state.failures == 1
    link.close()


async def test_a_link_without_files_calls_nobody(two: Two) -> None:
    link = two.link()

    with pytest.raises(Unavailable, match="cannot be called"):
        await link.call("site.hello", HELLO, Welcome)


# Waiting


async def test_pauses_grow_and_any_answer_ends_them(two: Two) -> None:
    link, told = await two.joined(), []
    link.on_state = lambda state: told.append(replace(state))
    true, link.url = link.url, "https://127.0.0.1:9"
    assert link.state == LinkState()
    await link.pause()  # at once

    for _ in range(8):
        with pytest.raises(Unavailable):
            await link.call("site.hello", HELLO, Welcome)
        link.close()
    assert [state.failures for state in told] == list(range(1, 9))
    waiting = asyncio.create_task(link.pause())
    await asyncio.sleep(0)
    assert not waiting.done()
    link.url = true
    await link.call("site.hello", HELLO, Welcome)
    async with asyncio.timeout(5.0):
        await waiting

    assert link.state.failures == 0
    link.close()


async def test_calls_that_fail_together_count_once(two: Two) -> None:
    link = await two.joined()
    link.url = "https://127.0.0.1:9"

    calls = (link.call("site.hello", HELLO, Welcome) for _ in range(5))
    await asyncio.gather(*calls, return_exceptions=True)

    assert link.state.failures == 1
    link.close()


# Renewal


def renewal(two: Two) -> Renewal:
    return Renewal(two.child.store, clock=two.child.clock, files=two.files, connect=two.link)


async def test_a_certificate_is_renewed_in_time_and_used_at_once(two: Two) -> None:
    await two.joining().join(Request(two.open_url, await two.code()))
    peer = replace(await two.child.store.peers.get(PeerRole.PARENT, "top"), url=two.url)
    await two.child.store.peers.put(peer)
    link = two.link()
    await link.call("site.hello", HELLO, Welcome)
    identity = two.child.settings.federation_path / "top" / "identity.pem"
    first = identity.read_bytes()

    assert await renewal(two).look() == 0
    two.child.advance(59 * 86400.0)
    assert await renewal(two).look() == 0
    two.child.advance(2 * 86400.0)
    assert await renewal(two).look() == 1

    assert identity.read_bytes() != first
    assert mode(identity) == 0o600
    assert (await link.call("site.hello", HELLO, Welcome)).site == "top"
    assert serialization.load_pem_private_key(identity.read_bytes(), None)
    link.close()


@pytest.mark.expects_logs
async def test_a_renewal_that_fails_changes_nothing(two: Two) -> None:
    link = await two.joined()
    link.close()
    await two.parent.services.federation.registry.revoke(ADMIN, "desy")
    identity = two.child.settings.federation_path / "top" / "identity.pem"
    first = identity.read_bytes()

    two.child.advance(80 * 86400.0)

    assert await renewal(two).look() == 0
    assert identity.read_bytes() == first


async def test_a_certificate_of_ones_own_is_left_to_its_owner(two: Two) -> None:
    own = signed_by(two.ca, name_of(("2.5.4.3", "desy.de"))).file(two.folder / "own.pem")
    await two.joining().join(Request(two.url, await two.code(), certificate=own))
    two.child.advance(80 * 86400.0)

    assert await renewal(two).look() == 0

    # A new one in the same place is used at once.
    link = two.link()
    await link.call("site.hello", HELLO, Welcome)
    signed_by(two.ca, name_of(("2.5.4.3", "desy.de"))).file(own)
    os.utime(own, (1, 1))
    assert (await link.call("site.hello", HELLO, Welcome)).site == "top"
    link.close()


def test_a_certificate_for_another_key_is_not_kept(tmp_path: Path) -> None:
    ca = SiteCA.create(tmp_path / "ca")
    files = IdentityFiles(tmp_path / "federation" / "top")
    made = ca.sign(new_key("x").csr, "desy").pem

    with pytest.raises(InputError):
        files.keep_certificate(new_key("y").key, made, "")
    with pytest.raises(NotFoundError):
        files.read()
