"""An authority, and chains of every kind that clients may show."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from iceprod.services.ca import CertificateUse, SiteCA

INHERIT_ALL = "06082b06010505071501"
INDEPENDENT = "06082b06010505071502"
ANY_LANGUAGE = "06082b06010505071500"
LIMITED = "060b2b060104019b5001010109"
PROXY_INFO = "1.3.6.1.5.5.7.1.14"
DRAFT_PROXY_INFO = "1.3.6.1.4.1.3536.1.222"


def tlv(tag: int, *content: bytes) -> bytes:
    """A short DER value."""
    body = b"".join(content)
    return bytes([tag, len(body)]) + body


def proxy_info(language: str = INHERIT_ALL, *, path_length: int | None = None, policy: bytes = b"") -> bytes:
    """ProxyCertInfo in DER."""
    bound = b"" if path_length is None else tlv(0x02, bytes([path_length]))
    return tlv(0x30, bound, tlv(0x30, bytes.fromhex(language), tlv(0x04, policy) if policy else b""))


@dataclass(frozen=True)
class Holder:
    """A certificate with its key, and the chain up to and without the authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def subject(self) -> str:
        return self.certificate.subject.rfc4514_string()

    @property
    def chain(self) -> list[bytes]:
        """DER, the own certificate first."""
        return [one.public_bytes(serialization.Encoding.DER) for one in (self.certificate, *self.issuers)]

    def pem(self) -> bytes:
        """Certificate, key and the rest of the chain, as in a proxy file."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return b"".join(
            (
                self.certificate.public_bytes(serialization.Encoding.PEM),
                key,
                *(one.public_bytes(serialization.Encoding.PEM) for one in self.issuers),
            )
        )

    def file(self, path: Path) -> Path:
        """That in a file."""
        path.write_bytes(self.pem())
        path.chmod(0o600)
        return path

    def proxy(
        self,
        *,
        info: bytes | None = None,
        name: str = "12345",
        subject: x509.Name | None = None,
        days: float = 1.0,
        age_days: float = 0.0,
        oid: str = PROXY_INFO,
        critical: bool = True,
        more: Sequence[tuple[x509.ExtensionType, bool]] = (),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Holder:
        """A proxy certificate made with this one; ``oid`` "" leaves the proxy information out."""
        own = ec.generate_private_key(ec.SECP256R1())
        last = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        begin = datetime.now(UTC) - timedelta(days=age_days, minutes=5)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or x509.Name([*self.certificate.subject.rdns, last]))
            .issuer_name(self.certificate.subject)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=days))
            .add_extension(key_usage(), critical=True)
        )
        if oid:
            value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), info or proxy_info())
            builder = builder.add_extension(value, critical=critical)
        for extension, is_critical in more:
            builder = builder.add_extension(extension, critical=is_critical)
        made = builder.sign(key or self.key, hashes.SHA256())
        return Holder(made, own, (self.certificate, *self.issuers))


def key_usage(*, digital_signature: bool = True, key_cert_sign: bool = False) -> x509.KeyUsage:
    """What a key may do."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def holder(ca: SiteCA, name: str, use: CertificateUse = CertificateUse.USER, **more: Any) -> Holder:
    """Somebody with a new certificate of the authority."""
    ca.issue(name, use=use, **more)
    certificate = x509.load_pem_x509_certificate(ca.certificate_of(name, use).read_bytes())
    key = serialization.load_pem_private_key(ca.key_of(name, use).read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Holder(certificate, key)


def signed_by(
    ca: SiteCA,
    subject: x509.Name,
    *,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] = lambda builder: builder,
) -> Holder:
    """Somebody of any name whatever, certified by the authority."""
    root = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    root_key = serialization.load_pem_private_key(ca.key.read_bytes(), password=None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension, critical in extensions or ((key_usage(), True),):
        builder = builder.add_extension(extension, critical=critical)
    return Holder(change(builder).sign(root_key, hashes.SHA256()), key)


def self_signed(subject: x509.Name) -> Holder:
    """Somebody whom nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return Holder(made, key)


def name_of(*pairs: tuple[str, str]) -> x509.Name:
    """A name of types (dotted) and values, a part each."""
    return x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in pairs])


def client_context(ca: SiteCA, shown: Path | None = None) -> ssl.SSLContext:
    """A client that trusts the authority and shows the certificate in a file."""
    context = ssl.create_default_context(cafile=str(ca.certificate))
    if shown is not None:
        context.load_cert_chain(shown)
    return context
