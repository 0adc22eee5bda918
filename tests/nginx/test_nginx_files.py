"""Files through nginx: in by path, out by path, and none of it through Python."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import pwd
import tempfile
from pathlib import Path

import pycurl
import pytest

from iceprod.config import load
from iceprod.errors import ConfigError
from iceprod.server import beside
from iceprod.server.nginx import generate
from iceprod.server.static import build_id
from tests.nginx_harness import Front, front_settings, needs_nginx, until

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

LARGE = os.urandom(1_000_000) * 30
TEXT = bytes(range(256)) * 400
LIMIT = 40_000_000


def digest_of(data: bytes) -> str:
    return "sha-256=" + base64.b64encode(hashlib.sha256(data).digest()).decode()


@pytest.fixture
def left_over(site):
    """What uploads have left behind so far: nothing, at any time."""
    folders = [site.folder / "files" / name for name in (".handed-over", ".incoming")]
    yield lambda: [path for folder in folders for path in folder.iterdir()]
    until(lambda: not [path for folder in folders for path in folder.iterdir()], within_s=10)


def put(front, path, data, **more):
    return front.ask(f"/files/site_temp/{path}", method="PUT", body=data, **more)


def get(front, path, **headers):
    return front.ask(
        f"/files/site_temp/{path}", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def received_by_python(site) -> int:
    """Bytes that the server's process has read from sockets and files so far."""
    lines = Path(f"/proc/{site.process.pid}/io").read_text().splitlines()
    return int(lines[0].split()[1])


@pytest.mark.parametrize("version", [pycurl.CURL_HTTP_VERSION_1_1, pycurl.CURL_HTTP_VERSION_2TLS])
def test_a_large_upload_is_handed_over_by_its_path(front, site, left_over, version):
    options = {pycurl.HTTP_VERSION: version}
    made = put(front, f"large-{version}", LARGE, headers={"Digest": digest_of(LARGE)}, options=options)

    assert made.status == 201
    assert made.json == {"size_bytes": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest()}
    assert made.headers["digest"] == digest_of(LARGE)
    stored = site.folder / "files" / "site_temp" / f"large-{version}"
    assert stored.read_bytes() == LARGE
    assert stored.stat().st_mode & 0o077 == 0
    again = put(front, f"large-{version}", LARGE[:1000])
    assert again.status == 200
    assert stored.stat().st_size == 1000


def test_the_body_reaches_the_disk_once_and_is_renamed(front, site, left_over):
    folder = site.folder / "files" / ".handed-over"
    with front.connect() as connection:
        head = f"PUT /files/site_temp/renamed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.token}\r\n"
        connection.sendall(
            f"{head}Content-Length: 300000\r\nConnection: close\r\n\r\n".encode() + b"x" * 200_000
        )
        (draft,) = until(lambda: list(folder.iterdir()))
        number = draft.stat().st_ino
        connection.sendall(b"x" * 100_000)
        assert b" 201 " in connection.recv(65536)

    assert (site.folder / "files" / "site_temp" / "renamed").stat().st_ino == number


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 70_000])
def test_small_uploads_are_files_too(front, left_over, data):
    assert put(front, "small", data).status in (200, 201)
    answer = get(front, "small")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, data, str(len(data)))


def test_an_upload_without_a_length_is_taken(front, left_over):
    with front.connect() as connection:
        head = f"PUT /files/site_temp/chunked HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.token}\r\n"
        body = b"5\r\nmuons\r\n0\r\n\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode() + body)
        assert b" 201 " in connection.recv(65536)
    assert get(front, "chunked").body == b"muons"


def test_a_form_of_an_old_pilot_is_taken(front, left_over):
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + TEXT + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}

    made = front.ask("/files/site_temp/form", method="POST", body=form, headers=kind)

    assert made.status == 201
    assert get(front, "form").body == TEXT
    cut = front.ask("/files/site_temp/cut", method="POST", body=form[:-9], headers=kind)
    assert cut.status == 422
    assert get(front, "cut").status == 404


