"""Certificates that nginx does not accept: refused, and written into the site's audit trail."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pycurl
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.nginx_harness import Authority, Front, Identity, front_settings, needs_nginx
from tests.servers import RunningSite, run

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

PEER = "CN=peer,O=IceProd"


@pytest.fixture(scope="module")
def peer(front: Front, site: RunningSite) -> Identity:
    """The certificate of a site that works here."""
    ca = "CN=IceProd Test CA,O=IceProd"
    site.call("certificate.add", kind="site", name="peer", subject=PEER, issuer=ca)
    identity = front.authority.issue("peer")
    assert front.ask("/jsonrpc", method="POST", body=ECHO, identity=identity, token="").json["result"] == "e"
    return identity


ECHO = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"value": "e"}}).encode()


def self_signed(folder: Path) -> Identity:
    """A certificate with a real site's name for which nobody vouches."""
    identity = Identity(folder / "self.pem", folder / "self.key")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/O=IceProd/CN=peer",
            "-days",
            "1",
            "-keyout",
            str(identity.key),
            "-out",
            str(identity.certificate),
        ],
        check=True,
        capture_output=True,
    )
    return identity


def serial_of(identity: Identity) -> int:
    return x509.load_pem_x509_certificate(identity.certificate.read_bytes()).serial_number


def noted(site: RunningSite, identity: Identity) -> list[dict[str, Any]]:
    """What the audit trail has of a certificate."""
    found = site.call("audit.list", action="certificate.refused", limit=500)["items"]
    return [each for each in found if int(each["detail"].get("serial", "0"), 16) == serial_of(identity)]


@pytest.fixture
def forgeries(front: Front, tmp_path: Path) -> dict[str, Identity]:
    """Certificates that are called as the site is."""
    return {
        "self-signed certificate": self_signed(tmp_path),
        "certificate signature failure": Authority(tmp_path / "same").issue("peer"),
        "unable to verify the first certificate": Authority(tmp_path / "other", "Other").issue("peer"),
        "certificate has expired": Authority.issue(front.authority, "peer-late", is_expired=True),
    }


WAYS = (
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/static/x"),
    ("GET", "/files/site_temp/x"),
    ("PUT", "/files/site_temp/x"),
    ("POST", "/jsonrpc"),
    ("POST", "/tus"),
    ("GET", "/_nginx/refused-certificate"),
)


def test_a_certificate_that_is_not_accepted_opens_nothing_and_is_noted(
    front: Front, site: RunningSite, peer: Identity, forgeries: dict[str, Identity]
) -> None:
    for reason, identity in forgeries.items():
        for method, path in WAYS:
            body = ECHO if method != "GET" else None
            answer = front.ask(path, method=method, identity=identity, body=body)  # with a good token, too
            assert (answer.status, answer.json["error"]["code"]) == (403, "access_denied"), (reason, path)
            assert reason in answer.json["error"]["message"]

        (entry,) = noted(site, identity)
        assert entry["principal"] == ""
        assert entry["target"].endswith(",O=IceProd")
        assert entry["target"].startswith("CN=peer")
        assert entry["detail"]["reason"] == reason
        assert entry["detail"]["address"] == "127.0.0.1"
        assert entry["detail"]["times"] == len(WAYS)
        assert len(entry["detail"]["fingerprint"]) == 40
    assert front.ask("/jsonrpc", method="POST", body=ECHO, identity=peer, token="").json["result"] == "e"


def test_what_the_client_says_beside_it_changes_nothing(
    front: Front, site: RunningSite, tmp_path: Path
) -> None:
    forged = {
        "X-SSL-Verify": "SUCCESS",
        "X-SSL-Subject-DN": "CN=else",
        "X-SSL-Serial": "77",
        "X-Real-IP": "10.9.8.7",
        "X-Forwarded-For": "10.9.8.7",
        "X-Original-URI": "/files/site_temp/x",
    }
    identity = self_signed(tmp_path)

    assert front.ask("/x", identity=identity, headers=forged).status == 403

    (entry,) = noted(site, identity)
    assert (entry["target"], entry["detail"]["address"]) == (PEER, "127.0.0.1")


def test_nobody_can_make_entries(front: Front, site: RunningSite) -> None:
    before = site.call("audit.list", action="certificate.refused")["items"]
    forged = {"X-SSL-Verify": "FAILED:because", "X-SSL-Subject-DN": "CN=peer", "X-SSL-Serial": "01"}

    for path in ("/_nginx/refused-certificate", "/_nginx/certificate", "/_error/certificate"):
        assert front.ask(path, headers=forged, token="").status == 404

    assert site.call("audit.list", action="certificate.refused")["items"] == before


def test_a_flood_is_counted_and_not_written_down(front: Front, site: RunningSite, tmp_path: Path) -> None:
    other = Authority(tmp_path, "Flood")
    site.call("audit.list")  # begins to count anew
    curl = pycurl.Curl()
    for n in range(25):
        assert front.ask("/", identity=other.issue(f"n{n}"), curl=curl).status == 403
    curl.close()

    found = site.call("audit.list", action="certificate.refused", limit=500)["items"]
    flood = [each for each in found if each["detail"].get("issuer", "").startswith("CN=Flood")]
    (rest,) = [each for each in found if each["detail"]["reason"] == "more than can be told"]
    assert len(flood) == 10
    assert rest["detail"] == {"address": "127.0.0.1", "reason": "more than can be told", "times": 15}


def test_a_name_without_end_is_told_by_its_beginning(front: Front, site: RunningSite, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{n:060d}") for n in range(700)])
    identity = authority.issue("long", subject=long)

    assert front.ask("/", identity=identity).status == 403

    (entry,) = noted(site, identity)
    assert len(entry["target"]) == 300


def test_the_client_hears_the_same_without_the_server(
    upstream: Any, authority: Authority, tmp_path: Path
) -> None:
    upstream.answers["/_nginx/refused-certificate"] = (500, {}, b"")
    settings = front_settings(tmp_path, authority, nginx={"upstreams": (upstream.address,)})
    try:
        with Front(settings, authority) as front:
            answer = front.ask("/", identity=self_signed(tmp_path))
    finally:
        del upstream.answers["/_nginx/refused-certificate"]

    assert (answer.status, answer.json["error"]["code"]) == (403, "access_denied")
    assert "self-signed certificate" in answer.json["error"]["message"]


def test_a_long_body_is_not_waited_for(front: Front, tmp_path: Path) -> None:
    with front.connect(identity=self_signed(tmp_path)) as connection:
        lines = ("PUT /files/site_temp/x HTTP/1.1", "Host: x", f"Content-Length: {39_000_000}", "", "")
        connection.sendall("\r\n".join(lines).encode())
        connection.settimeout(20)

        assert connection.recv(65536).split(b" ")[1] == b"403"


def test_the_command_lists_them(front: Front, site: RunningSite, tmp_path: Path) -> None:
    identity = self_signed(tmp_path)
    assert front.ask("/", identity=identity).status == 403

    listed = ("audit", "list", "--action", "certificate.", "--target", PEER)
    told = run(*listed, "--json", env=site.environment)
    table = run(*listed, env=site.environment)

    assert told.code == table.code == 0, told.err + table.err
    assert {entry["target"] for entry in json.loads(told.out)["items"]} == {PEER}
    assert "reason: self-signed certificate" in table.out
