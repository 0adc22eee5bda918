"""The headers of tus 1.0.0, read and checked (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from tornado.web import HTTPError

from iceprod.services.uploads.values import CHECKSUMS, Announced, Part
from iceprod.services.uploads.writing import Proof

VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)
BODY_TYPE: Final = "application/offset+octet-stream"
PATH: Final = "/tus"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_UPLOAD_PATH: Final = re.compile(rf"{PATH}/([0-9A-Za-z]{{1,64}})")
_KEY: Final = re.compile(r"[!-+\--~]+")
_LONGEST_METADATA: Final = 8000


def _refuse(message: str) -> HTTPError:
    return HTTPError(HTTPStatus.BAD_REQUEST, message)


def number(headers: Mapping[str, str], name: str) -> int | None:
    """The number in a header, if that is there.

    Raises:
        HTTPError: 400, it is none.
    """
    text = headers.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise _refuse(f"{name} is no number of bytes")
    return int(text)


def metadata(text: str) -> dict[str, str]:
    """What ``Upload-Metadata`` says; values that are no text are left out.

    Raises:
        HTTPError: 400, it does not follow its form.
    """
    if len(text) > _LONGEST_METADATA:
        raise _refuse(f"Upload-Metadata may have {_LONGEST_METADATA} characters")
    found: dict[str, str] = {}
    keys: set[str] = set()
    for pair in text.split(",") if text else ():
        key, _, value = pair.strip(" ").partition(" ")
        if not _KEY.fullmatch(key) or key in keys:
            raise _refuse("Upload-Metadata has a key that is empty, odd or there twice")
        keys.add(key)
        try:
            found[key] = base64.b64decode(value.encode("latin-1"), validate=True).decode()
        except binascii.Error:
            raise _refuse(f"the value of {key[:40]} in Upload-Metadata is no Base64") from None
        except UnicodeDecodeError:
            continue
    return found


def proof(headers: Mapping[str, str]) -> Proof | None:
    """The checksum of the body, if ``Upload-Checksum`` tells it.

    Raises:
        HTTPError: 400, nothing here can compute it.
    """
    text = headers.get("Upload-Checksum")
    if text is None:
        return None
    algorithm, _, value = text.partition(" ")
    if algorithm not in CHECKSUMS:
        raise _refuse(f"Upload-Checksum may be by {', '.join(CHECKSUMS)}")
    try:
        digest = base64.b64decode(value.encode("latin-1"), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise _refuse("the value of Upload-Checksum is no Base64 of such a checksum")
    return Proof(algorithm, digest)


@dataclass(frozen=True, slots=True)
class Creation:
    """A request for a new upload; ``parts`` are the uploads that it is made of."""

    announced: Announced
    parts: tuple[str, ...] = ()


def creation(headers: Mapping[str, str]) -> Creation:
    """What a request for a new upload announces.

    Raises:
        HTTPError: 400, a header is missing, or says what it may not.
    """
    concat = headers.get("Upload-Concat", "")
    kind, _, urls = concat.partition(";")
    part = {"": Part.NONE, "partial": Part.PARTIAL, "final": Part.FINAL}.get(kind)
    if part is None or (kind != "final" and urls):
        raise _refuse("Upload-Concat is 'partial', or 'final;' with the addresses of the parts")
    length = _length(headers, part)
    told = headers.get("Upload-Metadata", "")
    known = metadata(told)
    announced = Announced(
        target="" if part is Part.PARTIAL else _target(known),
        length=length,
        checksums={name: known[name] for name in CHECKSUMS if known.get(name)},
        metadata=told,
        part=part,
        concat=concat,
    )
    return Creation(announced, _parts(urls) if part is Part.FINAL else ())


def _length(headers: Mapping[str, str], part: Part) -> int | None:
    length, deferred = number(headers, "Upload-Length"), headers.get("Upload-Defer-Length")
    if deferred not in (None, "1"):
        raise _refuse("Upload-Defer-Length is 1, or not there")
    if part is Part.FINAL:
        if length is not None or deferred is not None:
            raise _refuse("the length of a final upload is that of its parts")
    elif (length is None) == (deferred is None):
        raise _refuse("either Upload-Length or Upload-Defer-Length: 1 must be given")
    return length


def _target(known: Mapping[str, str]) -> str:
    path = known.get("path", "")
    if path.endswith("/"):
        path += known.get("filename", "").rpartition("/")[2]
    if not path or path.endswith("/"):
        raise _refuse("Upload-Metadata must have 'path': where the file is to be put")
    return path


def _parts(urls: str) -> tuple[str, ...]:
    found = [_UPLOAD_PATH.fullmatch(urlsplit(url).path) for url in urls.split(" ") if url]
    if not found or None in found:
        raise _refuse("Upload-Concat must name the addresses of the parts")
    return tuple(each[1] for each in found if each)
