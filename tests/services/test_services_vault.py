"""The vault: what goes in comes out to movers alone, and is renewed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from site_harness import ADMIN, ALICE, BOB, Site
from x509_harness import Holder, holder

from iceprod import log
from iceprod.errors import (
    AccessDenied,
    ConfigError,
    ConflictError,
    InputError,
    NotAuthenticated,
    NotFoundError,
    Unavailable,
)
from iceprod.model.paging import Page
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.movers.base import Credential
from iceprod.services.ca import SiteCA
from iceprod.services.credentials import CACHED_S, FORGET_S, WARN_S, CredentialVault
from iceprod.services.given_secrets import NewCredential
from iceprod.services.token_grants import VaultOrigin
from iceprod.services.vault_keys import KeyRing
from iceprod.services.x509_credentials import read_x509
from iceprod.store.archive import Kind

SECRET = "s3cret-of-the-origin"
ORIGINS = {
    "tape": VaultOrigin(),
    "globus": VaultOrigin("https://auth.example.org/token", "/ca.pem"),
}


class Endpoint:
    """An authorization server: ``answers`` are given one after another."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any, Any]] = []
        self.answers: list[tuple[int, Any]] = []

    async def ask(
        self, url: str, form: Mapping[str, str], *, client: tuple[str, str] | None, ca_path: str | None
    ) -> tuple[int, bytes]:
        self.asked.append((url, dict(form), client, ca_path))
        await asyncio.sleep(0)
        status, answer = self.answers.pop(0)
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def vault(site: Site, endpoint: Endpoint) -> CredentialVault:
    return make(site, endpoint, site.settings.credential_key_path)


def make(site: Site, endpoint: Endpoint, keys: Path) -> CredentialVault:
    return CredentialVault(site.store, KeyRing(keys), clock=site.clock, origins=ORIGINS, endpoint=endpoint)


def token(**fields: Any) -> NewCredential:
    return NewCredential(**{"origin": "tape", "kind": "token", "secret": SECRET.encode(), **fields})


def renewable(**fields: Any) -> NewCredential:
    given = {"origin": "globus", "refresh_token": "r1", "client_id": "me", "client_secret": "mine"}
    return token(**{**given, **fields})


def certified(folder: Path, name: str = "alice") -> Holder:
    """A user's certificate, of an authority of its own."""
    return holder(SiteCA.create(folder / name), name)


# -- what goes in and out ------------------------------------------------------------------------


async def test_ones_own_is_shown_before_the_sites(vault: CredentialVault):
    assert await vault.credential("tape", "alice") is None
    await vault.put(ADMIN, token(secret=b"sites"), "")

    assert await vault.credential("tape", "alice") == Credential("token", b"sites")
    assert await vault.credential("tape", "") == Credential("token", b"sites")
    await vault.put(ALICE, token())
    assert await vault.credential("tape", "alice") == Credential("token", SECRET.encode())
    assert await vault.credential("tape", "bob") == Credential("token", b"sites")
    assert await vault.credential("globus", "alice") is None


async def test_everybody_has_their_own_business(site: Site, vault: CredentialVault):
    made = await vault.put(ALICE, token(note="for muons"))

    assert (made.user, made.origin, made.note, made.renewal) == ("alice", "tape", "for muons", "")
    assert await vault.listed(ALICE) == [made]
    assert await vault.listed(BOB) == []
    assert await vault.listed(ADMIN, "alice") == [made]
    for call in (
        vault.listed(BOB, "alice"),
        vault.put(BOB, token(), "alice"),
        vault.put(BOB, token(), ""),
        vault.put(ADMIN, token(), "nobody"),
        vault.put(ALICE, token(origin="none")),
        vault.delete(BOB, "tape", "alice"),
        vault.delete(ALICE, "globus"),
    ):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotAuthenticated):
        await vault.listed(ANONYMOUS)
    with pytest.raises(AccessDenied):
        await vault.put(Principal(PrincipalKind.TASK, "d-0-0"), token())
    await vault.delete(ALICE, "tape")
    assert await vault.credential("tape", "alice") is None
    trail = (await site.store.audit.select("origin:tape", Page())).items
    assert [entry.action for entry in trail] == ["credential.delete", "credential.put"]
    assert SECRET not in str(trail)


