"""Files that are sent to origins through the site."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from urllib.parse import quote

import pytest
from http_origin import RawClient
from site_harness import ALICE, task
from web_harness import PASSWORD, open_web

from tests.movers.nginx_server import http_server

DATA = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def place(tmp_path):
    (folder := tmp_path / "origin").mkdir()
    with http_server(folder) as server:
        yield server.place("d")


@pytest.fixture
async def web(tmp_path, place):
    origins = {
        "far": {"url": str(place.root), "private": True, "write": True},
        "narrow": {"url": str(place.at("narrow")), "private": True, "write": True, "groups": ["few"]},
        "fixed": {"url": str(place.at("fixed")), "private": True},
    }
    async with open_web(tmp_path, files={"origins": origins, "max_bytes": 5_000_000}) as made:
        for name in ("alice", "bob"):
            await made.account(name)
        yield made


@pytest.fixture
async def alice(web):
    return web.browser(await web.token(ALICE))


def path(place, name="hits.npz"):
    return f"/proxy?url={quote(str(place.at(name)), safe='')}"


def digest_of(data):
    return f"sha-256={base64.b64encode(hashlib.sha256(data).digest()).decode()}"


async def put(browser, where, data=DATA, **headers):
    return await browser.send("PUT", where, body=data, headers=headers)


async def test_a_file_is_at_its_origin_when_the_answer_comes(alice, place, web):
    answer = await put(alice, path(place), Digest=digest_of(DATA))
    again = await put(alice, path(place), b"shorter")

    assert answer.code == 201, answer.body
    assert json.loads(answer.body) == {"size_bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    assert again.code == 201
    assert (place.folder / "hits.npz").read_bytes() == b"shorter"
    [last, first] = [each for each in web.site.services.transfers.ended() if each.flow.service == "forward"]
    assert (first.flow.user, first.flow.origin, first.moved_bytes) == ("alice", "far", len(DATA))
    assert last.error == ""


async def test_what_differs_from_its_digest_changes_nothing(alice, place):
    await put(alice, path(place), b"former")

    wrong = await put(alice, path(place), Digest=digest_of(b"other"))
    odd = await put(alice, path(place), Digest="sha-256=zz")

    assert (wrong.code, odd.code) == (422, 422)
    assert json.loads(wrong.body)["error"]["detail"]["reason"] == "wrong_checksum"
    assert (place.folder / "hits.npz").read_bytes() == b"former"


async def test_origins_that_may_not_be_written_are_not(alice, place, web):
    stranger = web.browser()
    refused = {
        "read only": await put(alice, path(place, "fixed/x")),
        "of other groups": await put(alice, path(place, "narrow/x")),
        "unknown": await put(alice, "/proxy?url=http%3A%2F%2Felsewhere.example%2Fx"),
        "no address": await put(alice, "/proxy?url=site_temp/x"),
        "two": await put(alice, f"{path(place)}&url={quote(str(place.at('b')), safe='')}"),
        "part": await put(alice, path(place), **{"Content-Range": "bytes 0-1/2"}),
        "too large": await put(alice, path(place), bytes(5_000_001)),
        "stranger": await put(stranger, path(place)),
    }

    assert {name: answer.code for name, answer in refused.items()} == {
        "read only": 403,
        "of other groups": 403,
        "unknown": 403,
        "no address": 422,
        "two": 422,
        "part": 422,
        "too large": 413,
        "stranger": 401,
    }
    assert "files.origins.fixed.write" in refused["read only"].body.decode()
    assert [each for each in place.folder.rglob("*") if each.is_file()] == []


async def test_a_session_counts_with_the_proof_that_the_page_is_ours(web, place):
    browser = web.browser()
    await browser.post("/sign-in", name="bob", password=PASSWORD)
    page = await browser.text("/files")
    token = page.partition('name="xsrf" content="')[2].partition('"')[0]

    forged = await put(browser, path(place))
    ours = await put(browser, path(place), **{"X-XSRFToken": token})

    assert (forged.code, ours.code) == (403, 201)


async def test_of_unknown_length_it_is_kept_until_all_is_there(alice, place, web):
    async def pieces(write):
        for start in range(0, len(DATA), 100_000):
            await write(DATA[start : start + 100_000])

    answer = await alice.send("PUT", path(place), body_producer=pieces, headers={"Digest": digest_of(DATA)})
    wrong = await alice.send(
        "PUT", path(place, "wrong"), body_producer=pieces, headers={"Digest": digest_of(b"")}
    )

    assert (answer.code, wrong.code) == (202, 422), answer.body
    upload = web.site.services.uploads
    async with asyncio.timeout(20):
        while json.loads((await alice.get(answer.headers["Location"])).body)["stage"] != "stored":
            await asyncio.sleep(0.01)
    assert (place.folder / "hits.npz").read_bytes() == DATA
    assert not (place.folder / "wrong").exists()
    assert not list(upload.service.shelf.all())


@pytest.mark.parametrize("length", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
async def test_whoever_leaves_midway_has_changed_nothing(web, place, alice, length):
    await put(alice, path(place), b"former")
    transfers, uploads = web.site.services.transfers, web.site.services.uploads.service
    name, value = length.split(": ")
    async with RawClient(web.url, await web.token(ALICE)) as client:
        await client.ask(path(place), "PUT", **{name.replace("-", "_"): value})
        size = b"F4240\r\n" if "chunked" in length else b""
        client.writer.write(size + DATA[:1_000_000])
        await client.writer.drain()
        async with asyncio.timeout(20):
            while not any(each.moved_bytes for each in transfers.live()):
                await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while transfers.live() or list(uploads.shelf.all()):
            await asyncio.sleep(0.01)

    assert (place.folder / "hits.npz").read_bytes() == b"former"
    assert [each.name for each in place.folder.iterdir()] == ["hits.npz"]


async def test_a_task_sends_what_its_configuration_names_and_it_is_catalogued(web, place):
    named = str(place.at("out/0.npz"))
    data = [{"movement": "output", "local": "0.npz", "remote": named}]
    dataset = await web.site.submit({**task("only"), "data": data}, njobs=1)
    pilot = await web.site.pilot()
    held = await web.site.one(pilot)
    browser = web.browser(web.site.services.accounts.make_task_token(held.task_id, held.lease_id))

    other = await put(browser, path(place, "out/1.npz"))
    answer = await put(browser, path(place, "out/0.npz"))

    assert (other.code, answer.code) == (404, 201), answer.body
    found = await web.site.store.files.get(dataset.dataset_id, place.at("out/0.npz").path.strip("/"))
    assert found.checksums["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert found.task_index == 0
