"""The tus protocol 1.0.0, MUST by MUST (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from email.utils import parsedate_to_datetime

import pytest
from site_harness import ADMIN, ALICE, task

from iceprod.model.principal import Principal, PrincipalKind
from iceprod.server.handlers.uploads import receiving, tus_headers
from iceprod.services.uploads.shelf import Held
from iceprod.services.uploads.values import CHECKSUMS, Stage

TEXT = bytes(range(256)) * 500
LENGTH = len(TEXT)
VERSION = {"Tus-Resumable": "1.0.0"}
BODY = {**VERSION, "Content-Type": "application/offset+octet-stream"}


def encoded(**values):
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


PLACE = encoded(path="site_temp/x")


@pytest.fixture
async def browser(web):
    await web.account("root", roles=("admin",))
    return web.browser(await web.token(ADMIN))


async def create(browser, length=LENGTH, *, place=PLACE, body=b"", **more):
    headers = {**VERSION, "Upload-Metadata": place, **{k.replace("_", "-"): v for k, v in more.items()}}
    if length is not None:
        headers["Upload-Length"] = str(length)
    return await browser.send("POST", "/tus", body=body, headers={k: v for k, v in headers.items() if v})


async def created(browser, length=LENGTH, **more):
    answer = await create(browser, length, **more)
    assert answer.code == 201, answer.body
    return answer.headers["Location"]


async def patch(browser, url, offset, data, **more):
    headers = {**BODY, "Upload-Offset": str(offset), **{k.replace("_", "-"): v for k, v in more.items()}}
    return await browser.send("PATCH", url, body=data, headers={k: v for k, v in headers.items() if v})


async def head(browser, url):
    return await browser.send("HEAD", url, headers=VERSION)


async def stored(browser, path="site_temp/x"):
    answer = await browser.get(f"/files/{path}")
    return answer.body if answer.code == 200 else None


# Core


async def test_head_tells_offset_and_length_and_is_not_cached(browser):
    url = await created(browser)
    fresh = await head(browser, url)
    await patch(browser, url, 0, TEXT[:70])
    later = await head(browser, url)

    assert (fresh.code, fresh.headers["Upload-Offset"]) == (200, "0")
    assert (later.headers["Upload-Offset"], later.headers["Upload-Length"]) == ("70", str(len(TEXT)))
    assert later.headers["Cache-Control"] == "no-store"
    assert later.headers["Tus-Resumable"] == "1.0.0"


async def test_head_of_a_complete_upload_tells_its_offset_too(browser):
    url = await created(browser)
    await patch(browser, url, 0, TEXT)
    answer = await head(browser, url)
    assert answer.headers["Upload-Offset"] == answer.headers["Upload-Length"] == str(len(TEXT))


async def test_what_is_not_there_has_no_offset(browser):
    for method in ("HEAD", "PATCH", "DELETE"):
        answer = await browser.send(
            method,
            "/tus/" + "0" * 29,
            headers={**BODY, "Upload-Offset": "0"},
            body=b"x" if method == "PATCH" else None,
        )
        assert answer.code == 404
        assert "Upload-Offset" not in answer.headers
        assert answer.headers["Tus-Resumable"] == "1.0.0"


async def test_patch_appends_and_tells_the_new_offset(browser):
    url = await created(browser)
    first = await patch(browser, url, 0, TEXT[:70])
    last = await patch(browser, url, 70, TEXT[70:])

    assert (first.code, first.headers["Upload-Offset"], first.body) == (204, "70", b"")
    assert (last.code, last.headers["Upload-Offset"]) == (204, str(len(TEXT)))
    assert last.headers["Tus-Resumable"] == "1.0.0"
    assert await stored(browser) == TEXT


async def test_patch_of_another_type_is_415(browser):
    url = await created(browser)
    for kind in ("application/octet-stream", ""):
        answer = await patch(browser, url, 0, TEXT, Content_Type=kind)
        assert answer.code == 415


async def test_patch_at_another_offset_is_409_and_changes_nothing(browser):
    url = await created(browser)
    await patch(browser, url, 0, TEXT[:70])
    for offset in (0, 69, 71, len(TEXT)):
        assert (await patch(browser, url, offset, b"x")).code == 409
    assert (await head(browser, url)).headers["Upload-Offset"] == "70"


@pytest.mark.parametrize("offset", ["", "-1", "a", "1.0", "0x10", "9" * 30])
async def test_an_offset_is_a_number(browser, offset):
    url = await created(browser)
    assert (await patch(browser, url, 0, b"x", Upload_Offset=offset)).code == 400


async def test_more_than_the_length_is_refused(browser):
    url = await created(browser)
    assert (await patch(browser, url, 0, TEXT + b"x")).code == 413
    assert (await head(browser, url)).headers["Upload-Offset"] == "0"


async def test_options_tells_what_is_offered_without_a_credential(web):
    for path in ("/tus", "/tus/" + "0" * 29):
        answer = await web.browser().send("OPTIONS", path, headers={"Tus-Resumable": "9.9.9"})
        assert answer.code == 204
        assert answer.headers["Tus-Version"] == answer.headers["Tus-Resumable"] == "1.0.0"
        assert answer.headers["Tus-Extension"].split(",") == list(tus_headers.EXTENSIONS)
        assert answer.headers["Tus-Max-Size"] == str(web.context.settings.files.max_bytes)
        assert answer.headers["Tus-Checksum-Algorithm"].split(",")[0] == "sha1"


@pytest.mark.parametrize("version", ["0.2.2", "1.0.1", "", "x"])
async def test_another_version_is_412_and_nothing_is_done(browser, version):
    url = await created(browser)
    for method, path in (("POST", "/tus"), ("HEAD", url), ("PATCH", url), ("DELETE", url)):
        headers = {**BODY, "Upload-Offset": "0", "Upload-Length": "1", "Upload-Metadata": PLACE}
        headers["Tus-Resumable"] = version
        answer = await browser.send(
            method, path, body=b"x" if method in ("POST", "PATCH") else None, headers=headers
        )
        assert answer.code == 412
        assert answer.headers["Tus-Version"] == "1.0.0"
    assert (await head(browser, url)).headers["Upload-Offset"] == "0"


async def test_the_method_that_is_meant_counts(browser):
    url = await created(browser)
    meant = {**BODY, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert (await browser.send("POST", url, body=TEXT[:5], headers=meant)).code == 204
    meant = {**VERSION, "X-HTTP-Method-Override": "HEAD"}
    assert (await browser.send("GET", url, headers=meant)).headers["Upload-Offset"] == "5"
    meant = {**VERSION, "X-HTTP-Method-Override": "DELETE"}
    assert (await browser.send("POST", url, body=b"", headers=meant)).code == 204
    assert (await head(browser, url)).code == 404
    meant = {**VERSION, "X-HTTP-Method-Override": "BURN"}
    assert (await browser.send("POST", url, body=b"", headers=meant)).code == 405


# Creation


async def test_creation_tells_where_the_upload_is(browser):
    answer = await create(browser)
    assert (answer.code, answer.headers["Tus-Resumable"]) == (201, "1.0.0")
    assert answer.headers["Location"].startswith("/tus/")
    assert (await create(browser, 0)).code == 201  # with a slash, without a body, of no bytes
    assert await stored(browser) == b""


@pytest.mark.parametrize("length", ["-1", "a", "1.5", ""])
async def test_a_length_is_a_number(browser, length):
    assert (await create(browser, length or None)).code == 400


async def test_a_length_is_given_or_deferred_and_not_both(browser):
    assert (await create(browser, None)).code == 400
    assert (await create(browser, 5, Upload_Defer_Length="1")).code == 400
    for wrong in ("0", "2", "true"):
        assert (await create(browser, None, Upload_Defer_Length=wrong)).code == 400


async def test_too_much_is_413(web, browser):
    assert (await create(browser, web.context.settings.files.max_bytes + 1)).code == 413
    assert (await create(browser, 10**17)).code == 413


async def test_a_deferred_length_is_told_in_head_until_it_is_known(browser):
    url = await created(browser, None, Upload_Defer_Length="1")
    before = await head(browser, url)
    assert before.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in before.headers
    await patch(browser, url, 0, TEXT[:70])
    assert (await patch(browser, url, 70, TEXT[70:100], Upload_Length=str(len(TEXT)))).code == 204
    after = await head(browser, url)
    assert after.headers["Upload-Length"] == str(len(TEXT))
    assert "Upload-Defer-Length" not in after.headers
    assert (await patch(browser, url, 100, TEXT[100:], Upload_Length="5")).code == 409
    assert (await patch(browser, url, 100, TEXT[100:])).code == 204
    assert await stored(browser) == TEXT


async def test_metadata_comes_back_as_it_was_given(browser):
    given = f"{PLACE},is_confidential,note {base64.b64encode(bytes([255, 0])).decode()},empty "
    url = await created(browser, place=given)
    assert (await head(browser, url)).headers["Upload-Metadata"] == given.strip()


@pytest.mark.parametrize(
    "place",
    [
        "path !!!",
        f"{PLACE},{PLACE}",
        f"{PLACE},,",
        "",
        encoded(filename="x"),
        encoded(path="site_temp/"),
        encoded(path=""),
    ],
)
async def test_metadata_that_does_not_do_is_400(browser, place):
    assert (await create(browser, place=place)).code == 400


async def test_a_folder_gets_the_name_of_the_file(browser):
    url = await created(browser, place=encoded(path="site_temp/sub/", filename="C:/a/hits.npz"))
    await patch(browser, url, 0, TEXT)
    assert await stored(browser, "site_temp/sub/hits.npz") == TEXT


@pytest.mark.parametrize("path", ["../x", "site_temp/../../x", "nowhere/x", "site_temp/\0", "site_temp//x"])
async def test_odd_places_are_refused(browser, path):
    assert (await create(browser, place=encoded(path=path))).code in (404, 422)


# Creation with upload


async def test_creation_may_bring_the_first_part(browser):
    answer = await create(browser, body=TEXT[:70], Content_Type=tus_headers.BODY_TYPE)
    assert (answer.code, answer.headers["Upload-Offset"]) == (201, "70")
    assert (await patch(browser, answer.headers["Location"], 70, TEXT[70:])).code == 204
    assert await stored(browser) == TEXT


async def test_creation_may_bring_all_of_it(browser):
    answer = await create(browser, body=TEXT, Content_Type=tus_headers.BODY_TYPE)
    assert (answer.code, answer.headers["Upload-Offset"]) == (201, str(len(TEXT)))
    assert await stored(browser) == TEXT


@pytest.mark.parametrize("length", [0, 4])
async def test_creation_with_more_than_the_length_is_413_and_creates_nothing(browser, length):
    answer = await create(browser, length, body=b"12345", Content_Type=tus_headers.BODY_TYPE)
    assert answer.code == 413
    assert (await browser.rpc("upload.list"))["result"]["items"] == []
    assert await stored(browser) is None


async def test_creation_with_a_body_of_another_type_is_415(browser):
    assert (await create(browser, body=TEXT, Content_Type="text/plain")).code == 415


# Expiration


async def test_how_long_it_lasts_is_told(web, browser):
    answer = await create(browser)
    lasts_s = web.context.settings.files.uploads.expire_s
    for each in (
        answer,
        await head(browser, answer.headers["Location"]),
        await patch(browser, answer.headers["Location"], 0, TEXT[:5]),
    ):
        told = parsedate_to_datetime(each.headers["Upload-Expires"]).timestamp()
        assert told == int(web.site.clock() + lasts_s)


async def test_an_upload_that_expired_is_gone(web, browser):
    url = await created(browser)
    web.site.advance(web.context.settings.files.uploads.expire_s)
    assert (await patch(browser, url, 0, TEXT)).code == 410
    await web.site.services.uploads.keeper.look_after()
    answer = await head(browser, url)
    assert answer.code == 410
    assert "Upload-Offset" not in answer.headers


# Checksum


@pytest.mark.parametrize("algorithm", CHECKSUMS)
async def test_checksums_are_checked_and_what_is_wrong_is_discarded(browser, algorithm):
    def checksum(data):
        digest = hashlib.new(algorithm, data).digest()
        return f"{algorithm} {base64.b64encode(digest).decode()}"

    url = await created(browser)
    wrong = await patch(browser, url, 0, TEXT[:70], Upload_Checksum=checksum(b"other"))
    assert (wrong.code, wrong.reason) == (460, "Checksum Mismatch")
    assert (await head(browser, url)).headers["Upload-Offset"] == "0"
    right = await patch(browser, url, 0, TEXT[:70], Upload_Checksum=checksum(TEXT[:70]))
    assert (right.code, right.headers["Upload-Offset"]) == (204, "70")


@pytest.mark.parametrize("value", ["crc32 AAAAAA==", "sha1", "sha1 !", "sha1 AAAA", "SHA1 AAAA"])
async def test_a_checksum_that_nothing_computes_is_400(browser, value):
    url = await created(browser)
    assert (await patch(browser, url, 0, TEXT, Upload_Checksum=value)).code == 400
    assert (await head(browser, url)).headers["Upload-Offset"] == "0"


async def test_a_wrong_checksum_with_creation_creates_an_empty_upload_at_most(browser):
    wrong = f"sha1 {base64.b64encode(hashlib.sha1(b'').digest()).decode()}"
    answer = await create(browser, body=TEXT, Content_Type=tus_headers.BODY_TYPE, Upload_Checksum=wrong)
    assert answer.code == 460
    assert await stored(browser) is None


async def test_the_whole_file_is_checked_by_the_metadata(browser):
    wrong = encoded(path="site_temp/x", sha256=hashlib.sha256(b"other").hexdigest())
    url = await created(browser, place=wrong)
    assert (await patch(browser, url, 0, TEXT)).code == 422
    assert await stored(browser) is None
    assert (await head(browser, url)).code == 410
    right = encoded(path="site_temp/x", sha256=hashlib.sha256(TEXT).hexdigest())
    url = await created(browser, place=right)
    assert (await patch(browser, url, 0, TEXT)).code == 204
    assert await stored(browser) == TEXT


# Termination


async def test_termination_is_204_and_then_there_is_nothing(browser):
    url = await created(browser)
    await patch(browser, url, 0, TEXT[:70])
    answer = await browser.send("DELETE", url, headers=VERSION)
    assert (answer.code, answer.headers["Tus-Resumable"]) == (204, "1.0.0")
    for method in ("HEAD", "DELETE"):
        assert (await browser.send(method, url, headers=VERSION)).code == 404


async def test_a_complete_upload_can_be_terminated_and_its_file_stays(browser):
    url = await created(browser)
    await patch(browser, url, 0, TEXT)
    assert (await browser.send("DELETE", url, headers=VERSION)).code == 204
    assert await stored(browser) == TEXT


# Concatenation


async def parts(browser, *texts):
    urls = []
    for text in texts:
        urls.append(await created(browser, len(text), place="", Upload_Concat="partial"))
        await patch(browser, urls[-1], 0, text)
    return urls


async def test_parts_become_a_file(browser):
    urls = await parts(browser, b"hello", b" world")
    partial = await head(browser, urls[0])
    assert (partial.headers["Upload-Concat"], partial.headers["Upload-Offset"]) == ("partial", "5")
    assert await stored(browser) is None

    concat = f"final;{urls[0]} http://site.example{urls[1]}"
    answer = await create(browser, None, Upload_Concat=concat)

    assert answer.code == 201
    final = await head(browser, answer.headers["Location"])
    assert final.headers["Upload-Concat"] == concat
    assert final.headers["Upload-Length"] == final.headers["Upload-Offset"] == "11"
    assert await stored(browser) == b"hello world"
    assert (await patch(browser, answer.headers["Location"], 11, b"x")).code == 403
    assert await stored(browser) == b"hello world"


async def test_a_final_upload_has_no_length_and_no_body_of_its_own(browser):
    (url,) = await parts(browser, b"hello")
    final = f"final;{url}"
    assert (await create(browser, 5, Upload_Concat=final)).code == 400
    assert (await create(browser, None, Upload_Concat=final, Upload_Defer_Length="1")).code == 400
    kind = tus_headers.BODY_TYPE
    assert (await create(browser, None, Upload_Concat=final, body=b"x", Content_Type=kind)).code == 400


@pytest.mark.parametrize("concat", ["final", "final;", "final;/elsewhere/x", "partial;/tus/x", "whole"])
async def test_a_concatenation_that_makes_no_sense_is_400(browser, concat):
    assert (await create(browser, None, Upload_Concat=concat)).code == 400


async def test_unfinished_parts_are_not_joined(browser):
    url = await created(browser, 5, place="", Upload_Concat="partial")
    assert "concatenation-unfinished" not in tus_headers.EXTENSIONS
    assert (await create(browser, None, Upload_Concat=f"final;{url}")).code == 409


# Who may, and what happens on the way


async def test_who_may_not_is_refused(web, browser):
    await web.account("alice")
    alice = web.browser(await web.token(ALICE))
    url = await created(browser)
    assert (await create(alice)).code == 403
    assert (await create(web.browser())).code == 401
    for method in ("HEAD", "PATCH", "DELETE"):
        answer = await alice.send(
            method,
            url,
            headers={**BODY, "Upload-Offset": "0"},
            body=b"x" if method == "PATCH" else None,
        )
        assert answer.code == 404
    assert (await head(web.browser("iu_wrong"), url)).code == 401


async def test_a_task_uploads_what_it_made(web):
    dataset = await web.site.submit(task("only"), njobs=1)
    pilot = await web.site.pilot()
    held = await web.site.one(pilot)
    principal = Principal(PrincipalKind.TASK, held.task_id, lease_id=held.lease_id)
    token = web.site.services.accounts.make_task_token(held.task_id, held.lease_id)
    browser = web.browser(token)
    path = f"job_temp/{dataset.dataset_id}/0/out"
    url = await created(browser, place=encoded(path=path))
    await patch(browser, url, 0, TEXT[:70])
    await web.site.finish(pilot, held)
    assert (await patch(browser, url, 70, TEXT[70:])).code == 409
    assert principal.lease_id == held.lease_id


async def test_a_page_proves_that_it_is_ours(web):
    page = await web.signed_in("root", roles=("admin",))
    refused = await create(page)
    assert refused.code == 403
    html = (await page.get("/datasets")).body.decode()
    token = html.split('name="xsrf" content="')[1].split('"')[0]
    assert (await create(page, X_Xsrftoken=token)).code == 201


async def connected(web, lines, body=b""):
    """A request whose body is not complete."""
    host, port = web.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write("\r\n".join([*lines, f"Host: {host}", "", ""]).encode() + body)
    await writer.drain()
    return reader, writer


def patching(web, browser, url, offset, length):
    return [
        f"PATCH {url} HTTP/1.1",
        f"Authorization: Bearer {browser.token}",
        "Tus-Resumable: 1.0.0",
        f"Content-Type: {tus_headers.BODY_TYPE}",
        f"Upload-Offset: {offset}",
        length,
    ]


async def until_offset(browser, url, offset):
    for _ in range(2000):
        if (await head(browser, url)).headers.get("Upload-Offset") == str(offset):
            return
        await asyncio.sleep(0.01)
    raise AssertionError((await head(browser, url)).headers.get("Upload-Offset"))


async def test_what_came_before_a_broken_connection_is_kept(web, browser):
    url = await created(browser)
    lines = patching(web, browser, url, 0, f"Content-Length: {len(TEXT)}")
    _reader, writer = await connected(web, lines, TEXT[:5000])
    writer.close()
    await writer.wait_closed()
    await until_offset(browser, url, 5000)
    assert (await patch(browser, url, 5000, TEXT[5000:])).code == 204
    assert await stored(browser) == TEXT


async def test_a_second_writer_is_locked_out_and_not_the_first(web, browser, monkeypatch):
    url = await created(browser)
    uploads, has_hold = web.site.services.uploads.service, asyncio.Event()
    hold = uploads.hold

    async def noted(upload_id: str) -> Held:
        held = await hold(upload_id)
        has_hold.set()
        return held

    monkeypatch.setattr(uploads, "hold", noted)
    lines = patching(web, browser, url, 0, f"Content-Length: {len(TEXT)}")
    reader, writer = await connected(web, lines, TEXT[:5000])
    await asyncio.wait_for(has_hold.wait(), 60)
    assert (await patch(browser, url, 0, TEXT)).code == 423
    assert (await browser.send("DELETE", url, headers=VERSION)).code == 423
    writer.write(TEXT[5000:])
    assert b" 204 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert await stored(browser) == TEXT


async def test_a_connection_that_sends_nothing_is_given_up(web, browser, monkeypatch):
    monkeypatch.setattr(receiving, "STALL_S", 0.2)
    url = await created(browser)
    lines = patching(web, browser, url, 0, f"Content-Length: {len(TEXT)}")
    reader, writer = await connected(web, lines, TEXT[:5000])
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await until_offset(browser, url, 5000)


async def test_a_body_of_unknown_length_in_pieces_of_one_byte(web, browser):
    text = TEXT[:300]
    url = await created(browser, len(text))
    lines = patching(web, browser, url, 0, "Transfer-Encoding: chunked")
    body = b"".join(b"1\r\n" + text[i : i + 1] + b"\r\n" for i in range(len(text)))
    reader, writer = await connected(web, lines, body + b"0\r\n\r\n")
    assert b" 204 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert await stored(browser) == text


async def test_a_body_of_unknown_length_that_is_too_long(web, browser):
    url = await created(browser, 10)
    lines = patching(web, browser, url, 0, "Transfer-Encoding: chunked")
    reader, writer = await connected(web, lines, b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n")
    assert b" 413 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert (await head(browser, url)).headers["Upload-Offset"] == "0"


async def test_refusals_come_before_the_body(web, browser):
    url = await created(browser)
    stranger = web.browser()
    for who, offset, status in ((stranger, 0, b" 401 "), (browser, 7, b" 409 ")):
        lines = patching(web, who, url, offset, f"Content-Length: {len(TEXT)}")
        reader, writer = await connected(web, lines)
        assert status in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_one_byte_at_a_time(browser):
    url = await created(browser, 20)
    for offset in range(20):
        answer = await patch(browser, url, offset, TEXT[offset : offset + 1])
        assert answer.headers["Upload-Offset"] == str(offset + 1)
    assert await stored(browser) == TEXT[:20]


async def test_an_upload_shows_itself_as_json(browser):
    url = await created(browser)
    answer = await browser.get(url)
    assert json.loads(answer.body)["stage"] == Stage.OPEN


async def test_uploads_are_listed_and_cancelled_by_rpc(web, browser):
    await web.account("alice")
    alice = web.browser(await web.token(ALICE))
    url = await created(browser)
    await patch(browser, url, 0, TEXT[:70])
    upload_id = url.rpartition("/")[2]

    (listed,) = (await browser.rpc("upload.list"))["result"]["items"]
    got = (await browser.rpc("upload.get", upload_id=upload_id))["result"]

    assert listed == got
    assert (got["offset"], got["length"], got["stage"]) == (70, len(TEXT), "open")
    assert (await alice.rpc("upload.list"))["result"]["items"] == []
    for method in ("upload.get", "upload.cancel"):
        refused = await alice.rpc(method, upload_id=upload_id)
        assert refused["error"]["data"]["code"] == "not_found"
    assert "error" not in await browser.rpc("upload.cancel", upload_id=upload_id)
    assert (await browser.rpc("upload.list"))["result"]["items"] == []


async def test_a_quota_is_kept_before_the_body_comes(web_with):
    web = await web_with(files={"quotas": {"user_bytes": 1000}})
    await web.account("root", roles=("admin",))
    browser = web.browser(await web.token(ADMIN))
    over = await create(browser, 1001)
    assert (over.code, json.loads(over.body)["error"]["code"]) == (403, "quota_exceeded")
    first = await created(browser, 900)
    assert (await create(browser, 101)).code == 403  # what was announced counts
    open_end = await created(browser, None, Upload_Defer_Length="1")
    lines = patching(web, browser, open_end, 0, "Content-Length: 101")
    reader, writer = await connected(web, lines)
    assert b" 403 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert (await patch(browser, first, 0, TEXT[:900])).code == 204
    assert (await create(browser, 101)).code == 403  # and so does what is there
    assert (await create(browser, 100)).code == 201


async def test_bytes_are_accounted_to_whose_they_are(web, browser):
    url = await created(browser)
    await patch(browser, url, 0, TEXT)
    (ended,) = web.site.services.transfers.ended()
    assert (ended.flow.user, ended.flow.service, ended.moved_bytes) == ("root", "upload", len(TEXT))


# The whole file's checksum, told with the last part


def digest_header(data):
    return f"sha-256={base64.b64encode(hashlib.sha256(data).digest()).decode()}"


async def test_the_last_part_may_tell_the_digest_of_all(browser):
    right, wrong = await created(browser), await created(browser, place=encoded(path="site_temp/wrong"))
    for url in (right, wrong):
        await patch(browser, url, 0, TEXT[:1000])

    good = await patch(browser, right, 1000, TEXT[1000:], Digest=digest_header(TEXT))
    bad = await patch(browser, wrong, 1000, TEXT[1000:], Digest=digest_header(b"something else"))

    assert (good.code, bad.code) == (204, 422)
    assert await stored(browser) == TEXT
    assert await stored(browser, "site_temp/wrong") is None


async def test_a_digest_that_differs_from_what_was_announced_is_refused_before_anything_is_written(browser):
    place = encoded(path="site_temp/x", sha256=hashlib.sha256(TEXT).hexdigest())
    url = await created(browser, place=place)

    refused = await patch(browser, url, 0, TEXT, Digest=digest_header(b"something else"))
    odd = await patch(browser, url, 0, TEXT, Digest="sha-256=AAAA")
    same = await patch(browser, url, 0, TEXT, Digest=digest_header(TEXT))

    assert (refused.code, odd.code, same.code) == (422, 422, 204)
