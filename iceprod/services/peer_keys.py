"""The key by which a site is known to another one: made where it is used, and certified elsewhere.

A request for a certificate (PKCS #10) proves that its sender has the private key, which
itself never leaves the site.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from iceprod.errors import InputError
from iceprod.services.client_chain import name_text

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_LONGEST: Final = 16 * 1024
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_LEAST_RSA_BITS: Final = 2048
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[^-]{1,65536}-----END CERTIFICATE-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new private key and the request for its certificate, both in PEM."""

    key: str
    csr: str


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Whose a certificate is, who vouches for it, and from when to when (seconds since the epoch)."""

    subject: str
    issuer: str
    begins_at: float
    ends_at: float


def new_key(name: str) -> KeyRequest:
    """A key on the curve P-256 and the request for a certificate; ``name`` is for people alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyRequest(private.decode(), csr.public_bytes(serialization.Encoding.PEM).decode())


def requested_key(csr: str) -> PublicKey:
    """The public key in a request, of which its sender has the private one.

    Raises:
        InputError: it is no request, is not signed with its own key, or the key is weak.
    """
    if len(csr) > _LONGEST:
        raise _wrong("it is too long")
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        is_signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise _wrong("it cannot be read (PEM)") from None
    if not is_signed:
        raise _wrong("it is not signed with the key that it is for")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    raise _wrong("its key is none of P-256, P-384, P-521, or RSA of 2048 bits or more")


def facts_of(pem: str) -> CertificateFacts:
    """What the first certificate of a PEM text says.

    Raises:
        InputError: there is none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        return CertificateFacts(
            subject=name_text(certificate.subject),
            issuer=name_text(certificate.issuer),
            begins_at=certificate.not_valid_before_utc.timestamp(),
            ends_at=certificate.not_valid_after_utc.timestamp(),
        )
    except ValueError as exc:
        raise InputError(f"no certificate can be read: {exc}") from None


def fits(key: str, certificate: str) -> bool:
    """Whether a private key is that of a certificate, both in PEM."""
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
        public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(*form) == public.public_bytes(*form)


def fingerprint(bundle: str) -> str:
    """SHA-256 (hexadecimal) of the certificates in a PEM text, one after another in DER.

    Of one alone it is what OpenSSL prints with ``-fingerprint -sha256``.

    Raises:
        InputError: there is none.
    """
    try:
        found = [x509.load_pem_x509_certificate(one.encode()) for one in _CERTIFICATE.findall(bundle)]
    except ValueError as exc:
        raise InputError(f"no certificate can be read: {exc}") from None
    if not found:
        raise InputError("there is no certificate (PEM)")
    der = b"".join(one.public_bytes(serialization.Encoding.DER) for one in found)
    return hashlib.sha256(der).hexdigest()


def _wrong(message: str) -> InputError:
    return InputError(
        f"the request for a certificate: {message}", fields=[{"path": "/csr", "message": message}]
    )
