"""The authority, and whose certificates are whose, from the command line."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from x509_harness import holder

from iceprod.services.ca import CertificateUse, SiteCA
from tests.servers import Ran, RunningSite

Command = Callable[..., Ran]


@pytest.fixture
def ca(bare: Command, tmp_path: Path) -> Command:
    """Run ``iceprod ca`` with a data directory that has an authority."""

    def run(*arguments: str) -> Ran:
        return bare("ca", *arguments, "--data", str(tmp_path / "data"))

    assert run("init", "--name", "Test").code == 0
    return run


def test_an_authority_is_made_once(ca: Command, tmp_path: Path) -> None:
    again = ca("init")

    assert (again.code, "there is a certificate authority" in again.err) == (1, True)
    assert stat.S_IMODE((tmp_path / "data" / "ca" / "ca.key").stat().st_mode) == 0o600


def test_a_certificate_is_issued_shown_and_revoked(ca: Command, tmp_path: Path) -> None:
    made = ca("issue", "www.example.org", "--kind", "server", "--host", "www.example.org")
    shown = ca("show", "--json")
    revoked = ca("revoke", "www.example.org")
    after = ca("show")

    certificate, key = (Path(line) for line in made.out.splitlines())
    assert certificate == tmp_path / "data" / "ca" / "server" / "www.example.org.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [(item["name"], item["use"], item["revoked_at"]) for item in shown.json["items"]] == [
        ("www.example.org", "server", None)
    ]
    assert revoked.out.strip() == shown.json["crl"]
    assert after.out.splitlines()[1].split("\t")[4].startswith("20")


def test_what_cannot_be_is_told(ca: Command, bare: Command, tmp_path: Path) -> None:
    ca("issue", "one", "--kind", "pilot")

    assert ca("issue", "one", "--kind", "pilot").code == 1
    assert ca("issue", "one", "--kind", "pilot", "--renew").code == 0
    assert ca("issue", "../one", "--kind", "pilot").code == 2
    assert ca("issue", "two", "--kind", "task").code == 2
    assert ca("revoke", "two").code == 3
    assert bare("ca", "show", "--data", str(tmp_path / "nowhere")).code == 3


def test_certificates_are_added_listed_and_revoked(command: Command, tmp_path: Path) -> None:
    made = SiteCA.create(tmp_path / "ca", name="Test")
    who = holder(made, "child", CertificateUse.SITE)
    file = who.file(tmp_path / "child.pem")

    added = command("certificate", "add", "site", "child", str(file), "--label", "the new one")
    again = command("certificate", "add", "site", "other", str(file))
    by_names = command(
        *("certificate", "add", "site", "desy", "--json"),
        *("--subject", "/O=GermanGrid/CN=iceprod.desy.de", "--issuer", "/O=GermanGrid/CN=GridKa-CA"),
    )
    listed = command("certificate", "list")
    identifiers = (added.out.strip(), by_names.json["certificate_id"])
    revoked = command("certificate", "revoke", *identifiers)

    assert (added.code, again.code, revoked.code) == (0, 1, 0)
    assert "speaks for the site child" in again.err
    assert by_names.json["subject"] == "CN=iceprod.desy.de,O=GermanGrid"
    assert [line.split("\t")[1:4] for line in listed.out.splitlines()[1:]] == [
        ["site", "child", "CN=child,OU=sites,O=Test"],
        ["site", "desy", "CN=iceprod.desy.de,O=GermanGrid"],
    ]
    assert "the new one" in listed.out
    assert command("certificate", "list", "--json").json["items"] == []
    assert command("certificate", "revoke", identifiers[0]).code == 3


def test_what_is_no_certificate_is_refused(command: Command, tmp_path: Path) -> None:
    who = holder(SiteCA.create(tmp_path / "ca", name="Test"), "ada")
    proxy = who.proxy().file(tmp_path / "proxy.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")

    of_proxy = command("certificate", "add", "site", "child", str(proxy))

    assert (of_proxy.code, "proxy certificate" in of_proxy.err) == (2, True)
    assert command("certificate", "add", "site", "child", str(empty)).code == 2
    assert command("certificate", "add", "site", "child").code == 2
    assert command("certificate", "add", "site", "child", "--subject", "/CN=a").code == 2
    assert command("certificate", "add", "site", "child", str(proxy), "--subject", "/CN=a").code == 2
    assert (
        command("certificate", "add", "user", "nobody", "--subject", "/CN=a", "--issuer", "/CN=b").code == 3
    )


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSite, SiteCA]]:
    """A running site with a TLS port, and its authority."""
    folder = tmp_path_factory.mktemp("direct")
    ca = SiteCA.create(folder / "ca", name="Test")
    ca.issue("localhost", use=CertificateUse.SERVER, hosts=["localhost", "127.0.0.1"])
    settings = {
        "PORT": "0",
        "CERTIFICATE": str(ca.certificate_of("localhost", CertificateUse.SERVER)),
        "KEY": str(ca.key_of("localhost", CertificateUse.SERVER)),
        "CA_PATH": str(ca.certificate),
        "CRL_PATH": str(ca.crl),
    }
    named = {f"ICEPROD_TLS__{name}": value for name, value in settings.items()}
    with RunningSite(folder / "site", settings=named) as running:
        yield running, ca


def test_a_grid_proxy_takes_the_place_of_a_token(
    bare: Command, direct: tuple[RunningSite, SiteCA], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ca = direct
    ada = holder(ca, "ada")
    site.call("user.create", name="ada", password="correct horse battery")
    site.call("certificate.add", kind="user", name="ada", certificate=ada.pem().decode())
    port = json.loads((site.folder / "ports.json").read_text())["tls.port"]
    monkeypatch.setenv("ICEPROD_URL", f"https://127.0.0.1:{port}")
    monkeypatch.setenv("ICEPROD_CA_FILE", str(ca.certificate))
    monkeypatch.setenv("ICEPROD_CERT_FILE", str(ada.proxy().file(tmp_path / "proxy.pem")))

    own = bare("certificate", "list", "--json")
    denied = bare("user", "list")
    monkeypatch.setenv("ICEPROD_TOKEN", site.token)
    by_token = bare("user", "list", "--json")

    assert [item["name"] for item in own.json["items"]] == ["ada"]
    assert denied.code == 4
    assert [item["name"] for item in by_token.json["items"]] == ["ada", "admin"]
