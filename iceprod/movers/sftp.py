"""Files of ssh servers, by libcurl.

Credentials: ``ssh`` (user and private key) and ``password``.  Options: ``host_key_sha256``, the
fingerprint of the server's key as ``ssh-keygen -l`` prints it, or ``known_hosts``, a file like
OpenSSH's.  A server whose key neither of them tells is refused.

Keys never touch the disk.  Files are put beside their place under another name; since this
protocol can't rename over a file, a former one is deleted in the instant before.
Source: draft-ietf-secsh-filexfer-02, libcurl's manual.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final

import pycurl

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Access, Entry, Facts, Incoming, Mover, Outgoing, Span
from iceprod.movers.bodies import Upload, verified
from iceprod.movers.curl import CurlError, common_options, sharing, stall_options, while_feeding
from iceprod.movers.curl_thread import Session, ThreadDriver, ThreadTransfer

DRAFT: Final = ".iceprod-draft-"
"""How names of files begin that are not complete."""

_CLEAN_UP_S: Final = 10.0
_NO_OPTIONS: Final[Mapping[int, Any]] = {}
_LINE: Final = re.compile(r"([-dl])\S* +\d+ +\S+ +\S+ +(\d+) [A-Z][a-z]{2} [ \d]\d (?: \d{4}|\d\d:\d\d) (.+)")
_DENIED: Final = {
    pycurl.E_REMOTE_ACCESS_DENIED: "the server refuses access to",
    pycurl.E_LOGIN_DENIED: "the server does not accept the credential for",
    pycurl.E_PEER_FAILED_VERIFICATION: "the server's key is another than the settings say, at",
}


class SftpMover(Mover):
    """Moves files from and to ssh servers."""

    schemes: ClassVar[frozenset[str]] = frozenset({"sftp"})

    def __init__(self) -> None:
        self._driver: ThreadDriver[_SftpSession] = ThreadDriver()

    async def close(self) -> None:
        """End connections that are kept."""
        self._driver.close()

    async def stat(self, location: Location, access: Access) -> Facts:
        """Size and time; of a directory only where the path ends with a slash."""
        async with self._begun(location, access, {pycurl.NOBODY: 1}) as transfer:
            await self._end(transfer, location, access)
            size = int(transfer.handle.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))
            modified = _modified_at(transfer)
        if location.path.endswith("/"):
            return Facts(modified_at=modified, is_directory=True)
        if size < 0:
            # libcurl says so of empty files, and where the server does not tell.
            async with self._begun(location, access) as transfer:
                is_empty = not await self._next(transfer, location, access)
            return Facts(size_bytes=0 if is_empty else None, modified_at=modified)
        return Facts(size_bytes=size, modified_at=modified)

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        """Look at the file, then read it or a part."""
        facts = await self.stat(location, access)
        part = _part(span, facts, location)
        options: dict[int, Any] = {}
        if part.length == 0:
            options[pycurl.NOBODY] = 1
        elif part.length is not None:
            options[pycurl.RANGE] = f"{part.offset}-{part.offset + part.length - 1}"
        async with self._begun(location, access, options) as transfer:
            try:
                await transfer.wait_for_body(stall_s=access.stall_timeout_s)
            except CurlError as exc:
                raise _told(exc, location) from None
            yield _SftpIncoming(transfer, location, access, facts, part)

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """Write it under another name, then give it its own."""
        draft = replace(location, path=f"{location.path.rpartition('/')[0]}/{DRAFT}{secrets.token_hex(8)}")
        try:
            async with aclosing(verified(body)) as pieces:
                await self._upload(draft, access, Upload(body.size_bytes, pieces))
            moves = [f"*rm {_quoted(location)}", f"rename {_quoted(draft)} {_quoted(location)}"]
            await self._command(moves, location, access)
        except BaseException:
            await self._forget(draft, access)
            raise

    async def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """Names as the server prints them, so times are not told; links are, without a size."""
        folder = replace(location, path=f"{location.path.rstrip('/')}/")
        left, rest = limit, b""
        async with self._begun(folder, access) as transfer:
            while data := await self._next(transfer, folder, access):
                *lines, rest = (rest + data).split(b"\n")
                for entry in _entries(lines):
                    left -= 1
                    if left < 0:
                        raise TooLarge(f"the directory has more than {limit} names")
                    yield entry

    async def delete(self, location: Location, access: Access) -> None:
        """Delete the file."""
        await self._command([f"rm {_quoted(location)}"], location, access)

    async def _upload(self, draft: Location, access: Access, upload: Upload) -> None:
        options = {
            pycurl.UPLOAD: 1,
            pycurl.INFILESIZE_LARGE: upload.size_bytes,
            pycurl.FTP_CREATE_MISSING_DIRS: 1,
            **stall_options(access),
        }
        async with self._begun(draft, access, options) as transfer:
            wait = partial(transfer.wait_for_body, stall_s=None)
            try:
                await while_feeding(transfer, upload, wait)
            except CurlError as exc:
                raise _told(exc, draft) from None

    async def _command(self, commands: Sequence[str], location: Location, access: Access) -> None:
        """Have the server do these, one after the other; a star says that failure is no matter."""
        raw = [command.encode(errors="surrogateescape") for command in commands]
        options = {pycurl.NOBODY: 1, pycurl.QUOTE: raw}
        async with self._begun(replace(location, path="/"), access, options) as transfer:
            await self._end(transfer, location, access)

    async def _forget(self, draft: Location, access: Access) -> None:
        """Delete what was written in vain, if the server can still be reached."""
        with suppress(IceProdError, TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_S):
                await self._command([f"rm {_quoted(draft)}"], draft, access)

    async def _end(self, transfer: ThreadTransfer, location: Location, access: Access) -> None:
        """Wait for the end of a transfer that has no body."""
        while await self._next(transfer, location, access):
            pass

    async def _next(self, transfer: ThreadTransfer, location: Location, access: Access) -> bytes:
        try:
            return await transfer.read(stall_s=access.stall_timeout_s)
        except CurlError as exc:
            raise _told(exc, location) from None

    @asynccontextmanager
    async def _begun(
        self, location: Location, access: Access, options: Mapping[int, Any] = _NO_OPTIONS
    ) -> AsyncIterator[ThreadTransfer]:
        """A transfer of that file."""
        if location.query or location.path == "/~" or location.path.startswith("/~/"):
            raise InputError("a path of sftp begins at the root, and has no query")
        url = f"sftp://{location.authority}{location.target}"
        key = sharing(access)
        session = self._driver.session(key, partial(_SftpSession, access))
        given = {
            **common_options(url, access, protocol=pycurl.PROTO_SFTP),
            pycurl.OPT_FILETIME: 1,
            **session.options,
            **options,
        }
        async with self._driver.running(key, session, given) as transfer:
            yield transfer


class _SftpSession(Session):
    """A session that shows a credential; libcurl reads keys from files, and this one is in memory alone."""

    def __init__(self, access: Access) -> None:
        self.options = {**_trust(access), **_login(access)}
        self._descriptor = -1
        super().__init__(access.policy)
        credential = access.credential
        if credential is not None and credential.kind == "ssh":
            self._descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
            os.write(self._descriptor, credential.secret)
            self.options[pycurl.SSH_PRIVATE_KEYFILE] = f"/proc/self/fd/{self._descriptor}"

    def close(self) -> None:
        """End it, and forget the key."""
        super().close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _SftpIncoming(Incoming):
    """A body that libcurl reads."""

    def __init__(
        self, transfer: ThreadTransfer, location: Location, access: Access, facts: Facts, span: Span
    ) -> None:
        self.facts = facts
        self.offset = span.offset
        self.length = span.length
        self._transfer = transfer
        self._location = location
        self._stall_s = access.stall_timeout_s
        self._done = 0

    async def read(self) -> bytes:
        """The next piece; a body that is cut raises."""
        try:
            data = await self._transfer.read(stall_s=self._stall_s)
        except CurlError as exc:
            raise _failed(str(exc), self._location, self._done) from None
        self._done += len(data)
        if not data:
            self._check_end()
        return data

    def _check_end(self) -> None:
        if self.length not in (None, self._done):
            raise _failed("the file ended before its length", self._location, self._done)
        if _modified_at(self._transfer) != self.facts.modified_at:
            raise ConflictError(f"{self._location} was changed while it was read")


def _trust(access: Access) -> dict[int, Any]:
    """Which key the server has to show."""
    fingerprint, path = access.options.get("host_key_sha256"), access.options.get("known_hosts")
    if fingerprint:
        return {pycurl.SSH_HOST_PUBLIC_KEY_SHA256: fingerprint.removeprefix("SHA256:").rstrip("=")}
    if path:
        return {pycurl.SSH_KNOWNHOSTS: path, pycurl.SSH_KEYFUNCTION: _judge}
    raise AccessDenied("the key of that server is not known: the origin's options say nothing of it")


def _login(access: Access) -> dict[int, Any]:
    """Who logs in, and by what; no key or agent of this machine's users is tried."""
    credential = access.credential
    if credential is None or credential.kind not in ("ssh", "password"):
        raise AccessDenied("sftp needs a user with a key or a password")
    if credential.kind == "ssh":
        return {pycurl.USERNAME: credential.user, pycurl.SSH_AUTH_TYPES: pycurl.SSH_AUTH_PUBLICKEY}
    return {
        pycurl.USERNAME: credential.user,
        pycurl.PASSWORD: credential.secret,
        pycurl.SSH_AUTH_TYPES: pycurl.SSH_AUTH_PASSWORD | pycurl.SSH_AUTH_KEYBOARD,
    }


