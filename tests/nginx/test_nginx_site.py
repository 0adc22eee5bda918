"""A whole site through nginx: pages, pilots, live progress, static files, the log."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
import time
from contextlib import ExitStack, closing

import pycurl
import pytest

from iceprod.server.security import HEADERS
from iceprod.server.static import ROOT, build_id
from tests.nginx_harness import Front, front_settings, needs_nginx, until

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

CONFIG = {
    "version": 3,
    "tasks": [{"name": "a", "requirements": {"memory": 0.1}, "trays": [{"modules": [{"src": "/bin/true"}]}]}],
}
OFFER = {"cpu": 1, "gpu": 0, "memory": 4, "disk": 10, "time": 10}
PROMPT_S = 20.0


def rpc(front, method, *, token=None, **params):
    """The result of one call through nginx."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    kind = {"Content-Type": "application/json"}
    answer = front.ask(
        "/jsonrpc", method="POST", body=json.dumps(message).encode(), headers=kind, token=token
    )
    assert answer.status == 200, answer
    assert "error" not in answer.json, answer.json
    return answer.json["result"]


def waiting_pilot(front):
    """The token of a new pilot that has registered."""
    made = rpc(front, "pilot.credentials", grid="hand", resources=OFFER)
    rpc(front, "pilot.register", token=made["passkey"], hostname="h", version="1", offer=OFFER)
    return made["passkey"]


def test_pages_arrive_with_their_headers_once(front):
    answer = front.ask("/sign-in", token="")

    assert answer.status == 200
    assert b"<h1" in answer.body
    expected = {name.lower(): value for name, value in HEADERS.items() if name != "Server"}
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert [name for name, value in answer.headers.items() if "\n" in value and name != "set-cookie"] == []


def test_the_server_knows_who_asks_and_by_what_way(front, site):
    front.ask("/datasets/nosuch", headers={"X-Real-IP": "10.1.1.1", "X-Forwarded-For": "10.1.1.1"})
    line = until(lambda: [each for each in app_log(site) if each.get("path") == "/datasets/nosuch"])[-1]
    assert line["remote"] == "127.0.0.1"


def requests_of(site, identifier):
    """Requests of that id in the server's log."""
    return [
        each for each in app_log(site) if (each["event"], each.get("request_id")) == ("request", identifier)
    ]


def app_log(site):
    """What the server wrote, as far as it is JSON."""
    return [json.loads(line) for line in site.log().splitlines() if line.startswith("{")]


def test_a_request_has_one_id_in_both_logs_and_in_the_answer(front, site):
    answer = front.ask("/datasets/nosuch?passkey=private", headers={"X-Request-Id": "a" * 32})

    identifier = answer.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", identifier)
    assert identifier != "a" * 32
    logged = until(lambda: [each for each in front.access_log() if each["request_id"] == identifier])
    assert len(logged) == 1
    entry = logged[0]
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/datasets/nosuch", 404)
    assert entry["remote"] == "127.0.0.1"
    assert entry["tls"] == "TLSv1.3"
    assert entry["upstream_status"] == "404"
    assert entry["seconds"] >= 0
    assert entry["bytes_out"] > 0
    assert "private" not in str(entry)
    (line,) = until(lambda: requests_of(site, identifier))
    assert line["status"] == 404
    assert identifier in answer.body.decode()


def test_hostile_text_does_not_break_the_log(front):
    front.ask(
        '/x"},{"y\\',
        headers={"User-Agent": 'a"b\\c\x01d'},
        options={pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS},
    )
    assert until(lambda: [each for each in front.access_log() if each["path"].startswith('/x"')])


def test_calls_reach_the_fast_lane(front, site):
    assert rpc(front, "echo", value="muons") == "muons"
    entry = until(lambda: [each for each in front.access_log() if each["path"] == "/jsonrpc"])[-1]
    assert entry["upstream"] == site.rpc_url.removeprefix("http://")


def test_a_long_poll_is_answered_when_there_is_work(front):
    pilot = waiting_pilot(front)
    found = {}

    def claim() -> None:
        found["claimed"] = rpc(front, "pilot.claim", token=pilot, offer=OFFER, wait_s=60, held=[])
        found["at"] = time.monotonic()

    poll = threading.Thread(target=claim)
    poll.start()
    until(lambda: b"iceprod" in front.ask("/metrics").body)
    began = time.monotonic()
    rpc(front, "dataset.submit", config=CONFIG, njobs=1)
    poll.join(90)

    assert len(found["claimed"]["tasks"]) == 1
    assert found["at"] - began < PROMPT_S


