"""Uploads in three steps, as IceProd has always had them: announce, send, check.

``POST /upload`` tells where a file is to go, its size and its checksum, and gets a path that is
good for one file.  That takes the body by PUT or POST, without any other credential.  What has
become of it is told at the path with ``/check`` behind, or at ``/upload/check``.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

import msgspec

from iceprod.errors import InputError
from iceprod.model.principal import ANONYMOUS, Principal
from iceprod.server import client_certificate
from iceprod.server.handlers.uploads.receiving import ReceivingHandler, UploadAccess
from iceprod.services.uploads.one_time import SECRET_S, Verdict
from iceprod.services.uploads.values import Announced

T = TypeVar("T")
PATH: Final = "/upload"
_ONE_TIME: Final = re.compile(rf"{PATH}/([0-9A-Za-z]{{1,64}})/([A-Za-z0-9_-]{{1,64}})(?:/check)?")


class Announcement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /upload`` takes; ``url`` may be a path of the temp areas, too."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    checksum: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    checksum_type: str = "sha512"


class Question(msgspec.Struct, frozen=True):
    """What ``POST /upload/check`` takes: the id of an upload, or its path."""

    id: str = ""
    upload: str = ""


def secret_path(path: str) -> tuple[str, str] | None:
    """Id and secret in a one-time path; None if it is none."""
    found = _ONE_TIME.fullmatch(path)
    return (found[1], found[2]) if found else None


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.DecodeError as exc:
        raise InputError(f"the body is not what this takes: {exc}") from None


def _shown(verdict: Verdict) -> dict[str, Any]:
    """``result`` as the original has it; the rest says more."""
    view = verdict.view
    return {
        "result": verdict.result,
        "stored": verdict.is_stored,
        "stage": view.stage,
        "error": view.error,
        "id": view.upload_id,
        "size_bytes": view.length,
        "sha256": view.sha256,
    }


class AnnounceHandler(UploadAccess):
    """``POST /upload``."""

    async def post(self) -> None:
        """Give a path for the file."""
        asked = _read(self.request.body, Announcement)
        announced = Announced(
            target=self._target(asked.url),
            length=asked.size,
            checksums={asked.checksum_type.lower(): asked.checksum},
            protocol="announced",
        )
        begun = await self.services.uploads.one_time.announce(self.principal, announced)
        view = begun.view
        self.write_json(
            {
                "upload": f"{PATH}/{view.upload_id}/{begun.secret}",
                "id": view.upload_id,
                "expires_at": view.created_at + SECRET_S,
            }
        )

    def _target(self, url: str) -> str:
        """Addresses of this site's own temp areas are paths of them."""
        own = f"{self.services.addresses.url}/files/"
        return url.removeprefix(own) if self.services.addresses.url else url


class OneTimeHandler(ReceivingHandler):
    """``PUT`` or ``POST`` of the file to its path, where the secret in that is the credential.

    With nginx in front the body does not pass through here: it comes as the path of a file.
    """

    _source = ""

    async def _identify(self) -> Principal:
        """Nobody in particular, whatever the request carries."""
        return ANONYMOUS

    def check_xsrf_cookie(self) -> None:
        """There is nothing to prove: no cookie counts."""

    async def prepare(self) -> None:
        """Begin before the body is read, so that nothing is read in vain."""
        is_told = client_certificate.is_proxy_believed(self)
        self._source = self.request.headers.get("X-File", "") if is_told else ""
        await super().prepare()
        if not self._source:
            upload_id, secret = self.path_args
            size = self.length_in("Content-Length")
            self.receive(await self.services.uploads.one_time.send(upload_id, secret, size=size))

    async def put(self, upload_id: str, secret: str) -> None:
        """Check what came, and put it in its place or on its way there."""
        one_time = self.services.uploads.one_time
        if self._source:
            source, self._source = self._source, ""
            verdict = await one_time.hand_over(upload_id, secret, source)
        else:
            writing = self.received()
            if writing is None:
                raise InputError("there is no file in this request")
            verdict = await one_time.finish(writing)
        self.set_status(HTTPStatus.OK if verdict.is_stored else HTTPStatus.ACCEPTED)
        self.write_json(_shown(verdict))

    async def post(self, upload_id: str, secret: str) -> None:
        """As `put`."""
        await self.put(upload_id, secret)

    def on_finish(self) -> None:
        """Leave nothing where nginx has put it."""
        super().on_finish()
        source, self._source = self._source, ""
        if source:
            self.context.supervisor.spawn("drop an upload", self.services.uploads.service.drop(source))


class OneTimeCheck(UploadAccess):
    """The path with ``/check`` behind."""

    async def _identify(self) -> Principal:
        """Nobody in particular, whatever the request carries."""
        return ANONYMOUS

    def check_xsrf_cookie(self) -> None:
        """There is nothing to prove: no cookie counts."""

    async def get(self, upload_id: str, secret: str) -> None:
        """Tell what became of the file."""
        self.write_json(_shown(await self.services.uploads.one_time.check(upload_id, secret)))

    async def post(self, upload_id: str, secret: str) -> None:
        """As `get`."""
        await self.get(upload_id, secret)


class CheckHandler(UploadAccess):
    """``/upload/check``, for whoever announced the file."""

    async def get(self) -> None:
        """Tell what became of a file by the id, or the path, in the query."""
        await self._tell(Question(self.argument("id"), self.argument("upload")))

    async def post(self) -> None:
        """Tell what became of a file by the id, or the path, in the body."""
        await self._tell(_read(self.request.body, Question))

    async def _tell(self, asked: Question) -> None:
        found = secret_path(asked.upload)
        upload_id = asked.id or (found[0] if found else "")
        if not upload_id:
            raise InputError("id, or the path as upload, must be given")
        verdict = await self.services.uploads.one_time.check_mine(self.principal, upload_id)
        self.write_json(_shown(verdict))
