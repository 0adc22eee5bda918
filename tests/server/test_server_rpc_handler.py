"""``POST /jsonrpc`` through Tornado: the same answers as on the fast lane, and sessions."""

from __future__ import annotations

import asyncio

import pytest
from rpc_samples import (
    ALICE,
    ECHO,
    ECHOED,
    NOTIFICATION,
    SMUGGLING,
    Gates,
    call,
    converse,
    request,
    sample_dispatcher,
    statuses,
    until,
)
from tornado.web import Application

from iceprod.rpc.packing import pack
from iceprod.server import security
from iceprod.server.handlers.rpc import RpcHandler

BEARER = {"Authorization": "Bearer iu_alice"}


async def session_of(handler):
    return ALICE if handler.get_cookie("session") == "valid" else None


@pytest.fixture
def gates():
    return Gates()


@pytest.fixture
def app(gates):
    return Application(
        [("/jsonrpc", RpcHandler, {"dispatcher": sample_dispatcher(gates)})],
        authenticate_session=session_of,
        xsrf_cookies=True,
        cookie_secret="for tests",
    )


def post(http_client, base_url, body=ECHO, **headers):
    fields = {"Content-Type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    return http_client.fetch(
        f"{base_url}/jsonrpc", method="POST", body=body, headers=fields, raise_error=False
    )


@pytest.mark.gen_test
def test_handler_answers_a_call(http_client, base_url):
    response = yield post(http_client, base_url, **BEARER, Content_Type="application/json-rpc")

    assert (response.code, response.body) == (200, ECHOED)
    assert response.headers["Content-Type"] == "application/json"


@pytest.mark.gen_test
def test_handler_waits_for_a_method(http_client, base_url, gates):
    gates.gate("now").set()

    response = yield post(http_client, base_url, call("wait", name="now"), **BEARER)

    assert response.body.endswith(b'"result":"now","id":1}')


@pytest.mark.gen_test
def test_handler_has_nothing_to_say_to_a_notification(http_client, base_url):
    response = yield post(http_client, base_url, NOTIFICATION, **BEARER)

    assert (response.code, response.body) == (204, b"")


@pytest.mark.gen_test
def test_handler_reads_a_compressed_message(http_client, base_url):
    response = yield post(http_client, base_url, pack(ECHO), **BEARER, Content_Encoding="gzip")

    assert (response.code, response.body) == (200, ECHOED)


@pytest.mark.gen_test
def test_handler_answers_a_fault_with_200(http_client, base_url):
    response = yield post(http_client, base_url, b"nonsense")

    assert response.code == 200
    assert b"-32700" in response.body


@pytest.mark.expects_logs
@pytest.mark.gen_test
def test_handler_takes_no_forms(http_client, base_url):
    response = yield post(http_client, base_url, Content_Type="application/x-www-form-urlencoded")

    assert response.code == 415
    assert response.body == b"the body must be application/json\n"
    assert security.HEADERS.items() <= dict(response.headers).items()


@pytest.mark.expects_logs
@pytest.mark.gen_test
def test_handler_takes_a_session_only_with_the_header_against_forgery(http_client, base_url):
    token = "2|00000000|00000000000000000000000000000000|1700000000"
    cookie = f"session=valid; _xsrf={token}"

    without = yield post(http_client, base_url, Cookie=cookie)
    with_it = yield post(http_client, base_url, Cookie=cookie, X_Xsrftoken=token)

    assert (without.code, with_it.code, with_it.body) == (403, 200, ECHOED)


@pytest.mark.gen_test
def test_handler_takes_a_request_without_a_session_as_anonymous(http_client, base_url):
    response = yield post(http_client, base_url, Cookie="session=stale")

    assert response.code == 200
    assert b"-32001" in response.body


@pytest.mark.gen_test
def test_handler_ends_a_long_poll_with_its_client(http_server, http_port, gates):
    async def leave():
        _, writer = await asyncio.open_connection("127.0.0.1", http_port)
        writer.write(request(call("poll", name="poll")))
        await gates.started.get()
        writer.transport.abort()
        await until(lambda: bool(gates.ended))
        return gates.ended

    ended = yield asyncio.ensure_future(leave())

    assert ended == ["poll cancelled"]


@pytest.mark.expects_logs
@pytest.mark.gen_test
def test_handler_refuses_what_is_ambiguous_as_the_fast_lane_does(http_server, http_port):
    async def outcomes():
        return {
            name: statuses(await converse(http_port, data + request())) for name, data in SMUGGLING.items()
        }

    found = yield asyncio.ensure_future(outcomes())

    # Tornado closes without a word where the coding of the body is at fault.
    assert [name for name, answers in found.items() if answers not in ([400], [])] == []
