"""A secret on its way: put in by RPC, shown to its origin alone, and to nobody who reads through the site."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from http_origin import RawClient
from site_harness import ADMIN, ALICE, BOB
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler
from web_harness import Web, open_web

TEXT = b"for those who know the token"


class Guarded(RequestHandler):
    """An origin that asks for a token, and a place beside it that notes what it is shown."""

    shown: list[tuple[str, str]]

    def initialize(self, shown: list[tuple[str, str]]) -> None:
        self.shown = shown

    def get(self, name: str) -> None:
        shown = self.request.headers.get("Authorization", "")
        self.shown.append((name, shown))
        if name.startswith("d/") and shown not in ("Bearer alices", "Bearer sites", "Bearer renewed"):
            self.set_status(401)
            return
        self.write(TEXT)

    head = get

    def post(self, _name: str) -> None:
        self.shown.append(("token", self.get_body_argument("refresh_token")))
        self.write({"access_token": "renewed", "expires_in": 3600})


@pytest.fixture
async def shown() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def origin(shown: list[tuple[str, str]]) -> AsyncIterator[str]:
    bound, port = bind_unused_port()
    server = HTTPServer(Application([("/(.*)", Guarded, {"shown": shown})]))
    server.add_socket(bound)
    yield f"http://127.0.0.1:{port}"
    server.stop()
    await server.close_all_connections()


@pytest.fixture
async def web(tmp_path: Path, origin: str) -> AsyncIterator[Web]:
    origins = {
        "far": {"url": f"{origin}/d", "private": True, "token_endpoint": f"{origin}/token"},
        "open": {"url": f"{origin}/open", "private": True},
    }
    async with open_web(tmp_path, files={"origins": origins}) as made:
        for name in ("alice", "bob"):
            await made.account(name)
        yield made


async def put(web: Web, caller: Any = ALICE, user: str | None = None, **given: Any) -> None:
    params = {"origin": "far", "kind": "token", **given, **({} if user is None else {"user": user})}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "credential.put", "params": params}).encode()
    answer = json.loads(await web.context.dispatcher.handle(body, principal=caller) or b"")
    assert "error" not in answer, answer


async def read(web: Web, who: Any, url: str) -> tuple[int, bytes]:
    async with RawClient(web.url, await web.token(who)) as client:
        answer = await client.get(f"/proxy?url={quote(url, safe='')}")
        return answer.status, answer.body


@pytest.mark.expects_logs
async def test_a_secret_opens_its_origin_for_its_user_alone(web: Web, origin: str, shown: list[Any]):
    await put(web, secret="alices")

    assert await read(web, ALICE, f"{origin}/d/a") == (200, TEXT)
    assert (await read(web, BOB, f"{origin}/d/a"))[0] == 403
    assert await read(web, ALICE, f"{origin}/open/a") == (200, TEXT)

    assert ("d/a", "Bearer alices") in shown
    assert [what for name, what in shown if name == "open/a" and what] == []
    await put(web, ADMIN, "", secret="sites")
    assert await read(web, BOB, f"{origin}/d/a") == (200, TEXT)
    assert ("d/a", "Bearer sites") in shown


async def test_a_token_is_renewed_while_it_is_used(web: Web, origin: str, shown: list[Any]):
    await put(web, secret="", refresh_token="r1", client_id="me")

    assert await read(web, ALICE, f"{origin}/d/b") == (200, TEXT)

    assert ("token", "r1") in shown
    assert ("d/b", "Bearer renewed") in shown
    assert all(what in ("", "r1", "Bearer renewed") for _, what in shown)