def test_a_pilot_that_hangs_up_waits_no_longer(front):
    pilot = waiting_pilot(front)
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "pilot.claim",
        "params": {"offer": OFFER, "wait_s": 60, "held": []},
    }
    body = json.dumps(message)
    with front.connect() as connection:
        head = f"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pilot}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        until(lambda: waiting(front) == 1)

    until(lambda: waiting(front) == 0)


def waiting(front) -> int:
    """How many claims wait."""
    found = re.search(r"^iceprod_waiting_claims (\d+)", front.ask("/metrics").body.decode(), re.M)
    assert found
    return int(found[1])


def test_live_progress_arrives_as_it_happens(front):
    made = rpc(front, "dataset.submit", config=CONFIG, njobs=2)
    with ExitStack() as stack:
        connection = stack.enter_context(front.connect())
        head = f"GET /events/datasets/{made['dataset_id']} HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(f"{head}Authorization: Bearer {front.token}\r\n\r\n".encode())
        answer = stack.enter_context(closing(http.client.HTTPResponse(connection)))
        answer.begin()
        assert answer.status == 200
        assert answer.getheader("Content-Type").startswith("text/event-stream")
        first = event(answer)
        assert first["jobs"]["total"] == 2

        began = time.monotonic()
        rpc(front, "dataset.extend", dataset_id=made["dataset_id"], njobs=5)
        while event(answer)["jobs"]["total"] != 5:
            pass

        assert time.monotonic() - began < PROMPT_S


def event(answer):
    """The data of the next event of a stream."""
    while not (line := answer.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix(b"data: "))


@pytest.mark.parametrize("name", ["css/site.css", "img/icon.svg"])
def test_static_files_come_from_disk_compressed_and_for_ever(front, name):
    whole = front.ask(f"/static/{build_id()}/{name}")
    packed = front.ask(f"/static/{build_id()}/{name}", headers={"Accept-Encoding": "br, gzip"})

    assert whole.status == packed.status == 200
    assert whole.body == (ROOT / name).read_bytes()
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == whole.body
    for answer in (whole, packed):
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].split(";")[0] in ("text/css", "image/svg+xml")
    entry = until(lambda: [each for each in front.access_log() if each["path"].endswith(name)])[-1]
    assert entry["upstream"] == ""


def test_every_static_file_has_a_type_that_browsers_take(front):
    for path in sorted(path for path in ROOT.rglob("*") if path.is_file()):
        if path.suffix in (".js", ".css", ".svg", ".png"):
            answer = front.ask(f"/static/{build_id()}/{path.relative_to(ROOT)}", method="HEAD")
            assert (path.name, answer.status) == (path.name, 200)
            assert answer.headers["content-type"] != "application/octet-stream", path


def test_another_build_is_the_servers_to_answer_and_not_to_keep(front):
    answer = front.ask("/static/0123456789ab/css/site.css")
    assert answer.headers["cache-control"] == "no-store"
    outside = front.ask(f"/static/{build_id()}/../../nginx.conf")
    assert outside.status in (403, 404)
    listing = front.ask(f"/static/{build_id()}/css/")
    assert listing.status in (403, 404)


def test_nothing_of_nginx_is_in_the_answers_of_the_server(front):
    for path in ("/healthz", "/sign-in", "/files/site_temp/x"):
        answer = front.ask(path)
        assert answer.headers["server"] == "nginx"
        assert not {name for name in answer.headers if name.startswith(("x-accel", "x-file", "x-refusal"))}


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
def test_one_listener_does_for_both_kinds_of_address(site, authority, tmp_path):
    server = {"port": int(site.url.rpartition(":")[2]), "rpc_lane": False}
    settings = front_settings(tmp_path, authority, server=server, nginx={"host": "::"})
    with Front(settings, authority, token=site.token) as front:
        assert (
            front.ask(f"https://[::1]:{front.port}/healthz", options={pycurl.SSL_VERIFYHOST: 0}).status == 200
        )
        assert front.ask("/healthz").status == 200
        assert rpc(front, "echo", value=1) == 1
