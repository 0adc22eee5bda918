"""The grammar of HTTP/1.1 as a client needs it, without input and output.

Strict where two readers could differ about where an answer ends: that is how a second answer
is smuggled into the first, and how a part passes for the whole.  Source: RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from iceprod.errors import InputError

MAX_HEAD: Final = 64 * 1024
MAX_FIELDS: Final = 200
MAX_LINE: Final = 4096
END_OF_HEAD: Final = b"\r\n\r\n"

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_NAME_OUT: Final = re.compile(r"[A-Za-z-]+")
_VALUE_OUT: Final = re.compile(r"[\x20-\x7e]*")


class Broken(Exception):
    """The other side did not keep to the protocol, or went away."""


@dataclass(frozen=True, slots=True)
class Headers:
    """Fields of an answer, names in lower case, in their order."""

    fields: tuple[tuple[str, str], ...] = ()

    def all(self, name: str) -> list[str]:
        """Values of every field of that (lower-case) name."""
        return [value for each, value in self.fields if each == name]

    def get(self, name: str) -> str:
        """Those joined by commas; empty if there is none."""
        return ", ".join(self.all(name))


@dataclass(frozen=True, slots=True)
class Head:
    """Status and fields of an answer; ``minor`` is that of its version, HTTP/1.x."""

    status: int
    headers: Headers
    minor: int = 1

    @property
    def keeps_open(self) -> bool:
        """Whether another request may follow on the same connection."""
        wishes = {wish.strip() for wish in self.headers.get("connection").lower().split(",")}
        return self.minor == 1 and "close" not in wishes


def parse_head(raw: bytes) -> Head:
    """The head of an answer; ``raw`` is without the empty line that ends it.

    Raises:
        Broken: it is none.
    """
    first, *lines = raw.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None or len(lines) > MAX_FIELDS:
        raise Broken("what came is no answer of HTTP/1.1")
    return Head(int(status[2]), parse_fields(lines), int(status[1]))


def parse_fields(lines: Sequence[bytes]) -> Headers:
    """Fields, one per line; lines that continue another are not read.

    Raises:
        Broken: a line is no field.
    """
    fields = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Broken("a header of the answer is malformed")
        fields.append((found[1].decode("ascii").lower(), found[2].decode("latin-1").strip(" \t")))
    return Headers(tuple(fields))


@dataclass(frozen=True, slots=True)
class Framing:
    """How long a body is: ``length`` bytes, in chunks, or (neither) until the connection is closed."""

    length: int | None = None
    is_chunked: bool = False


def framing_of(head: Head, method: str) -> Framing:
    """How the body after ``head`` ends.

    Raises:
        Broken: that can't be told for certain.
    """
    lengths, codings = head.headers.all("content-length"), head.headers.all("transfer-encoding")
    if len(lengths) > 1 or (lengths and not _NUMBER.fullmatch(lengths[0])):
        raise Broken("the length of the answer can't be told")
    if codings and (lengths or head.minor == 0 or [each.lower() for each in codings] != ["chunked"]):
        raise Broken("the length of the answer can be told in two ways")
    if method == "HEAD" or head.status in (204, 304):
        return Framing(length=0)
    if codings:
        return Framing(is_chunked=True)
    return Framing(length=int(lengths[0]) if lengths else None)


def chunk_size(line: bytes) -> int:
    """The size that the line before a chunk tells; extensions are dropped.

    Raises:
        Broken: it tells none.
    """
    found = _CHUNK.fullmatch(line)
    if found is None:
        raise Broken("the size of a chunk is malformed")
    return int(found[1], 16)


def request_head(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """A request up to the empty line.

    Raises:
        InputError: a value has a line break or another character that no header may have.
    """
    for name, value in fields:
        if not _NAME_OUT.fullmatch(name) or not _VALUE_OUT.fullmatch(value):
            raise InputError(f"the header {name[:40]!r} can't be sent")
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("ascii")


def ascii_target(target: str) -> str:
    """``target`` with all that is no printable ASCII encoded, as a request line needs it."""
    return quote(target, safe="".join(map(chr, range(0x21, 0x7F))), errors="surrogateescape")
