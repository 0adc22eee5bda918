"""https by libcurl: TLS, HTTP/2, client certificates, and servers that are odd in any way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import pycurl

from iceprod.movers.base import Access, PlainBody
from iceprod.movers.curl import (
    CurlError,
    Driver,
    Transfer,
    common_options,
    stall_options,
    verify_peer,
    while_feeding,
)
from iceprod.movers.http_client import Request, Response
from iceprod.movers.http_facts import whole_size
from iceprod.movers.http_wire import Broken, Headers, ascii_target, request_head

_CONTINUE_MS: Final = 2000


class CurlClient:
    """Sends requests by TLS."""

    def __init__(self) -> None:
        self._driver = Driver()

    async def close(self) -> None:
        """End connections that are kept."""
        self._driver.close()

    @asynccontextmanager
    async def exchange(self, request: Request, access: Access) -> AsyncIterator[Response]:
        """As `http_client.Client` says."""
        transfer = _set_up(request, access)
        with self._driver.running(transfer, access):
            try:
                status, headers = await _answer(transfer, request, access)
            except CurlError as exc:
                raise Broken(str(exc)) from None
            yield Response(status, headers, _CurlBody(transfer, request, headers, access.stall_timeout_s))


class _CurlBody:
    """A body that libcurl has verified the length of, where there is one."""

    def __init__(self, transfer: Transfer, request: Request, headers: Headers, stall_s: float) -> None:
        self.length = None if headers.get("transfer-encoding") else whole_size(headers)
        if request.method == "HEAD":
            self.length = 0
        self._transfer = transfer
        self._stall_s = stall_s

    async def read(self) -> bytes:
        try:
            return await self._transfer.read(stall_s=self._stall_s)
        except CurlError as exc:
            raise Broken(str(exc)) from None

    def plain(self) -> PlainBody | None:
        return None


async def _answer(transfer: Transfer, request: Request, access: Access) -> tuple[int, Headers]:
    """Status and headers, once what is to be sent was sent or refused."""
    if request.upload is None:
        return await _head(transfer, stall_s=access.stall_timeout_s)
    wait = partial(_head, transfer, stall_s=None)
    status, headers = await while_feeding(transfer, request.upload, wait)
    if status < 300 and transfer.sent_bytes != request.upload.size_bytes:
        raise Broken("the origin took a part of the file for the whole")
    return status, headers


async def _head(transfer: Transfer, *, stall_s: float | None) -> tuple[int, Headers]:
    """The last head that came, interim ones aside."""
    taken = 0
    while True:
        while taken < len(transfer.lines):
            taken += 1
            if not transfer.lines[taken - 1].strip():
                head, rest = transfer.lines[:taken], transfer.lines[taken:]
                transfer.lines, taken = rest, 0
                status = _status_of(head[0])
                if status >= 200:
                    return status, _headers_of(head[1:-1])
        if transfer.has_ended and taken == len(transfer.lines):
            await transfer.wait_for_body(stall_s=stall_s)
            raise Broken("the origin gave no answer")
        await transfer.wait_for_line(stall_s=stall_s)


def _status_of(line: bytes) -> int:
    code = line.split(b" ", 2)[1:2]
    if not code or not code[0].strip().isdigit():
        raise Broken("what came is no answer of HTTP")
    return int(code[0])


def _headers_of(lines: list[bytes]) -> Headers:
    pairs = (line.decode("latin-1").partition(":") for line in lines)
    return Headers(tuple((name.strip().lower(), value.strip()) for name, _, value in pairs))


def _set_up(request: Request, access: Access) -> Transfer:
    # The check of what may stand in a header is the same for both clients.
    request_head(request.method, "/", request.headers)
    where = request.location
    url = f"{where.scheme}://{where.authority}{ascii_target(where.target)}"
    transfer = Transfer(access.policy)
    handle = transfer.handle
    options = common_options(url, access, protocol=pycurl.PROTO_HTTPS)
    if request.upload is not None:
        options |= stall_options(access)
    for option, value in options.items():
        handle.setopt(option, value)
    verify_peer(handle, access)
    handle.setopt(pycurl.PATH_AS_IS, 1)
    # By HTTP/2 servers give no leave to go on, and a body is none the faster for it.
    is_asked_first = request.upload is not None and request.upload.ask_first
    version = pycurl.CURL_HTTP_VERSION_1_1 if is_asked_first else pycurl.CURL_HTTP_VERSION_2TLS
    handle.setopt(pycurl.HTTP_VERSION, version)
    handle.setopt(pycurl.EXPECT_100_TIMEOUT_MS, _CONTINUE_MS)
    handle.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
    fields = [f"{name}: {value}" for name, value in request.headers]
    for shown in (access.credential, access.certificate):
        if shown is not None and shown.kind == "x509":
            handle.setopt(pycurl.SSLCERT_BLOB, shown.secret)
            handle.setopt(pycurl.SSLKEY_BLOB, shown.secret)
    if request.upload is not None:
        handle.setopt(pycurl.UPLOAD, 1)
        handle.setopt(pycurl.INFILESIZE_LARGE, request.upload.size_bytes)
        fields.append("Expect: 100-continue" if request.upload.ask_first else "Expect:")
    elif request.method == "HEAD":
        handle.setopt(pycurl.NOBODY, 1)
    if request.method not in ("GET", "HEAD"):
        handle.setopt(pycurl.CUSTOMREQUEST, request.method)
    handle.setopt(pycurl.HTTPHEADER, fields)
    return transfer
