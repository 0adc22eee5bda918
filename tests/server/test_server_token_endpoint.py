"""Asking for tokens over HTTP, of a server that answers in every way."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from iceprod.errors import Unavailable
from iceprod.server.token_endpoint import HttpTokenEndpoint
from iceprod.services.ca import CertificateUse, SiteCA

seen: list[tuple[str, dict[str, str], str]] = []


class Token(RequestHandler):
    """An authorization server."""

    def post(self, how: str) -> None:
        form = {name: self.get_body_argument(name) for name in self.request.body_arguments}
        seen.append((how, form, self.request.headers.get("Authorization", "")))
        if how == "moved":
            self.redirect("/token", status=307)
        elif how == "large":
            self.write("x" * 1_000_000)
        elif how == "refused":
            self.set_status(400)
            self.write({"error": "invalid_grant"})
        else:
            self.write({"access_token": "new"})


@pytest.fixture
async def url() -> AsyncIterator[str]:
    bound, port = bind_unused_port()
    server = HTTPServer(Application([("/(.*)", Token)]))
    server.add_socket(bound)
    seen.clear()
    yield f"http://127.0.0.1:{port}"
    server.stop()


FORM = {"grant_type": "refresh_token", "refresh_token": "r&1=µ"}


@pytest.mark.expects_logs
async def test_a_form_is_posted_and_the_answer_told(url: str):
    endpoint = HttpTokenEndpoint()

    status, body = await endpoint.ask(f"{url}/token", FORM, client=("me:", "p w"), ca_path=None)

    assert (status, body) == (200, b'{"access_token": "new"}')
    pair = base64.b64encode(b"me%3A:p+w").decode()
    assert seen == [("token", FORM, f"Basic {pair}")]
    assert (await endpoint.ask(f"{url}/refused", FORM, client=None, ca_path=None))[0] == 400
    assert seen[-1][2] == ""


async def test_no_redirect_is_followed(url: str):
    status, _ = await HttpTokenEndpoint().ask(f"{url}/moved", FORM, client=None, ca_path=None)

    assert status == 307
    assert [how for how, _, _ in seen] == ["moved"]


@pytest.mark.expects_logs
async def test_what_is_no_answer_is_told_without_the_secret(url: str):
    endpoint = HttpTokenEndpoint(timeout_s=2.0)  # who speaks no TLS waits for the end of a line
    bound, port = bind_unused_port()
    bound.close()
    for address in (f"{url}/large", f"http://127.0.0.1:{port}/token", f"https{url[4:]}/token"):
        with pytest.raises(Unavailable) as told:
            await endpoint.ask(address, FORM, client=("me", "mine"), ca_path=None)
        assert "r&1" not in str(told.value)
        assert "mine" not in str(told.value)


@pytest.mark.expects_logs
async def test_the_authority_of_the_settings_is_believed(tmp_path: Path):

    ca = SiteCA.create(tmp_path / "ca")
    ca.issue("server", use=CertificateUse.SERVER, hosts=["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    use = CertificateUse.SERVER
    context.load_cert_chain(ca.certificate_of("server", use), ca.key_of("server", use))
    bound, port = bind_unused_port()
    server = HTTPServer(Application([("/(.*)", Token)]), ssl_options=context)
    server.add_socket(bound)
    address, endpoint = f"https://127.0.0.1:{port}/token", HttpTokenEndpoint()

    status, _ = await endpoint.ask(address, FORM, client=None, ca_path=str(ca.certificate))
    with pytest.raises(Unavailable):
        await endpoint.ask(address, FORM, client=None, ca_path=None)
    server.stop()

    assert status == 200
