"""What a directory of authorities allows beyond TLS: signing policies and revocations.

Such a directory has for each authority ``HASH.0`` (its certificate), ``HASH.signing_policy``
(which names it may certify) and ``HASH.r0`` (what it revoked).  TLS has checked signatures, times
and purposes of the chain before; this walks the chain again and holds it against the other two.
Where an authority has no such file nothing is asked; what is there and can't be read refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from iceprod.errors import AccessDenied

MAX_DEPTH: Final = 10

_SHORT: Final = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.42": "GN",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
}
_SPELLINGS: Final = ((r"/(E|Email)=", "/emailAddress="), (r"/USERID=", "/UID="))
_WORD: Final = re.compile(r"'([^']*)'|\"([^\"]*)\"|(\S+)")


@dataclass(frozen=True, slots=True)
class Authority:
    """One certificate of the directory, and the path of its files without their endings."""

    certificate: x509.Certificate
    stem: Path


def check_server(certificate: bytes, directory: Path) -> None:
    """Refuse a server whose certificate (DER) its authorities may not give, or took back.

    Raises:
        AccessDenied: it is so, or the files can't be read.
    """
    current = x509.load_der_x509_certificate(certificate)
    for _ in range(MAX_DEPTH):
        authority = _issuer_of(current, directory)
        _check_policy(authority, slash_name(current.subject))
        _check_revocation(authority, current)
        if authority.certificate.subject == authority.certificate.issuer:
            return
        current = authority.certificate
    raise AccessDenied("the chain of the server's certificate has no end")


def subject_of(certificate: bytes) -> str:
    """Whom a certificate (DER) is of, as Globus writes names."""
    return slash_name(x509.load_der_x509_certificate(certificate).subject)


def slash_name(name: x509.Name) -> str:
    """``/DC=org/CN=name``, as Globus writes names."""
    parts = [
        f"/{_SHORT.get(one.oid.dotted_string, one.oid.dotted_string)}={one.value!s}"
        for rdn in name.rdns
        for one in rdn
    ]
    return "".join(parts)


def same_name(one: str, other: str) -> bool:
    """Whether two such names are one, in whichever spelling of their types."""
    return _plain_spelling(one) == _plain_spelling(other)


def _plain_spelling(name: str) -> str:
    for pattern, spelling in _SPELLINGS:
        name = re.sub(pattern, spelling, name)
    return name


def _issuer_of(certificate: x509.Certificate, directory: Path) -> Authority:
    for authority in _authorities(directory, _stamp(directory)):
        if authority.certificate.subject != certificate.issuer:
            continue
        try:
            certificate.verify_directly_issued_by(authority.certificate)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return authority
    raise AccessDenied(f"the authority {slash_name(certificate.issuer)[:200]!r} is not among those trusted")


def _stamp(directory: Path) -> int:
    return directory.stat().st_mtime_ns


@lru_cache(maxsize=16)
def _authorities(directory: Path, _changed_at_ns: int) -> tuple[Authority, ...]:
    """All of a directory; read anew when files come or go."""
    found: list[Authority] = []
    for path in sorted(directory.glob("*.[0-9]")):
        try:
            certificates = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue  # TLS did not trust it either
        found += [Authority(one, path.with_suffix("")) for one in certificates]
    return tuple(found)


def _check_policy(authority: Authority, subject: str) -> None:
    path = authority.stem.with_suffix(".signing_policy")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        raise AccessDenied(f"{path.name} can't be read") from None
    if not may_sign(text, slash_name(authority.certificate.subject), subject):
        raise AccessDenied(f"{path.name} does not let the authority certify {subject[:200]!r}")


def may_sign(policy: str, authority: str, subject: str) -> bool:
    """Whether a signing policy's text lets ``authority`` certify ``subject``; both ``/C=…`` names."""
    return any(
        same_name(name, authority) and any(_fits(pattern, subject) for pattern in patterns)
        for name, patterns in _sections(policy)
    )


def _sections(policy: str) -> Iterator[tuple[str, list[str]]]:
    """Authorities that may sign, with the patterns of what."""
    name, may = "", False
    for line in policy.splitlines():
        words = _words(line)
        match words[:2]:
            case [kind, _] if kind.startswith("access_id_"):
                name, may = (words[2] if kind == "access_id_CA" and len(words) > 2 else ""), False
            case [kind, _] if kind.startswith(("pos_rights", "neg_rights")):
                may = may or (kind == "pos_rights" and words[2:3] == ["CA:sign"])
            case ["cond_subjects", _] if name and may:
                yield name, [pattern for word in words[2:] for pattern in _words(word)]


def _words(line: str) -> list[str]:
    """Words of a line: quoted ones whole, what follows a ``#`` left out."""
    words: list[str] = []
    for found in _WORD.finditer(line):
        if (found[3] or "").startswith("#"):
            break
        words.append(next(group for group in found.groups() if group is not None))
    return words


def _fits(pattern: str, subject: str) -> bool:
    expression = re.escape(_plain_spelling(pattern)).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, _plain_spelling(subject), re.DOTALL) is not None


def _check_revocation(authority: Authority, certificate: x509.Certificate) -> None:
    """Hold a certificate against all lists of its authority that are there."""
    for path in sorted(authority.stem.parent.glob(f"{authority.stem.name}.r[0-9]")):
        try:
            revoked = _revocations(path, path.stat().st_mtime_ns)
        except (OSError, ValueError):
            raise AccessDenied(f"{path.name} can't be read") from None
        if revoked.issuer != authority.certificate.subject:
            continue
        key = authority.certificate.public_key()
        if not revoked.is_signature_valid(key):  # type: ignore[arg-type]  # any kind of key is asked
            raise AccessDenied(f"{path.name} is not signed by its authority")
        until = revoked.next_update_utc
        if until is not None and until < datetime.now(UTC):
            raise AccessDenied(f"{path.name} is out of date")
        if revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise AccessDenied("the server's certificate was revoked")


@lru_cache(maxsize=256)
def _revocations(path: Path, _changed_at_ns: int) -> x509.CertificateRevocationList:
    data = path.read_bytes()
    if data.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_crl(data)
    return x509.load_der_x509_crl(data)
