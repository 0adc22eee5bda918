"""The direct TLS port, over real connections: who is let in, and as whom."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from site_harness import ADMIN, ALICE
from tornado.testing import bind_unused_port
from web_harness import Web, open_web
from x509_harness import (
    DRAFT_PROXY_INFO,
    INDEPENDENT,
    LIMITED,
    Holder,
    client_context,
    holder,
    name_of,
    proxy_info,
    self_signed,
    signed_by,
)

from iceprod import clock as clocks
from iceprod.config import TlsSettings
from iceprod.errors import ConfigError
from iceprod.model.paging import Page
from iceprod.model.principal import PrincipalKind
from iceprod.server import tls_port
from iceprod.server.app import make_application
from iceprod.server.tls_port import DirectPort, TrustFiles, make_context, refused_for
from iceprod.services.ca import CertificateUse, SiteCA
from iceprod.services.certificates import certificate_id

USER = CertificateUse.USER


@dataclass
class Direct:
    """A site with a direct port, an authority, and people with certificates."""

    web: Web
    ca: SiteCA
    port: DirectPort
    number: int
    folder: Path

    def shown(self, who: Holder | None) -> ssl.SSLContext:
        """A client that shows a certificate."""
        return client_context(self.ca, who and who.file(self.folder / "shown.pem"))

    async def connect(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.number, ssl=context)

    async def call(self, who: Holder | None, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one call on a connection of its own."""
        reader, writer = await self.connect(self.shown(who))
        try:
            return await call(reader, writer, method, **params)
        finally:
            writer.close()

    async def refused(self, who: Holder | None, context: ssl.SSLContext | None = None) -> bool:
        """Whether TLS itself lets nobody in: in TLS 1.3 the client hears of it a moment later."""
        try:
            reader, writer = await self.connect(context or self.shown(who))
            try:
                await call(reader, writer, "rpc.discover")
            finally:
                writer.close()
        except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            return True
        return False

    async def mapped(self, who: Holder, kind: PrincipalKind, name: str) -> str:
        """Say for whom a certificate speaks; gives its id."""
        services = self.web.site.services.certificates
        pem = who.pem().decode()
        return certificate_id(await services.add(ADMIN, kind=kind, name=name, pem=pem))

    async def alice(self) -> Holder:
        """The user of that name, with a certificate."""
        await self.web.account("alice")
        who = holder(self.ca, "alice")
        await self.mapped(who, PrincipalKind.USER, "alice")
        return who


async def call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, **params: Any
) -> dict[str, Any]:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    status, _, answer = await request(reader, writer, "POST", "/jsonrpc", body=body)
    assert status == 200, (status, answer)
    return dict(json.loads(answer))


async def request(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: str = "",
) -> tuple[int, str, bytes]:
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n".encode()
        + body
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next((line for line in head.lower().splitlines() if line.startswith("content-length:")), ":0")
    return int(head.split()[1]), head, await reader.readexactly(int(length.partition(":")[2]))


def slug(answer: dict[str, Any]) -> str:
    return str(answer["error"]["data"]["code"]) if "error" in answer else "done"


@asynccontextmanager
async def opened(
    folder: Path, *, server_settings: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Direct]:
    ca = SiteCA.create(folder / "ca", name="Test")
    server = CertificateUse.SERVER
    ca.issue("localhost", use=server, hosts=["localhost", "127.0.0.1"])
    given = {
        "certificate": ca.certificate_of("localhost", server),
        "key": ca.key_of("localhost", server),
        "ca_path": ca.certificate,
        "crl_path": ca.crl,
        **settings,
    }
    async with open_web(folder, server={"data_dir": folder, **(server_settings or {})}) as web:
        web.site.clock.now = clocks.now()  # certificates are of our days
        port = DirectPort(
            make_application(web.context),
            files=TrustFiles(TlsSettings(**given)),
            refusals=web.context.services.federation.refusals,
        )
        bound, number = bind_unused_port()
        port.add_socket(bound)
        try:
            yield Direct(web, ca, port, number, folder)
        finally:
            port.stop()
            await port.close_all_connections()


@pytest.fixture
async def direct(tmp_path: Path) -> AsyncIterator[Direct]:
    async with opened(tmp_path) as made:
        yield made


# Who is let in, and as whom


async def test_a_users_certificate_speaks_for_the_user(direct: Direct) -> None:
    alice = await direct.alice()

    answer = await direct.call(alice, "certificate.list")

    assert [item["name"] for item in answer["result"]["items"]] == ["alice"]


