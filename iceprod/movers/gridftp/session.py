"""A login at a server, and the commands that need no data connection."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iceprod.errors import AccessDenied, InputError
from iceprod.model.location import Location
from iceprod.movers.base import Access, Facts
from iceprod.movers.dialing import dial
from iceprod.movers.gridftp import gsi, replies
from iceprod.movers.gridftp.control import Control
from iceprod.movers.gridftp.faults import ProtocolFault, Refused
from iceprod.movers.gridftp.listing import parse_facts, parse_time
from iceprod.movers.gridftp.options import Options, read_options
from iceprod.movers.gridftp.proxies import Identity, read_identity, sign_proxy
from iceprod.movers.gridftp.trust import check_server, same_name, subject_of

GRID_AUTHORITIES: Final = Path("/etc/grid-security/certificates")
"""Where a grid's machines have their authorities."""
CHECKSUM_S: Final = 3600.0
"""How long a server may compute a checksum: it reads the whole file."""

_BLOCK_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Session:
    """One login.

    ``delegated`` is the certificate in DER that was given to the server, ``mode`` the transfer
    mode that holds.  While ``busy`` a transfer has begun whose end was not heard of.
    """

    control: Control
    access: Access
    options: Options
    identity: Identity | None = None
    features: dict[str, str] | None = None
    delegated: bytes = b""
    takes_any_name: bool = False
    mode: str = "S"
    busy: bool = False

    @classmethod
    async def open(cls, location: Location, access: Access) -> Session:
        """Connect and log in.

        Raises:
            AccessDenied: the credential is none, or the server is not who it should be.
            Refused: the server says no.
            OSError, ProtocolFault: it went wrong.
        """
        options = read_options(access.options)
        identity = _identity(location.scheme, access)
        sock = await dial(location.host, location.port, access)
        session = cls(Control(sock, stall_s=access.stall_timeout_s), access, options, identity)
        try:
            await session.control.final("CONNECT", within_s=access.connect_timeout_s)
            await session._log_in(location.host)
        except BaseException:
            session.close()
            raise
        return session

    def close(self) -> None:
        """End it, and whatever it was doing."""
        self.control.close()

    async def _log_in(self, host: str) -> None:
        if self.identity is None:
            await self._log_in_by_password()
        else:
            await self._log_in_by_certificate(host, self.identity)
        try:
            self.features = replies.features(await self.control.command("FEAT"))
        except Refused:
            self.features = {}
        await self.control.command("TYPE", "I")
        if self.identity is not None:
            await self._protect_data()

    async def _log_in_by_password(self) -> None:
        credential = self.access.credential
        user, secret = "anonymous", "anonymous@"
        if credential is not None:
            user, secret = credential.user, credential.secret.decode("utf-8", "surrogateescape")
        reply = await self.control.command("USER", user)
        if reply.is_more:
            reply = await self.control.command("PASS", secret)
        if not reply.is_good:
            raise Refused("PASS", reply)

    async def _log_in_by_certificate(self, host: str, identity: Identity) -> None:
        expected = self.options.subject
        context = client_context(identity, self.access.ca_path, names_host=not expected)
        tls = gsi.Secured(context, server_name=host)
        tokens = gsi.initiate(
            tls, check=self._check_server, sign=self._signing(identity) if self.options.delegates else None
        )
        try:
            await self.control.secure(tls, tokens)
        except ssl.SSLCertVerificationError as error:
            raise AccessDenied(f"{host} is not trusted: {error.verify_message}") from None
        reply = await self.control.command("USER", ":globus-mapping:")
        if reply.is_more:
            reply = await self.control.command("PASS", "dummy")
        if not reply.is_good:
            raise Refused("PASS", reply)

    def _check_server(self, certificate: bytes) -> None:
        if self.options.subject:
            name = subject_of(certificate)
            if not same_name(name, self.options.subject):
                raise AccessDenied(f"the server is {name[:200]!r}, another than the option subject says")
        directory = _directory(self.access.ca_path)
        if directory is not None:
            check_server(certificate, directory)

    def _signing(self, identity: Identity) -> Callable[[bytes], list[bytes]]:
        def sign(request: bytes) -> list[bytes]:
            chain = sign_proxy(identity, request, limited=self.options.delegate == "limited")
            self.delegated = chain[0]
            return chain

        return sign

    async def _protect_data(self) -> None:
        await self.control.command("DCAU", self.options.dcau)
        if self.options.protection != "C":
            await self.control.command("PBSZ", str(_BLOCK_BYTES))
            await self.control.command("PROT", self.options.protection)

    def offers(self, feature: str) -> bool:
        """Whether the server says that it has it."""
        return feature in (self.features or {})

    async def set_mode(self, mode: str) -> None:
        """Have data in a stream (``S``) or in extended blocks (``E``)."""
        if self.mode != mode:
            await self.control.command("MODE", mode)
            self.mode = mode

    async def check_name(self, path: str) -> None:
        """Refuse a name that the server would take for another.

        Without encryption globus-gridftp-server leaves out all bytes beyond ASCII: a file would be
        stored under a name that nobody said.  So it is asked for a name that is then its parent's.

        Raises:
            InputError: it would.
        """
        if self.identity is not None or self.takes_any_name or path.isascii():
            return
        folder = path
        while folder and not (folder.isascii() and await self._is_there(folder)):
            folder = folder.rpartition("/")[0]
        try:
            reply = await self.control.command("MLST", f"{folder}/\u00e9")
        except Refused:
            reply = None
        if reply is not None and "\u00e9" not in reply.text:
            raise InputError("the server knows names of ASCII characters only")
        self.takes_any_name = True

    async def facts(self, path: str) -> Facts:
        """What the server tells of a file.

        Raises:
            Refused: nothing, or there is none.
        """
        try:
            reply = await self.control.command("MLST", path)
        except Refused as refused:
            if not refused.is_unknown:
                raise
            return await self._few_facts(path)
        if len(reply.lines) < 2:
            raise ProtocolFault("no facts in the answer to MLST")
        return parse_facts(reply.lines[1])[1]

    async def _few_facts(self, path: str) -> Facts:
        size = (await self.control.command("SIZE", path)).text.strip()
        if not (size.isascii() and size.isdigit() and len(size) < 20):
            raise ProtocolFault("no size in the answer to SIZE")
        try:
            moment = parse_time((await self.control.command("MDTM", path)).text)
        except Refused:
            moment = None
        return Facts(size_bytes=int(size), modified_at=moment)

    async def checksum(self, path: str, algorithm: str) -> str | None:
        """What the server computes; None where it does not.

        Raises:
            Refused: there is no such file.
        """
        offered = {one.partition(":")[0].upper() for one in (self.features or {}).get("CKSM", "").split(";")}
        if algorithm.upper() not in offered:
            return None
        reply = await self.control.command("CKSM", f"{algorithm.upper()} 0 -1 {path}", within_s=CHECKSUM_S)
        return reply.text.strip().lower()

    async def make_parents(self, path: str) -> None:
        """Make the directories that a file lies in, as far as they are not there.

        Raises:
            Refused: one can't be made.
        """
        missing: list[str] = []
        folder = path.rpartition("/")[0]
        while folder and not await self._is_there(folder):
            missing.append(folder)
            folder = folder.rpartition("/")[0]
        for name in reversed(missing):
            try:
                await self.control.command("MKD", name)
            except Refused as refused:
                # Somebody else may have made it in the meantime.
                if refused.reason != "exists" and not await self._is_there(name):
                    raise

    async def _is_there(self, folder: str) -> bool:
        try:
            await self.control.command("MLST" if self.offers("MLST") else "CWD", folder)
        except Refused:
            return False
        return True

    async def rename(self, path: str, to: str) -> None:
        """Give a file another name; another that has that name gives way.

        Raises:
            Refused: that can't be.
        """
        try:
            await self._rename(path, to)
        except Refused as refused:
            # Some servers let no file give way by itself.
            if refused.reason != "exists":
                raise
            await self.control.command("DELE", to)
            await self._rename(path, to)

    async def _rename(self, path: str, to: str) -> None:
        await self.control.command("RNFR", path)
        await self.control.command("RNTO", to)


