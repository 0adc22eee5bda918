"""The direct TLS port: for clients whose certificates a proxy in front would refuse.

That is above all grid proxy certificates (RFC 3820).  Every client shows a certificate here,
and OpenSSL verifies the chain, proxies included.  What it refuses stands in the audit trail,
with the address and the reason: whose it was said to be, OpenSSL tells nobody.  The files
behind it are watched: new connections use what is there, and a certificate that was revoked
meanwhile counts no more on connections that are open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from iceprod.config import TlsSettings
from iceprod.errors import ConfigError, InputError
from iceprod.server.client_certificate import SHOWN
from iceprod.server.peer_chain import ShownChain
from iceprod.server.processes.draining import GeneralPort
from iceprod.services.client_chain import ClientIdentity, revoked_numbers
from iceprod.services.refusals import Refusals, RefusedCertificate

logger = structlog.get_logger(__name__)

_LOOK_S: Final = 5.0
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good

_Stamp = tuple[tuple[str, int, int, int], ...]


class TrustFiles:
    """The certificates, the key and the lists that the port works with, as they are now."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._revoked: frozenset[tuple[str, int]] = frozenset()
        self._stamp: _Stamp = ()
        self.context = self._read()

    def is_revoked(self, identity: ClientIdentity) -> bool:
        """Whether a certificate of the chain is on a list."""
        return bool(self._revoked) and not self._revoked.isdisjoint(identity.numbers)

    def refresh(self) -> bool:
        """Read the files again if they have changed; whether there is a new ``context``.

        Files that cannot be used are told in the log, and those before them stay in use.
        """
        if _stamp(self._settings) == self._stamp:
            return False
        try:
            self.context = self._read()
        except ConfigError as exc:
            logger.error("the files of the TLS port cannot be used", reason=exc.message)  # noqa: TRY400
            return False
        logger.info("the files of the TLS port were read again")
        return True

    def _read(self) -> ssl.SSLContext:
        self._stamp = _stamp(self._settings)
        context = make_context(self._settings)
        self._revoked = frozenset(_revoked(self._settings.crl_path))
        return context


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, a client certificate required, proxy certificates allowed.

    Raises:
        ConfigError: a file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # A resumed session would skip the verification, and with it what was revoked meanwhile.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    certificate, key = _needed(settings, "certificate"), _needed(settings, "key")
    trusted = _needed(settings, "ca_path")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        _load(context, trusted)
        if settings.crl_path is not None:
            _load(context, settings.crl_path.expanduser())
            # Of the whole chain: the first certificate may be a proxy, which no list names.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    except (OSError, ValueError) as exc:
        raise _unusable("tls", f"the certificates cannot be used: {exc}") from None
    context.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, path: Path) -> None:
    if path.is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)


def _no_password() -> str:
    raise ValueError("the key needs a password, and nobody is here to type it")


def _needed(settings: TlsSettings, name: str) -> Path:
    path: Path | None = getattr(settings, name)
    if path is None:
        raise _unusable(f"tls.{name}", "the TLS port needs it")
    path = path.expanduser()
    if not path.exists():
        raise _unusable(f"tls.{name}", f"there is no {path}")
    # OpenSSL looks into a directory only when a client comes, and then trusts nobody.
    if path.is_dir() and not any(path.glob("[0-9a-f]*.0")):
        raise _unusable(f"tls.{name}", f"{path} has no HASH.0: run openssl rehash {path}")
    return path


def _unusable(setting: str, message: str) -> ConfigError:
    return ConfigError(f"{setting}: {message}", fields=[{"path": setting, "message": message}])


def _revoked(path: Path | None) -> Iterator[tuple[str, int]]:
    """What the lists in a file, or in a directory's ``HASH.rN``, name."""
    if path is None:
        return
    path = path.expanduser()
    for file in trusted_files(path, "r[0-9]*"):
        try:
            yield from revoked_numbers(file.read_bytes())
        except (OSError, InputError) as exc:
            raise _unusable("tls.crl_path", f"{file}: {exc}") from None


def trusted_files(path: Path, kind: str = "*[0-9]") -> list[Path]:
    """The file itself, or what OpenSSL looks at in a directory: ``HASH.0``, for lists ``HASH.r0``."""
    return sorted(path.glob(f"[0-9a-f]*.{kind}")) if path.is_dir() else [path]


def _stamp(settings: TlsSettings) -> _Stamp:
    """What changes when a file does, or one comes or goes."""
    given = (settings.certificate, settings.key, settings.ca_path, settings.crl_path)
    return tuple(mark for path in given if path is not None for mark in _marks(path.expanduser()))


def _marks(path: Path) -> Iterator[tuple[str, int, int, int]]:
    with suppress(OSError):  # what is not there leaves no mark
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with suppress(OSError):
                facts = file.stat()
                yield str(file), facts.st_mtime_ns, facts.st_size, facts.st_ino


def refused_for(error: BaseException | None) -> str:
    """Why OpenSSL did not take a certificate; empty if that was not what ended a handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None) == "BAD_SIGNATURE":
        return "its key is not the client's"
    return ""


class DirectPort(GeneralPort):
    """Tornado's server over TLS, whose connections know whom their certificates speak for."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Serve as Tornado's server does, with the certificates of ``files`` (a `TrustFiles`).

        What ``refusals`` is told is which clients OpenSSL has refused.
        """
        self._files: TrustFiles = kwargs.pop("files")
        self._refusals: Refusals = kwargs.pop("refusals")
        super().initialize(*args, ssl_options=self._files.context, **kwargs)

    def handle_stream(self, stream: Any, address: Any) -> None:
        """Take a connection; its handshake comes first, and may be the end of it."""
        handshake = stream.wait_for_handshake()
        handshake.add_done_callback(lambda done: self._note(done.exception(), str(address[0])))
        super().handle_stream(stream, address)

    def _note(self, error: BaseException | None, address: str) -> None:
        reason = refused_for(error)
        if reason:
            self._refusals.note_certificate(RefusedCertificate(address, reason))

    def start_request(self, server_conn: object, request_conn: Any) -> Any:
        """Find out, at the first request of a connection, whose it is."""
        context = request_conn.context
        if getattr(context, SHOWN, None) is None:
            shown = ShownChain(request_conn.stream.socket, self._files.is_revoked)
            setattr(context, SHOWN, shown)
        return super().start_request(server_conn, request_conn)

    async def watch(self) -> None:
        """Look at the files now and then, and use what is new for connections to come."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Use the files as they are now."""
        if self._files.refresh():
            self.ssl_options = self._files.context
