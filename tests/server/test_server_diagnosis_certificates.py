"""What doctor says of certificates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from site_harness import settings

from iceprod import clock as clocks
from iceprod.config import Settings
from iceprod.server.diagnosis import certificates, listeners
from iceprod.services.ca import CertificateUse, SiteCA

DAY = 86400.0


@pytest.fixture
def ca(tmp_path: Path) -> SiteCA:
    made = SiteCA.create(tmp_path / "ca", name="Test")
    made.issue("www.example.org", use=CertificateUse.SERVER)
    return made


def given(folder: Path, ca: SiteCA, **changes: Any) -> Settings:
    certificate = ca.certificate_of("www.example.org", CertificateUse.SERVER)
    key = ca.key_of("www.example.org", CertificateUse.SERVER)
    tls = {"certificate": certificate, "key": key, "ca_path": ca.certificate, "crl_path": ca.crl, "port": 0}
    return settings(
        folder, tls={**tls, **changes}, nginx={"certificate": certificate, "client_ca": ca.certificate}
    )


def verdicts(found: Settings, *, in_days: float = 0.0) -> dict[str, str]:
    looked = certificates.look(found, clock=lambda: clocks.now() + in_days * DAY)
    return {finding.check: str(finding.verdict) for finding in looked}


def test_files_that_are_good_are_found_so(tmp_path: Path, ca: SiteCA) -> None:
    found = verdicts(given(tmp_path, ca))

    assert found == dict.fromkeys(
        ("tls", "nginx.certificate", "nginx.client_ca", "tls.certificate", "tls.ca_path", "tls.crl_path"),
        "ok",
    )


def test_what_ends_soon_or_has_ended_or_not_begun_is_told(tmp_path: Path, ca: SiteCA) -> None:
    good = given(tmp_path, ca)

    assert verdicts(good, in_days=-2)["tls.certificate"] == "failed"
    assert verdicts(good, in_days=390)["tls.certificate"] == "warning"
    assert verdicts(good, in_days=398)["tls.certificate"] == "failed"
    assert verdicts(good, in_days=398)["tls.ca_path"] == "ok"
    assert verdicts(good, in_days=4000)["tls.crl_path"] == "failed"


def test_what_cannot_be_used_is_told(tmp_path: Path, ca: SiteCA) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    assert verdicts(given(tmp_path, ca, key=ca.key))["tls"] == "failed"
    assert verdicts(given(tmp_path, ca, crl_path=ca.key))["tls.crl_path"] == "failed"
    assert verdicts(given(tmp_path, ca, crl_path=tmp_path / "none"))["tls.crl_path"] == "failed"
    assert verdicts(given(tmp_path, ca, ca_path=empty))["tls.ca_path"] == "failed"


def test_a_directory_is_looked_at_as_openssl_does(tmp_path: Path, ca: SiteCA) -> None:
    folder = tmp_path / "hashed"
    folder.mkdir()
    shutil.copy(ca.certificate, folder / "0a1b2c3d.0")
    shutil.copy(ca.crl, folder / "0a1b2c3d.r0")
    (folder / "0a1b2c3d.signing_policy").write_text("none of our business")

    found = verdicts(given(tmp_path, ca, ca_path=folder, crl_path=folder))

    assert (found["tls.ca_path"], found["tls.crl_path"]) == ("ok", "ok")


def test_without_a_tls_port_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert verdicts(settings(tmp_path)) == {}


def test_the_tls_port_is_looked_at(tmp_path: Path, ca: SiteCA) -> None:
    found = [finding.check for finding in listeners.look(given(tmp_path, ca), {}, is_running=False)]

    assert found == ["server.port", "server.rpc_port", "tls.port"]
