"""What the server does for an nginx in front, and for nobody without one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import pytest
from site_harness import ADMIN, ALICE

TEXT = b"muons\n" * 1000
HASH = hashlib.sha256(TEXT)


@pytest.fixture
async def proxied(web_with, tmp_path):
    """A site that believes its web server."""
    web = await web_with(server={"proxied": True, "data_dir": tmp_path})
    await web.account("root", roles=("admin",))
    return web


@pytest.fixture
async def direct(web_with):
    """A site without one."""
    web = await web_with()
    await web.account("root", roles=("admin",))
    return web


async def browser_of(web, principal=ADMIN):
    return web.browser(await web.token(principal))


def handed(web, data=TEXT):
    folder = web.site.settings.files_path / ".handed-over"
    path = folder / f"{len(list(folder.iterdir())) + 1:010}"
    path.write_bytes(data)
    return path


async def test_a_file_that_nginx_has_written_becomes_the_upload(proxied):
    browser, source = await browser_of(proxied), handed(proxied)
    headers = {
        "X-File": str(source),
        "X-File-Length": str(len(TEXT)),
        "Digest": "sha-256=" + base64.b64encode(HASH.digest()).decode(),
    }

    made = await browser.send("PUT", "/files/site_temp/x", body=b"", headers=headers)

    assert made.code == 201, made.body
    assert json.loads(made.body) == {"size_bytes": len(TEXT), "sha256": HASH.hexdigest()}
    assert (proxied.site.settings.files_path / "site_temp" / "x").read_bytes() == TEXT
    assert not source.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"X-File-Length": "1"}, {"X-File-Length": "x"}, {"Digest": "md5=1"}, {"Content-Range": "bytes 0-1/2"}],
)
async def test_a_file_that_is_refused_is_thrown_away(proxied, wrong):
    browser, source = await browser_of(proxied), handed(proxied)

    answer = await browser.send(
        "PUT", "/files/site_temp/x", body=b"", headers={"X-File": str(source), **wrong}
    )

    assert answer.code in (400, 422)
    await eventually_gone(source)
    assert (await browser.get("/files/site_temp/x", headers={"If-None-Match": '"x"'})).code == 404


async def eventually_gone(path):
    async with asyncio.timeout(30):
        while path.exists():
            await asyncio.sleep(0.01)


async def test_without_nginx_a_path_is_just_a_header(direct):
    browser, source = await browser_of(direct), handed(direct)

    made = await browser.send("PUT", "/files/site_temp/x", body=b"own", headers={"X-File": str(source)})
    answer = await browser.get("/files/site_temp/x", headers={"X-Accel-Internal": "/_files/"})

    assert (made.code, answer.body) == (201, b"own")
    assert source.exists()
    assert "X-Accel-Redirect" not in answer.headers


async def test_a_download_is_left_to_nginx_with_all_that_describes_it(proxied):
    browser = await browser_of(proxied)
    await browser.send("PUT", "/files/site_temp/a%20b/%25x", body=TEXT)

    offer = {"X-Accel-Internal": "/_files/"}
    answer = await browser.get("/files/site_temp/a%20b/%25x", headers={"Range": "bytes=0-1", **offer})

    assert (answer.code, answer.body) == (200, b"")
    assert answer.headers["X-Accel-Redirect"] == "/_files/site_temp/a%20b/%25x"
    assert answer.headers["ETag"] == f'"{HASH.hexdigest()[:32]}"'
    assert answer.headers["Digest"].startswith("sha-256=")
    assert answer.headers["Content-Disposition"] == "attachment"
    absent = await browser.get("/files/site_temp/none", headers=offer)
    assert (absent.code, "X-Accel-Redirect" in absent.headers) == (404, False)


async def test_a_proxy_that_sends_no_files_gets_them_from_the_server(proxied):
    browser = await browser_of(proxied)
    await browser.send("PUT", "/files/site_temp/x", body=TEXT)

    answer = await browser.get("/files/site_temp/x")

    assert (answer.body, "X-Accel-Redirect" in answer.headers) == (TEXT, False)


async def request_id(web, given):
    answer = await web.browser().get("/files/site_temp/x", headers={"X-Request-Id": given})
    return json.loads(answer.body)["error"]["request_id"]


async def test_the_id_of_a_request_is_that_of_nginx(proxied):
    given = "0123456789abcdef" * 2
    assert await request_id(proxied, given) == given
    for odd in ("<script>", "A" * 32, "abc", "0" * 65):
        assert await request_id(proxied, odd) != odd


async def test_a_client_gives_its_request_no_id(direct):
    given = "0123456789abcdef" * 2
    assert await request_id(direct, given) != given


async def asked(web, uri, *, principal=ADMIN, **more):
    browser = await browser_of(web, principal) if principal else web.browser()
    return await browser.get("/_nginx/may-upload", headers={"X-Original-URI": uri, **more})


async def test_nginx_is_told_whether_an_upload_would_be_taken(proxied):
    await proxied.account("alice")
    answers = {
        "yes": await asked(proxied, "/files/site_temp/x", **{"X-Original-Length": "10"}),
        "query": await asked(proxied, "/files/site_temp/x?y"),
        "nobody": await asked(proxied, "/files/site_temp/x", principal=None),
        "not she": await asked(proxied, "/files/site_temp/x", principal=ALICE),
        "nowhere": await asked(proxied, "/files/nowhere/x"),
        "too long": await asked(proxied, "/files/site_temp/x", **{"X-Original-Length": "9" * 15}),
        "odd": await asked(proxied, "/files/site_temp/%2e%2e/x"),
    }

    assert {name: answer.code for name, answer in answers.items()} == {
        "yes": 204,
        "query": 204,
        "nobody": 401,
        "not she": 403,
        "nowhere": 403,
        "too long": 403,
        "odd": 403,
    }
    told = {name: answer.headers.get("X-Refusal-Status") for name, answer in answers.items()}
    assert [told[name] for name in ("nobody", "not she", "nowhere", "too long", "odd")] == [
        "401",
        "403",
        "404",
        "413",
        "422",
    ]
    assert json.loads(answers["too long"].headers["X-Refusal"])["error"]["code"] == "too_large"


async def test_a_cookie_uploads_nothing(proxied):
    browser = await proxied.signed_in("ada", roles=("admin",))
    answer = await browser.get("/_nginx/may-upload", headers={"X-Original-URI": "/files/site_temp/x"})
    assert answer.code == 401


@pytest.mark.parametrize("uri", ["", "/", "/datasets", "files/site_temp/x"])
async def test_only_files_can_be_asked_about(proxied, uri):
    assert (await asked(proxied, uri)).code in (403, 422)


async def test_a_full_disk_is_told_before_the_body_is_read(web_with, tmp_path):
    server = {"proxied": True, "data_dir": tmp_path}
    web = await web_with(server=server, files={"keep_free_bytes": 10**18})
    await web.account("root", roles=("admin",))
    browser, source = await browser_of(web), handed(web)

    for length in ({"X-Original-Length": "10"}, {}):
        answer = await asked(web, "/files/site_temp/x", **length)
        assert (answer.code, answer.headers["X-Refusal-Status"]) == (403, "507")
    late = await browser.send("PUT", "/files/site_temp/x", body=b"", headers={"X-File": str(source)})
    assert late.code == 507
    await eventually_gone(source)
