"""Certificates as credentials for origins: until when they are good, and proxies made with them.

A credential is PEM text of a certificate, its key and its chain, as grid tools write it.  What
is made from a longer-lived one is a proxy certificate of RFC 3820 with all its rights and a
short life, so that the long-lived key never leaves the vault.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from iceprod.errors import InputError

_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----\n?", re.DOTALL)
_INFO: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# ProxyCertInfo without a bound of its length: inherit all, or Globus's limited proxy.
_FULL: Final = bytes.fromhex("300c300a06082b06010505071501")
_LIMITED: Final = bytes.fromhex("300f300d060b2b060104019b5001010109")
_SKEW: Final = timedelta(minutes=5)
_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class X509Credential:
    """A certificate, first of its chain, with its key."""

    chain: tuple[x509.Certificate, ...]
    key: Any

    def __repr__(self) -> str:
        return f"X509Credential({self.subject!r})"

    @property
    def subject(self) -> str:
        """Whose it is."""
        return self.chain[0].subject.rfc4514_string()

    @property
    def ends_at(self) -> float:
        """When the first of the certificates ends, in seconds since the epoch."""
        return min(one.not_valid_after_utc for one in self.chain).timestamp()

    @property
    def begins_at(self) -> float:
        """When all of them have begun."""
        return max(one.not_valid_before_utc for one in self.chain).timestamp()


def read_x509(pem: bytes) -> X509Credential:
    """What a credential's text holds.

    Raises:
        InputError: there is no certificate or no key without a password, or they don't fit.
    """
    found = _KEY.search(pem)
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
        key = serialization.load_pem_private_key(found[0] if found else b"", password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What it says may quote the text, and the text is secret.
        raise InputError("it takes PEM text of a certificate and its key, without a password") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise InputError("the key is neither RSA nor of an elliptic curve")
    if key.public_key() != chain[0].public_key():
        raise InputError("the key is not that of the first certificate")
    return X509Credential(chain, key)


def make_proxy(source: X509Credential, *, lifetime_s: float, now: float) -> tuple[bytes, float]:
    """A new proxy with a key of its own, and when it ends; takes a tenth of a second.

    It is limited where something in the source's chain is.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    signer, serial = source.chain[0], secrets.randbits(31) | 1
    name = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
    ends = datetime.fromtimestamp(min(now + lifetime_s, source.ends_at), UTC).replace(microsecond=0)
    proxy = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*signer.subject.rdns, name]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        # Clocks differ, but a proxy may not be older than what signs it.
        .not_valid_before(max(datetime.fromtimestamp(now, UTC) - _SKEW, signer.not_valid_before_utc))
        .not_valid_after(ends)
        .add_extension(_key_usage(), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(_INFO, _LIMITED if _is_limited(source) else _FULL), critical=True
        )
        .sign(source.key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    certificates = [one.public_bytes(serialization.Encoding.PEM) for one in (proxy, *source.chain)]
    return b"".join((certificates[0], private, *certificates[1:])), ends.timestamp()


def _is_limited(source: X509Credential) -> bool:
    return any(
        extension.oid == _INFO
        and isinstance(extension.value, x509.UnrecognizedExtension)
        and extension.value.value.endswith(_LIMITED[4:])
        for one in source.chain
        for extension in one.extensions
    )


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
