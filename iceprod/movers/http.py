"""Files of web servers: http and https, WebDAV where it is offered, peer sites by their tokens.

Credentials: ``token`` (bearer), ``password`` (Basic) and, by https, ``x509``, which may be beside
the others as a certificate.  They are shown to the host of the address alone: not to one that it
redirects to.  A peer site is an origin like any other, with a token of it as the credential.  There
are no options.

Redirects lead to the same host and port, or to a host that ``Access.redirects`` names, never
from https to http.  Every address is checked at every connect.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import ClassVar, Final
from urllib.parse import urldefrag, urljoin

from iceprod.errors import AccessDenied, InputError, TransferFailed
from iceprod.model.location import Location, parse_location
from iceprod.movers import webdav
from iceprod.movers.base import WHOLE, Access, Entry, Facts, Incoming, Mover, Outgoing, PlainBody, Span
from iceprod.movers.bodies import Upload, verified
from iceprod.movers.dialing import Resolve, system_addresses
from iceprod.movers.http_client import Body, Client, Request, Response
from iceprod.movers.http_curl import CurlClient
from iceprod.movers.http_facts import (
    DIGEST_NAMES,
    check_coding,
    facts_of,
    part_of,
    refusal,
    shown,
    size_behind,
    whole_size,
)
from iceprod.movers.http_plain import PlainClient
from iceprod.movers.http_wire import Broken

MAX_REDIRECTS: Final = 5

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_MOVED_WITH_BODY: Final = frozenset({307, 308})
_COMMON: Final = (("User-Agent", "iceprod"), ("Accept", "*/*"), ("Accept-Encoding", "identity"))


class HttpMover(Mover):
    """Moves files from and to web servers."""

    schemes: ClassVar[frozenset[str]] = frozenset({"http", "https"})

    def __init__(self, *, resolve: Resolve = system_addresses) -> None:
        self._clients: dict[str, Client] = {"http": PlainClient(resolve=resolve), "https": CurlClient()}

    async def close(self) -> None:
        """End connections that are kept."""
        for client in self._clients.values():
            await client.close()

    async def stat(self, location: Location, access: Access) -> Facts:
        """What the headers tell."""
        return await self._head(location, access)

    async def checksum(self, location: Location, access: Access, algorithm: str) -> str | None:
        """What the origin tells when it is asked for that checksum, for which it may read the file."""
        names = {mine: theirs for theirs, mine in DIGEST_NAMES.items()}
        if algorithm not in names:
            return None
        wanted = (("Want-Digest", names[algorithm]), ("Want-Repr-Digest", f"{names[algorithm]}=9"))
        return (await self._head(location, access, wanted)).checksums.get(algorithm)

    @asynccontextmanager
    async def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AsyncIterator[Incoming]:
        """By GET, and a range where a part is wanted."""
        if span.offset < 0 or (span.length is not None and span.length < 0):
            raise InputError("a span has no negative numbers")
        if span.length == 0:
            yield await self._nothing(location, access, span.offset)
            return
        async with self._exchange(Request("GET", location, _range(span)), access) as response:
            if response.status == 416:
                yield await self._nothing(location, access, span.offset, response)
            else:
                yield _incoming(location, span, response)

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """By PUT; the origin is asked before the body is sent, and may send it elsewhere.

        It is told the SHA-256, where that is known.
        """
        async with aclosing(verified(body)) as pieces:
            upload = Upload(body.size_bytes, pieces, ask_first=body.size_bytes > 0)
            request = Request("PUT", location, _digest(body), upload)
            async with self._exchange(request, access) as response:
                _check_done(response, location)

    async def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """By PROPFIND, or by the listings of nginx in JSON."""
        folder = replace(location, path=f"{location.path.rstrip('/')}/", query="")
        async with self._exchange(webdav.propfind(folder), access) as response:
            if response.status == 207:
                async for entry in webdav.entries(response, folder, limit=limit):
                    yield entry
                return
            if response.status not in (400, 405, 501):
                raise refusal(response.status, location)
        asking = Request("GET", folder, (("Accept", "application/json"),))
        async with self._exchange(asking, access) as response:
            if response.status != 200:
                raise refusal(response.status, location)
            async for entry in webdav.index(response, folder, limit=limit):
                yield entry

    async def delete(self, location: Location, access: Access) -> None:
        """By DELETE."""
        async with self._exchange(Request("DELETE", location), access) as response:
            _check_done(response, location)

    async def _head(
        self, location: Location, access: Access, headers: tuple[tuple[str, str], ...] = ()
    ) -> Facts:
        async with self._exchange(Request("HEAD", location, headers), access) as response:
            if response.status != 200:
                raise refusal(response.status, location)
            return facts_of(
                response.headers, whole_size(response.headers), is_directory=location.path.endswith("/")
            )

    async def _nothing(
        self, location: Location, access: Access, offset: int, response: Response | None = None
    ) -> Incoming:
        """An empty part, if the file reaches as far as that."""
        size = None if response is None else size_behind(response.headers)
        facts = await self._head(location, access) if size in (None, offset) else Facts(size_bytes=size)
        if facts.size_bytes is None or offset > facts.size_bytes:
            raise refusal(416, location)
        return HttpIncoming(shown(location), facts, offset, _Empty())

    @asynccontextmanager
    async def _exchange(self, request: Request, access: Access) -> AsyncIterator[Response]:
        """An answer, wherever it is redirected to."""
        for _ in range(MAX_REDIRECTS + 1):
            client = self._clients[request.location.scheme]
            try:
                async with client.exchange(_prepared(request, access), access) as response:
                    target = _redirection(request, response)
                    if target is None:
                        yield response
                        return
            except Broken as exc:
                said = f"{request.location.host}: {exc}"
                raise TransferFailed(said, source=shown(request.location), done_bytes=0) from None
            request, access = _follow(request, target, access)
        raise TransferFailed("the origin redirects in circles", source=shown(request.location), done_bytes=0)


class HttpIncoming(Incoming):
    """A body that comes by either client."""

    def __init__(self, source: str, facts: Facts, offset: int, body: Body) -> None:
        self.facts = facts
        self.offset = offset
        self.length = body.length
        self._source = source
        self._body = body
        self._done = 0

    async def read(self) -> bytes:
        """The next piece; a body that is cut raises."""
        try:
            data = await self._body.read()
        except Broken as exc:
            raise TransferFailed(str(exc), source=self._source, done_bytes=self._done) from None
        self._done += len(data)
        return data

    def plain(self) -> PlainBody | None:
        """The socket of a plain connection, where the length is known."""
        return self._body.plain()


class _Empty:
    """No body."""

    length: int | None = 0

    async def read(self) -> bytes:
        return b""

    def plain(self) -> PlainBody | None:
        return None


class _Exactly:
    """A body that is ``length`` long, though nothing but its end tells so."""

    def __init__(self, body: Body, length: int) -> None:
        self.length: int | None = length
        self._body = body
        self._left = length

    async def read(self) -> bytes:
        """The next piece; fewer or more bytes than that raise."""
        data = await self._body.read()
        self._left -= len(data)
        if self._left < 0 or (not data and self._left):
            raise Broken("the part of the file has another length than was said")
        return data

    def plain(self) -> PlainBody | None:
        return None


def _incoming(location: Location, span: Span, response: Response) -> HttpIncoming:
    """The body of an answer to a request for ``span``, once it is certain that it is that."""
    source = shown(location)
    is_part = bool(_range(span))
    if is_part and response.status == 200:
        raise InputError(f"{location.host} can't send parts of {source}")
    if response.status != (206 if is_part else 200):
        raise refusal(response.status, location)
    check_coding(response.headers, location)
    if not is_part:
        return HttpIncoming(source, facts_of(response.headers, response.body.length), 0, response.body)
    length, total = part_of(response.headers, offset=span.offset, length=span.length)
    body = response.body if response.body.length == length else _Exactly(response.body, length)
    return HttpIncoming(source, facts_of(response.headers, total), span.offset, body)


def _range(span: Span) -> tuple[tuple[str, str], ...]:
    if span.offset == 0 and span.length is None:
        return ()
    last = "" if span.length is None else span.offset + span.length - 1
    return (("Range", f"bytes={span.offset}-{last}"),)


def _digest(body: Outgoing) -> tuple[tuple[str, str], ...]:
    """What tells an origin that cares whether it has got the right bytes."""
    sha256 = body.checksums.get("sha256")
    if sha256 is None:
        return ()
    return (("Digest", f"sha-256={base64.b64encode(bytes.fromhex(sha256)).decode()}"),)


def _check_done(response: Response, location: Location) -> None:
    # 207 tells in its body what failed.
    if not 200 <= response.status < 300 or response.status == 207:
        raise refusal(response.status, location)


def _prepared(request: Request, access: Access) -> Request:
    """With what every request has, and what shows who asks."""
    accepted = {name for name, _ in request.headers}
    common = tuple(field for field in _COMMON if field[0] not in accepted)
    return replace(request, headers=(*common, *request.headers, *_authorization(access)))


def _authorization(access: Access) -> tuple[tuple[str, str], ...]:
    credential = access.credential
    if credential is None or credential.kind == "x509":
        return ()
    if credential.kind == "token":
        return (("Authorization", f"Bearer {credential.secret.decode('latin-1').strip()}"),)
    if credential.kind == "password" and ":" not in credential.user:
        pair = credential.user.encode() + b":" + credential.secret
        return (("Authorization", f"Basic {base64.b64encode(pair).decode()}"),)
    raise InputError(f"http has no use for a credential of kind {credential.kind}")


def _redirection(request: Request, response: Response) -> str | None:
    """Where the answer sends to; None if it is none that does."""
    is_plain = request.method in ("GET", "HEAD")
    if response.status not in (_MOVED if is_plain else _MOVED_WITH_BODY):
        return None
    if request.upload is not None and request.upload.has_begun:
        raise TransferFailed("the origin redirected too late", source=shown(request.location), done_bytes=0)
    return response.headers.get("location")


def _follow(request: Request, target: str, access: Access) -> tuple[Request, Access]:
    """The request to where it was redirected to, with nothing that only the former host may know.

    Raises:
        AccessDenied: it may not be followed there.
    """
    try:
        there = parse_location(urldefrag(urljoin(str(request.location), target)).url)
    except ValueError as exc:
        raise AccessDenied("the origin redirects to what is no address") from exc
    except InputError as exc:
        raise AccessDenied(f"the origin redirects to what is no address: {exc.message}") from None
    here = request.location
    is_same = (there.scheme, there.host, there.port) == (here.scheme, here.host, here.port)
    if not is_same:
        _check_redirect(here, there, access)
        access = replace(access, credential=None, certificate=None)
    return replace(request, location=there), access


def _check_redirect(here: Location, there: Location, access: Access) -> None:
    if there.scheme not in HttpMover.schemes or (here.scheme, there.scheme) == ("https", "http"):
        raise AccessDenied(f"the origin redirects from {here.scheme} to {there.scheme}")
    is_upgrade = (here.scheme, here.port, there.scheme, there.port) == ("http", 80, "https", 443)
    if there.host == here.host and is_upgrade:
        return
    if not any(_matches(there.host, pattern) for pattern in access.redirects):
        raise AccessDenied(f"the origin redirects to {there.authority}, which is not among its redirects")


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower().removesuffix(".")
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
