"""Uploads in three steps: announce, send once, check; by curl, as people do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging

import pytest
from site_harness import ADMIN, ALICE, task

from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.uploads.one_time import SECRET_S

TEXT = bytes(range(256)) * 5000
SHA512 = hashlib.sha512(TEXT).hexdigest()


@pytest.fixture
async def browser(web):
    await web.account("root", roles=("admin",))
    return web.browser(await web.token(ADMIN))


async def curl(web, *arguments, data=None):
    """Status and answer of a command like those that people type."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--max-time", "30", "-w", "\n%{http_code}", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(data)
    body, _, status = out.decode().rpartition("\n")
    return int(status), json.loads(body) if body.startswith("{") else body


async def announce(web, browser, **changes):
    asked = {"url": "site_temp/x", "size": len(TEXT), "checksum": SHA512, **changes}
    bearer = f"Authorization: Bearer {browser.token}"
    return await curl(web, "-H", bearer, "--json", json.dumps(asked), f"{web.url}/upload")


async def send(web, path, data=TEXT):
    file = web.context.settings.data_dir / "to-send"
    file.write_bytes(data)
    return await curl(web, "-T", str(file), web.url + path)


async def stored(browser, path="site_temp/x"):
    answer = await browser.get(f"/files/{path}")
    return answer.body if answer.code == 200 else None


@pytest.mark.parametrize("kind", ["sha512", "SHA256", "sha1", "md5"])
async def test_announce_send_check(web, browser, kind):
    checksum = hashlib.new(kind, TEXT).hexdigest()
    status, told = await announce(web, browser, checksum=checksum, checksum_type=kind)
    assert status == 200
    assert told["upload"].startswith(f"/upload/{told['id']}/")
    before = await curl(web, f"{web.url}{told['upload']}/check")
    assert (before[0], before[1]["result"]) == (200, None)

    status, sent = await send(web, told["upload"])

    assert (status, sent["result"], sent["stored"]) == (200, True, True)
    after = await curl(web, "-X", "POST", f"{web.url}{told['upload']}/check")
    assert (after[1]["result"], after[1]["sha256"]) == (True, hashlib.sha256(TEXT).hexdigest())
    assert await stored(browser) == TEXT


async def test_posting_will_do_too(web, browser):
    _, told = await announce(web, browser)
    kind = "Content-Type: application/octet-stream"
    status, sent = await curl(web, "-H", kind, "--data-binary", "@-", web.url + told["upload"], data=TEXT)
    assert (status, sent["result"]) == (200, True)
    assert await stored(browser) == TEXT


async def test_an_address_of_this_site_is_a_temp_area(web, browser):
    _, told = await announce(web, browser, url=f"{web.url}/files/site_temp/sub/x")
    assert (await send(web, told["upload"]))[0] == 200
    assert await stored(browser, "site_temp/sub/x") == TEXT


async def test_whoever_announced_may_ask_by_id(web, browser):
    await web.account("alice")
    _, told = await announce(web, browser)
    await send(web, told["upload"])
    for body in ({"id": told["id"]}, {"upload": told["upload"]}):
        answer = await browser.send("POST", "/upload/check", body=json.dumps(body))
        assert json.loads(answer.body)["result"] is True
    assert json.loads((await browser.get(f"/upload/check?id={told['id']}")).body)["stored"] is True
    alice = web.browser(await web.token(ALICE))
    assert (await alice.get(f"/upload/check?id={told['id']}")).code == 404
    assert (await web.browser().get(f"/upload/check?id={told['id']}")).code == 401
    assert (await browser.get("/upload/check")).code == 422


async def test_a_path_is_good_for_one_file(web, browser):
    _, told = await announce(web, browser)
    await send(web, told["upload"])
    status, error = await send(web, told["upload"])
    assert (status, error["error"]["detail"]["reason"]) == (409, "used")
    assert (await send(web, told["upload"][:-1] + "x"))[0] == 404


async def test_a_wrong_checksum_is_told_and_the_path_is_used_up(web, browser):
    _, told = await announce(web, browser, checksum="0" * 128)
    status, error = await send(web, told["upload"])
    assert (status, error["error"]["detail"]["reason"]) == (422, "wrong_checksum")
    check = await curl(web, f"{web.url}{told['upload']}/check")
    assert (check[1]["result"], check[1]["stage"]) == (False, "failed")
    assert "was announced" in check[1]["error"]
    assert (await send(web, told["upload"]))[0] == 409
    assert await stored(browser) is None


@pytest.mark.parametrize(("data", "status"), [(TEXT[:-1], 422), (TEXT + b"x", 413), (b"", 422)])
async def test_a_wrong_size_is_refused(web, browser, data, status):
    _, told = await announce(web, browser)
    assert (await send(web, told["upload"], data))[0] == status
    assert await stored(browser) is None
    # Nothing was taken, so the path is as good as before.
    assert (await send(web, told["upload"]))[0] == 200