def client_context(identity: Identity, ca_path: str | None, *, names_host: bool) -> ssl.SSLContext:
    """TLS to a server's control connection, which must be trusted and, normally, have the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = names_host
    trust(context, ca_path)
    identity.show(context)
    return context


def trust(context: ssl.SSLContext, ca_path: str | None) -> None:
    """Have ``context`` trust the authorities there.

    Raises:
        AccessDenied: there are none.
    """
    directory = _directory(ca_path)
    try:
        if directory is not None:
            context.load_verify_locations(capath=str(directory))
        elif ca_path is not None:
            context.load_verify_locations(cafile=ca_path)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError):
        raise AccessDenied(f"no authorities could be read from {ca_path}") from None


def _directory(ca_path: str | None) -> Path | None:
    path = GRID_AUTHORITIES if ca_path is None else Path(ca_path)
    return path if path.is_dir() else None


def _identity(scheme: str, access: Access) -> Identity | None:
    credential = access.credential
    if scheme == "ftp":
        if credential is not None and credential.kind != "password":
            raise AccessDenied("ftp needs a credential of kind password, or none")
        return None
    if credential is None or credential.kind != "x509":
        raise AccessDenied("gsiftp needs a credential of kind x509: a certificate or a proxy")
    return read_identity(credential.secret)
