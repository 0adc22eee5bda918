"""What a proxy in front tells of client certificates, and what nobody else may tell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from site_harness import ADMIN, ALICE
from web_harness import Browser, Web

from iceprod.model.principal import PrincipalKind
from iceprod.server.fastlane import FastLane
from iceprod.services.certificates import certificate_id

SUBJECT, ISSUER = "CN=Zo\\C3\\AB,O=Grid\\, Inc.", "CN=CA,O=Grid"
TOLD = {"X-SSL-Verify": "SUCCESS", "X-SSL-Subject-DN": SUBJECT, "X-SSL-Issuer-DN": ISSUER}
KIND = {"Content-Type": "application/json"}
Make = Callable[..., Awaitable[Web]]
LIST = {"jsonrpc": "2.0", "id": 1, "method": "certificate.list", "params": {}}


@pytest.fixture
async def proxied(web_with: Make, tmp_path: Path) -> Web:
    """A site behind a proxy."""
    return await web_with(server={"proxied": True, "data_dir": tmp_path})


async def mapped(web: Web, name: str = "alice", kind: PrincipalKind = PrincipalKind.USER) -> str:
    if kind is PrincipalKind.USER:
        await web.account(name)
    made = await web.site.services.certificates.add(
        ADMIN, kind=kind, name=name, subject=SUBJECT, issuer=ISSUER
    )
    return certificate_id(made)


async def rpc(
    browser: Browser, headers: Mapping[str, str], message: Mapping[str, Any] = LIST
) -> dict[str, Any]:
    answer = await browser.send("POST", "/jsonrpc", headers={**KIND, **headers}, body=json.dumps(message))
    assert answer.code == 200, answer.body
    return dict(json.loads(answer.body))


@asynccontextmanager
async def lane(web: Web, *, is_proxied: bool = True) -> AsyncIterator[Browser]:
    """The fast lane of a site."""
    opened = FastLane(
        web.context.dispatcher, is_proxied=is_proxied, holder=web.site.services.certificates.holder
    )
    port = await opened.start("127.0.0.1", 0)
    try:
        yield Browser(f"http://127.0.0.1:{port}")
    finally:
        await opened.drain(timeout_s=5)


def slug(answer: Mapping[str, Any]) -> str:
    return str(answer["error"]["data"]["code"]) if "error" in answer else "done"


@asynccontextmanager
async def either(web: Web, port: str) -> AsyncIterator[Browser]:
    if port == "general":
        yield web.browser()
    else:
        async with lane(web, is_proxied=web.context.settings.server.proxied) as browser:
            yield browser


ports = pytest.mark.parametrize("port", ["general", "lane"])


@ports
async def test_what_the_proxy_tells_counts(proxied: Web, port: str) -> None:
    await mapped(proxied)

    async with either(proxied, port) as browser:
        answers = [await rpc(browser, TOLD) for _ in range(3)]
        plain = await rpc(browser, {})

    assert [answer["result"]["items"][0]["name"] for answer in answers] == ["alice"] * 3
    assert slug(plain) == "not_authenticated"


@ports
async def test_without_a_proxy_the_headers_are_anybodys_word(web: Web, port: str) -> None:
    await mapped(web)

    async with either(web, port) as browser:
        answer = await rpc(browser, TOLD)

    assert slug(answer) == "not_authenticated"
    assert SUBJECT not in answer["error"]["message"]


@ports
@pytest.mark.parametrize(
    "change",
    [
        {"X-SSL-Verify": "NONE"},
        {"X-SSL-Verify": "FAILED:certificate has expired"},
        {"X-SSL-Verify": "success"},
        {"X-SSL-Verify": "SUCCESS,SUCCESS"},
        {"X-SSL-Verify": ""},
        {"X-SSL-Subject-DN": ""},
        {"X-SSL-Issuer-DN": ""},
        {"X-SSL-Issuer-DN": "CN=Other CA"},
        {"X-SSL-Subject-DN": "CN=Zoë,O=Grid\\, Inc."},
        {"X-SSL-Subject-DN": f"{SUBJECT},C=DE"},
        {"X-SSL-Subject-DN": SUBJECT.lower()},
    ],
)
@pytest.mark.expects_logs  # a name that cannot be read is told
async def test_anything_else_does_not(proxied: Web, port: str, change: dict[str, str]) -> None:
    await mapped(proxied)

    async with either(proxied, port) as browser:
        answer = await rpc(browser, {**TOLD, **change})

    assert slug(answer) == "not_authenticated"


@ports
async def test_a_certificate_that_is_nobodys_is_named(proxied: Web, port: str) -> None:
    async with either(proxied, port) as browser:
        answer = await rpc(browser, TOLD)

    assert slug(answer) == "not_authenticated"
    assert SUBJECT in answer["error"]["message"]


@ports
async def test_a_revoked_one_counts_no_more(proxied: Web, port: str) -> None:
    identifier = await mapped(proxied)

    async with either(proxied, port) as browser:
        before = await rpc(browser, TOLD)
        await proxied.site.services.certificates.revoke(ADMIN, identifier)
        after = await rpc(browser, TOLD)

    assert (slug(before), slug(after)) == ("done", "not_authenticated")


@ports
async def test_a_token_goes_before_a_certificate(proxied: Web, port: str) -> None:
    await mapped(proxied)
    await proxied.account("bob")
    pilot = await proxied.site.pilot()
    passkey = await proxied.site.services.accounts.issue_pilot_token(pilot.id)
    echo = {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"value": "e", "passkey": "ip_wrong"}}

    async with either(proxied, port) as browser:
        by_token = await rpc(browser, {**TOLD, "Authorization": f"Bearer {passkey}"})
        wrong_token = await rpc(browser, {**TOLD, "Authorization": "Bearer nonsense"})
        wrong_passkey = await rpc(browser, TOLD, echo)
        without = await rpc(browser, TOLD, {**echo, "params": {"value": "e"}})

    assert slug(by_token) == "access_denied"
    assert slug(wrong_token) == slug(wrong_passkey) == "not_authenticated"
    assert without["result"] == "e"


@ports
async def test_a_site_by_certificate_is_no_other_site(proxied: Web, port: str) -> None:
    await mapped(proxied, "child", PrincipalKind.SITE)
    echo = {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"value": "e", "site_id": "child"}}

    async with either(proxied, port) as browser:
        own = await rpc(browser, TOLD, echo)
        other = await rpc(browser, TOLD, {**echo, "params": {"value": "e", "site_id": "other"}})

    assert own["result"] == "e"
    assert slug(other) == "not_authenticated"


@ports
@pytest.mark.parametrize(
    ("headers", "counts"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "https://evil.example.org"}, False),
        ({"Origin": "null"}, False),
    ],
)
async def test_no_page_of_another_site_calls_by_a_browsers_certificate(
    proxied: Web, port: str, headers: dict[str, str], counts: bool
) -> None:
    await mapped(proxied)

    async with either(proxied, port) as browser:
        answer = await rpc(browser, {**TOLD, **headers})

    assert slug(answer) == ("done" if counts else "not_authenticated")


async def test_a_browser_with_a_certificate_sees_pages_and_sends_forms(proxied: Web) -> None:
    await mapped(proxied)
    dataset = await proxied.site.submit(owner=ALICE)
    own = {"Sec-Fetch-Site": "same-origin"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    browser = proxied.browser()
    path = f"/datasets/{dataset.dataset_id}/suspend"

    page = await browser.get(f"/datasets/{dataset.dataset_id}", headers=TOLD)
    foreign = await browser.send(
        "POST", path, headers={**TOLD, **form, "Sec-Fetch-Site": "cross-site"}, body=""
    )
    sent = await browser.send("POST", path, headers={**TOLD, **form, **own}, body="")

    assert page.code == 200
    assert foreign.code == 403
    assert sent.code in (200, 302, 303)
    assert (await proxied.site.dataset(dataset)).status == "suspended"


async def test_a_session_goes_before_a_certificate(proxied: Web) -> None:
    await mapped(proxied)
    browser = await proxied.signed_in("bob")

    page = await browser.get("/account", headers=TOLD)

    assert b"bob" in page.body
    assert b"alice" not in page.body


async def test_a_stranger_with_a_certificate_may_still_sign_in(proxied: Web) -> None:
    page = await proxied.browser().get("/account", headers=TOLD)
    sign_in = await proxied.browser().get("/sign-in", headers=TOLD)

    assert page.code in (302, 303)
    assert sign_in.code == 200


async def test_files_are_reached_by_certificate(proxied: Web) -> None:
    await mapped(proxied)
    dataset = await proxied.site.submit(owner=ALICE)
    path = f"/files/dataset_temp/{dataset.dataset_id}/a"
    browser = proxied.browser()

    missing = await browser.get(path, headers=TOLD)
    nobody = await browser.get(path)
    upload = await browser.send("PUT", path, headers=TOLD, body="x")
    by_nobody = await browser.send("PUT", path, body="x")
    asked = await browser.get(
        "/_nginx/may-upload", headers={**TOLD, "X-Original-URI": path, "X-Original-Length": "1"}
    )

    assert (missing.code, nobody.code) == (404, 401)
    assert (upload.code, by_nobody.code) == (403, 401)  # a user does not write there
    assert (asked.code, asked.headers["X-Refusal-Status"]) == (403, "403")
