"""What clients may not do: too much, too large, too slow; and what they are told then."""

from __future__ import annotations

import json
import time

import pycurl
import pytest

from iceprod.server.security import HEADERS
from tests.nginx_harness import needs_nginx, until

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

OURS = {name.lower(): value for name, value in HEADERS.items() if name != "Server"}
UNHURRIED_S = 60.0


def raw(echo, data: bytes) -> bytes:
    """All that comes back until the connection ends."""
    with echo.connect() as connection:
        connection.sendall(data)
        return rest(connection)


def rest(connection) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def test_one_address_may_ask_only_so_often(echo_with, upstream):
    front = echo_with(rate=1, burst=3)
    upstream.seen.clear()
    curl = pycurl.Curl()

    answers = [front.ask("/often", curl=curl) for _ in range(12)]

    passed = [each for each in answers if each.status == 200]
    refused = [each for each in answers if each.status == 429]
    # One at once and three more; a slow machine may earn a further one or two meanwhile.
    assert 4 <= len(passed) <= 6
    assert len(passed) + len(refused) == 12
    assert len(upstream.requests("/often")) == len(passed)
    assert refused[0].json["error"]["code"] == "rate_limited"
    assert refused[0].headers["retry-after"] == "1"


def test_style_sheets_do_not_count(echo_with):
    front = echo_with(rate=1, burst=1)
    build = next((front.directory / "static").iterdir()).name
    curl = pycurl.Curl()

    answers = [front.ask(f"/static/{build}/css/site.css", curl=curl) for _ in range(5)]

    assert {each.status for each in answers} == {200}


def test_one_address_may_hold_only_so_many_requests(echo_with, upstream):
    front = echo_with(connections_per_address=2)
    waiting = [front.connect() for _ in range(2)]
    try:
        for connection in waiting:
            # The head is complete, so it counts; the body does not come.
            connection.sendall(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        answer = until(lambda: found if (found := front.ask("/third")).status != 200 else None)
        assert (answer.status, answer.json["error"]["code"]) == (429, "rate_limited")
    finally:
        for connection in waiting:
            connection.close()
    assert until(lambda: front.ask("/third").status == 200)


@pytest.mark.parametrize(("path", "limit"), [("/sign-in", 100_000), ("/jsonrpc", 50_000)])
def test_a_body_that_is_too_long_is_refused_before_it_is_read(echo, upstream, path, limit):
    upstream.seen.clear()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {limit + 1}\r\n\r\n"

    with echo.connect() as connection:
        connection.sendall(head.encode())
        # Not a byte of the body was sent when the answer comes.
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert not upstream.seen
    exact = echo.ask(path, method="POST", body=b"x" * limit)
    assert (exact.status, len(upstream.seen[-1].body)) == (200, limit)


def test_a_body_without_a_length_is_cut_off_as_well(echo, upstream):
    upstream.seen.clear()
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    head = b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    with echo.connect() as connection:
        connection.sendall(head + chunk * 6)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert not upstream.seen


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /slow HTTP/1.1\r\nHost: x\r\n",
        b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    ],
)
def test_a_client_that_dawdles_is_cut_off_and_the_server_never_hears_of_it(echo, upstream, begun):
    began = time.monotonic()
    answer = raw(echo, begun)

    assert time.monotonic() - began < UNHURRIED_S
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    assert not upstream.requests("/slow")


def test_a_slow_body_holds_no_connection_of_the_server(echo, upstream):
    before = len(upstream.seen)
    with echo.connect() as connection:
        connection.sendall(
            b"POST /dripped HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        )
        for byte in (b"a", b"b"):
            connection.sendall(byte)
            assert len(upstream.seen) == before
        connection.sendall(b"c")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")
    assert upstream.requests("/dripped")[-1].body == b"abc"


ERRORS = {
    "not_found": (b"GET /_files/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "too_large": (b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n", 413),
    "invalid_input": (b"GET / HTTP/1.1\r\n\r\n", 400),
}


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_errors_of_nginx_look_like_those_of_the_server(echo, code):
    request, status = ERRORS[code]

    head, _, body = raw(echo, request).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])

    assert lines[0].split()[1] == str(status)
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "detail", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == headers["x-request-id"]
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "nginx"
    assert headers["strict-transport-security"]
    assert {name: headers.get(name) for name in OURS} == {name: value.lower() for name, value in OURS.items()}


@pytest.mark.parametrize(
    "head", [b"X: " + b"x" * 70_000, b"\r\n".join(b"X%d: " % n + b"x" * 9000 for n in range(9))]
)
def test_a_head_that_is_too_long_is_refused(echo, head):
    answer = raw(echo, b"GET / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    assert answer.split(b" ")[1] == b"431"
    assert b"too long" in answer


def test_a_server_that_is_away_is_told_with_when_to_come_again(authority, tmp_path):
    from tests.nginx_harness import Front, free_port, front_settings  # noqa: PLC0415

    nginx = {"upstreams": (f"127.0.0.1:{free_port()}",)}
    with Front(front_settings(tmp_path, authority, nginx=nginx), authority) as front:
        for path, method in (("/", "GET"), ("/jsonrpc", "POST"), ("/files/site_temp/x", "PUT")):
            answer = front.ask(path, method=method, body=b"x" if method != "GET" else None)
            assert answer.status in (502, 503), path
            assert answer.json["error"]["code"] == "unavailable"
            assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "path",
    [
        "/_files/job_temp/x",
        "/_fetch",
        "/_nginx/may-upload",
        "/_error",
        "/_error/certificate",
        "//_fetch",
        "/x/../_fetch",
        "/%5ffetch",
        "/_files/../_fetch",
    ],
)
def test_what_only_nginx_itself_may_ask_is_not_there_for_others(echo, upstream, path):
    before = len(upstream.seen)
    for method in ("GET", "POST", "HEAD"):
        answer = echo.ask(path, method=method, body=b"x" if method == "POST" else None)
        assert answer.status == 404, method
    assert len(upstream.seen) == before
