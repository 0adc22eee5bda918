"""Bytes of files between this machine and a site: resumed where they broke off, and checked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotAuthenticated,
    NotFoundError,
    TransferFailed,
)

BLOCK_BYTES: Final = 1024 * 1024
PART_BYTES: Final = 64 * 1024 * 1024
"""How much of an upload is sent in one request."""
TRIES: Final = 6
"""How often in a row nothing may come through before a transfer is given up."""
_TIMEOUT_S: Final = 120.0
_MOST_WORDS: Final = 65536
_TUS: Final = {"Tus-Resumable": "1.0.0"}
_OVER: Final = frozenset({"failed", "expired"})

Moved = Callable[[int, int | None], None]
"""Called with the number of bytes that are there so far, and of all if that is known."""


def address_of(place: str) -> str:
    """The path at a site by which a file is read: of the temp areas by path, of others by URL."""
    if "://" in place or place.startswith("file:"):
        return f"/proxy?url={quote(place, safe='')}"
    return f"/files/{quote(place.removeprefix('/files/').lstrip('/'))}"


class FileClient:
    """A site's file plane by HTTP."""

    def __init__(self, url: str, token: str | None) -> None:
        self._base = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url

    def fetch(self, place: str, target: Path, *, moved: Moved) -> int:
        """Get a file, going on where an earlier try broke off; its size in bytes.

        Until it is complete it has the ending ``.part``.

        Raises:
            TransferFailed: it does not come, however often it is tried, or comes wrong.
            IceProdError: what the site says.
        """
        part = target.with_name(f"{target.name}.part")
        for left in _tries():
            before = _size(part)
            try:
                self._fetch_once(place, part, moved)
                break
            except TransferFailed:
                if left(_size(part) > before):
                    continue
                raise
        part.replace(target)
        _tag_of(part).unlink(missing_ok=True)
        return target.stat().st_size

    def _fetch_once(self, place: str, part: Path, moved: Moved) -> None:
        tag, headers = _tag_of(part), {}
        if tag.exists() and _size(part):
            headers = {"Range": f"bytes={_size(part)}-", "If-Range": tag.read_text()}
        with self._asked("GET", address_of(place), headers) as answer:
            if answer.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
                raise TransferFailed("what was fetched before does not fit any more", source=place)
            _check(answer, place)
            goes_on = answer.status == http.client.PARTIAL_CONTENT
            if not goes_on:
                _note_tag(tag, answer.headers.get("ETag", ""))
            with part.open("ab" if goes_on else "wb") as file:
                total = None if answer.length is None else file.tell() + answer.length
                while block := answer.read1(BLOCK_BYTES):
                    file.write(block)
                    moved(file.tell(), total)
            if answer.length:
                raise TransferFailed(f"{answer.length} bytes did not come", source=place)
            _check_digest(part, answer.headers.get("Digest"), place)

    def store(self, source: Path, place: str, *, memory: UploadMemory, moved: Moved) -> str:
        """Send a file, going on with an upload of it that broke off; the id of the upload.

        Raises:
            TransferFailed: it does not get through, however often it is tried.
            IceProdError: what the site says.
        """
        key = memory.key(self.url, source, place)
        path = memory.get(key) or self._created(source, place)
        memory.put(key, path)
        offset, size = 0, source.stat().st_size
        for left in _tries():
            before = offset
            try:
                offset = self._offset(path)
                while offset < size:
                    moved(offset, size)
                    offset = self._sent(path, source, offset)
                break
            except NotFoundError:  # it has expired: begin anew
                memory.put(key, path := self._created(source, place))
                if not left(False):
                    raise
            except TransferFailed:
                if not left(offset > before):
                    raise
        moved(offset, size)
        memory.forget(key)
        return path.rpartition("/")[2]

    def delete(self, place: str) -> None:
        """Delete a file of the site's areas.

        Raises:
            IceProdError: what the site says.
        """
        with self._asked("DELETE", address_of(place), {}) as answer:
            _check(answer, place)

    def _created(self, source: Path, place: str) -> str:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = {"filename": source.name, "path": place, "sha256": digest}
        metadata = ",".join(
            f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in about.items()
        )
        headers = {"Upload-Length": str(source.stat().st_size), "Upload-Metadata": metadata, **_TUS}
        with self._asked("POST", "/tus", {**headers, "Content-Length": "0"}) as answer:
            _check(answer, place)
            return urlsplit(answer.headers["Location"]).path

    def _offset(self, path: str) -> int:
        with self._asked("HEAD", path, _TUS) as answer:
            _check(answer, "the upload")
            return int(answer.headers["Upload-Offset"])

    def _sent(self, path: str, source: Path, offset: int) -> int:
        size = min(PART_BYTES, source.stat().st_size - offset)
        headers = {
            **_TUS,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size),
        }
        with self._asked("PATCH", path, headers, _pieces(source, offset, size)) as answer:
            _check(answer, "the upload")
            return int(answer.headers["Upload-Offset"])

    @contextmanager
    def _asked(
        self, method: str, path: str, headers: Mapping[str, str], body: Iterator[bytes] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        try:
            connection.request(
                method, f"{self._base.path}{path}", body=body, headers={**self._headers, **headers}
            )
            yield connection.getresponse()
        except (http.client.HTTPException, OSError) as exc:
            raise TransferFailed(f"{self._base.netloc}: {exc or type(exc).__name__}") from exc
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host = self._base.hostname or ""
        if self._base.scheme != "https":
            return http.client.HTTPConnection(host, self._base.port, timeout=_TIMEOUT_S)
        ca_file = os.environ.get("ICEPROD_CA_FILE") or os.environ.get("SSL_CERT_FILE")
        context = ssl.create_default_context(cafile=ca_file)
        return http.client.HTTPSConnection(host, self._base.port, timeout=_TIMEOUT_S, context=context)


class UploadMemory:
    """Which uploads were begun and not ended, in a file, so that the next command goes on with them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @staticmethod
    def key(url: str, source: Path, place: str) -> str:
        """What makes an upload the same: the site, the file as it is now, and where it goes."""
        found = source.stat()
        return "\n".join([url, str(source.absolute()), str(found.st_size), str(found.st_mtime_ns), place])

    def get(self, key: str) -> str | None:
        """The path of an upload at its site."""
        return self._read().get(key)

    def put(self, key: str, path: str) -> None:
        """Remember an upload."""
        self._write({**self._read(), key: path})

    def forget(self, key: str) -> None:
        """Forget an upload."""
        self._write({known: path for known, path in self._read().items() if known != key})

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, known: Mapping[str, str]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(self._path)


def _tries() -> Iterator[Callable[[bool], bool]]:
    """Tries with growing pauses; each asks whether another is left, which progress earns anew."""
    failures = 0

    def left(has_moved: bool) -> bool:
        nonlocal failures
        failures = 0 if has_moved else failures + 1
        if failures >= TRIES:
            return False
        time.sleep(min(10.0, 0.2 * 2**failures))
        return True

    while True:
        yield left


def _pieces(source: Path, offset: int, size: int) -> Iterator[bytes]:
    with source.open("rb") as file:
        file.seek(offset)
        while size > 0 and (piece := file.read(min(BLOCK_BYTES, size))):
            size -= len(piece)
            yield piece


def _check(answer: http.client.HTTPResponse, what: str) -> None:
    """Raise what a site says no with, in its own words."""
    if answer.status < 300:
        return
    text = answer.read(_MOST_WORDS)
    error: dict[str, Any] = {}
    with contextlib.suppress(ValueError, AttributeError):
        error = json.loads(text).get("error") or {}
    message = error.get("message") or f"{what}: HTTP status {answer.status} {answer.reason}"
    if answer.status in (404, 410):
        raise NotFoundError("file", what)
    raise _KINDS.get(answer.status, TransferFailed if answer.status >= 500 else InputError)(message)


_KINDS: Final[dict[int, type[IceProdError]]] = {
    401: NotAuthenticated,
    403: AccessDenied,
    408: TransferFailed,
    409: ConflictError,
    423: TransferFailed,
    429: TransferFailed,
}


def _check_digest(part: Path, header: str | None, place: str) -> None:
    wanted = (header or "").partition("sha-256=")[2].partition(",")[0]
    if not wanted:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").digest()
    if base64.b64encode(found).decode() != wanted.strip():
        part.unlink()
        raise TransferFailed("what came has another checksum than it should have", source=place)


def _tag_of(part: Path) -> Path:
    return part.with_name(f".{part.name}.etag")


def _note_tag(path: Path, tag: str) -> None:
    if tag and not tag.startswith("W/"):
        path.write_text(tag)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
