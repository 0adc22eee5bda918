"""Files over HTTP: fetched with resumption, sent with a checksum, both verified."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

BLOCK_BYTES = 1 << 20
TIMEOUT_S = 120.0
_MOST_REDIRECTS = 5
_MOST_WORDS = 65536
_REDIRECTS = (301, 302, 303, 307, 308)


class Missing(OSError):
    """The file does not exist at its source."""


class Refused(OSError):
    """The server will not do it, and trying again is of no use."""


class Broken(OSError):
    """The transfer did not get through; another try may.

    With ``is_elsewhere`` the server that was asked is well, and the place behind it is not.
    """

    is_elsewhere = False


@contextmanager
def _request(
    method: str, url: str, headers: Mapping[str, str], body: object = None
) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, path, body=body, headers=dict(headers))  # type: ignore[arg-type]
        yield connection.getresponse()
    except (http.client.HTTPException, OSError) as exc:
        if isinstance(exc, Missing | Refused | Broken):
            raise
        raise Broken(f"{parts.netloc}: {exc or type(exc).__name__}") from exc
    finally:
        connection.close()


def fetch(url: str, path: Path, headers: Mapping[str, str]) -> None:
    """Get ``url`` into ``path``, going on where an earlier try broke off.

    The part already there is only gone on with if the server says that the file is still
    the same.  Raises Missing, Refused or Broken.
    """
    tag_path = path.with_name(path.name + ".etag")
    extra = _resume_headers(path, tag_path)
    with _get(url, {**headers, **extra}) as response:
        if response.status == 416:
            path.unlink(missing_ok=True)
            raise Broken(f"{url}: the part already fetched does not fit any more")
        _raise_for_status(response, url)
        goes_on = response.status == 206
        tag = response.headers.get("ETag", "")
        if tag and not goes_on:
            tag_path.write_text(tag)
        _receive(response, path, append=goes_on)
        _verify_digest(response.headers.get("Digest"), path, url)
    tag_path.unlink(missing_ok=True)


@contextmanager
def _get(url: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
    """Follow redirects, from where they come to where they lead."""
    origin = url
    for _ in range(_MOST_REDIRECTS):
        with _request("GET", url, headers) as response:
            if response.status not in _REDIRECTS or not response.headers.get("Location"):
                yield response
                return
            url = urljoin(url, response.headers["Location"])
        if urlsplit(url).scheme not in ("http", "https"):
            raise Refused(f"{url}: redirected to an address that is not HTTP")
        headers = headers_for(url, headers, origin=origin)
    raise Refused(f"{url}: too many redirects")


def headers_for(url: str, headers: Mapping[str, str], *, origin: str) -> Mapping[str, str]:
    """What may be sent to ``url``: a credential only if host, port and protocol are those of ``origin``."""
    if urlsplit(url)[:2] == urlsplit(origin)[:2]:
        return headers
    return {key: value for key, value in headers.items() if key != "Authorization"}


def _resume_headers(path: Path, tag_path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError):
        size, tag = path.stat().st_size, tag_path.read_text()
        if size and tag and not tag.startswith("W/"):
            return {"Range": f"bytes={size}-", "If-Range": tag}
    return {}


def _receive(response: http.client.HTTPResponse, path: Path, *, append: bool) -> None:
    with path.open("ab" if append else "wb") as file:
        try:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
        except http.client.IncompleteRead as exc:
            file.write(exc.partial)
            raise
    if response.length:
        raise Broken(f"{response.length} bytes did not arrive")


def send(path: Path, url: str, headers: Mapping[str, str]) -> None:
    """Put ``path`` at ``url`` with its checksum; raises Refused or Broken."""
    digest = base64.b64encode(file_digest(path)).decode()
    sent = {
        **headers,
        "Content-Length": str(path.stat().st_size),
        "Content-Type": "application/octet-stream",
        "Digest": f"sha-256={digest}",
    }
    with path.open("rb") as file, _request("PUT", url, sent, file) as response:
        _raise_for_status(response, _without_secret(url))
        response.read(BLOCK_BYTES)


def post_json(url: str, value: object, headers: Mapping[str, str]) -> dict[str, Any]:
    """The object that a server answers to ``value``; raises Missing, Refused or Broken."""
    body = json.dumps(value).encode()
    sent = {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}
    with _request("POST", url, sent, body) as response:
        _raise_for_status(response, _without_secret(url))
        text = response.read(BLOCK_BYTES)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Broken(f"{_without_secret(url)}: the answer makes no sense")
    return found


def _without_secret(url: str) -> str:
    """An address for people to read: what a path of the site is good for once, nobody else should have."""
    return url.split("/upload/", 1)[0] + "/upload/…" if "/upload/" in url else url


def _raise_for_status(response: http.client.HTTPResponse, url: str) -> None:
    if response.status < 300:
        return
    text = f"{url}: HTTP status {response.status} {response.reason}"
    if response.status in (404, 410):
        raise Missing(text)
    if response.status >= 500 or response.status in (408, 425, 429):
        broken = Broken(text)
        broken.is_elsewhere = b'"transfer_failed"' in response.read(_MOST_WORDS)
        raise broken
    raise Refused(text)


def _verify_digest(header: str | None, path: Path, url: str) -> None:
    wanted = digest_in(header)
    if wanted is not None and file_digest(path) != wanted:
        path.unlink(missing_ok=True)
        raise Broken(f"{url}: the checksum is wrong")


def digest_in(header: str | None) -> bytes | None:
    """The SHA-256 in a ``Digest`` header (RFC 3230), if there is one."""
    for part in (header or "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "sha-256":
            with contextlib.suppress(ValueError):
                return base64.b64decode(value, validate=True)
    return None


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
