"""Uploads in parts and to one-time paths, through a real nginx."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pycurl
import pytest

from tests.nginx.conftest import FILE_LIMIT
from tests.nginx_harness import needs_nginx, until
from tests.servers import RunningSite

TEXT = bytes(range(256)) * 20_000
SIZE = len(TEXT)
TUS = {"Tus-Resumable": "1.0.0"}
PART = {**TUS, "Content-Type": "application/offset+octet-stream"}
pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]


def place(path: str) -> str:
    return f"path {base64.b64encode(path.encode()).decode()}"


def create(front, path="site_temp/tus", length=SIZE, **more):
    headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": place(path)}
    return front.ask("/tus", method="POST", body=b"", headers=headers, **more)


def created(front, *given, **more):
    answer = create(front, *given, **more)
    assert answer.status == 201, answer.body
    return answer.headers["location"]


def patch(front, url, offset, data, headers=None, **more):
    given = {**PART, "Upload-Offset": str(offset), **(headers or {})}
    return front.ask(url, method="PATCH", body=data, headers=given, **more)


def offset_of(front, url):
    answer = front.ask(url, method="HEAD", headers=TUS)
    return int(answer.headers["upload-offset"])


def stored(site: RunningSite, path: str) -> bytes | None:
    found = site.folder / "files" / path
    return found.read_bytes() if found.exists() else None


@pytest.mark.parametrize("version", [pycurl.CURL_HTTP_VERSION_1_1, pycurl.CURL_HTTP_VERSION_2TLS])
def test_a_file_comes_in_parts(front, site, version):
    options = {pycurl.HTTP_VERSION: version}
    path = f"site_temp/parts-{version}"
    url = created(front, path, options=options)

    first = patch(front, url, 0, TEXT[:1_000_000], options=options)
    last = patch(front, url, 1_000_000, TEXT[1_000_000:], options=options)

    assert (first.status, first.headers["upload-offset"]) == (204, "1000000")
    assert (last.status, last.headers["tus-resumable"]) == (204, "1.0.0")
    assert stored(site, path) == TEXT


def started(front, url, length, data):
    """A request whose body is not complete."""
    connection = front.connect()
    lines = [
        f"PATCH {url} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {front.token}",
        *(f"{name}: {value}" for name, value in PART.items()),
        "Upload-Offset: 0",
        f"Content-Length: {length}",
        "",
        "",
    ]
    connection.sendall("\r\n".join(lines).encode() + data)
    return connection


def test_what_came_before_a_broken_connection_counts(front, site):
    url = created(front, "site_temp/broken")
    with started(front, url, len(TEXT), TEXT[:700_000]):
        # It is on its way to the server's disk before the request is complete.
        folder = site.folder / "uploads"
        until(lambda: any(path.stat().st_size >= 500_000 for path in folder.rglob("data")))
    # A little may be in nginx's hands when the connection breaks.
    came = until(lambda: offset_of(front, url))
    assert 600_000 <= came <= 700_000
    assert patch(front, url, came, TEXT[came:]).status == 204
    assert stored(site, "site_temp/broken") == TEXT


def test_a_second_writer_waits_its_turn(front, site):
    url = created(front, "site_temp/locked")
    with started(front, url, len(TEXT), TEXT[:700_000]):
        folder = site.folder / "uploads"
        until(lambda: any(path.parent.name in url and path.stat().st_size for path in folder.rglob("data")))
        answer = patch(front, url, 0, b"")
        assert answer.status == 423
        assert answer.json["error"]["detail"]["reason"] == "locked"
    until(lambda: patch(front, url, offset_of(front, url), b"").status == 204)


def refusal(front, url, *, token, length, headers, method="PATCH"):
    """The answer to the head of a request, of whose body not a byte is sent."""
    lines = [f"{method} {url} HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with front.connect() as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    top, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    told = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status.split()[1]), told, json.loads(body)["error"]["code"]


def test_every_reason_to_refuse_a_part_is_told_before_it_is_read(front):
    url = created(front, "site_temp/refused")
    size, at_0 = len(TEXT), {**PART, "Upload-Offset": "0"}
    other, gone = {**at_0, "Tus-Resumable": "0.2.2"}, f"/tus/{'0' * 29}"
    meta = place("site_temp/x")
    new = {**TUS, "Upload-Length": str(10**12), "Upload-Metadata": meta}
    expected = {
        (url, "PATCH", "", size, tuple(at_0.items())): 401,
        (url, "PATCH", "iu_wrong", size, tuple(at_0.items())): 401,
        (url, "PATCH", front.token, size, tuple({**at_0, "Upload-Offset": "7"}.items())): 409,
        (url, "PATCH", front.token, size, tuple({**at_0, "Upload-Offset": "x"}.items())): 400,
        (url, "PATCH", front.token, size, tuple({**at_0, "Content-Type": "text/plain"}.items())): 415,
        (url, "PATCH", front.token, size, tuple(other.items())): 412,
        (url, "PATCH", front.token, size + 1, tuple(at_0.items())): 413,
        (url, "PATCH", front.token, FILE_LIMIT * 10, tuple(at_0.items())): 413,
        (gone, "PATCH", front.token, size, tuple(at_0.items())): 404,
        ("/tus", "POST", front.token, 0, tuple(new.items())): 413,
        ("/tus", "POST", front.token, 0, tuple(TUS.items())): 400,
    }
    for (path, method, token, length, headers), status in expected.items():
        found, told, _ = refusal(
            front, path, method=method, token=token, length=length, headers=dict(headers)
        )
        assert found == status, (path, headers)
        assert told["tus-resumable"] == "1.0.0"
        if status == 412:
            assert told["tus-version"] == "1.0.0"
    assert offset_of(front, url) == 0


def test_a_wrong_checksum_has_its_own_status(front):
    url = created(front, "site_temp/checksum")
    wrong = f"sha1 {base64.b64encode(hashlib.sha1(b'other').digest()).decode()}"
    assert patch(front, url, 0, TEXT, headers={"Upload-Checksum": wrong}).status == 460
    assert offset_of(front, url) == 0


def test_the_methods_without_a_body_pass(front):
    url = created(front, "site_temp/methods")
    assert front.ask("/tus", method="OPTIONS", token="").headers["tus-version"] == "1.0.0"
    meant = {**PART, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert front.ask(url, method="POST", body=b"abc", headers=meant).status == 204
    assert offset_of(front, url) == 3
    assert front.ask(url, method="DELETE", headers=TUS).status == 204
    assert front.ask(url, method="HEAD", headers=TUS).status == 404


def announce(front, data=TEXT, path="site_temp/once", **changes):
    asked = {"url": path, "size": len(data), "checksum": hashlib.sha512(data).hexdigest(), **changes}
    answer = front.ask("/upload", method="POST", body=json.dumps(asked).encode())
    assert answer.status == 200, answer.body
    return answer.json


def received_by_python(site) -> int:
    """Bytes that the server's process has read from sockets and files so far."""
    return int(Path(f"/proc/{site.process.pid}/io").read_text().splitlines()[0].split()[1])


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_file_goes_to_its_one_time_path_past_python(front, site, method):
    told = announce(front)
    before = received_by_python(site)

    sent = front.ask(told["upload"], method=method, body=TEXT, token="")

    assert (sent.status, sent.json["result"], sent.json["stored"]) == (200, True, True)
    # The file itself is read once, for its checksum; its body comes by no socket.
    assert received_by_python(site) - before < len(TEXT) * 1.2
    assert stored(site, "site_temp/once") == TEXT
    check = front.ask(f"{told['upload']}/check", token="")
    assert (check.status, check.json["result"]) == (200, True)
    assert not list((site.folder / "uploads" / ".handed-over").iterdir())