async def test_a_pilots_certificate_speaks_for_the_pilot(direct: Direct) -> None:
    pilot = await direct.web.site.pilot()
    who = holder(direct.ca, "node1", CertificateUse.PILOT)
    await direct.mapped(who, PrincipalKind.PILOT, pilot.id)

    answer = await direct.call(who, "pilot.heartbeat", tasks=[])
    denied = await direct.call(who, "dataset.list")

    assert answer["result"]["lost"] == []
    assert slug(denied) == "access_denied"


@pytest.mark.parametrize("depth", [1, 2, 4])
async def test_a_proxy_speaks_for_whom_it_was_made_by(direct: Direct, depth: int) -> None:
    who = await direct.alice()
    for n in range(depth):
        who = who.proxy(name=str(1000 + n))

    answer = await direct.call(who, "certificate.list")

    assert [item["name"] for item in answer["result"]["items"]] == ["alice"]


async def test_a_certificate_opens_pages_and_files_too(direct: Direct) -> None:
    alice = await direct.alice()
    dataset = await direct.web.site.submit(owner=ALICE)
    reader, writer = await direct.connect(direct.shown(alice.proxy()))

    page = await request(reader, writer, "GET", f"/datasets/{dataset.dataset_id}")
    stored = await request(reader, writer, "PUT", f"/files/dataset_temp/{dataset.dataset_id}/a", body=b"x")
    writer.close()

    assert page[0] == 200
    assert b"alice" in page[2]
    assert stored[0] == 403  # known as alice, who may not write there


@pytest.mark.expects_logs
async def test_a_limited_proxy_speaks_for_a_pilot_only(direct: Direct) -> None:
    alice = await direct.alice()
    pilot = await direct.web.site.pilot()
    node = holder(direct.ca, "node1", CertificateUse.PILOT)
    await direct.mapped(node, PrincipalKind.PILOT, pilot.id)
    limited = proxy_info(LIMITED)

    reader, writer = await direct.connect(direct.shown(alice.proxy(info=limited)))
    refused = await request(reader, writer, "POST", "/jsonrpc", body=b"{}")
    writer.close()

    assert refused[0] == 401
    assert b"limited proxy" in refused[2]
    assert "result" in await direct.call(node.proxy(info=limited), "pilot.heartbeat", tasks=[])


async def test_a_certificate_that_is_nobodys_is_told_clearly(direct: Direct) -> None:
    who = holder(direct.ca, "stranger")

    answer = await direct.call(who, "dataset.list")
    reader, writer = await direct.connect(direct.shown(who))
    page = await request(reader, writer, "GET", "/files/site_temp/x")
    writer.close()

    assert slug(answer) == "not_authenticated"
    assert "CN=stranger,OU=users,O=Test" in answer["error"]["message"]
    assert page[0] == 401
    assert b"CN=stranger" in page[2]


async def test_a_token_goes_before_the_certificate(direct: Direct) -> None:
    alice = await direct.alice()
    await direct.web.account("bob")
    pilot = await direct.web.site.pilot()
    passkey = await direct.web.site.services.accounts.issue_pilot_token(pilot.id)
    reader, writer = await direct.connect(direct.shown(alice))
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "certificate.list"}).encode()

    bearer = f"Authorization: Bearer {passkey}\r\n"
    by_token = await request(reader, writer, "POST", "/jsonrpc", body=body, headers=bearer)
    by_passkey = await call(reader, writer, "echo", value="e", passkey=passkey)
    wrong = await call(reader, writer, "echo", value="e", passkey="ip_wrong")
    by_certificate = await call(reader, writer, "echo", value="e")
    writer.close()

    assert slug(json.loads(by_token[2])) == "access_denied"
    assert by_passkey["result"] == by_certificate["result"] == "e"
    assert slug(wrong) == "not_authenticated"


# Who is not


def other_ca(direct: Direct) -> SiteCA:
    """An authority that nobody here trusts, though it is called the same."""
    return SiteCA.create(direct.folder / "other", name="Test")


def expired(direct: Direct) -> Holder:
    yesterday = SiteCA.open(direct.ca.folder, clock=lambda: clocks.now() - 3 * 86400)
    return holder(yesterday, "late", days=1)