def _judge(_known: object, _found: object, match: int) -> int:
    is_same = match == pycurl.KHMATCH_OK
    return int(pycurl.KHSTAT_FINE if is_same else pycurl.KHSTAT_REJECT)


def _modified_at(transfer: ThreadTransfer) -> float | None:
    found = int(transfer.handle.getinfo(pycurl.INFO_FILETIME))
    return float(found) if found >= 0 else None


def _part(span: Span, facts: Facts, location: Location) -> Span:
    """The span as far as the file reaches.

    Raises:
        InputError: it begins behind the end.
    """
    size = facts.size_bytes
    if span == WHOLE:
        return Span(0, size)
    if size is None:
        raise InputError(f"{location} has no size, and so no parts")
    if span.offset < 0 or span.offset > size or (span.length is not None and span.length < 0):
        raise InputError(f"the part begins behind the end of {location}")
    rest = size - span.offset
    return Span(span.offset, rest if span.length is None else min(rest, span.length))


def _entries(lines: Sequence[bytes]) -> Iterator[Entry]:
    for line in lines:
        found = _LINE.fullmatch(line.decode("utf-8", "surrogateescape"))
        if found is None or found[3] in (".", ".."):
            continue
        if found[1] == "l":
            yield Entry(found[3].partition(" -> ")[0], Facts())
        elif found[1] == "d":
            yield Entry(found[3], Facts(is_directory=True))
        else:
            yield Entry(found[3], Facts(size_bytes=int(found[2])))


def _quoted(location: Location) -> str:
    """A path as libcurl's commands take it; it has no backslash."""
    escaped = location.path.replace('"', '\\"')
    return f'"{escaped}"'


def _told(exc: CurlError, location: Location) -> IceProdError:
    """What libcurl or the server said, as an error of ours."""
    said = str(exc)
    if exc.code == pycurl.E_REMOTE_FILE_NOT_FOUND or said.endswith("No such file or directory"):
        return NotFoundError("file", location)
    if exc.code in _DENIED:
        return AccessDenied(f"{_DENIED[exc.code]} {location}")
    if said.endswith("Permission denied"):
        return AccessDenied(f"{_DENIED[pycurl.E_REMOTE_ACCESS_DENIED]} {location}")
    if exc.code == pycurl.E_REMOTE_DISK_FULL:
        return Unavailable(f"the disk of {location.host} is full", reason="storage_full")
    if exc.code == pycurl.E_QUOTE_ERROR:
        return ConflictError(f"something is in the way of {location}")
    return _failed(said, location, 0)


def _failed(said: str, location: Location, done: int) -> TransferFailed:
    return TransferFailed(f"{location.host}: {said}", source=str(location), done_bytes=done)
