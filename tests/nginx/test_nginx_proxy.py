"""Files of origins through nginx: copies from the disk, plain http from its origin, none through Python."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.nginx_harness import Authority, Front, Upstream, front_settings, needs_nginx, until
from tests.servers import RunningSite

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

DATA = os.urandom(1_000_000) * 20
HEADS = {"ETag": '"v1"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}


@pytest.fixture(scope="module")
def origin() -> Iterator[Upstream]:
    with Upstream() as running:
        running.answers["/d/a.bin"] = (200, HEADS, DATA)
        yield running


@contextmanager
def site_before(folder: Path, origin: Upstream, authority: Authority, **more: str) -> Iterator[Front]:
    far = {"url": f"http://{origin.address}/d", "private": True}
    named = {"url": f"http://localhost:{origin.address.rpartition(':')[2]}/d", "private": True}
    settings = {
        "ICEPROD_SERVER__PROXIED": "true",
        "ICEPROD_FILES__ORIGINS": json.dumps({"far": far, "named": named}),
        **more,
    }
    with RunningSite(folder, settings=settings) as site:
        server = {"port": int(site.url.rpartition(":")[2]), "rpc_port": int(site.rpc_url.rpartition(":")[2])}
        front = front_settings(site.folder, authority, server=server)
        with Front(front, authority, token=site.token) as running:
            running.site = site
            yield running


@pytest.fixture(scope="module")
def front(tmp_path_factory, origin, authority) -> Iterator[Front]:
    with site_before(tmp_path_factory.mktemp("site"), origin, authority) as running:
        yield running


def path(origin, name="a.bin", *, cache="yes", host=""):
    url = quote(f"http://{host or origin.address}/d/{name}", safe="")
    return f"/proxy?url={url}&cache={cache}"


def read_by_python(front) -> int:
    """Bytes that the server's process has read from sockets and files so far."""
    lines = Path(f"/proc/{front.site.process.pid}/io").read_text().splitlines()
    return int(lines[0].split()[1])


def sent(front):
    log = front.directory / "logs" / "sent.log"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_copy_leaves_from_the_disk(front, origin):
    def is_kept():
        return list((front.site.folder / "cache/copies").glob("*/*.json"))

    assert front.ask(path(origin)).body == DATA
    until(is_kept)
    before, lines = read_by_python(front), len(sent(front))

    found = front.ask(path(origin))
    part = front.ask(path(origin), headers={"Range": "bytes=10-19", "If-Range": '"v1"'})

    assert (found.status, found.body == DATA, found.headers["etag"]) == (200, True, '"v1"')
    assert found.headers["digest"].startswith("sha-256=")
    assert found.headers["content-disposition"].startswith("attachment")
    assert found.headers["content-type"] == "application/octet-stream"
    assert (part.status, part.body) == (206, DATA[10:20])
    assert front.ask(path(origin), headers={"If-None-Match": '"v1"'}).status == 304
    assert read_by_python(front) - before < 1_000_000
    until(lambda: len(sent(front)) == lines + 2)
    told = sent(front)[lines:]
    assert [each["bytes"] for each in told] == [len(DATA), 10]
    assert "user=admin&direction=out&service=proxy" in told[0]["account"]
    assert not {"x-account", "x-accel-redirect"} & set(found.headers)


def test_a_plain_origins_file_is_fetched_by_nginx(front, origin):
    evil = {**HEADS, "Content-Type": "text/html", "Set-Cookie": "a=b", "X-Accel-Redirect": "/_files/x"}
    evil["X-Account"] = "user=nobody"
    origin.answers["/d/b%20c.bin"] = (200, evil, DATA)
    before, lines = read_by_python(front), len(sent(front))

    found = front.ask(path(origin, "b%20c.bin", cache="no"), headers={"Cookie": "session=mine"})

    assert (found.status, found.body == DATA) == (200, True)
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-disposition"].startswith('attachment; filename="b c.bin"')
    assert not {"set-cookie", "x-account"} & set(found.headers)
    assert read_by_python(front) - before < 1_000_000
    asked = origin.requests("/d/b%20c.bin")[-1]
    assert asked.headers["host"] == origin.address
    assert not {"cookie", "authorization", "x-real-ip"} & set(asked.headers)
    until(lambda: len(sent(front)) == lines + 1)
    assert sent(front)[-1]["bytes"] == len(DATA)
    assert "user=admin" in sent(front)[-1]["account"]


def test_nginx_is_given_an_address_and_the_origin_its_name(front, origin):
    name = f"localhost:{origin.address.rpartition(':')[2]}"

    found = front.ask(path(origin, cache="no", host=name))

    assert found.body == DATA
    assert origin.requests("/d/a.bin")[-1].headers["host"] == name


def test_where_an_origin_sends_on_our_server_decides(front, origin):
    origin.answers["/d/moved"] = (302, {"Location": "/d/a.bin"}, b"")
    origin.answers["/d/away"] = (302, {"Location": "http://169.254.169.254/latest"}, b"")

    found = front.ask(path(origin, "moved", cache="no"))
    away = front.ask(path(origin, "away", cache="no"))

    assert (found.status, found.body == DATA) == (200, True)
    assert (away.status, "location" in away.headers) == (403, False)


def test_what_is_missing_or_refused_is_told_in_our_words(front, origin):
    origin.answers["/d/secret"] = (401, {"WWW-Authenticate": "Basic"}, b"<script>")

    origin.answers["/d/missing"] = (404, {}, b"<html>")
    missing = front.ask(path(origin, "missing", cache="no"))
    secret = front.ask(path(origin, "secret", cache="no"))

    assert (missing.status, missing.json["error"]["code"]) == (404, "not_found")
    assert (secret.status, secret.json["error"]["code"]) == (403, "access_denied")


def test_no_client_gets_behind_the_doors(front, origin):
    for place in ("/_cache/x", "/_fetch"):
        assert front.ask(place).status == 404
    # What a client says of nginx's offers is overwritten.
    headers = {"X-Accel-Fetch": "/_files/x", "X-Accel-Cache": "/_files/", "X-Fetch-URL": "http://evil/"}
    assert front.ask(path(origin, cache="no"), headers=headers).body == DATA
    assert front.ask(path(origin, cache="no"), token="it_wrong").status == 401


def test_an_origin_that_breaks_off_behind_nginx_breaks_the_download_off(front, origin):
    origin.answers["/d/short"] = (200, {**HEADS, "Content-Length": str(len(DATA) + 1000)}, DATA)

    for cache in ("yes", "no"):
        with pytest.raises(Exception, match=r"18|56|92|transfer closed|bytes"):
            front.ask(path(origin, "short", cache=cache))


def test_limits_of_speed_are_kept_by_nginx(tmp_path, origin, authority):
    limit = {"ICEPROD_FILES__LIMITS__USER_BYTES_PER_S": "10000000"}
    with site_before(tmp_path, origin, authority, **limit) as front:
        began = time.monotonic()
        assert front.ask(path(origin, cache="no")).body == DATA
        assert 1.0 < time.monotonic() - began < 6.0