STRANGERS: dict[str, Callable[[Direct, Holder], Holder | None]] = {
    "without a certificate": lambda direct, alice: None,
    "expired": lambda direct, alice: expired(direct),
    "of another authority": lambda direct, alice: holder(other_ca(direct), "alice"),
    "proxy of another authority": lambda direct, alice: holder(other_ca(direct), "alice").proxy(),
    "self-signed": lambda direct, alice: self_signed(alice.certificate.subject),
    "proxy of a self-signed": lambda direct, alice: self_signed(alice.certificate.subject).proxy(),
    "expired proxy": lambda direct, alice: alice.proxy(age_days=2, days=1),
    "good proxy of an expired proxy": lambda direct, alice: alice.proxy(age_days=2, days=1).proxy(),
    "proxy of an expired": lambda direct, alice: expired(direct).proxy(),
    "legacy proxy": lambda direct, alice: alice.proxy(oid="", name="proxy"),
    "proxy of a draft": lambda direct, alice: alice.proxy(oid=DRAFT_PROXY_INFO),
    "proxy under another name": lambda direct, alice: alice.proxy(subject=name_of(("2.5.4.3", "bob"))),
    "too deep": lambda direct, alice: alice.proxy(info=proxy_info(path_length=0)).proxy(),
    "for servers": lambda direct, alice: holder(direct.ca, "server", CertificateUse.SERVER),
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.expects_logs  # Tornado tells of each handshake that fails
async def test_tls_lets_strangers_not_in(direct: Direct, kind: str) -> None:
    alice = await direct.alice()

    assert await direct.refused(STRANGERS[kind](direct, alice))
    assert not await direct.refused(alice)


async def noted(direct: Direct) -> list[tuple[str, str, str]]:
    """Subject, address and reason of certificates that the audit trail says were refused."""
    await direct.web.site.services.federation.refusals.save()
    found = (await direct.web.site.store.audit.select(None, Page(100))).items
    return [
        (entry.target, str(entry.detail["address"]), str(entry.detail["reason"]))
        for entry in reversed(found)
        if entry.action == "certificate.refused"
    ]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "certificate has expired"),
        ("self-signed", "self-signed certificate"),
        ("of another authority", "unable to get local issuer certificate"),
        ("without a certificate", ""),
    ],
)
@pytest.mark.expects_logs
async def test_who_tls_does_not_let_in_is_noted(direct: Direct, kind: str, reason: str) -> None:
    alice = await direct.alice()

    assert await direct.refused(STRANGERS[kind](direct, alice))

    assert await noted(direct) == ([("", "127.0.0.1", reason)] if reason else [])


def test_other_ends_of_handshakes_are_told_apart() -> None:
    stolen = ssl.SSLError(ssl.SSL_ERROR_SSL, "bad signature")
    stolen.reason = "BAD_SIGNATURE"

    assert refused_for(stolen) == "its key is not the client's"
    for other in (None, ssl.SSLError(ssl.SSL_ERROR_SSL, "no shared cipher"), ConnectionResetError()):
        assert refused_for(other) == ""


@pytest.mark.expects_logs
async def test_a_certificate_revoked_meanwhile_is_noted(direct: Direct) -> None:
    alice = await direct.alice()
    reader, writer = await direct.connect(direct.shown(alice))
    assert slug(await call(reader, writer, "certificate.list")) == "done"

    direct.ca.revoke("alice")
    direct.port.look()
    status, _, _ = await request(reader, writer, "POST", "/jsonrpc", body=b"{}")
    writer.close()

    assert status == 401
    ((subject, address, reason),) = await noted(direct)
    assert (subject, address) == ("CN=alice,OU=users,O=Test", "127.0.0.1")
    assert "revoked" in reason


@pytest.mark.expects_logs
async def test_an_independent_proxy_is_nobody(direct: Direct) -> None:
    alice = await direct.alice()
    reader, writer = await direct.connect(direct.shown(alice.proxy(info=proxy_info(INDEPENDENT))))

    status, _, text = await request(reader, writer, "POST", "/jsonrpc", body=b"{}")
    writer.close()

    assert status == 401
    assert b"independent" in text


async def test_a_name_made_to_look_like_a_proxy_is_somebody_else(direct: Direct) -> None:
    alice = await direct.alice()
    imitation = signed_by(
        direct.ca, x509.Name([*alice.certificate.subject.rdns, *name_of(("2.5.4.3", "12345")).rdns])
    )

    assert slug(await direct.call(imitation, "certificate.list")) == "not_authenticated"