@pytest.mark.parametrize(
    ("header", "value"),
    [("Digest", digest_of(b"other")), ("Digest", "md5=x"), ("Content-Range", "bytes 0-1/9")],
)
def test_what_differs_from_what_was_announced_never_appears(front, left_over, header, value):
    assert put(front, "wrong", TEXT, headers={header: value}).status == 422
    assert get(front, "wrong").status == 404


def refusal(front, path, *, token, length, method="PUT"):
    """The answer to the head of an upload, of whose body not a byte is sent."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    with front.connect() as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{bearer}Content-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    top, _, body = answer.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return (
        int(lines[0].split()[1]),
        json.loads(body)["error"],
        {name.lower(): v for name, v in headers.items()},
    )


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_without_a_credential_is_refused_before_its_body_is_read(front, left_over, method):
    status, error, headers = refusal(front, "/files/site_temp/x", token="", length=30_000_000, method=method)

    assert (status, error["code"]) == (401, "not_authenticated")
    assert headers["www-authenticate"] == 'Bearer realm="iceprod"'
    assert headers["content-type"] == "application/json"
    assert error["request_id"] == headers["x-request-id"]
    assert headers["content-security-policy"]
    assert left_over() == []


def test_who_waits_for_leave_to_send_is_stopped_early(front, left_over):
    options = {pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1, pycurl.EXPECT_100_TIMEOUT_MS: 60_000}
    expect = {"Expect": "100-continue"}

    refused = put(front, "polite", LARGE, token="", headers=expect, options=options)
    taken = put(front, "polite", TEXT, headers=expect, options=options)

    # nginx says 100 before any answer that has a body of its own, so a little may be on its way.
    assert (refused.status, refused.json["error"]["code"]) == (401, "not_authenticated")
    assert refused.sent_bytes < len(LARGE) / 5
    assert (taken.status, taken.sent_bytes) == (201, len(TEXT))


def test_every_reason_to_refuse_an_upload_is_told_before_its_body_is_read(front, site, left_over):
    user = made_user(site, "ada")
    expected = {
        ("/files/site_temp/x", "iu_wrong", 10): (401, "not_authenticated"),
        ("/files/site_temp/x", user, 10): (403, "access_denied"),
        ("/files/nowhere/x", front.token, 10): (404, "not_found"),
        ("/files/site_temp/%2e%2e/x", front.token, 10): (422, "invalid_input"),
        ("/files/site_temp/%ff", front.token, 10): (422, "invalid_input"),
        ("/files/site_temp/x", front.token, LIMIT + 1): (413, "too_large"),
        ("/files/site_temp/x", front.token, LIMIT * 1000): (413, "too_large"),
    }

    found = {ask: refusal(front, ask[0], token=ask[1], length=ask[2])[:2] for ask in expected}

    assert {ask: (status, error["code"]) for ask, (status, error) in found.items()} == expected
    assert left_over() == []


def made_user(site, name):
    site.call("user.create", name=name, password="correct horse battery")
    settings = load(overrides={"server": {"data_dir": site.folder}})
    return asyncio.run(beside.make_token(settings, name=name, label="test"))


def test_a_path_that_a_client_makes_up_is_no_upload(front, site, left_over):
    secret = site.folder / "files" / ".handed-over" / "0000000099"
    secret.write_bytes(b"somebody else's")
    try:
        made = put(front, "forged", b"my own", headers={"X-File": str(secret), "X-File-Length": "15"})
        assert made.status == 201
        assert get(front, "forged").body == b"my own"
        assert secret.exists()
    finally:
        secret.unlink()


def test_a_download_leaves_without_python(front, site):
    put(front, "out", LARGE)
    get(front, "out")
    before = received_by_python(site)

    answer = get(front, "out")

    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(LARGE).digest()
    assert received_by_python(site) - before < len(LARGE) / 10
    assert answer.headers["digest"] == digest_of(LARGE)
    assert answer.headers["etag"] == f'"{hashlib.sha256(LARGE).hexdigest()[:32]}"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["strict-transport-security"]
    assert "x-accel-redirect" not in answer.headers
    assert [name for name, value in answer.headers.items() if "\n" in value] == []


def test_head_tells_all_but_the_file(front):
    put(front, "head", TEXT)
    answer = front.ask("/files/site_temp/head", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(TEXT))
    assert answer.headers["digest"] == digest_of(TEXT)


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=5-9", 5, 9), ("bytes=-10", len(TEXT) - 10, len(TEXT) - 1)],
)
def test_a_range_is_sent_alone(front, header, first, last):
    put(front, "range", TEXT)

    answer = get(front, "range", Range=header)

    assert (answer.status, answer.body) == (206, TEXT[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(TEXT)}"
    assert answer.headers["digest"] == digest_of(TEXT)


def test_ranges_outside_of_the_file_and_several_at_once(front):
    put(front, "range", TEXT)
    outside = get(front, "range", Range=f"bytes={len(TEXT)}-")
    several = get(front, "range", Range="bytes=0-1,5-6")
    assert (outside.status, outside.headers["content-range"]) == (416, f"bytes */{len(TEXT)}")
    assert (several.status, several.body) == (200, TEXT)


def test_validators_are_those_of_the_server(front):
    put(front, "valid", TEXT)
    etag = get(front, "valid").headers["etag"]

    same = get(front, "valid", If_None_Match=etag)
    other = get(front, "valid", If_None_Match='"other"')
    part = get(front, "valid", Range="bytes=0-1", If_Range=etag)
    changed = get(front, "valid", Range="bytes=0-1", If_Range='"old"')
    matching = get(front, "valid", If_Match=etag)

    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    assert (other.status, part.status, part.body) == (200, 206, TEXT[:2])
    assert (changed.status, changed.body) == (200, TEXT)
    assert (matching.status, matching.body) == (200, TEXT)


@pytest.mark.parametrize("name", ["with space", "per%25cent", "muons-µ", "plus+and&", "a%23b%3Fc"])
def test_odd_names_go_in_and_out(front, left_over, name):
    address = name.replace(" ", "%20").replace("µ", "%C2%B5")
    assert put(front, address, b"odd").status in (200, 201)
    assert get(front, address).body == b"odd"


def test_deleting_goes_through(front):
    put(front, "gone", b"x")
    assert front.ask("/files/site_temp/gone", method="DELETE").status == 204
    assert get(front, "gone").status == 404


def test_a_file_that_is_not_there_is_told_by_the_server(front):
    answer = get(front, "nothing")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


def test_a_client_that_leaves_in_the_middle_leaves_no_file(front, site):
    folder = site.folder / "files" / ".handed-over"
    with front.connect() as connection:
        head = f"PUT /files/site_temp/half HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.token}\r\n"
        connection.sendall(f"{head}Content-Length: 300000\r\n\r\n".encode() + b"x" * 200_000)
        until(lambda: list(folder.iterdir()))

    assert get(front, "half").status == 404
    # What nginx has written by then is deleted later, by its age.
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start nginx for another user")
def test_started_by_root_nginx_works_as_the_user_of_the_server(authority, upstream):
    user = pwd.getpwnam("nobody")
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir(mode=0o700)
        os.chown(data, user.pw_uid, user.pw_gid)
        places = {"upstreams": (upstream.address,), "directory": folder / "nginx"}
        settings = front_settings(data, authority, nginx=places)
        with Front(settings, authority) as front:
            assert (folder / "nginx" / "logs").stat().st_uid == 0
            assert front.ask("/files/site_temp/x", method="PUT", body=TEXT).status == 200
            assert front.ask(f"/static/{build_id()}/css/site.css").status == 200
            told = upstream.requests("/files/site_temp/x")[-1].headers
            found = Path(told["x-file"])
            assert found.parent == settings.files_path / ".handed-over"
            assert found.read_bytes() == TEXT
            assert (found.stat().st_uid, found.stat().st_mode & 0o777) == (user.pw_uid, 0o600)
            assert (told["x-file-length"], told["content-length"]) == (str(len(TEXT)), "0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start nginx for another user")
def test_root_writes_nothing_where_another_user_could_put_a_link(tmp_path, authority, upstream):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, pwd.getpwnam("nobody").pw_uid, -1)

    with pytest.raises(ConfigError, match="a link in the way"):
        generate(front_settings(data, authority, nginx={"upstreams": (upstream.address,)}))

    assert list(data.iterdir()) == []


def test_files_of_other_servers_pass_through_and_learn_nothing(echo, upstream):
    target = f"http://{upstream.address}/origin/a%20b?x=%2B"
    upstream.answers["/out"] = (
        200,
        {
            "X-Accel-Redirect": "/_fetch",
            "X-Fetch-URL": target,
            "X-Fetch-Host": upstream.address,
            "X-Fetch-Authorization": "Bearer theirs",
            "Content-Disposition": "attachment",
        },
        b"",
    )
    evil = {"Set-Cookie": "a=b", "X-Accel-Redirect": "/_files/secret", "Content-Security-Policy": "none"}
    upstream.answers["/origin/a%20b"] = (200, evil, TEXT)

    answer = echo.ask("/out", headers={"Cookie": "session=mine"}, token="mine")

    assert (answer.status, answer.body) == (200, TEXT)
    seen = upstream.requests("/origin/a%20b?x=%2B")[-1]
    assert seen.method == "GET"
    assert seen.headers["authorization"] == "Bearer theirs"
    assert seen.headers["host"] == upstream.address
    assert "cookie" not in seen.headers
    assert answer.headers["content-disposition"] == "attachment"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers
    assert "mine" not in str(seen)


def test_another_server_has_to_prove_who_it_is(echo, upstream):
    # Its certificate is of an authority that this machine does not know.
    upstream.answers["/to-stranger"] = (
        200,
        {"X-Accel-Redirect": "/_fetch", "X-Fetch-URL": f"{echo.url}/stranger", "X-Fetch-Host": "x"},
        b"",
    )

    answer = echo.ask("/to-stranger")

    assert (answer.status, answer.json["error"]["code"]) == (502, "unavailable")
    assert not upstream.requests("/stranger")


def test_the_ranges_of_another_server_are_passed_on_and_its_errors_told_as_ours(echo, upstream):
    for status, told in ((206, 206), (404, 404), (401, 403), (503, 502)):
        upstream.answers["/to-other"] = (
            200,
            {
                "X-Accel-Redirect": "/_fetch",
                "X-Fetch-URL": f"http://{upstream.address}/other",
                "X-Fetch-Host": upstream.address,
            },
            b"",
        )
        upstream.answers["/other"] = (status, {"Content-Range": "bytes 0-1/9"}, b"mu")
        answer = echo.ask("/to-other", headers={"Range": "bytes=0-1"})
        assert answer.status == told
        assert (answer.body == b"mu") == (told == 206)
        assert upstream.requests("/other")[-1].headers["range"] == "bytes=0-1"


def test_what_nginx_sends_by_itself_is_accounted(front, site):
    config = {"version": 3, "tasks": [{"name": "one", "trays": [{"modules": [{"src": "/bin/true"}]}]}]}
    dataset_id = site.call("dataset.submit", config=config, njobs=1)["dataset_id"]
    path = f"/files/dataset_temp/{dataset_id}/counted"

    def accounted() -> dict[str, tuple[int, int]]:
        rows = site.call("usage.list", dataset_id=dataset_id)["items"]
        return {row["direction"]: (row["bytes_moved"], row["transfers"]) for row in rows}

    front.ask(path, method="PUT", body=TEXT)
    whole = front.ask(path)
    part = front.ask(path, headers={"Range": "bytes=0-99"})
    unchanged = front.ask(path, headers={"If-None-Match": whole.headers["etag"]})

    assert (whole.status, part.status, unchanged.status) == (200, 206, 304)
    assert "x-account" not in whole.headers
    expected = {"in": (len(TEXT), 1), "out": (len(TEXT) + 100, 2)}
    until(lambda: accounted() == expected, within_s=20)
