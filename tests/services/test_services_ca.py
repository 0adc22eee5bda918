"""The authority of a site, judged by OpenSSL."""

from __future__ import annotations

import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from iceprod.errors import AlreadyExists, InputError, NotFoundError
from iceprod.services.ca import CertificateUse, SiteCA

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def ca(tmp_path: Path) -> SiteCA:
    return SiteCA.create(tmp_path / "ca", name="Test site")


def verified(ca: SiteCA, certificate: Path, purpose: str) -> bool:
    """What OpenSSL says of a certificate, with the list of revoked ones in hand."""
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-purpose", purpose, "-crl_check_all"),
            *("-CRLfile", str(ca.crl), "-CAfile", str(ca.certificate), str(certificate)),
        ],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_it_issues_is_good_where_clocks_are_hours_behind(ca: SiteCA) -> None:
    ca.issue("one", use=CertificateUse.SERVER)
    issued = loaded(ca.certificate_of("one", CertificateUse.SERVER))

    for certificate in (loaded(ca.certificate), issued):
        assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=12)
    # The longest that clients take from a server.
    assert issued.not_valid_after_utc - issued.not_valid_before_utc < timedelta(days=398)


@needs_openssl
@pytest.mark.parametrize(
    ("use", "purposes"),
    [
        (CertificateUse.SERVER, {"sslserver"}),
        (CertificateUse.SITE, {"sslserver", "sslclient"}),
        (CertificateUse.PILOT, {"sslclient"}),
        (CertificateUse.USER, {"sslclient"}),
    ],
)
def test_a_certificate_is_good_for_its_use_only(ca: SiteCA, use: CertificateUse, purposes: set[str]) -> None:
    ca.issue("one", use=use)
    path = ca.certificate_of("one", use)

    assert {name for name in ("sslserver", "sslclient") if verified(ca, path, name)} == purposes


@needs_openssl
def test_a_revoked_certificate_is_refused(ca: SiteCA) -> None:
    ca.issue("one", use=CertificateUse.PILOT)
    ca.issue("two", use=CertificateUse.PILOT)

    (revoked,) = ca.revoke("one")

    assert not verified(ca, ca.certificate_of("one", CertificateUse.PILOT), "sslclient")
    assert verified(ca, ca.certificate_of("two", CertificateUse.PILOT), "sslclient")
    assert [one.revoked_at is not None for one in ca.issued()] == [True, False]
    assert revoked.name == "one"


def test_keys_are_for_the_owner_alone(ca: SiteCA) -> None:
    ca.issue("one", use=CertificateUse.USER)

    assert mode(ca.key) == mode(ca.key_of("one", CertificateUse.USER)) == 0o600
    assert mode(ca.folder) == 0o700


def test_a_data_directory_that_it_makes_is_for_the_owner_alone(tmp_path: Path) -> None:
    SiteCA.create(tmp_path / "data" / "ca")

    assert mode(tmp_path / "data") == 0o700


def test_a_server_is_named_by_its_hosts(ca: SiteCA) -> None:
    ca.issue("front", use=CertificateUse.SERVER, hosts=["www.example.org", "127.0.0.1"])
    ca.issue("back.example.org", use=CertificateUse.SERVER)

    def names(name: str) -> list[str]:
        certificate = loaded(ca.certificate_of(name, CertificateUse.SERVER))
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(one.value) for one in found]

    assert names("front") == ["www.example.org", "127.0.0.1"]
    assert names("back.example.org") == ["back.example.org"]


def test_serials_are_random_and_recorded(ca: SiteCA) -> None:
    serials = [int(ca.issue(f"p{n}", use=CertificateUse.PILOT).serial, 16) for n in range(4)]

    made = [loaded(ca.certificate_of(f"p{n}", CertificateUse.PILOT)) for n in range(4)]
    assert [one.serial_number for one in made] == serials
    assert min(serials).bit_length() > 100
    assert [int(one.serial, 16) for one in SiteCA.open(ca.folder).issued()] == serials


def test_a_name_gets_another_certificate_only_if_that_is_meant(ca: SiteCA) -> None:
    first = ca.issue("one", use=CertificateUse.SITE)

    with pytest.raises(AlreadyExists):
        ca.issue("one", use=CertificateUse.SITE)
    second = ca.issue("one", use=CertificateUse.SITE, renew=True)
    ca.revoke(first.serial)

    assert first.subject == second.subject
    assert [one.serial for one in ca.issued() if one.revoked_at is None] == [second.serial]


def test_a_name_of_two_kinds_is_revoked_by_number(ca: SiteCA) -> None:
    ca.issue("one", use=CertificateUse.SITE)
    pilot = ca.issue("one", use=CertificateUse.PILOT)

    with pytest.raises(InputError, match="serial number"):
        ca.revoke("one")

    assert [one.use for one in ca.revoke(pilot.serial)] == [CertificateUse.PILOT]
    assert [one.use for one in ca.revoke("one")] == [CertificateUse.SITE]
    with pytest.raises(NotFoundError):
        ca.revoke("one")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "é"])
def test_a_name_that_is_no_file_name_is_refused(ca: SiteCA, name: str) -> None:
    with pytest.raises(InputError):
        ca.issue(name, use=CertificateUse.USER)


def test_what_cannot_be_issued_is_refused(ca: SiteCA) -> None:
    with pytest.raises(InputError, match="days"):
        ca.issue("one", use=CertificateUse.USER, days=5000)
    with pytest.raises(InputError, match="days"):
        ca.issue("one", use=CertificateUse.USER, days=-1)
    with pytest.raises(InputError, match="hosts"):
        ca.issue("one", use=CertificateUse.SERVER, hosts=["exämple.org"])

    assert ca.issued() == []


def test_there_is_one_authority_in_a_folder(ca: SiteCA, tmp_path: Path) -> None:
    key = ca.key.read_bytes()

    with pytest.raises(AlreadyExists):
        SiteCA.create(ca.folder)
    with pytest.raises(NotFoundError):
        SiteCA.open(tmp_path / "elsewhere")

    assert ca.key.read_bytes() == key


def test_a_pilot_certificate_is_no_server_certificate(ca: SiteCA) -> None:
    ca.issue("one", use=CertificateUse.PILOT)
    certificate = loaded(ca.certificate_of("one", CertificateUse.PILOT))

    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.subject.rfc4514_string() == "CN=one,OU=pilots,O=Test site"
