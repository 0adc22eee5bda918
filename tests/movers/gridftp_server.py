"""A real globus-gridftp-server, anonymous or with GSI, and the authority and proxies it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from cryptography.x509.oid import NameOID

from iceprod.model.location import Location, parse_location
from iceprod.movers.base import Access, Credential
from iceprod.movers.gridftp.mover import GridFtpMover
from tests.movers.place import Place, Server, reaching, small_disk

SERVER, URL_COPY = "globus-gridftp-server", "globus-url-copy"
ROOT = "/DC=test/DC=iceprod"

_PATH = f"{os.environ['PATH']}:/usr/sbin"


def name_of(common: str) -> x509.Name:
    """``/DC=test/DC=iceprod/CN=common``."""
    parts = [(NameOID.DOMAIN_COMPONENT, "test"), (NameOID.DOMAIN_COMPONENT, "iceprod")]
    return x509.Name(
        [x509.NameAttribute(oid, value) for oid, value in [*parts, (NameOID.COMMON_NAME, common)]]
    )


@dataclass(frozen=True)
class Holder:
    """A certificate, its key, and the certificates above it."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def pem(self) -> bytes:
        """As in a proxy file."""
        own, *above = (
            one.public_bytes(serialization.Encoding.PEM) for one in (self.certificate, *self.above)
        )
        return b"".join((own, self.key_pem, *above))

    def proxy(self, *, limited: bool = False, age: timedelta = timedelta(minutes=5)) -> Holder:
        """A proxy of it, good for a day from ``age`` ago."""
        key, serial = _new_key(), x509.random_serial_number() % 10**9
        last = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
        policy = "300f300d060b2b060104019b5001010109" if limited else "300c300a06082b06010505071501"
        info = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex(policy))
        begin = datetime.now(UTC) - age
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([*self.certificate.subject.rdns, last]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=1))
            .add_extension(_usage(), critical=True)
            .add_extension(info, critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return Holder(made, key, (self.certificate, *self.above))


def _new_key() -> rsa.RSAPrivateKey:
    # A server makes its key of a delegation as long as the signer's: 256 bits would not do.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _usage(*, signs: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class Authority:
    """An authority with its directory of certificates, as machines of a grid have it."""

    folder: Path
    holder: Holder
    stem: str
    _issued: list[Holder] = field(default_factory=list)

    @classmethod
    def create(cls, folder: Path, name: str = "Test CA") -> Authority:
        """A new one; its files lie in ``folder``."""
        folder.mkdir(exist_ok=True)
        key = _new_key()
        holder = _signed(name_of(name), key, None, (x509.BasicConstraints(ca=True, path_length=None),))
        pem = holder.certificate.public_bytes(serialization.Encoding.PEM)
        command = ["openssl", "x509", "-hash", "-noout"]
        stem = subprocess.run(command, input=pem, capture_output=True, check=True).stdout.decode().strip()
        (folder / f"{stem}.0").write_bytes(pem)
        authority = cls(folder, holder, stem)
        authority.allow(f"{ROOT}/*", name=name)
        return authority

    def allow(self, pattern: str, *, name: str = "Test CA") -> None:
        """Write which names it may certify."""
        (self.folder / f"{self.stem}.signing_policy").write_text(
            f"# what it may sign\naccess_id_CA X509 '{ROOT}/CN={name}'\n"
            f"pos_rights globus CA:sign\ncond_subjects globus '\"{pattern}\"'\n"
        )

    def host(self, *names: str) -> Holder:
        """A server's certificate for those names and addresses."""
        alternatives = [
            x509.IPAddress(ip_address(one)) if one[0].isdigit() or ":" in one else x509.DNSName(one)
            for one in names
        ]
        extensions = (
            x509.SubjectAlternativeName(alternatives),
            x509.ExtendedKeyUsage([Use.SERVER_AUTH, Use.CLIENT_AUTH]),
        )
        return self._sign(name_of(names[0]), extensions)

    def user(self, name: str) -> Holder:
        """A user's certificate."""
        return self._sign(name_of(name), (x509.ExtendedKeyUsage([Use.CLIENT_AUTH]),))

    def _sign(self, name: x509.Name, extensions: Sequence[x509.ExtensionType]) -> Holder:
        key = _new_key()
        none = x509.BasicConstraints(ca=False, path_length=None)
        return _signed(name, key, self.holder, (none, *extensions))

    def revoke(self, *holders: Holder, next_update: timedelta = timedelta(days=1)) -> None:
        """Write a list with those on it."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.holder.certificate.subject)
            .last_update(now - timedelta(days=2))
            .next_update(now + next_update)
        )
        for one in holders:
            entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - timedelta(days=2)).build())
        made = builder.sign(self.holder.key, hashes.SHA256())
        (self.folder / f"{self.stem}.r0").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _signed(
    name: x509.Name,
    key: rsa.RSAPrivateKey,
    signer: Holder | None,
    extensions: Sequence[x509.ExtensionType],
) -> Holder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if signer is None else signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(_usage(signs=signer is None), critical=True)
    )
    for one in extensions:
        builder = builder.add_extension(one, critical=isinstance(one, x509.BasicConstraints))
    return Holder(builder.sign(key if signer is None else signer.key, hashes.SHA256()), key)


@dataclass(frozen=True)
class GridFtpServer:
    """A server that runs; with GSI, ``authority`` and ``proxy`` are those it trusts."""

    port: int
    log: Path
    authority: Authority | None = None
    proxy: Holder | None = None
    address: str = "127.0.0.1"
    host: Holder | None = None

    @property
    def scheme(self) -> str:
        return "ftp" if self.proxy is None else "gsiftp"

    @property
    def base(self) -> str:
        """The address of its root directory, without a slash at its end."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}"

    def access(self, *, stall_s: float = 60.0, **options: str) -> Access:
        """How to reach it."""
        credential = None if self.proxy is None else Credential("x509", self.proxy.pem)
        authorities = None if self.authority is None else str(self.authority.folder)
        return reaching(credential=credential, ca_path=authorities, stall_timeout_s=stall_s, options=options)

    def at(self, path: Path | str) -> Location:
        """Where a file of the disk is."""
        return parse_location(f"{self.base}{path}")

    def url_copy(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Globus's own client."""
        environment = dict(os.environ)
        if self.proxy is not None and self.authority is not None:
            path = self.log.with_suffix(".proxy")
            path.touch(0o600)
            path.write_bytes(self.proxy.pem)
            environment |= {"X509_USER_PROXY": str(path), "X509_CERT_DIR": str(self.authority.folder)}
        return subprocess.run(
            [URL_COPY, *arguments], env=environment, check=check, capture_output=True, text=True, timeout=120
        )


@contextmanager
def anonymous(folder: Path, *more: str, address: str = "127.0.0.1") -> Iterator[GridFtpServer]:
    """A server that everybody may use, on a free port."""
    log = folder / "anonymous.log"
    with _running(folder, log, ["-aa", *more], {}, address) as port:
        yield GridFtpServer(port, log, address=address)


@contextmanager
def with_gsi(
    folder: Path,
    *more: str,
    authority: Authority | None = None,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
) -> Iterator[GridFtpServer]:
    """A server that takes proxies of one user."""
    authority = authority or Authority.create(folder / "authorities")
    host, alice = authority.host(*names), authority.user("alice")
    for name, text in {"host.pem": host.pem, "host.key": host.key_pem}.items():
        (folder / name).touch(0o600)
        (folder / name).write_bytes(text)
    (folder / "gridmap").write_text(f'"{ROOT}/CN=alice" {_account()}\n')
    environment = {
        "X509_CERT_DIR": str(authority.folder),
        "X509_USER_CERT": str(folder / "host.pem"),
        "X509_USER_KEY": str(folder / "host.key"),
        "GRIDMAP": str(folder / "gridmap"),
    }
    log = folder / "gsi.log"
    with _running(folder, log, list(more), environment, "127.0.0.1") as port:
        yield GridFtpServer(port, log, authority, alice.proxy(), host=host)


@cache
def _account() -> str:
    return "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")


def _skip_without_programs() -> None:
    missing = [each for each in (SERVER, URL_COPY) if shutil.which(each, path=_PATH) is None]
    if missing:
        import pytest  # noqa: PLC0415 - measurements use this module, too, and have none

        pytest.skip(f"{missing[0]} is not installed")


@contextmanager
def _running(
    folder: Path, log: Path, arguments: Sequence[str], environment: dict[str, str], address: str
) -> Iterator[int]:
    _skip_without_programs()
    empty = folder / "empty.conf"  # else the machine's own settings are read
    empty.touch()
    command = [SERVER, "-c", str(empty), "-control-interface", address, "-data-interface", address]
    command += ["-l", str(log), *arguments]
    if os.geteuid() == 0:
        command += ["-allow-root"]
        command += ["-anonymous-user", "root"] if "-aa" in arguments else []
    process = subprocess.Popen(
        command,
        env=os.environ | environment | {"PATH": _PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        # "Server listening at host:port"
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


class GridFtpPlaces(Server):
    """Places below ``folder``, which is all that the server gives out."""

    def __init__(self, server: GridFtpServer, folder: Path, *, has_small_disk: bool, **options: str) -> None:
        self._server = server
        self._folder = folder
        self._has_small_disk = has_small_disk
        self._options = options

    def place(self, folder: str) -> Place:
        path = self._folder / folder
        path.mkdir()
        return Place(
            GridFtpMover(),
            self._server.access(**self._options),
            self._server.at(path),
            path,
            forbidden=self._server.at(self._folder.parent / "forbidden"),
            full=self._server.at(self._folder / "full") if self._has_small_disk else None,
            # This server leaves all else out of names on connections that are not encrypted.
            takes_any_name=self._server.proxy is not None,
        )


@contextmanager
def ftp_server(folder: Path) -> Iterator[Server]:
    """An anonymous one."""
    with _places(folder) as has_small_disk, anonymous(folder, "-rp", f"RW{folder / 'files'}") as server:
        yield GridFtpPlaces(server, folder / "files", has_small_disk=has_small_disk)


@contextmanager
def gsiftp_server(folder: Path) -> Iterator[Server]:
    """One with GSI; without delegation, since for each the server makes a key, and each test logs in anew."""
    with _places(folder) as has_small_disk, with_gsi(folder, "-rp", f"RW{folder / 'files'}") as server:
        yield GridFtpPlaces(server, folder / "files", has_small_disk=has_small_disk, dcau="N")


@contextmanager
def _places(folder: Path) -> Iterator[bool]:
    (folder / "forbidden").write_bytes(b"secret")
    with small_disk(folder / "files" / "full") as full:
        yield full is not None
