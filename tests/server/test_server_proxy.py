"""Files of origins by HTTP, as real clients see them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import socket
from urllib.parse import quote

import pytest
from http_origin import RawClient, open_origin
from site_harness import ALICE, BOB
from web_harness import open_web

DATA = random.Random(2).randbytes(3_000_000)


@pytest.fixture
async def origin():
    async with open_origin() as made:
        made.files["/d/a.bin"] = DATA
        yield made


@pytest.fixture
async def web(tmp_path, origin):
    settings = {"url": f"{origin.url}/d", "private": True}
    async with open_web(tmp_path, files={"origins": {"far": settings}}) as made:
        await made.account("alice")
        yield made


@pytest.fixture
async def client(web):
    async with RawClient(web.url, await web.token(ALICE)) as made:
        yield made


def path(origin, name="a.bin", **more):
    extra = "".join(f"&{key}={value}" for key, value in more.items())
    return f"/proxy?url={origin.url}/d/{name}{extra}"


CACHES = pytest.mark.parametrize("cache", ["yes", "no"])


@CACHES
async def test_a_file_comes_whole_and_the_connection_lives_on(origin, client, cache):
    first = await client.get(path(origin, cache=cache))
    second = await client.get(path(origin, cache=cache))

    assert (first.status, first.body == DATA) == (200, True)
    assert second.body == DATA
    assert first.headers["etag"] == second.headers["etag"]
    assert first.headers["content-type"] == "application/octet-stream"
    assert first.headers["content-disposition"] == "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"
    assert len(origin.gets) == (1 if cache == "yes" else 2)


async def test_a_copy_tells_its_digest(origin, client, web):
    await client.get(path(origin))
    while web.site.services.proxying.cache._tasks:
        await asyncio.sleep(0.01)

    found = await client.get(path(origin))

    expected = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    assert found.headers["digest"] == f"sha-256={expected}"


@CACHES
@pytest.mark.parametrize(
    ("asked", "first", "last"), [("0-9", 0, 9), ("2999990-", 2999990, 2999999), ("-5", 2999995, 2999999)]
)
async def test_a_range_comes_alone(origin, client, cache, asked, first, last):  # noqa: PLR0917 - cases
    found = await client.get(path(origin, cache=cache), Range=f"bytes={asked}")

    assert (found.status, found.body) == (206, DATA[first : last + 1])
    assert found.headers["content-range"] == f"bytes {first}-{last}/3000000"
    assert (await client.get(path(origin, cache=cache))).body == DATA


@CACHES
async def test_a_range_behind_the_end_is_refused(origin, client, cache):
    found = await client.get(path(origin, cache=cache), Range="bytes=3000000-")

    assert (found.status, found.headers["content-range"]) == (416, "bytes */3000000")


async def test_a_range_of_a_file_that_is_passed_on_is_fetched_alone(origin, client):
    await client.get(path(origin, cache="no"), Range="bytes=10-19")

    assert [each["range"] for each in origin.heads if each["method"] == "GET"] == ["bytes=10-19"]


@CACHES
async def test_who_has_the_file_is_told_so(origin, client, cache):
    first = await client.get(path(origin, cache=cache))
    etag, date = first.headers["etag"], first.headers["last-modified"]
    where = path(origin, cache=cache)

    assert (await client.get(where, If_None_Match=etag)).status == 304
    assert (await client.get(where, If_None_Match=f'"x", W/{etag}')).status == 304
    assert (await client.get(where, If_None_Match='"x"')).status == 200
    assert (await client.get(where, If_Modified_Since=date)).status == 304
    assert (await client.get(where, If_Modified_Since="Sat, 01 Jan 1994 00:00:00 GMT")).status == 200
    assert (await client.get(where, Range="bytes=0-1", If_Range=etag)).status == 206
    assert (await client.get(where, Range="bytes=0-1", If_Range='"x"')).status == 200
    assert (await client.get(where, Range="bytes=0-1", If_Range=date)).status == 206


async def test_head_tells_without_fetching(origin, client):
    found = await client.get(path(origin), "HEAD")

    assert (found.status, found.headers["content-length"]) == (200, "3000000")
    assert origin.gets == []
    assert (await client.get(path(origin))).headers["etag"] == found.headers["etag"]


@CACHES
@pytest.mark.expects_logs
async def test_a_file_that_breaks_off_for_good_is_never_taken_for_whole(origin, client, web, cache):
    origin.cut_at, origin.cuts = 1_500_000, 100

    found = await client.get(path(origin, cache=cache))

    assert found.is_cut
    assert len(found.body) < len(DATA)
    view = web.site.services.transfers.get(found.headers["x-transfer-id"])
    assert view.error
    assert 0 < view.moved_bytes < len(DATA)


async def test_a_copy_that_breaks_off_once_is_gone_on_with_unseen(origin, client):
    origin.cut_at = 1_500_000

    found = await client.get(path(origin))

    assert (found.is_cut, found.body == DATA) == (False, True)
    assert len(origin.gets) == 2


@pytest.mark.expects_logs
async def test_a_chunked_file_that_breaks_off_has_no_end(origin, client):
    origin.has_length = False
    assert (await client.get(path(origin))).body == DATA
    origin.cut_at = 1_500_000

    assert (await client.get(path(origin))).is_cut


async def test_errors_of_the_origin_are_told(origin, client):
    missing = await client.get(path(origin, "missing"))
    assert (missing.status, json.loads(missing.body)["error"]["code"]) == (404, "not_found")
    passed = await client.get(path(origin, "missing", cache="no"))
    assert passed.status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?url=", 422),
        ("?url=http://elsewhere.example/x", 403),
        ("?url=file:///etc/passwd", 403),
        ("?url=http://user:secret@127.0.0.1/d/x", 422),
        ("?url={0}/d/a.bin&cache=perhaps", 422),
        ("?url={0}/d/../secret", 422),
        ("?url={0}/d/%252e%252e/secret", 422),
        ("?url={0}/dd/x", 403),
        ("?url={0}/d/a%0d%0aX-Evil:1", 422),
    ],
)
async def test_bad_addresses_are_refused(origin, client, query, status):
    origin.files["/secret"] = b"secret"

    assert (await client.get("/proxy" + query.format(origin.url))).status == status


async def test_a_hostile_name_reaches_no_header(origin, client):
    origin.files['/d/a";x=ü\u202e.txt'] = b"data"

    name = quote(quote('a";x=ü\u202e.txt'))
    found = await client.get(path(origin, name))

    assert found.body == b"data"
    assert found.headers["content-disposition"] == (
        "attachment; filename=\"a_;x=__.txt\"; filename*=UTF-8''a%22%3Bx%3D%C3%BC%E2%80%AE.txt"
    )


async def test_what_an_origin_says_of_itself_is_not_passed_on(origin, client):
    origin.extra = "Set-Cookie: a=b\r\nContent-Type: text/html\r\nX-Accel-Redirect: /_files/x"

    for cache in ("yes", "no"):
        found = await client.get(path(origin, cache=cache))
        assert not {"set-cookie", "x-accel-redirect"} & set(found.headers)
        assert found.headers["content-type"] == "application/octet-stream"


async def test_an_origin_on_this_machine_must_be_allowed(tmp_path, origin):
    async with open_web(tmp_path, files={"origins": {"far": {"url": f"{origin.url}/d"}}}) as web:
        await web.account("alice")
        async with RawClient(web.url, await web.token(ALICE)) as client:
            for cache in ("yes", "no"):
                found = await client.get(path(origin, cache=cache))
                assert found.status == 403
    assert origin.heads == []


async def test_an_origin_of_a_group_is_for_its_users(tmp_path, origin):
    settings = {"url": f"{origin.url}/d", "private": True, "groups": ["ours"]}
    async with open_web(tmp_path, files={"origins": {"far": settings}}) as web:
        await web.account("bob")
        async with RawClient(web.url, await web.token(BOB)) as client:
            assert (await client.get(path(origin))).status == 403


async def test_the_old_form_answers_in_json(origin, web):
    browser = web.browser(await web.token(ALICE))
    url = f"{origin.url}/d/a.bin"

    async def ask(**more):
        answer = await browser.send("POST", "/download", body=json.dumps({"url": url, **more}))
        return answer.code, answer.body

    digest = hashlib.sha512(DATA).hexdigest()
    assert await ask() == (200, DATA)
    assert await ask(cache=False) == (200, DATA)
    code, body = await ask(type="size")
    assert (code, json.loads(body)) == (200, {"size": 3_000_000})
    for cache in (True, False):
        code, body = await ask(type="checksum", cache=cache)
        assert (code, json.loads(body)) == (200, {"checksum": digest, "type": "sha512"})
    assert (await ask(type="nonsense"))[0] == 422


@CACHES
async def test_a_slow_reader_holds_up_nobody_and_fills_no_memory(origin, web, client, cache):
    origin.files["/d/big"] = bytes(60_000_000)
    await client.ask(path(origin, "big", cache=cache))
    status, headers = await client.head()
    await client.reader.readexactly(1000)
    await asyncio.sleep(0.2)

    async with RawClient(web.url, client._token) as other:
        assert (await other.get(path(origin, cache=cache))).body == DATA
    if cache == "no":
        assert origin.sent < 40_000_000  # what fits into the buffers of the sockets on the way
    rest = await client.reader.readexactly(60_000_000 - 1000)
    assert (status, headers["content-length"], rest.count(0)) == (200, "60000000", 59_999_000)


@CACHES
async def test_a_client_that_goes_ends_its_transfer(origin, web, cache):
    origin.files["/d/big"] = bytes(60_000_000)
    transfers = web.site.services.transfers
    async with RawClient(web.url, await web.token(ALICE)) as client:
        await client.ask(path(origin, "big", cache=cache))
        _, headers = await client.head()
        linger = b"\1\0\0\0\0\0\0\0"
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with asyncio.timeout(10):
        while transfers.get(headers["x-transfer-id"]).ended_at is None:
            await asyncio.sleep(0.01)
    assert transfers.get(headers["x-transfer-id"]).error == "the client went away"


async def test_every_byte_is_accounted(origin, web, client):
    await client.get(path(origin, cache="no"))
    await client.get(path(origin), Range="bytes=0-99")

    moved = {view.label: view.moved_bytes for view in web.site.services.transfers.ended()}
    assert moved[f"{origin.url}/d/a.bin"] in (100, len(DATA))
    total = sum(
        view.moved_bytes
        for view in web.site.services.transfers.ended()
        if view.flow.service == "proxy" and view.flow.user == "alice"
    )
    assert total == len(DATA) + 100


async def test_a_local_directory_is_an_origin_too(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "a.bin").write_bytes(DATA)
    (tmp_path / "site").mkdir()
    origins = {"disk": {"url": f"file://{folder}", "private": True}}
    async with open_web(tmp_path / "site", files={"origins": origins}) as web:
        await web.account("alice")
        async with RawClient(web.url, await web.token(ALICE)) as client:
            for cache in ("yes", "no"):
                found = await client.get(f"/proxy?url=file://{folder}/a.bin&cache={cache}")
                assert (found.status, found.body == DATA) == (200, True)