@pytest.mark.parametrize(
    "name",
    [
        "alice,OU=users,O=Test",
        "alice\\,OU=users",
        "alice\nCN=Test CA",
        "alice\x00",
        " alice",
        "alice ",
        "ALICE",
        "al\u0456ce",
        "\u202ealice",
        "+CN=alice",
        "#0C05616C696365",
        "<script>alert(1)</script>",
    ],
)
async def test_hostile_names_are_nobody(direct: Direct, name: str) -> None:
    await direct.alice()
    who = signed_by(direct.ca, name_of(("2.5.4.10", "Test"), ("2.5.4.11", "users"), ("2.5.4.3", name)))

    answer = await direct.call(who, "certificate.list")

    assert slug(answer) == "not_authenticated"
    assert answer["error"]["message"].isprintable()


async def test_headers_for_a_proxy_mean_nothing_here(direct: Direct) -> None:
    await direct.alice()
    reader, writer = await direct.connect(direct.shown(holder(direct.ca, "stranger")))
    forged = (
        "X-SSL-Verify: SUCCESS\r\nX-SSL-Subject-DN: CN=alice,OU=users,O=Test\r\n"
        "X-SSL-Issuer-DN: CN=Test CA,O=Test\r\n"
    )
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "certificate.list"}).encode()

    _, _, answer = await request(reader, writer, "POST", "/jsonrpc", body=body, headers=forged)
    writer.close()

    assert slug(json.loads(answer)) == "not_authenticated"


async def test_nobody_here_takes_what_a_proxy_was_handed(tmp_path: Path) -> None:
    async with opened(tmp_path, server_settings={"proxied": True}) as direct:
        await direct.web.account("root", roles=("admin",))
        source = direct.web.site.settings.files_path / ".handed-over" / "0000000001"
        source.write_bytes(b"somebody else's upload")
        forged = f"X-File: {source}\r\nX-Request-Id: {'ab' * 16}\r\nX-Accel-Internal: /_files/\r\n"
        known = f"{forged}Authorization: Bearer {await direct.web.token(ADMIN)}\r\n"
        reader, writer = await direct.connect(direct.shown(holder(direct.ca, "stranger")))
        path = "/files/site_temp/a"

        made, head, _ = await request(reader, writer, "PUT", path, body=b"own", headers=known)
        got, answer, data = await request(reader, writer, "GET", path, headers=known)
        refused, _, _ = await request(reader, writer, "DELETE", path, headers=forged)
        writer.close()

    assert (made, got, data, refused) == (201, 200, b"own", 401)
    assert source.read_bytes() == b"somebody else's upload"
    assert "x-accel-redirect" not in answer.lower()
    assert "ab" * 16 not in head