async def test_another_process_hears_of_it_soon(site: Site, vault: CredentialVault, endpoint: Endpoint):
    other = make(site, endpoint, site.settings.credential_key_path)
    await vault.put(ALICE, token())
    assert await other.credential("tape", "alice") == Credential("token", SECRET.encode())
    await vault.delete(ALICE, "tape")

    site.advance(CACHED_S)

    assert await other.credential("tape", "alice") is None


SSH = ed25519.Ed25519PrivateKey.generate().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
)


async def test_all_kinds_are_kept(vault: CredentialVault):
    for given in (
        token(kind="password", secret="pass wörd".encode(), login="ada"),
        token(kind="ssh", secret=SSH, login="ada"),
    ):
        await vault.put(ALICE, given)
        assert await vault.credential("tape", "alice") == Credential(given.kind, given.secret, "ada")


@pytest.mark.parametrize(
    "given",
    [
        token(kind="cookie"),
        token(secret=b""),
        token(secret=b"two\r\nlines"),
        token(secret=b"with space"),
        token(secret="ümlaut".encode()),
        token(secret=b"x" * 70_000),
        token(kind="password"),
        token(kind="password", login="ada", secret=b"\xff"),
        token(kind="password", login="ada", secret=b"a\nb"),
        token(kind="password", login="a:b"),
        token(kind="ssh", login="ada", secret=b"-----BEGIN OPENSSH PRIVATE KEY-----"),
        token(kind="ssh", secret=SSH),
        token(kind="x509", secret=b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"),
        token(kind="password", login="ada", refresh_token="r"),
        token(proxy_s=3600.0),
        token(note="a\nb"),
        token(expires_at=5.0),
        renewable(refresh_token="a b"),
    ],
)
async def test_what_is_none_of_its_kind_is_refused(vault: CredentialVault, given: NewCredential):
    with pytest.raises(InputError) as refused:
        await vault.put(ALICE, given)

    assert await vault.listed(ALICE) == []
    assert SECRET not in str(refused.value) + str(refused.value.detail)


async def test_a_token_that_says_when_it_ends_is_believed(site: Site, vault: CredentialVault):
    def jwt(**claims: Any) -> bytes:
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
        return b"eyJhbGciOiJub25lIn0." + body + b".c2ln"

    ends_at = site.clock() + 1000

    made = await vault.put(ALICE, token(secret=jwt(exp=ends_at)))
    assert made.expires_at == ends_at
    assert (await vault.put(ALICE, token(secret=jwt(exp=float("nan"))))).expires_at is None
    with pytest.raises(InputError):
        await vault.put(ALICE, token(secret=jwt(exp=site.clock() - 1)))


async def test_what_has_ended_is_not_shown_nor_replaced_by_the_sites(site: Site, vault: CredentialVault):
    await vault.put(ADMIN, token(secret=b"sites"), "")
    await vault.put(ALICE, token(expires_at=site.clock() + 100))
    assert await vault.credential("tape", "alice")

    site.advance(101)

    with pytest.raises(AccessDenied, match="of alice for origin tape has ended"):
        await vault.credential("tape", "alice")
    assert await vault.credential("tape", "bob") == Credential("token", b"sites")


# -- how it is kept ------------------------------------------------------------------------------


async def test_the_store_has_nothing_that_can_be_read(site: Site, vault: CredentialVault):
    await vault.put(ALICE, renewable(note="shown"))
    await vault.put(ALICE, token(kind="password", login="ada"))

    records = [record async for record in _records(site)]

    assert len(records) == 2
    for hidden in (SECRET.encode(), b"r1", b"mine"):
        assert all(hidden not in record.sealed for record in records)
    database = site.settings.store_path
    assert database
    files = [path for path in database.parent.glob(f"{database.name}*") if path.is_file()]
    assert files
    assert all(SECRET.encode() not in path.read_bytes() for path in files)
    key = site.settings.credential_key_path
    assert key.stat().st_mode & 0o777 == 0o600
    assert not list(key.parent.glob(f".{key.name}*"))


async def _records(site: Site):
    for record in await site.store.archive.read(Kind.CREDENTIAL, None, 100):
        yield record.value


async def test_a_secret_opens_in_its_own_place_only(site: Site, vault: CredentialVault, endpoint: Endpoint):
    await vault.put(ALICE, token())
    stolen = await site.store.credentials.get("tape", "alice")
    assert stolen
    other = make(site, endpoint, site.settings.credential_key_path)

    for moved in (replace(stolen, user="bob"), replace(stolen, origin="globus"), replace(stolen, kind="ssh")):
        await site.store.credentials.put(moved)
        with pytest.raises(ConflictError):
            await other.credential(moved.origin, moved.user)
    damaged = stolen.sealed[:-1] + bytes([stolen.sealed[-1] ^ 1])
    await site.store.credentials.put(replace(stolen, sealed=damaged))
    with pytest.raises(ConflictError):
        await make(site, endpoint, site.settings.credential_key_path).credential("tape", "alice")
    assert (await other.listed(ALICE))[0].renewal == "unknown"


async def test_old_keys_open_what_they_sealed(site: Site, vault: CredentialVault, endpoint: Endpoint):
    keys = KeyRing(site.settings.credential_key_path)
    await vault.put(ALICE, token())

    assert keys.rotate() == 2
    await vault.put(BOB, token())

    for user in ("alice", "bob"):
        assert await make(site, endpoint, keys.path).credential("tape", user)
    old, new = [await site.store.credentials.get("tape", user) for user in ("alice", "bob")]
    assert old
    assert new
    assert (keys.is_newest(old.sealed), keys.is_newest(new.sealed)) == (False, True)
    assert keys.path.stat().st_mode & 0o777 == 0o600
    first, *_ = [line for line in keys.path.read_text().splitlines() if not line.startswith("#")]
    keys.path.write_text(f"{first}\n")
    assert await make(site, endpoint, keys.path).credential("tape", "bob")
    with pytest.raises(Unavailable, match="not in the key file"):
        await make(site, endpoint, keys.path).credential("tape", "alice")


async def test_a_key_file_that_is_lost_or_odd_is_told(site: Site, vault: CredentialVault, endpoint: Endpoint):
    path = site.settings.credential_key_path
    await vault.put(ALICE, token())
    text = path.read_text()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        await make(site, endpoint, path).credential("tape", "alice")
    path.chmod(0o600)
    for wrong in ("", "abcd\n", "01234567 short=\n"):
        path.write_text(wrong)
        with pytest.raises(ConfigError):
            await make(site, endpoint, path).credential("tape", "alice")
    path.unlink()
    with pytest.raises(Unavailable):
        await make(site, endpoint, path).credential("tape", "alice")
    path.write_text(text)
    path.chmod(0o600)
    assert await make(site, endpoint, path).credential("tape", "alice")


async def test_of_several_processes_one_makes_the_key(tmp_path: Path):
    rings = [KeyRing(tmp_path / "keys") for _ in range(8)]

    sealed = await asyncio.gather(*(asyncio.to_thread(ring.seal, b"x", b"p") for ring in rings))

    assert {rings[0].open(one, b"p") for one in sealed} == {b"x"}
    assert os.listdir(tmp_path) == ["keys"]


async def test_nothing_of_it_is_shown_or_logged(site: Site, vault: CredentialVault, endpoint: Endpoint):
    stream = io.StringIO()
    former = logging.getLogger().handlers[:]
    log.configure(level="debug", form="json", stream=stream)
    try:
        given = renewable(expires_at=site.clock() + 10)
        endpoint.answers += [(400, {"error": "invalid_grant", "error_description": f"{SECRET} r1"})] * 3
        await vault.put(ALICE, given)
        found = [given, vault, await vault.listed(ALICE), Credential("token", SECRET.encode())]
        await vault.look_after()
        with pytest.raises(AccessDenied) as refused:
            await vault.credential("globus", "alice")
        record = await site.store.credentials.get("globus", "alice")
        assert record
        opened = await vault._opened(record)
        logging.getLogger("t").error("of ssh: %s", SSH.decode())
        logging.getLogger("t").warning("%r %r", given, opened, extra={"credential": given, "a": record})
    finally:
        logging.getLogger().handlers[:] = former
    text = stream.getvalue() + "".join(map(repr, found)) + repr(opened) + str(refused.value) + repr(record)

    assert "token not renewed" in text or "credential not renewed" in text
    for hidden in (SECRET, "'r1'", 'r1"', "mine", "s3cret", SSH.decode().splitlines()[2]):
        assert hidden not in text


# -- renewal -------------------------------------------------------------------------------------


async def test_a_token_is_renewed_before_it_ends(site: Site, vault: CredentialVault, endpoint: Endpoint):
    made = await vault.put(ALICE, renewable(expires_at=site.clock() + 3600))
    assert made.renewal == "token"
    assert (await vault.credential("globus", "alice")) == Credential("token", SECRET.encode())
    endpoint.answers += [(200, {"access_token": "new", "expires_in": 7200, "refresh_token": "r2"})]
    site.advance(3600 - 300)

    found = await asyncio.gather(*(vault.credential("globus", "alice") for _ in range(5)))

    assert found == [Credential("token", b"new")] * 5
    assert endpoint.asked == [
        (
            "https://auth.example.org/token",
            {"grant_type": "refresh_token", "refresh_token": "r1"},
            ("me", "mine"),
            "/ca.pem",
        )
    ]
    assert (await vault.listed(ALICE))[0].expires_at == site.clock() + 7200
    endpoint.answers += [(200, {"access_token": "newer", "expires_in": 60.5})]
    site.advance(7200)
    await vault.look_after()
    assert endpoint.asked[1][1]["refresh_token"] == "r2"
    assert vault.renewed == 2


async def test_a_refresh_token_is_enough(site: Site, vault: CredentialVault, endpoint: Endpoint):
    endpoint.answers += [(200, {"access_token": "first"}), (400, {"error": "invalid_grant"})]

    await vault.put(ALICE, renewable(secret=b"", client_secret=""))

    assert endpoint.asked[0][1]["client_id"] == "me"
    assert endpoint.asked[0][2] is None
    assert await vault.credential("globus", "alice") == Credential("token", b"first")
    with pytest.raises(AccessDenied, match="invalid_grant"):
        await vault.put(BOB, renewable(secret=b""))
    with pytest.raises(InputError, match="token_endpoint"):
        await vault.put(BOB, renewable(origin="tape", secret=b""))
    assert await vault.listed(BOB) == []


@pytest.mark.expects_logs
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, {"error": "invalid_grant"}), AccessDenied),
        ((401, {"error": "<script>"}), AccessDenied),
        ((200, {"access_token": "a\r\nb"}), AccessDenied),
        ((200, b"["), AccessDenied),
        ((200, b"[" * 100_000), AccessDenied),
        ((503, b""), Unavailable),
    ],
)
async def test_a_token_that_is_not_renewed_lasts_as_long_as_it_does(
    site: Site, vault: CredentialVault, endpoint: Endpoint, answer: Any, error: type[Exception]
):
    await vault.put(ALICE, renewable(expires_at=site.clock() + 300))
    endpoint.answers += [answer, answer]

    assert await vault.credential("globus", "alice") == Credential("token", SECRET.encode())
    site.advance(299)
    with pytest.raises(error) as refused:
        await vault.credential("globus", "alice")
    assert "<script>" not in str(refused.value)
    assert vault.failed == 2