async def test_a_wrong_size_that_shows_at_the_end_uses_the_path_up(web, browser):
    _, told = await announce(web, browser)
    chunked = "Transfer-Encoding: chunked"
    status, _ = await curl(web, "-T", "-", "-H", chunked, web.url + told["upload"], data=TEXT[:-1])
    assert status == 422
    assert (await send(web, told["upload"]))[0] == 409


async def test_a_body_that_broke_off_may_be_sent_again(web, browser):
    _, told = await announce(web, browser)
    host, port = web.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT {told['upload']} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(TEXT)}\r\n\r\n"
    writer.write(head.encode() + TEXT[:700_000])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    for _ in range(2000):
        status, answer = await send(web, told["upload"])
        if status != 423:  # as long as the server has not noticed
            break
        await asyncio.sleep(0.01)
    assert (status, answer["result"]) == (200, True)
    assert await stored(browser) == TEXT


async def test_a_path_gets_too_old(web, browser):
    _, told = await announce(web, browser)
    web.site.advance(SECRET_S)
    assert (await send(web, told["upload"]))[0] == 409


async def test_an_empty_file(web, browser):
    _, told = await announce(web, browser, size=0, checksum=hashlib.sha512(b"").hexdigest())
    await web.site.services.uploads.keeper.look_after()
    assert await stored(browser) is None  # nothing was sent yet
    assert (await send(web, told["upload"], b""))[0] == 200
    assert await stored(browser) == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": "x"},
        {"size": None},
        {"checksum": ""},
        {"checksum": "xyz"},
        {"checksum_type": "crc32"},
        {"url": ""},
        {"url": "gopher://x/y"},
        {"more": 1},
    ],
)
async def test_what_makes_no_sense_is_refused(web, browser, changes):
    assert (await announce(web, browser, **changes))[0] == 422


async def test_rights_count_when_it_is_announced_and_when_it_is_sent(web, browser):
    await web.account("alice")
    alice = web.browser(await web.token(ALICE))
    assert (await announce(web, alice))[0] == 403
    assert (await announce(web, web.browser()))[0] in (401, 403)
    assert (await announce(web, browser, url="http://elsewhere.example/x"))[0] == 403
    dataset = await web.site.submit(task("only"), njobs=1)
    pilot = await web.site.pilot()
    held = await web.site.one(pilot)
    token = web.site.services.accounts.make_task_token(held.task_id, held.lease_id)
    mine = web.browser(token)
    url = f"job_temp/{dataset.dataset_id}/0/x"
    _, first = await announce(web, mine, url=url)
    _, second = await announce(web, mine, url=url)
    assert (await send(web, first["upload"]))[0] == 200
    await web.site.finish(pilot, held)
    assert (await send(web, second["upload"]))[0] == 409
    assert Principal(PrincipalKind.TASK, held.task_id).id == held.task_id


async def test_the_secret_is_in_no_log_and_not_on_the_disk(web, browser, caplog):
    caplog.set_level(logging.INFO)
    _, told = await announce(web, browser)
    secret = told["upload"].rpartition("/")[2]
    await send(web, told["upload"])
    await send(web, told["upload"])
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert f"/upload/{told['id']}/…" in logged
    assert secret not in logged
    uploads = web.context.settings.uploads_path
    written = b"".join(path.read_bytes() for path in uploads.rglob("*") if path.is_file())
    assert secret.encode() not in written


async def test_a_fault_of_ours_puts_no_secret_into_the_log(web, browser, caplog, monkeypatch):
    _, told = await announce(web, browser)

    async def broken(*_, **__):
        raise ValueError("a fault")

    monkeypatch.setattr(type(web.site.services.uploads.one_time), "send", broken)
    assert (await send(web, told["upload"]))[0] == 500
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert "request failed" in logged
    assert told["upload"].rpartition("/")[2] not in logged


async def test_a_file_goes_on_to_an_origin(web_with, tmp_path):
    place = tmp_path / "origin"
    place.mkdir()
    web = await web_with(files={"origins": {"disk": {"url": f"file://{place}", "write": True}}})
    await web.account("alice")
    browser = web.browser(await web.token(ALICE))
    _, told = await announce(web, browser, url=f"file://{place}/sub/hits.npz")

    status, sent = await send(web, told["upload"])

    assert (status, sent["result"], sent["stored"], sent["stage"]) == (202, True, False, "forwarding")
    for _ in range(2000):
        _, check = await curl(web, f"{web.url}{told['upload']}/check")
        if check["stage"] != "forwarding":
            break
        await asyncio.sleep(0.01)
    assert (check["stage"], check["stored"]) == ("stored", True), check
    assert (place / "sub" / "hits.npz").read_bytes() == TEXT
    assert (await announce(web, browser, url=f"file://{tmp_path}/elsewhere"))[0] == 403
