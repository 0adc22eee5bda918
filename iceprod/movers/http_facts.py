"""What the headers and statuses of answers tell of a file.

Sources: RFC 9110 (validators, ranges, statuses), RFC 3230 (``Digest``, as grid storage speaks
it), RFC 9530 (``Repr-Digest``).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import Facts
from iceprod.movers.http_wire import Broken, Headers

DIGEST_NAMES: Final = {
    "adler32": "adler32",
    "md5": "md5",
    "sha": "sha1",
    "sha-256": "sha256",
    "sha-512": "sha512",
}
"""Names in headers → names in `Facts.checksums`."""

_STRONG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NO_RANGE: Final = re.compile(r"bytes \*/([0-9]{1,18})")
_DIGEST: Final = re.compile(r"\s*([A-Za-z0-9-]+)=([^,\s]+)\s*")
_PACKED: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".Z", ".br", ".lzma")
_YEAR_10000: Final = 253402300800.0
_SIZES: Final = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}


def shown(location: Location) -> str:
    """An address as it may stand in messages: queries hold signatures and keys."""
    return str(replace(location, query=""))


def facts_of(headers: Headers, size_bytes: int | None, *, is_directory: bool = False) -> Facts:
    """What ``headers`` tell of a file of that size."""
    etag = headers.get("etag")
    return Facts(
        size_bytes=size_bytes,
        modified_at=http_time(headers.get("last-modified")),
        validator=etag if _STRONG.fullmatch(etag) else "",
        checksums=dict(_checksums(headers)),
        is_directory=is_directory,
    )


def whole_size(headers: Headers) -> int | None:
    """``Content-Length``, where there is a usable one."""
    text = headers.get("content-length")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def part_of(headers: Headers, *, offset: int, length: int | None) -> tuple[int, int | None]:
    """Size of the part and of the whole file in a 206 answer to a request for that span.

    Raises:
        Broken: it is another part than was asked for.
    """
    found = _RANGE.fullmatch(headers.get("content-range"))
    if found is None:
        raise Broken("the origin does not tell which part it sends")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    wanted = None if length is None else offset + length - 1
    if total is not None:
        wanted = total - 1 if wanted is None else min(wanted, total - 1)
    if first != offset or (wanted is not None and last != wanted):
        raise Broken("the origin sends another part than was asked for")
    size = last - first + 1
    if whole_size(headers) not in (None, size):
        raise Broken("the part that the origin sends has two lengths")
    return size, total


def size_behind(headers: Headers) -> int | None:
    """The size of the file in a 416 answer."""
    found = _NO_RANGE.fullmatch(headers.get("content-range"))
    return int(found[1]) if found else None


def check_coding(headers: Headers, location: Location) -> None:
    """Refuse a body that was packed on the way: it is not the file, and nothing is unpacked here.

    Old servers say of files that are packed themselves that they are "encoded".

    Raises:
        Broken: that is so.
    """
    coding = headers.get("content-encoding").lower()
    if coding not in ("", "identity") and not location.path.endswith(_PACKED):
        raise Broken("the origin packed the file, unasked")


def http_time(text: str) -> float | None:
    """Seconds since the epoch; None where ``text`` is no time."""
    try:
        instant = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return instant if 0 <= instant < _YEAR_10000 else None  # others can't be written as a date again


def refusal(status: int, location: Location) -> IceProdError:
    """The error that an answer of that ``status`` is, but 2xx."""
    where, host = shown(location), location.host
    if status in (404, 410):
        return NotFoundError("file", where)
    if status == 507:
        return Unavailable(f"the disk of {host} is full", reason="storage_full")
    for statuses, kind, said in _REFUSALS:
        if status in statuses:
            return kind(said.format(host=host, where=where))
    return TransferFailed(f"{host} answered {status}", source=where, done_bytes=0, status=status)


_REFUSALS: Final[tuple[tuple[tuple[int, ...], type[IceProdError], str], ...]] = (
    ((401, 403), AccessDenied, "{host} refuses access to {where}"),
    ((405, 501), InputError, "{host} has no such operation for {where}"),
    ((409, 412, 423), ConflictError, "something is in the way of {where}"),
    ((413,), TooLarge, "the file is too large for {host}"),
    ((416,), InputError, "the part begins behind the end of {where}"),
)


def _checksums(headers: Headers) -> Iterator[tuple[str, str]]:
    """Names and lower-case hexadecimal of those that are well-formed."""
    for field in (headers.get("digest"), headers.get("repr-digest")):
        for item in field.split(","):
            found = _DIGEST.fullmatch(item)
            name = DIGEST_NAMES.get(found[1].lower()) if found else None
            if found and name:
                value = _adler32(found[2]) if name == "adler32" else _base64(name, found[2].strip(":"))
                if value:
                    yield name, value


def _adler32(text: str) -> str:
    return text.lower().zfill(8) if re.fullmatch("[0-9A-Fa-f]{1,8}", text) else ""


def _base64(name: str, text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return ""
    return raw.hex() if len(raw) == _SIZES[name] else ""
