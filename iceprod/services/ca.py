"""A small certificate authority of a site's own, kept in one folder.

It is meant for a site that has no better one: for its server, its pilots, its users and
the sites that it works with.  The folder holds ``ca.pem``, ``ca.key`` (mode 0600),
``crl.pem``, the record ``issued.json``, and ``KIND/NAME.pem`` with ``KIND/NAME.key`` for
each certificate.  Keys are on the curve P-256.  Profiles follow RFC 5280.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from iceprod import clock as clocks
from iceprod.clock import Clock
from iceprod.errors import AlreadyExists, InputError, NotFoundError
from iceprod.services.peer_keys import PublicKey, requested_key

CA_DAYS: Final = 3650.0
LEAF_DAYS: Final = 397.0  # the longest that clients take from a server
_SKEW: Final = timedelta(hours=23)  # clocks of other machines are behind, some by hours
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TITLE: Final = re.compile(r"[^\W_][\w .,()-]{0,59}")


class CertificateUse(StrEnum):
    """What a certificate is made for."""

    SERVER = "server"
    SITE = "site"
    PILOT = "pilot"
    USER = "user"


_USAGES: Final = {
    CertificateUse.SERVER: (ExtendedKeyUsageOID.SERVER_AUTH,),
    # A site calls other sites, and is called by them.
    CertificateUse.SITE: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    CertificateUse.PILOT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    CertificateUse.USER: (ExtendedKeyUsageOID.CLIENT_AUTH,),
}


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate in the record; ``serial`` is hexadecimal, times are seconds since the epoch."""

    serial: str
    name: str
    use: CertificateUse
    subject: str
    issued_at: float
    expires_at: float
    revoked_at: float | None = None
    mark: str = ""  # sets holders of one name apart who came one after another


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate for a key that is kept elsewhere, as it is in the record and in PEM."""

    issued: Issued
    pem: str


class SiteCA:
    """The authority in ``folder``: `create` it once, then `open` it."""

    def __init__(self, folder: Path, *, clock: Clock = clocks.now) -> None:
        self.folder = folder
        self._clock = clock

    @property
    def certificate(self) -> Path:
        """The certificate by which others trust those that were issued."""
        return self.folder / "ca.pem"

    @property
    def crl(self) -> Path:
        """The list of revoked certificates; there from the start, and good for as long as the authority."""
        return self.folder / "crl.pem"

    @property
    def key(self) -> Path:
        """The authority's private key."""
        return self.folder / "ca.key"

    def certificate_of(self, name: str, use: CertificateUse) -> Path:
        """Where the newest certificate of a name lies."""
        return self.folder / use / f"{name}.pem"

    def key_of(self, name: str, use: CertificateUse) -> Path:
        """Where its private key lies."""
        return self.folder / use / f"{name}.key"

    @classmethod
    def create(
        cls, folder: Path, *, name: str = "IceProd site", days: float = CA_DAYS, clock: Clock = clocks.now
    ) -> Self:
        """Make a new authority called ``name``.

        Raises:
            AlreadyExists: there is one in this folder.
            InputError: the name will not do.
        """
        _check_lifetime(days)
        if not _TITLE.fullmatch(name):
            raise _field_error("name", "1 to 60 letters, digits, spaces and . , ( ) - make a name")
        ca = cls(folder, clock=clock)
        # The one above may be the data directory, at the first command that needs it: nobody else's either.
        for path in (folder.parent, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ca._locked():
            if ca.key.exists():
                raise AlreadyExists(f"there is a certificate authority in {folder}", folder=str(folder))
            ca._make_root(name, days)
            ca._keep([])
        return ca

    @classmethod
    def open(cls, folder: Path, *, clock: Clock = clocks.now) -> Self:
        """The authority that was made in ``folder``.

        Raises:
            NotFoundError: there is none.
        """
        if not (folder / "ca.key").exists():
            raise NotFoundError("certificate authority", str(folder))
        return cls(folder, clock=clock)

    def issue(
        self,
        name: str,
        *,
        use: CertificateUse,
        hosts: Sequence[str] = (),
        days: float = LEAF_DAYS,
        renew: bool = False,
    ) -> Issued:
        """Make a key and a certificate for it, and write both into the folder.

        ``hosts`` are the names and addresses by which a server is reached (a server's own
        name if none is given).  ``renew`` makes another one with the same subject; the former
        stays good until it expires or is revoked.

        Raises:
            AlreadyExists: the name has a certificate that is still good.
            InputError: the name, a host or the lifetime will not do.
        """
        _check_lifetime(days)
        if not _NAME.fullmatch(name):
            raise _field_error("name", "1 to 64 letters, digits, '.', '_' and '-' make a name")
        if not hosts and use is CertificateUse.SERVER:
            hosts = (name,)
        with self._locked():
            known = self.issued()
            if not renew and any(self._is_good(one) for one in known if (one.name, one.use) == (name, use)):
                raise AlreadyExists(f"{name} has a certificate of kind {use}", name=name)
            key = ec.generate_private_key(ec.SECP256R1())
            made, pem = self._certify(key.public_key(), name, use, hosts=hosts, days=days)
            self.certificate_of(name, use).parent.mkdir(mode=0o700, exist_ok=True)
            _write(self.key_of(name, use), _pem_of(key), 0o600)
            _write(self.certificate_of(name, use), pem, 0o644)
            self._keep([*known, made])
        return made

    def sign(
        self,
        csr: str,
        name: str,
        use: CertificateUse = CertificateUse.SITE,
        *,
        days: float = LEAF_DAYS,
        mark: str = "",
    ) -> Signed:
        """Certify a key that was made elsewhere, and for which a request (PEM) is shown.

        The request proves that its sender has the key, and nothing else in it counts: who is
        certified is ``name``, as a client of kind ``use``.  With another ``mark`` the same name
        has another subject.

        Raises:
            InputError: the request, the name or the lifetime will not do.
        """
        _check_lifetime(days)
        if not _NAME.fullmatch(name):
            raise _field_error("name", "1 to 64 letters, digits, '.', '_' and '-' make a name")
        public_key = requested_key(csr)
        with self._locked():
            made, pem = self._certify(public_key, name, use, days=days, mark=mark, is_signed=True)
            self._keep([*self.issued(), made])
        return Signed(made, pem.decode())

    def revoke(self, which: str, use: CertificateUse | None = None) -> list[Issued]:
        """Revoke by name or by serial number, and write the list anew; what was revoked by this.

        ``use`` says of which kind, if the name has certificates of several.

        Raises:
            NotFoundError: nothing by that name or number is still good.
            InputError: the name has certificates of several kinds, so a number is needed.
        """
        with self._locked():
            known = self.issued()
            found = [
                one
                for one in known
                if which in (one.name, one.serial) and use in (None, one.use) and self._is_good(one)
            ]
            if not found:
                raise NotFoundError("certificate", which)
            if len({one.use for one in found}) > 1:
                raise InputError(f"{which} has certificates of several kinds: revoke by serial number")
            now = self._clock()
            changed = [replace(one, revoked_at=now) if one in found else one for one in known]
            self._keep(changed)
        return [one for one in changed if one.revoked_at == now]

    def issued(self) -> list[Issued]:
        """Every certificate that was ever issued, oldest first."""
        return msgspec.json.decode((self.folder / "issued.json").read_bytes(), type=list[Issued])

    def _is_good(self, one: Issued) -> bool:
        return one.revoked_at is None and one.expires_at > self._clock()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def _root_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{self.key} is not a key of this authority")
        return key

    def _make_root(self, name: str, days: float) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _dn((NameOID.ORGANIZATION_NAME, name), (NameOID.COMMON_NAME, f"{name} CA"))
        builder = (
            _builder(subject, subject, key.public_key(), now=self._now(), days=days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
        )
        _write(self.key, _pem_of(key), 0o600)
        _write(self.certificate, _signed(builder, key), 0o644)

    def _certify(
        self,
        public_key: PublicKey,
        name: str,
        use: CertificateUse,
        *,
        hosts: Sequence[str] = (),
        days: float,
        mark: str = "",
        is_signed: bool = False,
    ) -> tuple[Issued, bytes]:
        root, now = self._root(), self._now()
        if now + timedelta(days=days) > root.not_valid_after_utc:
            raise _field_error("days", f"the authority itself ends on {root.not_valid_after_utc:%Y-%m-%d}")
        (organization,) = root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        # Whose key is kept elsewhere calls, but nobody shall take it for a server by its name.
        usages = _USAGES[CertificateUse.USER] if is_signed else _USAGES[use]
        subject = _dn(
            (NameOID.ORGANIZATION_NAME, str(organization.value)),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, f"{use}s"),
            *([(NameOID.DN_QUALIFIER, mark)] if mark else []),
            (NameOID.COMMON_NAME, name),
        )
        builder = (
            _builder(subject, root.subject, public_key, now=now, days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_issuer_key(root), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._root_key(), hashes.SHA256())
        issued = Issued(
            serial=f"{made.serial_number:x}",
            name=name,
            use=use,
            subject=made.subject.rfc4514_string(),
            issued_at=self._clock(),
            expires_at=made.not_valid_after_utc.timestamp(),
            mark=mark,
        )
        return issued, made.public_bytes(serialization.Encoding.PEM)

    def _keep(self, issued: Sequence[Issued]) -> None:
        """Write the record and the list that follows from it."""
        _write(self.folder / "issued.json", msgspec.json.format(msgspec.json.encode(issued)), 0o644)
        root, now = self._root(), self._now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(root.subject)
            .last_update(now - _SKEW)
            # A list that ends before the authority does would lock everybody out one day.
            .next_update(root.not_valid_after_utc)
            .add_extension(x509.CRLNumber(int(self._clock() * 1000)), critical=False)
            .add_extension(_issuer_key(root), critical=False)
        )
        for one in issued:
            if one.revoked_at is not None:
                builder = builder.add_revoked_certificate(
                    x509.RevokedCertificateBuilder()
                    .serial_number(int(one.serial, 16))
                    .revocation_date(datetime.fromtimestamp(one.revoked_at, UTC))
                    .build()
                )
        made = builder.sign(self._root_key(), hashes.SHA256())
        _write(self.crl, made.public_bytes(serialization.Encoding.PEM), 0o644)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change the folder."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _dn(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    *,
    now: datetime,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,  # a proxy certificate (RFC 3820) is signed with it, too
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key(root: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError:
        raise _field_error("hosts", f"{text!r} is no address, and no name in ASCII") from None


def _check_lifetime(days: float) -> None:
    if not 0 < days <= 36500:
        raise _field_error("days", "a certificate lives for more than 0 and at most 36500 days")


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, never for a moment readable to more than it shall be."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _field_error(field: str, message: str) -> InputError:
    return InputError(f"{field}: {message}", fields=[{"path": f"/{field}", "message": message}])
