"""Bodies of callers who may not send any: nginx keeps none of them."""

from __future__ import annotations

import os

import pytest

from tests.nginx_harness import needs_nginx, until

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

BODY = os.urandom(1_000_000)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/tus/../files/site_temp/x", {}),
        ("PUT", "/tus/%2e%2e/files/site_temp/x", {}),
        ("PUT", "/tus/..%2ffiles/site_temp/x", {}),
        ("POST", "/tus/../files/site_temp/x", {"X-HTTP-Method-Override": "GET"}),
        ("PUT", "/upload/../files/site_temp/x", {}),
        ("PUT", "//files/site_temp/x", {}),
        ("PUT", "/files/../tus/../files/site_temp/x", {}),
        ("PUT", "/tus/../upload/1/iup_x", {}),
    ],
)
def test_an_address_in_disguise_gets_no_body_stored(front, site, method, path, headers):
    folders = [site.folder / name / ".handed-over" for name in ("files", "uploads")]
    before = {each for folder in folders for each in folder.iterdir()}

    answer = front.ask(path, method=method, body=BODY, headers=headers, token="")

    assert 400 <= answer.status < 500, answer.body
    until(lambda: {each for folder in folders for each in folder.iterdir()} <= before, within_s=10)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/files/site_temp/x"),
        ("GET", "/files/site_temp/x"),
        ("PUT", "/tus/1"),
        ("DELETE", "/tus"),
        ("DELETE", "/upload/1/iup_x"),
    ],
)
def test_a_body_that_nobody_wants_is_not_waited_for(front, method, path):
    temp = front.directory / "temp" / "body"
    with front.connect() as connection:
        lines = (f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {39_000_000}", "", "")
        connection.sendall("\r\n".join(lines).encode() + BODY)
        connection.settimeout(20)
        answer = connection.recv(65536)

        # The server may have closed the connection before nginx has read what it said.
        assert answer.split(b" ")[1] in (b"400", b"401", b"405", b"413", b"502")
        assert not [path for path in temp.rglob("*") if path.is_file()]