async def test_two_processes_renew_a_token_once(site: Site, vault: CredentialVault, endpoint: Endpoint):
    class Stale(Endpoint):
        """An endpoint that takes a refresh token once; another process is quicker."""

        async def ask(self, *args: Any, **options: Any) -> tuple[int, bytes]:
            endpoint.answers += [(200, {"access_token": "quick", "expires_in": 5000, "refresh_token": "r2"})]
            assert await vault.credential("globus", "alice") == Credential("token", b"quick")
            return 400, b'{"error": "invalid_grant"}'

    await vault.put(ALICE, renewable(expires_at=site.clock() + 30))
    slow = make(site, Stale(), site.settings.credential_key_path)

    assert await slow.credential("globus", "alice") == Credential("token", b"quick")


# -- certificates --------------------------------------------------------------------------------


async def test_a_proxy_is_shown_until_it_ends(site: Site, vault: CredentialVault, tmp_path: Path):
    alice = certified(tmp_path)
    proxy = alice.proxy(days=0.5)
    site.clock.now = datetime.now(UTC).timestamp()

    made = await vault.put(ALICE, token(kind="x509", secret=proxy.pem()))

    assert made.expires_at == proxy.certificate.not_valid_after_utc.timestamp()
    assert await vault.credential("tape", "alice") == Credential("x509", proxy.pem())
    site.advance(0.6 * 86400)
    with pytest.raises(AccessDenied):
        await vault.credential("tape", "alice")
    with pytest.raises(InputError, match="has ended"):
        await vault.put(ALICE, token(kind="x509", secret=proxy.pem()))
    mixed = replace(alice, key=certified(tmp_path, "x").key)
    with pytest.raises(InputError, match="not that of"):
        await vault.put(ALICE, token(kind="x509", secret=mixed.pem()))


