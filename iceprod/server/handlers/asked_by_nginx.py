"""``/_nginx/may-upload``: what nginx asks before it takes the body of an upload."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from tornado.escape import url_unescape

from iceprod.errors import InputError
from iceprod.model.principal import Principal
from iceprod.server import client_certificate, errors
from iceprod.server.handlers.files import FileAccess

_FILES: Final = "/files/"


class MayUploadHandler(FileAccess):
    """204 if the upload that ``X-Original-URI`` and ``X-Original-Length`` describe would be taken.

    nginx's auth_request knows 401 and 403 for everything else, so the status that the
    uploader is to be told goes beside it as ``X-Refusal-Status``, and the body of the answer,
    which a sub-request drops, as ``X-Refusal``.
    """

    async def get(self) -> None:
        """Answer for the caller whose credential the request carries."""
        original = self.request.headers.get("X-Original-URI", "").partition("?")[0]
        if not original.startswith(_FILES):
            raise InputError("X-Original-URI names no file")
        path = self.decode_argument(url_unescape(original.removeprefix(_FILES), encoding=None, plus=False))
        size = self.length_in("X-Original-Length")
        await self.services.files.may_upload(self.principal, path, size=size)
        self.set_status(HTTPStatus.NO_CONTENT)

    async def _identify(self) -> Principal:
        if self.credential() is None:
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
