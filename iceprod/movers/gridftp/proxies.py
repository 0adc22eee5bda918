"""Certificates that a client shows and proxies that it signs (RFC 3820). No I/O.

A credential is the PEM text of certificate, key and chain, held in memory only.
"""

from __future__ import annotations

import os
import re
import secrets
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from iceprod.errors import AccessDenied

MIN_RSA_BITS: Final = 1024
LIFE: Final = timedelta(hours=12)
"""How long what is delegated is good for, unless the signer ends sooner."""

_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----\n?", re.DOTALL)
_PROXY_INFO: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# ProxyCertInfo with no bound of its length and one policy: inherit all, or Globus's limited proxy.
_FULL: Final = bytes.fromhex("300c300a06082b06010505071501")
_LIMITED: Final = bytes.fromhex("300f300d060b2b060104019b5001010109")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who one is to a server: certificates, the own first, and the key of the first."""

    chain: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes
    pem: bytes

    def __repr__(self) -> str:
        return f"Identity({self.chain[0].subject.rfc4514_string()!r})"

    @property
    def ends_at(self) -> datetime:
        """When the first of the certificates ends."""
        return min(one.not_valid_after_utc for one in self.chain)

    @property
    def is_limited(self) -> bool:
        """Whether one of the certificates is a limited proxy, so that all that follow must be."""
        return any(_proxy_info(one).endswith(_LIMITED[4:]) for one in self.chain)

    def show(self, context: ssl.SSLContext) -> None:
        """Have a TLS context use it; nothing is written to a disk.

        Raises:
            AccessDenied: TLS refuses it (a key too short for today, say).
        """
        handle = os.memfd_create("credential", os.MFD_CLOEXEC)
        try:
            os.write(handle, self.pem)
            # A passphrase is never asked for on the terminal.
            context.load_cert_chain(f"/proc/self/fd/{handle}", password="")
        except (ssl.SSLError, OSError):
            raise AccessDenied("the certificate or its key can't be used") from None
        finally:
            os.close(handle)


def read_identity(pem: bytes) -> Identity:
    """What a credential's PEM text holds.

    Raises:
        AccessDenied: it has no certificate or no key, they don't fit, or it has expired.
    """
    found = _KEY.search(pem)
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
        key = serialization.load_pem_private_key(found[0] if found else b"", password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause could quote the text, and the text is secret.
        raise AccessDenied("the credential is no PEM text of a certificate and its key") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise AccessDenied("the credential's key is neither RSA nor of an elliptic curve")
    if key.public_key() != chain[0].public_key():
        raise AccessDenied("the credential's key is not that of its first certificate")
    identity = Identity(chain, key, pem)
    if identity.ends_at <= datetime.now(UTC):
        raise AccessDenied("the credential has expired", ended_at=identity.ends_at.timestamp())
    return identity


def sign_proxy(identity: Identity, request: bytes, *, limited: bool) -> list[bytes]:
    """Certificates in DER, first a proxy for the key of a certificate ``request``, then the own chain.

    Raises:
        ValueError: the request is none, or its key is too weak.
    """
    asked = x509.load_der_x509_csr(request)
    key = asked.public_key()
    weak = isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS
    if (
        weak
        or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        or not asked.is_signature_valid
    ):
        raise ValueError("the server asks for a proxy with a key that is not good enough")
    signer, serial = identity.chain[0], secrets.randbits(31) | 1
    name = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
    now = datetime.now(UTC)
    proxy = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*signer.subject.rdns, name]))
        .issuer_name(signer.subject)
        .public_key(key)
        .serial_number(serial)
        # Clocks differ, but a proxy may not be older than what signs it.
        .not_valid_before(max(now - timedelta(minutes=5), signer.not_valid_before_utc))
        .not_valid_after(min(now + LIFE, identity.ends_at))
        .add_extension(_key_usage(), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(_PROXY_INFO, _LIMITED if limited or identity.is_limited else _FULL),
            critical=True,
        )
        .sign(identity.key, hashes.SHA256())
    )
    return [one.public_bytes(serialization.Encoding.DER) for one in (proxy, *identity.chain)]


def _proxy_info(certificate: x509.Certificate) -> bytes:
    try:
        value = certificate.extensions.get_extension_for_oid(_PROXY_INFO).value
    except (x509.ExtensionNotFound, ValueError):
        return b""
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


def _key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=False,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
