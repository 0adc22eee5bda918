"""Listings of web servers: WebDAV's PROPFIND, and nginx's index in JSON.

Both come from outside: they are bounded, read bit by bit, and may define no entities.
Source: RFC 4918.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final
from urllib.parse import urljoin
from xml.parsers import expat

from iceprod.errors import InputError, TooLarge
from iceprod.model.location import Location, parse_location
from iceprod.movers.base import Entry, Facts
from iceprod.movers.bodies import Upload
from iceprod.movers.http_client import Request, Response
from iceprod.movers.http_facts import facts_of, http_time
from iceprod.movers.http_wire import Broken, Headers

_QUESTION: Final = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop>'
    b"<resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>"
)
_HREF: Final = "DAV: href"
_RESPONSE: Final = "DAV: response"
_FOLDER: Final = "DAV: collection"
_FIELDS: Final = {
    "DAV: getcontentlength": "content-length",
    "DAV: getlastmodified": "last-modified",
    "DAV: getetag": "etag",
}
_MOST_TEXT: Final = 16 * 1024
_BASE_BYTES: Final = 1024 * 1024
_BYTES_PER_ENTRY: Final = 4096
_SPARE: Final = 64
_DEEPEST: Final = 64
_LONGEST_TAG: Final = 64 * 1024


def propfind(folder: Location) -> Request:
    """The question for what lies in ``folder``."""

    async def question() -> AsyncIterator[bytes]:
        yield _QUESTION

    headers = (("Depth", "1"), ("Content-Type", "application/xml; charset=utf-8"))
    return Request("PROPFIND", folder, headers, Upload(len(_QUESTION), question(), ask_first=False))


async def entries(response: Response, folder: Location, *, limit: int) -> AsyncIterator[Entry]:
    """What an answer to `propfind` names.

    Raises:
        TooLarge: more than ``limit``.
        Broken: the answer is none.
    """
    reader, count = _Reader(folder), 0
    async for piece in _pieces(response, limit):
        for entry in reader.feed(piece):
            count += 1
            if count > limit:
                raise TooLarge(f"the directory has more than {limit} names")
            yield entry
    for entry in reader.feed(b"", is_last=True):
        yield entry


async def index(response: Response, folder: Location, *, limit: int) -> AsyncIterator[Entry]:
    """What nginx's ``autoindex_format json`` names.

    Raises:
        InputError: that server has no listings that a program can read.
        TooLarge: more than ``limit``.
    """
    if not response.headers.get("content-type").lower().startswith("application/json"):
        raise InputError(f"{folder.host} has no listings")
    raw = b"".join([piece async for piece in _pieces(response, limit)])
    # In memory a list or an object of two bytes takes fifty.
    if raw.count(b"{") + raw.count(b"[") > _SPARE + 8 * limit or raw.count(b",") > _SPARE + 16 * limit:
        raise TooLarge(f"the directory has more than {limit} names")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise Broken("the listing is malformed") from None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Broken("the listing is malformed")
    if len(found) > limit:
        raise TooLarge(f"the directory has more than {limit} names")
    for each in found:
        if _is_name(name := each.get("name")):
            yield Entry(name, _facts_of_index(each))


def _facts_of_index(each: dict[str, Any]) -> Facts:
    size = each.get("size")
    return Facts(
        size_bytes=size if isinstance(size, int) else None,
        modified_at=http_time(str(each.get("mtime", ""))),
        is_directory=each.get("type") == "directory",
    )


async def _pieces(response: Response, limit: int) -> AsyncIterator[bytes]:
    """The body, as long as it may be for so many entries."""
    left = _BASE_BYTES + limit * _BYTES_PER_ENTRY
    while piece := await response.body.read():
        left -= len(piece)
        if left < 0:
            raise TooLarge("the listing is too long")
        yield piece


class _Reader:
    """Takes a multistatus document apart while it comes."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._found: list[Entry] = []
        self._depth = self._fed = 0
        self._text: list[str] | None = None
        self._text_size = 0
        self._values: dict[str, str] = {}
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype

    def feed(self, data: bytes, *, is_last: bool = False) -> Iterator[Entry]:
        """Entries that are complete with ``data``."""
        try:
            self._parser.Parse(data, is_last)
        except expat.ExpatError:
            raise Broken("the listing is malformed") from None
        self._fed += len(data)
        if not is_last and self._fed - self._parser.CurrentByteIndex > _LONGEST_TAG + len(data):
            raise Broken("a tag of the listing is too long")
        found, self._found = self._found, []
        yield from found

    def _refuse_doctype(self, *_: Any) -> None:
        raise Broken("the listing defines entities")

    def _begin(self, name: str, _: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Broken("the listing is too deep")
        if name == _RESPONSE:
            self._values = {}
        elif name == _FOLDER:
            self._values[_FOLDER] = name
        elif name == _HREF or name in _FIELDS:
            self._text, self._text_size = [], 0

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
            self._text_size += len(text)
            if self._text_size > _MOST_TEXT:
                raise Broken("a value of the listing is too long")

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._text is not None and (name == _HREF or name in _FIELDS):
            self._values.setdefault(name, "".join(self._text).strip())
            self._text = None
        elif name == _RESPONSE:
            self._take()

    def _take(self) -> None:
        """Keep what was read of one file, if it lies in the folder."""
        is_directory = _FOLDER in self._values
        name = self._name_of(self._values.get(_HREF, ""))
        if not name:
            return
        headers = Headers(tuple((_FIELDS[key], text) for key, text in self._values.items() if key in _FIELDS))
        length = headers.get("content-length")
        size = int(length) if length.isascii() and length.isdigit() and not is_directory else None
        self._found.append(Entry(name, facts_of(headers, size, is_directory=is_directory)))

    def _name_of(self, href: str) -> str:
        """The name that ``href`` has in the folder; empty for the folder and for what lies elsewhere."""
        try:
            path = parse_location(urljoin(str(self._folder), href)).path.rstrip("/")
        except (InputError, ValueError):
            return ""
        parent, _, name = path.rpartition("/")
        return name if f"{parent}/" == self._folder.path and _is_name(name) else ""


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name
