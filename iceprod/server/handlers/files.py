"""``/files/AREA/…``: the file store over HTTP, streamed both ways."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import quote

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

from iceprod.errors import IceProdError, InputError
from iceprod.model.file import Direction
from iceprod.model.principal import Principal
from iceprod.server import client_certificate
from iceprod.server.handlers.base import BaseHandler
from iceprod.server.handlers.multipart import ENVELOPE_BYTES, FirstPart
from iceprod.services.accounting import flow_text
from iceprod.services.files import Arrived, Download, Upload
from iceprod.services.filestore import FileFacts
from iceprod.services.transfers import Transfer

_PIECE: Final = 256 * 1024
_INTERNAL: Final = "/_files/"
"""The location of stored files in nginx's configuration, which nobody else can ask for."""
_UPLOAD_S: Final = 24 * 3600.0
STALL_S: Final = 300.0
"""How long a client may take nothing at all."""
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_DIGEST: Final = re.compile(r"sha-256=([A-Za-z0-9+/=]{43,44})", re.I)


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes ``first`` to ``last``, both included."""

    first: int
    last: int


def parse_range(header: str | None, size: int) -> _Span | None:
    """The single range that a Range header asks for; None for the whole file.

    Several ranges, other units and what makes no sense are ignored, as RFC 9110 allows.

    Raises:
        HTTPError: 416, the range begins behind the end.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        span = _Span(max(0, size - int(last)), size - 1)
    else:
        span = _Span(int(first), min(int(last) if last else size - 1, size - 1))
        if last and int(last) < int(first):
            return None
    if span.first >= size or span.last < span.first:
        raise HTTPError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    return span


