"""``/tus``: uploads that can be resumed, by version 1.0.0 of the tus protocol.

The version is asked for after the credential, so that strangers learn nothing.  A checksum as a
trailer is not offered: the HTTP server takes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError

from iceprod.errors import InputError, TooLarge
from iceprod.server.handlers.files import parse_digest
from iceprod.server.handlers.uploads import tus_headers
from iceprod.server.handlers.uploads.receiving import ReceivingHandler
from iceprod.services.uploads.values import CHECKSUMS, Part, Stage, UploadView
from iceprod.services.uploads.writing import Writing

_MISMATCH: Final = (460, "Checksum Mismatch")
_GONE: Final = frozenset({Stage.FAILED, Stage.EXPIRED})


def check_type(kind: str) -> None:
    """Refuse a body of another type than that of tus.

    Raises:
        HTTPError: 415.
    """
    if kind.partition(";")[0].strip().lower() != tus_headers.BODY_TYPE:
        raise HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {tus_headers.BODY_TYPE}")


def has_body(headers: HTTPHeaders, length: int | None) -> bool:
    """Whether a body follows the head of a request, which may be of unknown length."""
    return bool(length) or "Transfer-Encoding" in headers


class TusHandler(ReceivingHandler):
    """What all requests of the protocol have in common."""

    def initialize(self, *, actions: Mapping[str, str], **given: str) -> None:
        """Take what the route passes on, and the method that is meant."""
        super().initialize(actions=actions, **given)
        meant = self.request.headers.get("X-HTTP-Method-Override")
        if meant:
            self.request.method = meant.strip().upper()

    def set_default_headers(self) -> None:
        """Tell the version with every answer, errors included."""
        super().set_default_headers()
        self.set_header("Tus-Resumable", tus_headers.VERSION)

    async def prepare(self) -> None:
        """Refuse another version of the protocol."""
        await super().prepare()
        if self.request.method in ("OPTIONS", "GET"):
            return
        if self.request.headers.get("Tus-Resumable") != tus_headers.VERSION:
            raise HTTPError(HTTPStatus.PRECONDITION_FAILED, f"Tus-Resumable must be {tus_headers.VERSION}")
        await self._prepare_upload()

    async def _prepare_upload(self) -> None:
        """Begin what the head of the request asks for, before the body is read."""

    async def options(self, *_: str) -> None:
        """Tell what is offered."""
        self.set_status(HTTPStatus.NO_CONTENT)
        self.set_header("Tus-Version", tus_headers.VERSION)
        self.set_header("Tus-Extension", ",".join(tus_headers.EXTENSIONS))
        self.set_header("Tus-Max-Size", str(self.context.settings.files.max_bytes))
        self.set_header("Tus-Checksum-Algorithm", ",".join(CHECKSUMS))

    def tell(self, view: UploadView) -> None:
        """Say how far an upload is, and until when it can go on."""
        self.set_header("Upload-Offset", str(view.offset))
        if view.stage is Stage.OPEN:
            self.set_header("Upload-Expires", formatdate(view.expires_at, usegmt=True))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell what went wrong in the words of the protocol, too."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, InputError) and error.detail.get("reason") == "checksum_mismatch":
            self.set_status(*_MISMATCH)
        if status_code == HTTPStatus.PRECONDITION_FAILED:
            self.set_header("Tus-Version", tus_headers.VERSION)
        super().write_error(status_code, **kwargs)

    async def begin(self, upload_id: str, offset: int) -> Writing:
        """Begin to write what the body brings."""
        headers = self.request.headers
        digest = parse_digest(headers.get("Digest"))
        return await self.services.uploads.service.begin(
            self.principal,
            upload_id,
            offset=offset,
            size=self.length_in("Content-Length"),
            length=tus_headers.number(headers, "Upload-Length"),
            sha256=digest.hex() if digest else "",
            proof=tus_headers.proof(headers),
        )


class TusCreation(TusHandler):
    """``POST /tus``: a new upload, maybe with a first part of it, or made of others."""

    _view: UploadView
    _parts: tuple[str, ...] = ()

    async def _prepare_upload(self) -> None:
        headers, uploads = self.request.headers, self.services.uploads.service
        self._asked = tus_headers.creation(headers)
        size, length = self.length_in("Content-Length"), self._asked.announced.length
        is_filled = has_body(headers, size)
        if is_filled:
            check_type(headers.get("Content-Type", ""))
            tus_headers.proof(headers)
        if length is not None and (size or 0) > length:
            raise TooLarge(f"the upload may have {length} bytes", limit_bytes=length)
        if self._asked.parts:
            if is_filled:
                raise HTTPError(HTTPStatus.BAD_REQUEST, "a final upload has no body")
            return
        self._view = (await uploads.create(self.principal, self._asked.announced)).view
        if is_filled and self._view.stage is Stage.OPEN:
            self.receive(await self.begin(self._view.upload_id, 0))

    async def post(self) -> None:
        """Tell where the new upload is."""
        uploads = self.services.uploads
        if self._asked.parts:
            asked = self._asked
            self._view = await uploads.joining.join(self.principal, asked.announced, asked.parts)
        writing = self.received()
        if writing is not None:
            self._view = await uploads.service.finish(writing)
        self.set_status(HTTPStatus.CREATED)
        self.set_header("Location", f"{tus_headers.PATH}/{self._view.upload_id}")
        self.tell(self._view)


class TusUpload(TusHandler):
    """``/tus/ID``: one upload."""

    async def _prepare_upload(self) -> None:
        if self.request.method != "PATCH":
            return
        check_type(self.request.headers.get("Content-Type", ""))
        offset = tus_headers.number(self.request.headers, "Upload-Offset")
        if offset is None:
            raise HTTPError(HTTPStatus.BAD_REQUEST, "Upload-Offset must be given")
        self.receive(await self.begin(self.path_args[0], offset))

    async def patch(self, _upload_id: str) -> None:
        """Add the body to the upload."""
        writing = self.received()
        if writing is None:
            raise HTTPError(HTTPStatus.INTERNAL_SERVER_ERROR)
        view = await self.services.uploads.service.finish(writing)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.tell(view)

    async def head(self, upload_id: str) -> None:
        """Tell how far the upload is."""
        view = await self.services.uploads.service.status(self.principal, upload_id)
        if view.stage in _GONE:
            raise HTTPError(HTTPStatus.GONE, view.error)
        self.tell(view)
        if view.length is None:
            self.set_header("Upload-Defer-Length", "1")
        else:
            self.set_header("Upload-Length", str(view.length))
        if view.metadata:
            self.set_header("Upload-Metadata", view.metadata)
        if view.part is not Part.NONE:
            self.set_header("Upload-Concat", view.concat)

    async def get(self, upload_id: str) -> None:
        """Tell all that is known of the upload, for people and for programs that speak no tus."""
        self.write_json(await self.services.uploads.service.status(self.principal, upload_id))

    async def delete(self, upload_id: str) -> None:
        """Throw the upload away; what is in its place stays there."""
        await self.services.uploads.service.cancel(self.principal, upload_id)
        self.set_status(HTTPStatus.NO_CONTENT)
