"""A connection to an ssh server, by asyncssh, with answers and errors as the movers have them.

Nothing of the user who runs this counts: no settings, keys, agent or known hosts of theirs.
The package is large, so this is imported when the first connection is made.
Sources: draft-ietf-secsh-filexfer-02, asyncssh's manual.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import asyncssh
from asyncssh.constants import FILEXFER_TYPE_DIRECTORY, FILEXFER_TYPE_SYMLINK

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import Access, Credential, Entry, Facts
from iceprod.movers.dialing import dial

File = asyncssh.SFTPClientFile
"""A file that is open at the server."""

_LONGEST_REASON: Final = 200
_BLOCK_BYTES: Final = 128 * 1024
_SAFE_BLOCK_BYTES: Final = 32 * 1024
_HOST_KEYS: Final = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2": ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
_NOT_THERE: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_DENIED: Final = (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)
_FULL: Final = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_IN_THE_WAY: Final = (asyncssh.SFTPFileAlreadyExists, asyncssh.SFTPFileIsADirectory)
_BROKEN: Final = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.SFTPBadMessage)

_T = TypeVar("_T")

# What goes wrong is told by errors; what goes well fills the log of the site.
logging.getLogger("asyncssh").setLevel(logging.CRITICAL)


class UnknownFailure(TransferFailed):
    """The server says that it failed, and not why, as version 3 of the protocol has few words."""


class Link:
    """One connection with one sftp session, for one operation at a time.

    The operation's requests may wait for their answers side by side; they have failed when no
    answer has come for the time that `begin` names.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, client: asyncssh.SFTPClient) -> None:
        self.done_bytes = 0
        self._connection = connection
        self._client = client
        self._ended = asyncio.ensure_future(client.wait_closed())
        self._is_aborted = False
        self._unanswered = 0
        self._moved_at = 0.0

    def begin(self, location: Location, access: Access) -> None:
        """Name the file that is asked for, and how long answers may take."""
        self.done_bytes = 0
        self._location = location
        self._path = location.path.encode(errors="surrogateescape")
        self._stall_s = access.stall_timeout_s

    @property
    def is_good(self) -> bool:
        """Whether all requests are answered and more can be sent."""
        return not (self._unanswered or self._is_aborted or self._ended.done())

    @property
    def block_bytes(self) -> int:
        """How much to read or write by one request."""
        limits = self._client.limits
        # Servers take that much; asyncssh means less where one does not say.
        return max(_SAFE_BLOCK_BYTES, min(limits.max_read_len, limits.max_write_len, _BLOCK_BYTES))

    def abort(self) -> None:
        """End it at once, without a word to the other side."""
        self._is_aborted = True
        self._connection.abort()

    async def wait_closed(self) -> None:
        """Wait till nothing is left of what was aborted."""
        await self._connection.wait_closed()
        await asyncio.wait({self._ended})

    # Requests

    def send(self, request: Callable[[], Awaitable[_T]]) -> asyncio.Task[_T]:
        """Begin a request, for whose answer `answer` is to be asked."""
        self._unanswered += 1
        self._moved_at = asyncio.get_running_loop().time()
        return asyncio.create_task(self._told(request))

    async def answer(self, sent: asyncio.Task[_T]) -> _T:
        """What the server says to a request, when it does so while any answers come.

        Raises:
            TransferFailed: it doesn't, or the connection is broken.
            IceProdError: it says no.
        """
        now = asyncio.get_running_loop().time
        try:
            while not sent.done():
                left = self._moved_at + self._stall_s - now()
                if left <= 0:
                    raise self.failure(f"nothing moved for {self._stall_s:g} s")
                await asyncio.wait({sent}, timeout=left)
            return sent.result()
        finally:
            sent.cancel()

    async def ask(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Send a request and wait for its `answer`."""
        return await self.answer(self.send(request))

    async def _told(self, request: Callable[[], Awaitable[_T]]) -> _T:
        try:
            result = await request()
        except _BROKEN as exc:
            raise self.failure(_reason(exc)) from None
        except asyncssh.SFTPError as exc:
            self._note_answer()
            raise self._refusal(exc) from None
        except (asyncssh.Error, OSError, EOFError) as exc:
            raise self.failure(_reason(exc)) from None
        self._note_answer()
        return result

    def _note_answer(self) -> None:
        self._unanswered -= 1
        self._moved_at = asyncio.get_running_loop().time()

    def _refusal(self, exc: asyncssh.SFTPError) -> IceProdError:
        """What the server says, as an error of ours."""
        if isinstance(exc, _NOT_THERE):
            return NotFoundError("file", self._location)
        if isinstance(exc, _DENIED):
            return AccessDenied(f"the server refuses access to {self._location}")
        if isinstance(exc, _FULL):
            return _full_disk(self._location)
        if isinstance(exc, _IN_THE_WAY):
            return self._conflict()
        if isinstance(exc, asyncssh.SFTPOpUnsupported):
            return InputError(f"{self._location.host} has no such operation")
        kind = UnknownFailure if isinstance(exc, asyncssh.SFTPFailure) else TransferFailed
        return self.failure(_reason(exc), kind)

    def failure(self, said: str, kind: type[TransferFailed] = TransferFailed) -> TransferFailed:
        """That the operation can't go on."""
        return _failed(said, self._location, self.done_bytes, kind)

    def _conflict(self) -> ConflictError:
        return ConflictError(f"something is in the way of {self._location}")

    # Files

    async def stat(self) -> Facts:
        """Facts of the file."""
        return _facts(await self.ask(partial(self._client.stat, self._path)))

    async def stat_open(self, file: File) -> Facts:
        """Facts of an open file."""
        return _facts(await self.ask(file.stat))

    async def open(self, mode: str) -> File:
        """Open the file, with ``rb`` or (it must not be there) ``xb``."""
        # Requests are sent by the caller, who knows how many bytes may wait here.
        return await self.ask(partial(self._client.open, self._path, mode, block_size=None))

    async def make_folder(self) -> None:
        """Make the folder of the file, and those above it."""
        try:
            await self.ask(partial(self._client.makedirs, self._folder, exist_ok=True))
        except UnknownFailure:
            raise self._conflict() from None

    async def explained(self, exc: TransferFailed, size_bytes: int) -> IceProdError:
        """Why so many bytes could not be written: the protocol itself has no word for a full disk."""
        if isinstance(exc, UnknownFailure):
            with suppress(IceProdError):
                disk = await self.ask(partial(self._client.statvfs, self._folder))
                if disk.bavail * disk.frsize < size_bytes:
                    return _full_disk(self._location)
        return exc

    async def remove(self) -> None:
        """Delete the file."""
        try:
            await self.ask(partial(self._client.remove, self._path))
        except UnknownFailure:
            raise self._conflict() from None

    async def rename(self, target: Location) -> None:
        """Give the file another place, in that of a file that is there.

        Without the extension by which that is one step, the former file is deleted before.
        """
        self._location = target
        path = target.path.encode(errors="surrogateescape")
        try:
            await self.ask(partial(self._replace, path))
        except UnknownFailure:
            raise self._conflict() from None

    async def _replace(self, path: bytes) -> None:
        try:
            await self._client.posix_rename(self._path, path)
        except asyncssh.SFTPOpUnsupported:
            with suppress(*_NOT_THERE):
                await self._client.remove(path)
            await self._client.rename(self._path, path)

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """What lies in the folder; the connection is ended where not all is asked for."""
        found = self._client.scandir(self._path)
        sent = self.send(partial(anext, found, None))
        try:
            while (name := await self.answer(sent)) is not None:
                if (entry := _entry(name)) is not None:
                    yield entry
                sent = self.send(partial(anext, found, None))
        except BaseException:
            # It would close the folder there, and wait for that to be answered.
            self.abort()
            await asyncio.wait({sent})
            raise
        finally:
            await found.aclose()  # type: ignore[attr-defined]

    @property
    def _folder(self) -> bytes:
        return self._path.rpartition(b"/")[0] or b"/"


async def open_link(location: Location, access: Access) -> Link:
    """Connect to the server of ``location`` and log in.

    Raises:
        AccessDenied: an address of it is not allowed, its key is not the one that is known, or
            it does not accept the credential.
        TransferFailed: it can't be reached, or not within ``access.connect_timeout_s``.
    """
    login = _login(access)
    trust = _Trust(access)
    try:
        async with asyncio.timeout(access.connect_timeout_s):
            return await _trusted_link(location, access, trust, login)
    except TimeoutError:
        said = f"no login within {access.connect_timeout_s:g} s"
    except asyncssh.PermissionDenied:
        raise AccessDenied(f"the server does not accept the credential for {location}") from None
    except (asyncssh.Error, OSError, EOFError, ValueError) as exc:
        said = _reason(exc)
    raise _failed(said, location)


async def _trusted_link(location: Location, access: Access, trust: _Trust, login: dict[str, Any]) -> Link:
    """Connect, again for another of the server's keys where a fingerprint may be of that one."""
    while True:
        try:
            return await _link(location, access, {**login, **await trust.options()})
        except asyncssh.HostKeyNotVerifiable:
            if trust.has_another():
                continue
        except asyncssh.PermissionDenied:
            raise
        except (asyncssh.Error, ConnectionError):
            # A server that has no other kind of key breaks off, and may be gone before its reason was read.
            if not trust.has_refused:
                raise
        raise AccessDenied(f"the server's key is another than the settings say, at {location}")


async def _link(location: Location, access: Access, options: dict[str, Any]) -> Link:
    sock = await dial(location.host, location.port, access)
    try:
        connection = await asyncssh.connect(location.host, location.port, sock=sock, **_OWN, **options)
    except BaseException:
        sock.close()
        raise
    try:
        return Link(connection, await connection.start_sftp_client())
    except BaseException:
        connection.abort()
        raise


_OWN: Final[dict[str, Any]] = {
    "config": None,
    "agent_path": None,
    "gss_kex": False,
    "gss_auth": False,
    "host_based_auth": False,
    "x509_trusted_certs": None,
    "compression_algs": ["none"],
    # Larger packets cost less, and so do the ciphers that come first.
    "max_pktsize": 64 * 1024,
    "encryption_algs": [
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes128-ctr",
        "aes256-ctr",
    ],
    "utf8_decode_errors": "replace",
}
"""Options of every connection: above all, to look at nothing of this machine's users."""


class _Trust(asyncssh.SSHClient):
    """Which keys the server may show."""

    def __init__(self, access: Access) -> None:
        self._fingerprint = access.options.get("host_key_sha256", "").removeprefix("SHA256:").rstrip("=")
        self._path = access.options.get("known_hosts")
        if not (self._fingerprint or self._path):
            raise AccessDenied("the key of that server is not known: the origin's options say nothing of it")
        self._left = dict(_HOST_KEYS)
        self._shown = ""

    async def options(self) -> dict[str, Any]:
        """Options of the next connection.

        Raises:
            AccessDenied: the file with known keys can't be read.
        """
        if self._fingerprint:
            names = [name for family in self._left.values() for name in family]
            return {
                "known_hosts": asyncssh.SSHKnownHosts(),
                "client_factory": lambda: self,
                "server_host_key_algs": names,
            }
        try:
            return {"known_hosts": await asyncio.to_thread(asyncssh.read_known_hosts, str(self._path))}
        except (OSError, ValueError) as exc:
            raise AccessDenied(f"known_hosts can't be read: {type(exc).__name__}") from None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Whether it is the key of that fingerprint."""
        self._shown = key.get_algorithm()
        return key.get_fingerprint("sha256").removeprefix("SHA256:").rstrip("=") == self._fingerprint

    @property
    def has_refused(self) -> bool:
        """Whether a kind of key was shown that is not the one that is known."""
        return len(self._left) < len(_HOST_KEYS)

    def has_another(self) -> bool:
        """Whether another kind of key may be the one that is known, now that the last was not."""
        shown, self._shown = self._shown, ""
        families = [family for family in self._left if shown.startswith(family)]
        for family in families:
            del self._left[family]
        return bool(families and self._left)


def _login(access: Access) -> dict[str, Any]:
    """Who logs in, and by what."""
    credential = access.credential
    if credential is None or credential.kind not in ("ssh", "password"):
        raise AccessDenied("sftp needs a user with a key or a password")
    if credential.kind == "ssh":
        return {
            "username": credential.user,
            "client_keys": [_private_key(credential)],
            "preferred_auth": ["publickey"],
        }
    return {
        "username": credential.user,
        "password": credential.secret.decode(errors="replace"),
        "client_keys": None,
        "preferred_auth": ["password", "keyboard-interactive"],
    }


def _private_key(credential: Credential) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_private_key(credential.secret)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        raise AccessDenied("the credential is no private key that can be read without a passphrase") from None


def _facts(attributes: asyncssh.SFTPAttrs) -> Facts:
    modified = None if attributes.mtime is None else attributes.mtime + (attributes.mtime_ns or 0) / 1e9
    if attributes.type == FILEXFER_TYPE_DIRECTORY:
        return Facts(modified_at=modified, is_directory=True)
    return Facts(size_bytes=attributes.size, modified_at=modified)


def _entry(name: asyncssh.SFTPName) -> Entry | None:
    """A name with its facts; None for what is no name of anything in the directory."""
    raw = name.filename
    text = raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        return None
    # The length of a link says nothing of the file that it leads to.
    is_link = name.attrs.type == FILEXFER_TYPE_SYMLINK
    return Entry(text, Facts() if is_link else _facts(name.attrs))


def _reason(exc: Exception) -> str:
    """What was said, in one short line, as the other side may have chosen it."""
    said = getattr(exc, "reason", None) or str(exc) or type(exc).__name__
    return "".join(each if each.isprintable() else " " for each in str(said)[:_LONGEST_REASON])


def _full_disk(location: Location) -> Unavailable:
    """There is no room at the server."""
    return Unavailable(f"the disk of {location.host} is full", reason="storage_full")


def _failed(
    said: str, location: Location, done: int = 0, kind: type[TransferFailed] = TransferFailed
) -> TransferFailed:
    """The transfer can't go on."""
    return kind(f"{location.host}: {said}", source=str(location), done_bytes=done)
