"""Certificates for keys that are made elsewhere."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from iceprod.errors import InputError
from iceprod.services.ca import CertificateUse, SiteCA
from iceprod.services.peer_keys import facts_of, fingerprint, fits, new_key

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def ca(tmp_path: Path) -> SiteCA:
    return SiteCA.create(tmp_path / "ca", name="Test site")


def request_for(key, *, signer=None, **pairs: str) -> str | None:
    """A request with any names whatever; with the signature of another key, if that is as long."""
    subject = x509.Name([x509.NameAttribute(getattr(NameOID, oid), value) for oid, value in pairs.items()])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = builder.sign(key, hashes.SHA256())
    if signer is not None:
        other = builder.sign(signer, hashes.SHA256())
        der, wrong = made.public_bytes(serialization.Encoding.DER), other.signature
        if len(wrong) != len(made.signature):
            return None
        made = x509.load_der_x509_csr(der.replace(made.signature, wrong))
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_a_request_gets_a_certificate_for_its_key(ca: SiteCA) -> None:
    asked = new_key("whoever")

    signed = ca.sign(asked.csr, "desy", mark="m1", days=90)

    certificate = x509.load_pem_x509_certificate(signed.pem.encode())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert fits(asked.key, signed.pem)
    assert not fits(new_key("x").key, signed.pem)
    assert not fits("no key", signed.pem)
    assert facts_of(signed.pem).subject == "CN=desy,dnQualifier=m1,OU=sites,O=Test site"
    assert facts_of(signed.pem).ends_at == signed.issued.expires_at
    # Nobody may take it for a server's, whatever the site is called.
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [(one.name, one.use, one.mark) for one in ca.issued()] == [("desy", CertificateUse.SITE, "m1")]


def test_nothing_of_a_request_counts_but_its_key(ca: SiteCA) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    csr = request_for(key, ORGANIZATION_NAME="Test site", COMMON_NAME="admin")

    made = x509.load_pem_x509_certificate(ca.sign(csr, "desy").pem.encode())

    assert "admin" not in made.subject.rfc4514_string()
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_a_request_that_proves_nothing_is_refused(ca: SiteCA) -> None:
    forged = None
    while forged is None:  # signatures of one length can take each other's place
        own, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        forged = request_for(own, signer=other, COMMON_NAME="desy")
    for wrong in (forged, "", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "x" * 20_000):
        with pytest.raises(InputError) as caught:
            ca.sign(wrong, "desy")
        assert caught.value.detail["fields"][0]["path"] == "/csr"
    assert ca.issued() == []


def test_a_weak_key_is_refused(ca: SiteCA) -> None:
    weak = request_for(rsa.generate_private_key(65537, 1024), COMMON_NAME="x")
    small = request_for(ec.generate_private_key(ec.SECP192R1()), COMMON_NAME="x")

    for csr in (weak, small):
        with pytest.raises(InputError, match="P-256"):
            ca.sign(csr, "desy")
    assert ca.sign(request_for(rsa.generate_private_key(65537, 2048), COMMON_NAME="x"), "desy")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65])
def test_a_name_that_is_none_is_not_certified(ca: SiteCA, name: str) -> None:
    with pytest.raises(InputError):
        ca.sign(new_key("x").csr, name)


def test_a_signed_certificate_is_revoked_by_name_and_use(ca: SiteCA) -> None:
    ca.sign(new_key("x").csr, "desy")
    ca.issue("desy", use=CertificateUse.SERVER)

    (revoked,) = ca.revoke("desy", CertificateUse.SITE)

    assert revoked.use is CertificateUse.SITE
    assert [one.use for one in ca.issued() if one.revoked_at is None] == [CertificateUse.SERVER]


@needs_openssl
def test_openssl_agrees(ca: SiteCA, tmp_path: Path) -> None:
    path = tmp_path / "one.pem"
    path.write_text(ca.sign(new_key("x").csr, "desy", mark="m1").pem)
    command = [
        *("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check_all"),
        *("-CRLfile", str(ca.crl), "-CAfile", str(ca.certificate), str(path)),
    ]
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(ca.certificate), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    ca.revoke("desy")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert shown.stdout.strip().partition("=")[2].replace(":", "").lower() == fingerprint(
        ca.certificate.read_text()
    )


def test_a_fingerprint_is_of_all_certificates(ca: SiteCA, tmp_path: Path) -> None:
    one, two = ca.certificate.read_text(), SiteCA.create(tmp_path / "b").certificate.read_text()
    both = b"".join(
        x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
        for pem in (one, two)
    )

    assert fingerprint(one + "text between\n" + two) == hashlib.sha256(both).hexdigest()
    assert fingerprint(one) != fingerprint(two)
    for none in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"):
        with pytest.raises(InputError):
            fingerprint(none)
        with pytest.raises(InputError):
            facts_of(none)
