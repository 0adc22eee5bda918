"""Whose certificate a client has shown: the end of the proxies in a chain that was verified.

A proxy certificate (RFC 3820) is signed by the holder of an ordinary certificate, or of
another proxy, and speaks for that holder.  TLS has verified signatures and validity of the
whole chain; here is found whom it speaks for, by its structure and never by a name that
looks like one, and whether with all rights:

* ``inheritAll`` has them all, Globus's ``limited`` has fewer (see `ClientIdentity`);
* ``independent`` has none of its issuer's, and what other policies mean is not known: both
  are refused;
* the kinds from before RFC 3820 are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from iceprod.errors import InputError, NotAuthenticated
from iceprod.model.names import Name

_PROXY_INFO: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_DRAFT_PROXY_INFO: Final = x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.222")
# Object identifiers as they stand in DER, without tag and length.
_INHERIT_ALL: Final = bytes.fromhex("2b06010505071501")
_INDEPENDENT: Final = bytes.fromhex("2b06010505071502")
_LIMITED: Final = bytes.fromhex("2b060104019b5001010109")
_LONGEST_CHAIN: Final = 32


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Whom a chain speaks for: the subject and the issuer of its end entity's certificate.

    ``is_limited`` says that a limited proxy is among the proxies, as batch systems hand them
    to jobs: good for a pilot, not for what could submit work.  The chain is good from
    ``begins_at`` to ``ends_at``; ``numbers`` are issuer and serial number of each of its
    certificates but the proxies, for lists of revoked ones.
    """

    subject: str
    issuer: str
    is_limited: bool
    begins_at: float
    ends_at: float
    numbers: tuple[tuple[str, int], ...]