def parse_digest(header: str | None) -> bytes | None:
    """The SHA-256 that a Digest header announces, if it does.

    Raises:
        InputError: it is none.
    """
    if not header:
        return None
    found = _DIGEST.search(header)
    if found is None:
        raise InputError("Digest must be sha-256=BASE64")
    try:
        digest = base64.b64decode(found[1], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise InputError("Digest must be sha-256=BASE64")
    return digest


def etag_of(facts: FileFacts) -> str:
    """The strong validator of a file's contents."""
    return f'"{facts.digest.hex()[:32]}"'


class FileAccess(BaseHandler):
    """Who may reach files, by what a request carries itself."""

    def credential(self) -> str | None:
        """A bearer token, or one in the place of a password: clients of IceProd 2.3 know no other."""
        scheme, _, value = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return super().credential()
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""

    def check_xsrf_cookie(self) -> None:
        """There is nothing to prove: a cookie counts for reading only."""

    def decode_argument(self, value: bytes | str, name: str | None = None) -> str:
        """A part of the path as text.

        Raises:
            InputError: it is not UTF-8.
        """
        try:
            return super().decode_argument(cast(Any, value), name)
        except HTTPError:
            raise InputError("the path is not UTF-8") from None

    def length_in(self, header: str) -> int | None:
        """The length that a header tells, if it does.

        Raises:
            HTTPError: 400, it is no number.
        """
        length = self.request.headers.get(header)
        if length is None:
            return None
        if not (length.isascii() and length.isdigit()):
            raise HTTPError(HTTPStatus.BAD_REQUEST, f"{header} is no number")
        return int(length)


@stream_request_body
class FileHandler(FileAccess):
    """One file: GET, HEAD, PUT and DELETE; POST of a form is the PUT of IceProd 2.3 pilots.

    With nginx in front no file passes through here: an upload comes as the path of a file
    that nginx has written (``X-File``), and of a download nginx is told the path.
    """

    _upload: Arrived | None = None
    _form: FirstPart | None = None
    _transfer: Transfer | None = None
    _failure: IceProdError | None = None
    _source = ""
    """Where nginx has put the body, as long as nobody has taken it from there."""

    async def _identify(self) -> Principal:
        if self.credential() is None and self.request.method not in ("GET", "HEAD"):
            return await client_certificate.principal_of(self)
        return await super()._identify()

    async def prepare(self) -> None:
        """Begin an upload before its body is read, so that nothing is read in vain."""
        self._source = self._handed_over()
        await super().prepare()
        if self.request.method not in ("PUT", "POST"):
            return
        if "Content-Range" in self.request.headers:
            raise InputError("files are sent whole; Content-Range is not taken")
        if self.request.method == "POST":
            self._form = FirstPart(self.request.headers.get("Content-Type", ""))
        self._digest = parse_digest(self.request.headers.get("Digest"))
        path = self.decode_argument(self.path_args[0])
        if self._source and self._form is None:
            source, self._source = self._source, ""
            self._upload = await self.services.files.take_over(self.principal, path, source)
            await self._begin_transfer(path, Direction.IN)
            return
        self._upload = await self.services.files.upload(self.principal, path, size=self._announced())
        await self._begin_transfer(path, Direction.IN)
        if self._source:
            await self._read_form()
            return
        limit = self.context.settings.files.max_bytes + (ENVELOPE_BYTES if self._form else 1)
        connection = cast(HTTP1Connection, self.request.connection)
        connection.set_max_body_size(limit)
        connection.set_body_timeout(_UPLOAD_S)

    def _handed_over(self) -> str:
        """Where nginx has put the body; nothing where a client could have said it."""
        return self.request.headers.get("X-File", "") if client_certificate.is_proxy_believed(self) else ""

    async def _read_form(self) -> None:
        """Take the file out of a form that nginx has written."""
        files = self.services.files
        source, self._source = self._source, ""
        draft = await files.handed_over(source)
        try:
            while piece := await files.run(draft.read_more):
                await self.data_received(piece)
        finally:
            await files.run(draft.discard)

    async def data_received(self, chunk: bytes) -> None:
        """Take a piece; the next one is read when this one is stored."""
        if not isinstance(self._upload, Upload) or self._failure is not None:
            return
        try:
            await self._upload.write(self._form.feed(chunk) if self._form else chunk)
            await cast(Transfer, self._transfer).moved(len(chunk))
        except IceProdError as exc:
            # Told in `put`, when the client listens; what still comes is thrown away.
            self._failure = exc
            await self._upload.abort()

    async def put(self, _path: str) -> None:
        """Make the uploaded file appear: 201 where there was none, else 200."""
        if self._failure is not None:
            raise self._failure
        upload = cast(Arrived, self._upload)
        try:
            stored = await upload.commit(size=self._announced(), digest=self._digest)
        except IceProdError as exc:
            self._failure = exc
            raise
        self._upload = None
        self._end_transfer(stored.facts.size_bytes)
        self.set_status(HTTPStatus.CREATED if stored.is_new else HTTPStatus.OK)
        self._describe(stored.facts)
        self.write_json({"size_bytes": stored.facts.size_bytes, "sha256": stored.facts.digest.hex()})

    async def post(self, path: str) -> None:
        """As `put`, for a file that came in a form."""
        if self._failure is None and not cast(FirstPart, self._form).is_complete:
            raise InputError("the form ends before its boundary")
        await self.put(path)

    def _announced(self) -> int | None:
        """How long the file is going to be, if the head of the request says so."""
        if self._form is not None:
            return None
        return self.length_in("X-File-Length" if self._handed_over() else "Content-Length")

    async def get(self, path: str) -> None:
        """Send a file or one range of it."""
        download = await self.services.files.download(self.principal, path)
        try:
            if await self._leave_to_nginx(path, download.facts):
                return
            span = self._answer_head(download.facts)
            if span is not None and self.request.method != "HEAD":
                await self._begin_transfer(path, Direction.OUT, size=span.last - span.first + 1)
                await self._send(download, span)
        finally:
            download.close()

    async def head(self, path: str) -> None:
        """As `get`, without the file."""
        await self.get(path)

    async def delete(self, path: str) -> None:
        """Delete a file."""
        await self.services.files.delete(self.principal, path)
        self.set_status(HTTPStatus.NO_CONTENT)

    async def _begin_transfer(self, path: str, direction: Direction, *, size: int | None = None) -> None:
        flow = await self.services.files.flow(self.principal, path, direction)
        size = self._announced() if size is None else size
        self._transfer = self.services.transfers.begin(flow, label=f"/files/{path}", size_bytes=size)
        self.set_header("X-Transfer-Id", self._transfer.transfer_id)

    def _end_transfer(self, size_bytes: int) -> None:
        """A file that nginx has received was not seen to come: its size is told at the end."""
        transfer, self._transfer = cast(Transfer, self._transfer), None
        if not isinstance(self._upload, Upload) and not transfer.moved_bytes:
            transfer.note(size_bytes)
        transfer.end()

    async def _leave_to_nginx(self, path: str, facts: FileFacts) -> bool:
        """Tell nginx, where it is in front, which file to send; whether it is going to."""
        headers = self.request.headers
        is_offered = headers.get("X-Accel-Internal") == _INTERNAL
        is_offered = is_offered and client_certificate.is_proxy_believed(self)
        # What depends on the ETag is decided here: of those conditions nginx knows If-Range alone.
        if not is_offered or "If-None-Match" in headers or "If-Match" in headers:
            return False
        self._describe(facts)
        self.set_header("X-Accel-Redirect", _INTERNAL + quote(path))
        flow = await self.services.files.flow(self.principal, path, Direction.OUT)
        self.set_header("X-Account", flow_text(flow))
        return True

    def _answer_head(self, facts: FileFacts) -> _Span | None:
        """Write the head of the answer; which bytes are to follow, or None if none are."""
        etag = etag_of(facts)
        self._describe(facts)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Last-Modified", formatdate(facts.modified_at, usegmt=True))
        if etag in self.request.headers.get("If-None-Match", ""):
            self.set_status(HTTPStatus.NOT_MODIFIED)
            return None
        wanted = self.request.headers.get("Range")
        if self.request.headers.get("If-Range", etag) != etag:
            wanted = None
        span = self._span(wanted, facts.size_bytes)
        self.set_header("Content-Length", str(span.last - span.first + 1 if span else 0))
        return span

    def _span(self, header: str | None, size: int) -> _Span | None:
        try:
            span = parse_range(header, size)
        except HTTPError:
            self.set_header("Content-Range", f"bytes */{size}")
            self.set_status(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return None
        if span is None:
            return _Span(0, size - 1) if size else None
        self.set_status(HTTPStatus.PARTIAL_CONTENT)
        self.set_header("Content-Range", f"bytes {span.first}-{span.last}/{size}")
        return span

    async def _send(self, download: Download, span: _Span) -> None:
        """Send piece by piece, no faster than the client reads."""
        offset = span.first
        try:
            while offset <= span.last:
                data = await download.read(offset, min(_PIECE, span.last + 1 - offset))
                if not data:  # the disk lost a part: the length promised can't be kept
                    cast(HTTP1Connection, self.request.connection).close()
                    return
                offset += len(data)
                self.write(data)
                async with asyncio.timeout(STALL_S):
                    await self.flush()
                await cast(Transfer, self._transfer).moved(len(data))
        except StreamClosedError:
            return
        except TimeoutError:
            cast(HTTP1Connection, self.request.connection).close()
            return
        cast(Transfer, self._transfer).end()

    def _describe(self, facts: FileFacts) -> None:
        if self.request.method in ("GET", "HEAD"):
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Content-Disposition", "attachment")
        self.set_header("ETag", etag_of(facts))
        self.set_header("Digest", f"sha-256={base64.b64encode(facts.digest).decode()}")

    def compute_etag(self) -> str | None:
        """The ETag is that of the file, not of the answer."""
        return None

    def on_finish(self) -> None:
        """Leave nothing behind of an upload that failed."""
        self._abort()

    def on_connection_close(self) -> None:
        """The client went away in the middle."""
        super().on_connection_close()
        self._abort()

    def _abort(self) -> None:
        if self._transfer is not None:
            self._transfer.end("the client went away" if self._failure is None else self._failure.message)
        upload, self._upload = self._upload, None
        source, self._source = self._source, ""
        if source:
            self.context.supervisor.spawn("drop an upload", self.services.files.drop(source))
        if upload is not None:
            self.context.supervisor.spawn("abort an upload", upload.abort())