@pytest.mark.expects_logs  # Tornado tells of each handshake that fails
async def test_old_tls_is_not_spoken(direct: Direct) -> None:
    context = direct.shown(await direct.alice())
    context.options &= ~ssl.OP_NO_TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    assert await direct.refused(None, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_is_resumed(direct: Direct, version: ssl.TLSVersion) -> None:
    context = direct.shown((await direct.alice()).proxy())
    context.maximum_version = version

    def twice() -> list[bool]:
        reused, session = [], None
        for _ in range(2):
            raw = socket.create_connection(("127.0.0.1", direct.number))
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as client:
                client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")
                reused.append(bool(client.session_reused))
                session = client.session
        return reused

    assert await asyncio.to_thread(twice) == [False, False]


# Changes while connections are open


async def test_a_revoked_mapping_counts_at_once_on_an_open_connection(direct: Direct) -> None:
    await direct.web.account("alice")
    alice = holder(direct.ca, "alice")
    identifier = await direct.mapped(alice, PrincipalKind.USER, "alice")
    reader, writer = await direct.connect(direct.shown(alice.proxy()))
    before = await call(reader, writer, "certificate.list")

    await direct.web.site.services.certificates.revoke(ADMIN, identifier)
    after = await call(reader, writer, "certificate.list")
    writer.close()

    assert (slug(before), slug(after)) == ("done", "not_authenticated")


@pytest.mark.expects_logs
async def test_a_chain_that_ends_ends_an_open_connections_rights(direct: Direct) -> None:
    alice = await direct.alice()
    reader, writer = await direct.connect(direct.shown(alice.proxy(days=0.5)))
    before = await call(reader, writer, "certificate.list")

    direct.web.site.advance(86400)
    status, _, text = await request(reader, writer, "POST", "/jsonrpc", body=b"{}")
    writer.close()

    assert (slug(before), status) == ("done", 401)
    assert b"expired" in text


@pytest.mark.expects_logs  # Tornado tells of each handshake that fails
async def test_a_list_of_revoked_certificates_is_read_again(direct: Direct) -> None:
    alice = await direct.alice()
    carol = holder(direct.ca, "carol")
    reader, writer = await direct.connect(direct.shown(alice.proxy()))
    before = await call(reader, writer, "certificate.list")

    direct.ca.revoke("alice")
    direct.port.look()
    status, _, text = await request(reader, writer, "POST", "/jsonrpc", body=b"{}")
    writer.close()

    assert (slug(before), status) == ("done", 401)
    assert b"revoked" in text
    assert await direct.refused(alice)
    assert await direct.refused(alice.proxy())
    assert not await direct.refused(carol)


async def test_a_new_server_certificate_is_used_for_new_connections(direct: Direct) -> None:
    alice = await direct.alice()

    async def serial() -> int:
        _, writer = await direct.connect(direct.shown(alice))
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    before = await serial()
    made = direct.ca.issue(
        "localhost", use=CertificateUse.SERVER, hosts=["localhost", "127.0.0.1"], renew=True
    )
    direct.port.look()

    assert before != int(made.serial, 16) == await serial()


async def test_changes_are_seen_without_being_told(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_port, "_LOOK_S", 0.01)
    watching = asyncio.create_task(direct.port.watch())
    before = direct.port.ssl_options

    direct.ca.revoke(direct.ca.issue("carol", use=USER).serial)
    async with asyncio.timeout(20):
        while direct.port.ssl_options is before:
            await asyncio.sleep(0.01)

    watching.cancel()


@pytest.mark.expects_logs
async def test_a_file_that_goes_away_leaves_those_before_in_use(direct: Direct) -> None:
    alice = await direct.alice()

    direct.ca.crl.rename(direct.folder / "elsewhere")
    direct.port.look()

    assert not await direct.refused(alice)


@pytest.mark.expects_logs
async def test_files_that_cannot_be_used_leave_those_before_in_use(direct: Direct) -> None:
    alice = await direct.alice()

    direct.ca.crl.write_text("broken")
    direct.port.look()
    direct.port.look()

    assert not await direct.refused(alice)


@pytest.mark.expects_logs
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_authorities_may_lie_in_a_directory(tmp_path: Path) -> None:
    ca = SiteCA.create(tmp_path / "seed", name="Seed")
    trusted = tmp_path / "certificates"
    trusted.mkdir()
    async with opened(tmp_path, ca_path=ca.certificate, crl_path=None) as direct:
        link(direct.ca, trusted)
        settings = TlsSettings(
            certificate=direct.ca.certificate_of("localhost", CertificateUse.SERVER),
            key=direct.ca.key_of("localhost", CertificateUse.SERVER),
            ca_path=trusted,
            crl_path=trusted,
        )
        direct.port._files = TrustFiles(settings)
        direct.port.ssl_options = direct.port._files.context
        alice = await direct.alice()
        assert not await direct.refused(alice.proxy())

        direct.ca.revoke("alice")
        link(direct.ca, trusted)
        direct.port.look()

        assert await direct.refused(alice.proxy())


def link(ca: SiteCA, folder: Path) -> None:
    """Lay out an authority as grids do: HASH.0 and HASH.r0."""
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-hash", "-in", str(ca.certificate)],
        capture_output=True,
        check=True,
        text=True,
    )
    shutil.copy(ca.certificate, folder / f"{done.stdout.strip()}.0")
    shutil.copy(ca.crl, folder / f"{done.stdout.strip()}.r0")


# Settings


def test_what_is_missing_or_wrong_is_told_by_setting(tmp_path: Path) -> None:
    ca = SiteCA.create(tmp_path / "ca", name="Test")
    ca.issue("here", use=CertificateUse.SERVER)
    good: dict[str, Any] = {
        "certificate": ca.certificate_of("here", CertificateUse.SERVER),
        "key": ca.key_of("here", CertificateUse.SERVER),
        "ca_path": ca.certificate,
    }
    empty = tmp_path / "empty"
    empty.mkdir()

    make_context(TlsSettings(**good))
    for wrong, setting in (
        ({"certificate": None}, "tls.certificate"),
        ({"key": tmp_path / "none"}, "tls.key"),
        ({"ca_path": empty}, "tls.ca_path"),
        ({"key": ca.key}, "tls"),
        ({"ca_path": ca.key}, "tls"),
        ({"crl_path": tmp_path / "none"}, "tls"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_context(TlsSettings(**{**good, **wrong}))
        assert caught.value.detail["fields"][0]["path"] == setting