def test_the_body_is_renamed_and_never_copied(front, site):
    told = announce(front, path="site_temp/renamed-once")
    folder = site.folder / "uploads" / ".handed-over"
    with front.connect() as connection:
        head = f"PUT {told['upload']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(f"{head}Content-Length: {len(TEXT)}\r\n\r\n".encode() + TEXT[:300_000])
        (draft,) = until(lambda: list(folder.iterdir()))
        number = draft.stat().st_ino
        connection.sendall(TEXT[300_000:])
        assert b" 200 " in connection.recv(65536)
    assert (site.folder / "files" / "site_temp" / "renamed-once").stat().st_ino == number


def test_a_path_that_is_no_good_is_refused_before_the_body_is_read(front, site):
    used = announce(front, path="site_temp/used")
    front.ask(used["upload"], method="PUT", body=TEXT, token="")
    fresh = announce(front, path="site_temp/fresh")
    size = len(TEXT)
    expected = {
        (used["upload"], size): 409,
        (f"{fresh['upload'][:-4]}xxxx", size): 404,
        (fresh["upload"], size - 1): 422,
        (fresh["upload"], size + 1): 413,
    }
    for (path, length), status in expected.items():
        assert refusal(front, path, token="", length=length, headers={}, method="PUT")[0] == status
    assert not list((site.folder / "uploads" / ".handed-over").iterdir())
    assert front.ask(fresh["upload"], method="PUT", body=TEXT, token="").status == 200


def test_a_wrong_checksum_is_told_and_leaves_nothing(front, site):
    told = announce(front, path="site_temp/wrong", checksum="0" * 128)
    assert front.ask(told["upload"], method="PUT", body=TEXT, token="").status == 422
    assert front.ask(f"{told['upload']}/check", token="").json["result"] is False
    assert stored(site, "site_temp/wrong") is None
    assert not list((site.folder / "uploads" / ".handed-over").iterdir())
    assert not list((site.folder / "uploads").rglob(f"*{told['id'][-13:]}/data"))


def test_a_path_of_a_file_that_a_client_makes_up_is_no_upload(front, site):
    told = announce(front, data=b"abc", path="site_temp/made-up")
    secret = site.folder / "uploads" / ".handed-over" / "0000000099"
    secret.write_bytes(b"abc")
    answer = front.ask(told["upload"], method="PUT", body=b"xyz", headers={"X-File": str(secret)}, token="")
    assert answer.status == 422
    assert secret.read_bytes() == b"abc"
    secret.unlink()


def test_no_log_has_the_secret(front, site):
    told = announce(front, path="site_temp/logged")
    secret = told["upload"].rpartition("/")[2]
    front.ask(told["upload"], method="PUT", body=TEXT, token="")
    front.ask(f"{told['upload']}/check", token="")
    until(lambda: f"/upload/{told['id']}" in (front.directory / "logs/access.log").read_text())
    for log in (front.directory / "logs").iterdir():
        assert secret not in log.read_text(errors="replace")
    assert secret not in site.log()