def identity_of(chain: Sequence[bytes]) -> ClientIdentity:
    """Whom a verified chain speaks for; certificates in DER, the client's own first.

    Raises:
        NotAuthenticated: its proxies are not of a kind, or not made as, that is believed.
    """
    if not 0 < len(chain) <= _LONGEST_CHAIN:
        raise NotAuthenticated("there is no chain of certificates of a sensible length")
    try:
        certificates = [x509.load_der_x509_certificate(one) for one in chain]
        return _identity(certificates)
    except (ValueError, InputError, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        raise NotAuthenticated(f"the certificate cannot be read: {exc}") from None


def _identity(chain: Sequence[x509.Certificate]) -> ClientIdentity:
    end, is_limited = 0, False
    while (info := _proxy_info(chain[end])) is not None:
        if end + 1 == len(chain):
            raise NotAuthenticated("the chain ends with a proxy certificate")
        _check_proxy(chain[end], chain[end + 1])
        if info.path_length is not None and end > info.path_length:
            raise NotAuthenticated("a proxy certificate has more proxies below it than it allows")
        is_limited = is_limited or info.is_limited
        end += 1
    _check_end(chain, end)
    entity = chain[end]
    return ClientIdentity(
        subject=name_text(entity.subject),
        issuer=name_text(entity.issuer),
        is_limited=is_limited,
        begins_at=max(one.not_valid_before_utc.timestamp() for one in chain),
        ends_at=min(one.not_valid_after_utc.timestamp() for one in chain),
        numbers=tuple((name_text(one.issuer), one.serial_number) for one in chain[end:]),
    )


def name_text(name: x509.Name) -> str:
    """The one spelling of a name in a certificate.

    Raises:
        InputError: it is empty, or has values that are no text.
    """
    pairs = [[(one.oid.dotted_string, one.value) for one in part] for part in name.rdns]
    if not pairs or not all(isinstance(value, str) for part in pairs for _, value in part):
        raise InputError("a name has to have parts, and all of them text")
    return Name.of([(oid, str(value)) for oid, value in part] for part in pairs).text


def end_entity(pem: str) -> tuple[str, str]:
    """Subject and issuer of the first certificate in a PEM text.

    Raises:
        InputError: there is none, or it is a proxy certificate or an authority's.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        if _proxy_info(certificate) is not None:
            raise InputError("this is a proxy certificate: add the one that it was made with")
        if _is_authority(certificate):
            raise InputError("this is the certificate of an authority, not of somebody")
    except (ValueError, x509.DuplicateExtension) as exc:
        raise InputError(f"no certificate can be read: {exc}") from None
    except NotAuthenticated as exc:
        raise InputError(exc.message) from None
    return name_text(certificate.subject), name_text(certificate.issuer)


def revoked_numbers(data: bytes) -> set[tuple[str, int]]:
    """Issuer and serial number of what lists of revoked certificates name (PEM, or one list in DER).

    Raises:
        InputError: one of them cannot be read.
    """
    ends = [place.end() for place in re.finditer(rb"-----END X509 CRL-----", data)]
    found: set[tuple[str, int]] = set()
    try:
        lists = [x509.load_pem_x509_crl(data[begin:end]) for begin, end in pairwise([0, *ends])]
        for one in lists or [x509.load_der_x509_crl(data)]:
            issuer = name_text(one.issuer)
            found.update((issuer, revoked.serial_number) for revoked in one)
    except ValueError as exc:
        raise InputError(f"no list of revoked certificates: {exc}") from None
    return found


# Proxies


@dataclass(frozen=True, slots=True)
class _ProxyInfo:
    path_length: int | None
    is_limited: bool


def _proxy_info(certificate: x509.Certificate) -> _ProxyInfo | None:
    """What makes this a proxy certificate; None if nothing does."""
    found: _ProxyInfo | None = None
    for extension in certificate.extensions:
        if extension.oid == _DRAFT_PROXY_INFO:
            raise NotAuthenticated("proxy certificates from before RFC 3820 are not taken")
        if extension.oid == _PROXY_INFO:
            if not extension.critical or not isinstance(extension.value, x509.UnrecognizedExtension):
                raise NotAuthenticated("a proxy certificate's information has to be critical")
            found = _read_info(extension.value.value)
    return found


def _read_info(der: bytes) -> _ProxyInfo:
    """``SEQUENCE { INTEGER OPTIONAL, SEQUENCE { OBJECT IDENTIFIER, OCTET STRING OPTIONAL } }``."""
    (inner,) = _values(der, 0x30)
    fields = list(_fields(inner))
    path_length = None
    if fields and fields[0][0] == 0x02:
        path_length = int.from_bytes(fields.pop(0)[1], "big", signed=True)
    if len(fields) != 1 or fields[0][0] != 0x30 or (path_length is not None and path_length < 0):
        raise ValueError("a proxy certificate's information is not as in RFC 3820")
    policy = list(_fields(fields[0][1]))
    language = policy[0][1] if policy and policy[0][0] == 0x06 else b""
    if language == _INDEPENDENT:
        raise NotAuthenticated("an independent proxy certificate speaks for nobody else")
    if language not in (_INHERIT_ALL, _LIMITED) or len(policy) != 1:
        raise NotAuthenticated("the policy of a proxy certificate is not known here")
    return _ProxyInfo(path_length, language == _LIMITED)


def _fields(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents one after another; short forms alone, for nothing here is long."""
    position = 0
    while position < len(der):
        head = der[position : position + 2]
        if len(head) < 2 or head[1] >= 0x80 or position + 2 + head[1] > len(der):
            raise ValueError("a proxy certificate's information is not DER")
        yield head[0], der[position + 2 : position + 2 + head[1]]
        position += 2 + head[1]


def _values(der: bytes, tag: int) -> list[bytes]:
    found = list(_fields(der))
    if len(found) != 1 or found[0][0] != tag:
        raise ValueError("a proxy certificate's information is not as in RFC 3820")
    return [found[0][1]]


def _check_proxy(proxy: x509.Certificate, issuer: x509.Certificate) -> None:
    """RFC 3820, 3.1 to 3.8: signed by ``issuer``, and named like it with one common name more."""
    try:
        proxy.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        raise NotAuthenticated("a proxy certificate is not signed by the next one") from None
    *own, last = proxy.subject.rdns
    if own != list(issuer.subject.rdns) or [one.oid for one in last] != [NameOID.COMMON_NAME]:
        raise NotAuthenticated("a proxy certificate is not named as RFC 3820 wants it")
    if _is_authority(proxy) or _is_authority(issuer) or not _may_sign(issuer):
        raise NotAuthenticated("a proxy certificate is signed by one that may not do so")
    if any(isinstance(one.value, x509.SubjectAlternativeName) for one in proxy.extensions):
        raise NotAuthenticated("a proxy certificate has to have one name only")


def _check_end(chain: Sequence[x509.Certificate], end: int) -> None:
    """The holder is nobody's proxy and no authority, and is vouched for by an authority."""
    if _is_authority(chain[end]):
        raise NotAuthenticated("the certificate of an authority speaks for nobody")
    if end + 1 < len(chain) and not _is_authority(chain[end + 1]):
        raise NotAuthenticated("proxy certificates from before RFC 3820 are not taken")


def _is_authority(certificate: x509.Certificate) -> bool:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            return extension.value.ca
    return False


def _may_sign(certificate: x509.Certificate) -> bool:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.KeyUsage):
            return extension.value.digital_signature
    return True
