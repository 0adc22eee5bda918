"""The client of HTTP against servers that lie, cheat and cut, and what only http does."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Access, Credential, Outgoing, Span
from iceprod.movers.http import HttpMover
from tests.movers.place import reaching
from tests.movers.raw_server import RawServer, raw_server

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
async def mover() -> AsyncIterator[HttpMover]:
    made = HttpMover()
    yield made
    await made.close()


async def fetched(
    mover: HttpMover, location: Location, access: Access | None = None, span: Span = WHOLE
) -> bytes:
    data = b""
    async with mover.fetch(location, access or reaching(stall_timeout_s=5.0), span=span) as incoming:
        while piece := await incoming.read():
            data += piece
    return data


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
        b"HTTP/1.1  200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"ICY 200 OK\r\n\r\nx",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        OK + b"Content-Length: 1, 1\r\n\r\nx",
        OK + b"Content-Length: +1\r\n\r\nx",
        OK + b"Content-Length: -1\r\n\r\nx",
        OK + b"Content-Length: 0x1\r\n\r\nx",
        OK + b"Content-Length: 1 1\r\n\r\nx",
        OK + b"Content-Length: \r\n\r\nx",
        OK + b"Content-Length: 99999999999999999999\r\n\r\nx",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\nx",
        OK + b"Transfer-Encoding: xchunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        OK + b"Content-Length : 1\r\n\r\nx",
        OK + b"Content-Length: 1\r\n folded: yes\r\n\r\nx",
        OK + b"Content-Length: 1\r\nX: a\rb\r\n\r\nx",
        OK + b"Content-Length: 1\r\nX: a\x00b\r\n\r\nx",
        OK + b"Content-Length: 1\r\nno colon\r\n\r\nx",
        OK + b"Content-Length: 1\r\n: nameless\r\n\r\nx",
        OK + b"Content-Length: 1\r\nX\xe9: y\r\n\r\nx",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        OK + b"X: " + b"y" * 100_000 + b"\r\nContent-Length: 1\r\n\r\nx",
        OK + b"X: y\r\n" * 300 + b"Content-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 20 + OK + b"Content-Length: 1\r\n\r\nx",
        OK + b"Content-Length: 2\r\n\r\nx",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 10_000 + b"\r\nx\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: t\r\n" * 1000 + b"\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
    ],
)
async def test_what_can_be_read_in_two_ways_or_ends_early_is_refused(mover: HttpMover, said: bytes) -> None:
    async with raw_server(said) as server:
        with pytest.raises(TransferFailed):
            await fetched(mover, server.location)


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"x"), b"x"),
        (
            OK + b"Transfer-Encoding: Chunked\r\n\r\n2;a=b\r\nxy\r\n0A\r\n0123456789\r\n0\r\nT: t\r\n\r\n",
            b"xy0123456789",
        ),
        (OK + b"Connection: close\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (answer(b"x") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond", b"x"),
        (answer(b""), b""),
    ],
)
async def test_what_is_allowed_is_understood(mover: HttpMover, said: bytes, body: bytes) -> None:
    async with raw_server(said) as server:
        assert await fetched(mover, server.location) == body


async def test_what_comes_behind_an_answer_is_nobodys_answer(mover: HttpMover) -> None:
    async with raw_server(answer(b"x") + answer(b"smuggled"), keeps_open=True) as server:
        assert await fetched(mover, server.location) == b"x"
        assert await fetched(mover, server.location) == b"x"

        assert server.connections == 2


async def test_connections_are_used_again(mover: HttpMover) -> None:
    async with raw_server(answer(b"x"), keeps_open=True) as server:
        for _ in range(3):
            assert await fetched(mover, server.location) == b"x"
        # Not for who looks at other addresses as allowed.
        with pytest.raises(AccessDenied):
            await fetched(mover, server.location, dataclasses.replace(reaching(), policy=Never()))

        assert server.connections == 1


class Never:
    def check(self, address: str, port: int) -> None:
        raise AccessDenied("no")


async def test_a_kept_connection_that_was_closed_is_replaced(mover: HttpMover) -> None:
    def once(_: bytes) -> bytes:
        return answer(b"x")

    async with raw_server(once) as server:
        assert await fetched(mover, server.location) == b"x"
        assert await fetched(mover, server.location) == b"x"


async def test_endless_heads_are_cut_off(mover: HttpMover) -> None:
    async with raw_server(OK + b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 100_000) as server:
        with pytest.raises(TransferFailed, match="too long"):
            await fetched(mover, server.location)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("401 Unauthorized", AccessDenied),
        ("403 Forbidden", AccessDenied),
        ("404 Not Found", NotFoundError),
        ("410 Gone", NotFoundError),
        ("405 Method Not Allowed", InputError),
        ("409 Conflict", ConflictError),
        ("412 Precondition Failed", ConflictError),
        ("413 Content Too Large", TooLarge),
        ("429 Too Many Requests", TransferFailed),
        ("500 Internal Server Error", TransferFailed),
        ("503 Service Unavailable", TransferFailed),
        ("507 Insufficient Storage", Unavailable),
        ("204 No Content", TransferFailed),
        ("206 Partial Content", TransferFailed),
        ("304 Not Modified", TransferFailed),
    ],
)
async def test_each_status_is_an_error_of_ours(mover: HttpMover, status: str, error: type) -> None:
    async with raw_server(answer(b"", status=status)) as server:
        with pytest.raises(error):
            await fetched(mover, server.location)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Content-Range: bytes 0-4/100",),
        ("Content-Range: bytes 10-13/100",),
        ("Content-Range: bytes 10-15/100",),
        ("Content-Range: bytes 10-14/12",),
        ("Content-Range: bytes */100",),
        ("Content-Range: lines 10-14/100",),
        ("Content-Type: multipart/byteranges; boundary=x",),
    ],
)
async def test_a_part_has_to_be_the_one_that_was_asked_for(
    mover: HttpMover, headers: tuple[str, ...]
) -> None:
    async with raw_server(answer(b"01234", *headers, status="206 Partial Content")) as server:
        with pytest.raises(TransferFailed):
            await fetched(mover, server.location, span=Span(10, 5))


async def test_a_server_without_parts_is_told_from_one_with(mover: HttpMover) -> None:
    async with raw_server(answer(b"0123456789")) as server:
        with pytest.raises(InputError, match="parts"):
            await fetched(mover, server.location, span=Span(5))


async def test_a_part_whose_length_only_the_range_tells_is_counted(mover: HttpMover) -> None:
    head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-14/100\r\n"
    for body, is_good in ((b"01234", True), (b"0123", False), (b"012345", False)):
        async with raw_server(head + b"\r\n" + body) as server:
            if is_good:
                assert await fetched(mover, server.location, span=Span(10, 5)) == body
            else:
                with pytest.raises(TransferFailed):
                    await fetched(mover, server.location, span=Span(10, 5))


async def test_headers_become_facts(mover: HttpMover) -> None:
    digest = hashlib.sha256(b"x").digest()
    said = answer(
        b"x",
        'ETag: "abc"',
        "Last-Modified: Sun, 22 Nov 2026 08:45:00 GMT",
        f"Digest: adler32=790079, SHA-256={base64.b64encode(digest).decode()}, MD5=!!!, unixsum=3",
        f"Repr-Digest: sha-512=:{base64.b64encode(hashlib.sha512(b'x').digest()).decode()}:",
    )
    async with raw_server(said) as server, mover.fetch(server.location, reaching()) as incoming:
        assert incoming.facts.size_bytes == 1
        assert incoming.facts.validator == '"abc"'
        assert incoming.facts.modified_at == 1795337100.0
        assert incoming.facts.checksums == {
            "adler32": "00790079",
            "sha256": digest.hex(),
            "sha512": hashlib.sha512(b"x").hexdigest(),
        }
        assert await incoming.read() == b"x"


async def test_a_checksum_is_asked_for_by_name(mover: HttpMover) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nDigest: adler32=00790079\r\n\r\n") as server:
        assert await mover.checksum(server.location, reaching(), "adler32") == "00790079"
        assert await mover.checksum(server.location, reaching(), "sha256") is None
        assert await mover.checksum(server.location, reaching(), "crc7") is None

        assert b"Want-Digest: adler32\r\n" in server.requests[0]


async def test_a_weak_etag_says_nothing(mover: HttpMover) -> None:
    async with raw_server(answer(b"x", 'ETag: W/"abc"')) as server:
        assert (await mover.stat(server.location, reaching())).validator == ""


async def test_nothing_packed_is_asked_for_and_packed_files_stay_packed(mover: HttpMover) -> None:
    async with raw_server(answer(b"\x1f\x8b", "Content-Encoding: x-gzip")) as server:
        packed = dataclasses.replace(server.location, path="/hits.i3.gz")

        assert await fetched(mover, packed) == b"\x1f\x8b"
        assert b"Accept-Encoding: identity\r\n" in server.requests[0]


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "http://user:secret@example.org/",
        "file:///etc/passwd",
        "gsiftp://example.org/x",
        "ftp://example.org/x",
        "gopher://example.org/x",
        "javascript:alert(1)",
        "//evil.example/x",
        "http://evil.example/x\\@127.0.0.1/",
        "/../../etc/passwd",
        "/a%2fb",
        "http://",
        "",
    ],
)
async def test_no_redirect_leads_away(mover: HttpMover, target: str) -> None:
    async with raw_server(answer(b"", f"Location: {target}", status="302 Found")) as server:
        with pytest.raises((AccessDenied, TransferFailed)) as raised:
            await fetched(mover, server.location)

        assert len(server.requests) in (1, 6)
        assert "secret" not in str(raised.value)


async def test_redirects_end(mover: HttpMover) -> None:
    async with raw_server(answer(b"", "Location: /file.i3", status="301 Moved")) as server:
        with pytest.raises(TransferFailed, match="circles"):
            await fetched(mover, server.location)

        assert len(server.requests) == 6


async def test_a_redirect_on_the_same_host_is_followed(mover: HttpMover) -> None:
    def here(head: bytes) -> bytes:
        if head.startswith(b"GET /file.i3 "):
            return answer(b"", "Location: there%20now?sig=1#part", status="307 Temporary Redirect")
        assert head.startswith(b"GET /there%20now?sig=1 HTTP/1.1\r\n")
        return answer(b"found")

    access = reaching(credential=Credential("token", b"open-sesame"))
    async with raw_server(here) as server:
        assert await fetched(mover, server.location, access) == b"found"
        assert all(b"Authorization: Bearer open-sesame\r\n" in head for head in server.requests)


async def test_credentials_stay_with_their_host_and_others_have_to_be_named() -> None:
    async def names(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    mover = HttpMover(resolve=names)
    credential = Credential("token", b"open-sesame")
    async with raw_server(answer(b"found")) as other:
        target = f"http://pool.storage.example:{other.port}/file.i3"
        async with raw_server(answer(b"", f"Location: {target}", status="302 Found")) as door:
            with pytest.raises(AccessDenied, match="not among its redirects"):
                await fetched(mover, door.location, reaching(credential=credential))
            access = reaching(credential=credential, redirects=("*.storage.example",))
            assert await fetched(mover, door.location, access) == b"found"

            assert b"open-sesame" in door.requests[0]
        assert len(other.requests) == 1
        assert b"uthorization" not in other.requests[0]
        assert f"Host: pool.storage.example:{other.port}\r\n".encode() in other.requests[0]
    await mover.close()


async def test_a_named_host_of_a_redirect_still_has_its_address_checked() -> None:
    async def names(host: str, port: int) -> list[str]:
        return ["169.254.169.254"]

    mover = HttpMover(resolve=names)
    said = answer(b"", "Location: http://pool.storage.example/", status="302 Found")
    async with raw_server(said) as door:
        with pytest.raises(AccessDenied, match="not allowed"):
            await fetched(mover, door.location, reaching(redirects=("pool.storage.example",)))
    await mover.close()


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def test_a_put_goes_where_it_is_sent(mover: HttpMover) -> None:
    def door(head: bytes) -> bytes:
        assert b"Expect: 100-continue\r\n" in head
        if head.startswith(b"PUT /file.i3 "):
            return answer(b"", "Location: /pool/file.i3", status="307 Temporary Redirect")
        return answer(b"", status="403 Forbidden")

    async with raw_server(door) as server:
        with pytest.raises(AccessDenied):
            await mover.put(server.location, reaching(), Outgoing(5, pieces(b"12345")))
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("checksums", "told"),
    [
        ({}, b""),
        ({"md5": hashlib.md5(b"12345").hexdigest()}, b""),
        (
            {"sha256": hashlib.sha256(b"12345").hexdigest()},
            base64.b64encode(hashlib.sha256(b"12345").digest()),
        ),
    ],
)
async def test_who_takes_a_file_is_told_its_sha256(
    mover: HttpMover, checksums: dict[str, str], told: bytes
) -> None:
    async with raw_server(answer(b"", status="403 Forbidden")) as server:
        with pytest.raises(AccessDenied):
            await mover.put(server.location, reaching(), Outgoing(5, pieces(b"12345"), checksums))

        (head,) = server.requests
        lines = [line for line in head.split(b"\r\n") if line.lower().startswith(b"digest:")]
        assert lines == ([b"Digest: sha-256=" + told] if told else [])


async def test_an_early_yes_to_a_put_is_none(mover: HttpMover) -> None:
    async with raw_server(answer(b"", status="201 Created")) as server:
        with pytest.raises(TransferFailed):
            await mover.put(server.location, reaching(), Outgoing(5, pieces(b"12345")))


async def test_nothing_breaks_out_of_a_header(mover: HttpMover) -> None:
    async with raw_server(answer(b"x")) as server:
        for secret in (b"a\r\nX-Evil: yes", b"a\x00b", "é".encode()):
            access = reaching(credential=Credential("token", secret))
            with pytest.raises(InputError) as raised:
                await fetched(mover, server.location, access)
            assert "Evil" not in str(raised.value)
        assert server.requests == []


@pytest.mark.parametrize("query", ["a=b&c=d%2Be", "x='\"<>", "ü=€"])
async def test_queries_go_as_they_are(mover: HttpMover, query: str) -> None:
    async with raw_server(answer(b"x")) as server:
        await fetched(mover, dataclasses.replace(server.location, query=query))

        line = server.requests[0].split(b"\r\n")[0].decode("ascii")
        assert line.count(" ") == 2
        if query.isascii():
            assert line == f"GET /file.i3?{query} HTTP/1.1"


async def test_queries_stay_out_of_errors(mover: HttpMover) -> None:
    async with raw_server(b"") as server:
        with pytest.raises(TransferFailed) as raised:
            await fetched(mover, dataclasses.replace(server.location, query="signature=secret"))
    assert "secret" not in f"{raised.value} {raised.value.detail}"


async def test_a_plain_connection_is_handed_over(mover: HttpMover) -> None:
    body = bytes(range(256)) * 4096
    async with raw_server(answer(body)) as server, mover.fetch(server.location, reaching()) as incoming:
        plain = incoming.plain()
        assert plain is not None
        data = plain.head
        while len(data) < len(body):
            data += await read_some(plain.sock)
        assert data == body
        assert plain.length == len(body) - len(plain.head)


async def read_some(sock) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


@pytest.mark.parametrize(
    "said",
    [OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", OK + b"\r\nx"],
    ids=["chunked", "open"],
)
async def test_a_body_without_a_length_is_not_handed_over(mover: HttpMover, said: bytes) -> None:
    async with raw_server(said) as server, mover.fetch(server.location, reaching()) as incoming:
        assert incoming.plain() is None
        assert incoming.length is None
        assert await incoming.read() == b"x"


MULTISTATUS = """<?xml version="1.0"?>{doctype}<D:multistatus xmlns:D="DAV:">
<D:response><D:href>/folder/</D:href><D:propstat><D:prop>
  <D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat></D:response>
{responses}</D:multistatus>"""
RESPONSE = """<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:resourcetype/>
<D:getcontentlength>12</D:getcontentlength></D:prop></D:propstat></D:response>"""


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -2359", "Thu, 01 Jan 1960 00:00:00 GMT", "x"])
async def test_a_date_that_is_none_is_left_out(mover: HttpMover, date: str) -> None:
    async with raw_server(answer(b"12", f"Last-Modified: {date}")) as server:
        assert (await mover.stat(server.location, reaching())).modified_at is None


def listing(*hrefs: str, doctype: str = "") -> bytes:
    text = MULTISTATUS.format(
        doctype=doctype, responses="".join(RESPONSE.format(href=href) for href in hrefs)
    )
    return answer(text.encode(), "Content-Type: application/xml", status="207 Multi-Status")


async def listed(mover: HttpMover, server: RawServer, *, limit: int = 100) -> list[str]:
    folder = dataclasses.replace(server.location, path="/folder")
    return [each.name async for each in mover.list(folder, reaching(), limit=limit)]


async def test_a_listing_holds_only_what_lies_in_the_folder(mover: HttpMover) -> None:
    hrefs = (
        "/folder/a.i3",
        "/folder/b%20c.i3",
        "/folder/../etc/passwd",
        "/folder/%2e%2e",
        "/folder/x%2fy",
        "/folder/deep/er.i3",
        "/other/d.i3",
        "//evil.example/folder/e.i3",
        "http://[bad/folder/f.i3",
        "",
    )
    async with raw_server(listing(*hrefs)) as server:
        names = await listed(mover, server)

    assert set(names) - {"e.i3"} == {"a.i3", "b c.i3"}


@pytest.mark.parametrize(
    "said",
    [
        listing(doctype='<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'),
        answer(b"<not", status="207 Multi-Status"),
        answer(b"<D:multistatus xmlns:D='DAV:'><D:response><D:href>" + b"x" * 100_000, status="207 Multi"),
    ],
    ids=["entities", "malformed", "long value"],
)
async def test_bad_listings_are_refused(mover: HttpMover, said: bytes) -> None:
    async with raw_server(said) as server:
        with pytest.raises(TransferFailed):
            await listed(mover, server)


async def test_endless_listings_are_cut_off(mover: HttpMover) -> None:
    async with raw_server(listing(*(f"/folder/{number}" for number in range(20)))) as server:
        with pytest.raises(TooLarge):
            await listed(mover, server, limit=10)
    filler = answer(b"<D:multistatus xmlns:D='DAV:'>" + b" " * 3_000_000, status="207 Multi-Status")
    async with raw_server(filler) as server:
        with pytest.raises(TooLarge):
            await listed(mover, server, limit=10)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[" + b"{}," * 300_000 + b"{}]", "application/json", "200 OK"),
        (b"[" + b"[]," * 300_000 + b"[]]", "application/json", "200 OK"),
        (b"<a>" * 300_000, "application/xml", "207 Multi-Status"),
        (b"<a " + b" ".join(b'a%d=""' % n for n in range(150_000)), "application/xml", "207 Multi-Status"),
    ],
    ids=["objects", "arrays", "depth", "attributes"],
)
async def test_listings_grow_no_larger_in_memory(
    mover: HttpMover, body: bytes, kind: str, status: str
) -> None:
    def said(head: bytes) -> bytes:
        is_asked = status.startswith("200") and head.startswith(b"PROPFIND")
        return answer(b"", status="405 No") if is_asked else whole

    whole = answer(body, f"Content-Type: {kind}", status=status)
    async with raw_server(said) as server:
        tracemalloc.start()
        try:
            with pytest.raises((TooLarge, TransferFailed)):
                await listed(mover, server, limit=500)
            assert tracemalloc.get_traced_memory()[1] < 12_000_000
        finally:
            tracemalloc.stop()


async def test_a_server_without_listings_is_told(mover: HttpMover) -> None:
    def no_dav(head: bytes) -> bytes:
        if head.startswith(b"PROPFIND"):
            return answer(b"", status="405 Method Not Allowed")
        return answer(b"<html>", "Content-Type: text/html")

    async with raw_server(no_dav) as server:
        with pytest.raises(InputError, match="no listings"):
            await listed(mover, server)
