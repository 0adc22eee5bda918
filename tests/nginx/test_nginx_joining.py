"""A site joins another one through nginx, is known there by its certificate, and is ended with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iceprod.services.ca import SiteCA
from iceprod.services.peer_keys import new_key
from tests.nginx_harness import Authority, Front, Identity, front_settings, needs_nginx
from tests.servers import Ran, RunningSite, run, until

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

HELLO = {"message": {"protocols": [1], "version": "1"}}


@dataclass
class Sites:
    """A parent behind nginx, and a site that may join it."""

    parent: RunningSite
    front: Front
    child: RunningSite

    def invite(self, name: str, *more: str) -> str:
        done = run("site", "invite", name, *more, env=self.parent.environment)
        assert done.code == 0, done.err
        return done.out.strip()

    def join(self, code: str, *more: str, url: str = "") -> Ran:
        return run(
            *("site", "join", url or self.front.url, "--code", code),
            *("--data", str(self.child.folder), "--json", *more),
        )

    @property
    def identity(self) -> Path:
        return self.child.folder / "federation" / "top" / "identity.pem"

    def hello(self, identity: Path | None, **headers: str) -> str:
        """What the parent answers to who shows that certificate: the site's name, or a slug."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "site.hello", "params": HELLO}
        answer = self.front.ask(
            "/jsonrpc",
            method="POST",
            body=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
            identity=identity and Identity(identity, identity),
            token="",
        )
        if answer.status != 200:
            return f"HTTP {answer.status}"
        found = answer.json
        return found["result"]["site"] if "result" in found else found["error"]["data"]["code"]

    def seen(self, at: RunningSite, name: str) -> dict:
        return run("site", "show", name, "--json", env=at.environment).json


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("top")
    ca = SiteCA.create(folder / "ca", name="Top")
    settings = {
        "ICEPROD_SERVER__PROXIED": "true",
        "ICEPROD_FEDERATION__NAME": "top",
        # Its own certificate is of somebody else than those of its sites.
        "ICEPROD_FEDERATION__SERVER_CA": str(authority.certificate),
    }
    child = RunningSite(tmp_path_factory.mktemp("child"), settings={"ICEPROD_FEDERATION__NAME": "low"})
    with RunningSite(folder, settings=settings) as parent, child:
        ports = {
            "port": int(parent.url.rpartition(":")[2]),
            "rpc_port": int(parent.rpc_url.rpartition(":")[2]),
        }
        given = front_settings(folder, authority, server=ports, nginx={"client_ca": ca.certificate})
        with Front(given, authority, token=parent.token) as front:
            yield Sites(parent, front, child)


def test_a_site_joins_and_shares_work(sites: Sites) -> None:
    done = sites.join(sites.invite("desy"))

    assert done.code == 0, done.err
    assert done.json | {"expires_at": 0} == {
        "parent": "top",
        "url": sites.front.url,
        "known_as": "desy",
        "expires_at": 0,
        "trouble": "",
    }
    assert sites.hello(sites.identity) == "top"
    # The running server of the child notices, and asks for work.
    known = until(lambda: (found := sites.seen(sites.child, "top"))["contact_at"] and found, within_s=60)
    assert (known["status"], known["failures"], known["reason"]) == ("joined", 0, "")
    assert sites.seen(sites.parent, "desy")["contact_at"]
    assert sites.seen(sites.parent, "desy")["expires_at"] == done.json["expires_at"]


def test_who_has_no_certificate_is_nobody(sites: Sites, authority: Authority) -> None:
    names = {"X-SSL-Verify": "SUCCESS", "X-SSL-Subject-DN": "CN=desy,OU=sites,O=Top", "X-SSL-Issuer-DN": "x"}

    assert sites.hello(None) == "not_authenticated"
    assert sites.hello(None, **names) == "not_authenticated"
    foreign = authority.issue("desy")
    pem = foreign.certificate.with_name("foreign.pem")
    pem.write_bytes(foreign.certificate.read_bytes() + foreign.key.read_bytes())
    assert sites.hello(pem) == "HTTP 403"  # of an authority that nginx does not believe


def test_an_expired_certificate_is_refused(sites: Sites) -> None:
    # Of the same subject and the same authority, but its time is over.
    ca = SiteCA.open(sites.parent.folder / "ca", clock=lambda: time.time() - 10 * 86400)
    (mark,) = {one.mark for one in ca.issued() if one.name == "desy"}
    made = new_key("desy")
    pem = sites.identity.with_name("expired.pem")
    pem.write_text(ca.sign(made.csr, "desy", mark=mark, days=1.0).pem + made.key)

    assert sites.hello(pem) == "HTTP 403"

    pem.write_text(ca.sign(made.csr, "desy", mark=mark, days=100.0).pem + made.key)
    assert sites.hello(pem) == "top"


def test_a_code_is_good_once(sites: Sites) -> None:
    code = sites.invite("used", "--hours", "1")
    assert sites.join(code, "--as", "used").code == 0

    again = sites.join(code, "--as", "again")
    left = run("site", "leave", "used", "--data", str(sites.child.folder))

    assert again.code != 0
    assert "was used" in again.err
    assert left.code == 0, left.err
    assert sites.seen(sites.parent, "used")["status"] == "left"
    assert sites.seen(sites.child, "used")["status"] == "left"


def test_a_code_of_another_site_is_shown_to_nobody(sites: Sites) -> None:
    other = run("site", "invite", "x", env=sites.child.environment).out.strip()

    done = sites.join(other, "--as", "other")

    assert done.code != 0
    assert "not the site that made this invitation" in done.err


def test_plain_http_to_another_machine_is_refused(sites: Sites) -> None:
    done = sites.join(sites.invite("plain"), url="http://192.0.2.1")

    assert done.code != 0
    assert "https only" in done.err


def test_a_revoked_site_is_refused_at_once_and_may_be_invited_anew(sites: Sites) -> None:
    former = sites.identity.with_name("former.pem")
    former.write_bytes(sites.identity.read_bytes())

    done = run("site", "revoke", "desy", "--yes", env=sites.parent.environment)

    assert done.code == 0, done.err
    assert sites.hello(former) == "not_authenticated"
    known = until(lambda: (found := sites.seen(sites.child, "top"))["failures"] and found, within_s=60)
    assert "nobody here has the certificate" in known["reason"]
    assert sites.join(sites.invite("desy")).code == 0
    assert sites.hello(sites.identity) == "top"
    assert sites.hello(former) == "not_authenticated"