async def test_proxies_are_made_with_what_lasts_longer(site: Site, vault: CredentialVault, tmp_path: Path):
    alice = certified(tmp_path)
    site.clock.now = datetime.now(UTC).timestamp()

    made = await vault.put(ALICE, token(kind="x509", secret=alice.pem(), proxy_s=3600.0))
    first = await vault.credential("tape", "alice")
    site.advance(2000)
    again = await vault.credential("tape", "alice")
    site.advance(1000)
    later = await vault.credential("tape", "alice")

    assert made.renewal == "proxy"
    assert first is not None
    assert later is not None
    assert first == again != later
    found = read_x509(first.secret)
    assert found.chain[1] == alice.certificate
    found.chain[0].verify_directly_issued_by(found.chain[1])
    assert found.key.public_key() != alice.key.public_key()
    assert read_x509(later.secret).ends_at == pytest.approx(site.clock() + 3600, abs=2)
    key = alice.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert key not in first.secret


# -- the duty ------------------------------------------------------------------------------------


async def test_what_is_about_to_end_is_told_once_a_day(
    site: Site, vault: CredentialVault, caplog: pytest.LogCaptureFixture
):
    await vault.put(ALICE, token(expires_at=site.clock() + WARN_S + 100))
    await vault.put(BOB, token())
    await vault.look_after()
    assert vault.expiring == 0

    site.advance(200)
    for _ in range(3):
        await vault.look_after()
    assert vault.expiring == 1
    told = [record for record in caplog.records if "ends soon" in record.getMessage()]
    assert len(told) == 1
    site.advance(WARN_S + FORGET_S)
    await vault.look_after()
    await vault.look_after()

    assert await vault.listed(ALICE) == []
    assert vault.expiring == 0
