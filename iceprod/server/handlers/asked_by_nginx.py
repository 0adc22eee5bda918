"""What nginx asks: whether it may take the body of an upload; and what it tells of certificates."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from tornado.escape import url_unescape
from tornado.web import HTTPError

from iceprod.errors import AccessDenied, InputError
from iceprod.model.principal import ANONYMOUS, Principal
from iceprod.server import client_certificate, errors
from iceprod.server.handlers.base import BaseHandler
from iceprod.server.handlers.uploads import tus, tus_headers
from iceprod.server.handlers.uploads.announced import PATH as ONE_TIME
from iceprod.server.handlers.uploads.announced import secret_path
from iceprod.server.handlers.uploads.receiving import UploadAccess
from iceprod.services import authorization
from iceprod.services.refusals import RefusedCertificate

_FAILED: Final = "FAILED:"
"""With it begins X-SSL-Verify of a certificate that is not accepted; the reason follows."""
_TOLD: Final = ("Verify", "Subject-DN", "Issuer-DN", "Serial", "Fingerprint")
_FILES: Final = "/files/"
# Nothing else: with dots and slashes it would be another place to nginx, which undoes them.
_TUS: Final = re.compile(rf"{tus_headers.PATH}(?:/([0-9A-Za-z]{{0,64}}))?")


class MayUploadHandler(UploadAccess):
    """204 if the upload that ``X-Original-URI`` and ``X-Original-Length`` describe would be taken.

    nginx's auth_request knows 401 and 403 for everything else, so the status that the
    uploader is to be told goes beside it as ``X-Refusal-Status``, and the body of the answer,
    which a sub-request drops, as ``X-Refusal``.
    """

    async def get(self) -> None:
        """Answer for the caller whose credential the request carries."""
        original, size = self._original(), self.length_in("X-Original-Length")
        if original.startswith(_FILES):
            authorization.check(self.principal, "file.write_shared")
            path = url_unescape(original.removeprefix(_FILES), encoding=None, plus=False)
            await self.services.files.may_upload(self.principal, self.decode_argument(path), size=size)
        elif original.startswith(f"{ONE_TIME}/"):
            found = secret_path(original) or ("", "")
            await self.services.uploads.one_time.may_send(*found, size=size)
        elif original == "/proxy":
            query = self.request.headers["X-Original-URI"].partition("?")[2]
            urls = parse_qs(query).get("url", [""])
            await self.services.uploads.passing.admit(self.principal, urls[0], size=size)
        elif found_id := _TUS.fullmatch(original):
            await self._may_send_by_tus(found_id[1] or "", size)
        else:
            raise InputError("X-Original-URI names no file")
        self.set_status(HTTPStatus.NO_CONTENT)

    def _original(self) -> str:
        return self.request.headers.get("X-Original-URI", "").partition("?")[0]

    async def _may_send_by_tus(self, upload_id: str, size: int | None) -> None:
        headers, uploads = self.request.headers, self.services.uploads.service
        method = headers.get("X-HTTP-Method-Override") or headers.get("X-Original-Method", "")
        if method not in ("POST", "PATCH"):
            return  # there is no body to be taken; the request itself asks who calls
        authorization.check(self.principal, "upload.write" if upload_id else "upload.create")
        if headers.get("Tus-Resumable") != tus_headers.VERSION:
            raise HTTPError(HTTPStatus.PRECONDITION_FAILED, f"Tus-Resumable must be {tus_headers.VERSION}")
        if size:
            tus.check_type(headers.get("X-Original-Type", ""))
        tus_headers.proof(headers)
        if upload_id:
            await uploads.may_begin(
                self.principal,
                upload_id,
                offset=tus_headers.number(headers, "Upload-Offset") or 0,
                size=size,
                length=tus_headers.number(headers, "Upload-Length"),
            )
        else:
            asked = tus_headers.creation(headers)
            await uploads.may_create(self.principal, asked.announced)

    async def _identify(self) -> Principal:
        """Sessions count for tus alone, where the request itself proves whose page has sent it."""
        if self._original().startswith(_FILES) and self.credential() is None:
            return await client_certificate.principal_of(self)
        return await super()._identify()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Refuse in the two ways that nginx understands."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if "X-Original-URI" not in self.request.headers:
            super().write_error(status_code, **kwargs)
            return
        described = errors.describe(error, status=status_code, request_id=self.request_id)
        self.set_header("X-Refusal-Status", str(status_code))
        self.set_header("X-Refusal", json.dumps(described))
        self.note_error(error)
        is_unknown = status_code == HTTPStatus.UNAUTHORIZED
        self.set_status(HTTPStatus.UNAUTHORIZED if is_unknown else HTTPStatus.FORBIDDEN)
        self.finish()


class RefusedCertificateHandler(BaseHandler):
    """403 for a certificate that nginx does not accept, which then stands in the audit trail.

    nginx lets nobody come here, and says by X-SSL-Verify whether it asks itself.
    """

    async def get(self) -> None:
        """Note what was shown, and by which address."""
        told = {name: self.request.headers.get(f"X-SSL-{name}", "") for name in _TOLD}
        if not (told["Verify"].startswith(_FAILED) and client_certificate.is_proxy_believed(self)):
            raise HTTPError(HTTPStatus.NOT_FOUND)
        self.services.federation.refusals.note_certificate(
            RefusedCertificate(
                address=self.request.remote_ip or "",
                reason=told["Verify"].removeprefix(_FAILED),
                subject=told["Subject-DN"],
                issuer=told["Issuer-DN"],
                serial=told["Serial"],
                fingerprint=told["Fingerprint"],
            )
        )
        raise AccessDenied("the client certificate is not accepted")

    async def _identify(self) -> Principal:
        """Nobody, whatever else was shown."""
        return ANONYMOUS
