"""A site with its web application on a free port, and browsers to visit it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from site_harness import ADMIN, Site, open_site
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from iceprod.model.principal import Principal
from iceprod.server.app import make_application
from iceprod.server.context import ProcessContext
from iceprod.server.process import make_context

PASSWORD = "correct horse battery"


@dataclass
class Browser:
    """Keeps cookies and follows nothing by itself; ``token`` is sent as a bearer."""

    url: str
    token: str = ""
    cookies: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        **more: Any,
    ) -> HTTPResponse:
        """One request; errors are answers too."""
        sent = dict(headers or {})
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        request = HTTPRequest(
            path if "://" in path else self.url + path,
            method=method,
            headers=sent,
            body=body,
            follow_redirects=False,
            allow_nonstandard_methods=True,
            request_timeout=60,
            **more,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        for line in answer.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel.value:
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)
        return answer

    async def get(self, path: str, **more: Any) -> HTTPResponse:
        """A page."""
        return await self.send("GET", path, **more)

    async def text(self, path: str) -> str:
        """A page's HTML, which there must be."""
        answer = await self.get(path)
        assert answer.code == 200, (path, answer.code, answer.body)
        return answer.body.decode()

    async def post(self, path: str, /, *, via: str = "/sign-in", **fields: str) -> HTTPResponse:
        """Send a form as the page ``via`` would."""
        page = (await self.get(via)).body.decode()
        found = re.search(r'name="(?:_xsrf|xsrf)" (?:value|content)="([^"]+)"', page)
        form = {"_xsrf": found[1] if found else "", **fields}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.send("POST", path, headers=kind, body=urlencode(form))

    async def rpc(self, method: str, **params: Any) -> dict[str, Any]:
        """One RPC call; the whole answer."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        kind = {"Content-Type": "application/json"}
        answer = await self.send("POST", "/jsonrpc", headers=kind, body=json.dumps(message))
        return dict(json.loads(answer.body))


@dataclass
class Web:
    """A site and the application in front of it."""

    site: Site
    context: ProcessContext
    url: str

    def browser(self, token: str = "") -> Browser:
        """Somebody who is not signed in."""
        return Browser(self.url, token)

    async def account(
        self, name: str, *, roles: tuple[str, ...] = (), groups: tuple[str, ...] = ("users",)
    ) -> None:
        """A new account."""
        await self.site.services.accounts.create_user(ADMIN, name, PASSWORD, roles=roles, groups=groups)

    async def signed_in(self, name: str, **account: Any) -> Browser:
        """A new account and its browser."""
        await self.account(name, **account)
        browser = self.browser()
        answer = await browser.post("/sign-in", name=name, password=PASSWORD)
        assert answer.code == 303, answer.body
        return browser

    async def token(self, principal: Principal) -> str:
        """An API token."""
        return (await self.site.services.accounts.create_token(principal)).secret


@asynccontextmanager
async def open_web(folder: Path, **sections: Any) -> AsyncIterator[Web]:
    """A site and its application, not drained when it ends."""
    async with open_site(folder, **sections) as site:
        await site.services.files.open()
        await site.services.uploads.service.open()
        await site.services.proxying.cache.open()
        context = make_context(site.store, site.settings, services=site.services)
        server = HTTPServer(make_application(context))
        socket, port = bind_unused_port()
        server.add_socket(socket)
        url = f"http://127.0.0.1:{port}"
        site.services.addresses.url = site.services.addresses.rpc_url = url
        try:
            yield Web(site, context, url)
        finally:
            context.live.close()
            server.stop()
            await server.close_all_connections()
            await context.supervisor.stop()
            await site.services.proxying.cache.close()
            await site.services.origins.close()
