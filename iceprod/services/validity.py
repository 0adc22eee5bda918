"""How long certificates, and lists of revoked ones, are good."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from iceprod.errors import InputError
from iceprod.services.client_chain import name_text

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.S)


@dataclass(frozen=True, slots=True)
class Good:
    """What it is, and from and until when it is good (seconds since the epoch)."""

    name: str
    since: float
    until: float


def goods_in(pem: bytes) -> list[Good]:
    """Everything in a PEM text that runs out one day.

    Raises:
        InputError: there is nothing, or something that cannot be read.
    """
    found: list[Good] = []
    try:
        for block in _CERTIFICATE.findall(pem):
            certificate = x509.load_pem_x509_certificate(block)
            name = f"the certificate of {name_text(certificate.subject)}"
            since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            found.append(Good(name, since.timestamp(), until.timestamp()))
        for block in _LIST.findall(pem):
            listing = x509.load_pem_x509_crl(block)
            since, until = (
                listing.last_update_utc,
                listing.next_update_utc or datetime.max.replace(tzinfo=UTC),
            )
            name = f"the list of {name_text(listing.issuer)}"
            found.append(Good(name, since.timestamp(), until.timestamp()))
    except ValueError as exc:
        raise InputError(f"a certificate or list cannot be read: {exc}") from None
    if not found:
        raise InputError("there is no certificate and no list in it")
    return found
