"""Distinguished names of certificates, in the one spelling by which they are compared.

The same name is spelt in three ways: as OpenSSL and nginx print it (RFC 4514: the last
part first, with backslashes), as Globus does (``/DC=org/CN=Ada``, without any escapes), and
as a structure in the certificate.  All three become a `Name`, and its `text` is unique: two
names are equal if and only if their texts are.  Comparison is exact; that letters of either
case might mean the same is not believed of anybody's identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from iceprod.errors import InputError

LONGEST_NAME: Final = 4096
"""Bytes of the longest name that is read."""

Part = tuple[tuple[str, str], ...]
"""A relative name: pairs of a type (object identifier, dotted) and a value."""

_TYPES: Final = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "street": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "title": "2.5.4.12",
    "description": "2.5.4.13",
    "businessCategory": "2.5.4.15",
    "postalCode": "2.5.4.17",
    "telephoneNumber": "2.5.4.20",
    "name": "2.5.4.41",
    "GN": "2.5.4.42",
    "initials": "2.5.4.43",
    "generationQualifier": "2.5.4.44",
    "dnQualifier": "2.5.4.46",
    "pseudonym": "2.5.4.65",
    "organizationIdentifier": "2.5.4.97",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "emailAddress": "1.2.840.113549.1.9.1",
    "unstructuredName": "1.2.840.113549.1.9.2",
}
"""Names of types as OpenSSL spells them."""

_ALIASES: Final = {
    "S": "ST",
    "STREET": "street",
    "SURNAME": "SN",
    "GIVENNAME": "GN",
    "EMAIL": "emailAddress",
    "E": "emailAddress",
    "USERID": "UID",
}
_BY_NAME: Final = {
    **{name.upper(): oid for name, oid in _TYPES.items()},
    **{alias: _TYPES[name] for alias, name in _ALIASES.items()},
}
_SHORT: Final = {oid: name for name, oid in _TYPES.items()}

_OID: Final = re.compile(r"[0-2](\.(0|[1-9]\d{0,38})){1,30}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{2}")
_SPECIAL: Final = ',+"\\<>;'
_SLASH: Final = re.compile(r"/(?=(?:[A-Za-z][A-Za-z0-9-]*|[0-2](?:\.\d+)+)=)")
_SLASH_ESCAPE: Final = re.compile(rb"\\x([0-9A-Fa-f]{2})")
_TEXT_TAGS: Final = {0x0C: "utf-8", 0x12: "ascii", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii"}
_WIDE_TAGS: Final = {0x1A: "ascii", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}


@dataclass(frozen=True, slots=True)
class Name:
    """A distinguished name: its parts in the order of the certificate, the most general first."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterable[Iterable[tuple[str, str]]]) -> Name:
        """The name of these parts; what stands together in one part has no order of its own."""
        return cls(tuple(tuple(sorted(part)) for part in parts))

    @property
    def text(self) -> str:
        """The one spelling of this name: RFC 4514 as OpenSSL writes it, in printable ASCII."""
        return ",".join("+".join(_shown(*pair) for pair in part) for part in reversed(self.parts))

    def __str__(self) -> str:
        return self.text


def _shown(oid: str, value: str) -> str:
    return f"{_SHORT.get(oid, oid)}={_escaped(value)}"


def _escaped(value: str) -> str:
    shown = "".join(map(_character, value))
    if value.startswith(("#", " ")):
        shown = "\\" + shown
    if len(value) > 1 and value.endswith(" "):
        shown = shown[:-1] + "\\ "
    return shown


def _character(one: str) -> str:
    if one in _SPECIAL:
        return "\\" + one
    if " " <= one <= "~":
        return one
    return "".join(f"\\{byte:02X}" for byte in one.encode("utf-8", "surrogatepass"))


def parse(text: str) -> Name:
    """A name in either spelling: that of RFC 4514, or with a slash before each part.

    Raises:
        InputError: it is neither.
    """
    return parse_slashes(text) if text.startswith("/") else parse_rfc4514(text)


def parse_rfc4514(text: str) -> Name:
    r"""A name as OpenSSL prints it with ``-nameopt RFC2253``, and nginx as ``$ssl_client_s_dn``.

    Types that have no short name here are taken as object identifiers only, values also as
    ``#`` and the hexadecimal digits of a string's DER encoding.

    Raises:
        InputError: it cannot be read, or not in one way only.
    """
    data = _bounded(text)
    parts: list[list[tuple[str, str]]] = [[]]
    position = 0
    while True:
        equals = data.find(b"=", position)
        if equals < 0:
            raise _unreadable(text)
        oid = _type(data[position:equals].decode().strip(), text)
        value, position = _value(data, equals + 1, text)
        parts[-1].append((oid, value))
        if position >= len(data):
            break
        if data[position : position + 1] == b",":
            parts.append([])
        position += 1
    return Name.of(reversed(parts))


def _value(data: bytes, start: int, text: str) -> tuple[str, int]:
    """The value that begins there, and where it ends."""
    raw, position = bytearray(), start
    while position < len(data) and data[position] not in b",+":
        byte = data[position]
        if byte in b'"<>;':
            raise _unreadable(text)
        if byte == 0x5C:
            escaped, position = _escape(data, position + 1, text)
            raw += escaped
        else:
            raw.append(byte)
            position += 1
    written = data[start:position]
    if written.startswith(b"#"):
        return _from_der(written[1:], text), position
    if written.startswith(b" ") or (written.endswith(b" ") and not _ends_escaped(written)):
        raise _unreadable(text)
    return _decoded(bytes(raw), "utf-8", text), position


def _escape(data: bytes, position: int, text: str) -> tuple[bytes, int]:
    if _HEX.match(data, position):
        return bytes.fromhex(data[position : position + 2].decode()), position + 2
    if position < len(data) and chr(data[position]) in _SPECIAL + "=# ":
        return data[position : position + 1], position + 1
    raise _unreadable(text)


def _ends_escaped(written: bytes) -> bool:
    """Whether the space at the end has a backslash of its own before it."""
    before = written[:-1]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _from_der(digits: bytes, text: str) -> str:
    """The text in a DER encoding of a string; a value of any other type names nobody."""
    if not re.fullmatch(rb"([0-9A-Fa-f]{2})+", digits):
        raise _unreadable(text)
    der = bytes.fromhex(digits.decode())
    encoding = {**_TEXT_TAGS, **_WIDE_TAGS}.get(der[0])
    if encoding is None or len(der) < 2:
        raise _unreadable(text)
    head = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    length = der[1] if head == 2 else int.from_bytes(der[2:head], "big")
    if len(der) != head + length:
        raise _unreadable(text)
    return _decoded(der[head:], encoding, text)


def parse_slashes(text: str) -> Name:
    r"""A name as Globus writes it; ``\xHH`` stands for a byte, nothing else is escaped.

    A slash begins a new part only if a type and ``=`` follow, so that names like
    ``/CN=host/www.example.org`` are read as meant.  Parts of several values cannot be written
    in this spelling.

    Raises:
        InputError: it cannot be read.
    """
    _bounded(text)
    first, *written = _SLASH.split(text)
    if first or not written:
        raise _unreadable(text)
    return Name.of([pair] for pair in _pairs(written, text))


def _pairs(written: Iterable[str], text: str) -> Iterator[tuple[str, str]]:
    for part in written:
        kind, _, value = part.partition("=")
        raw = _SLASH_ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), value.encode())
        yield _type(kind, text), _decoded(raw, "utf-8", text)


def _type(written: str, text: str) -> str:
    oid = _BY_NAME.get(written.upper())
    if oid is not None:
        return oid
    if _OID.fullmatch(written):
        return written
    raise _unreadable(text)


def _bounded(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise _unreadable(text) from None
    if not data or len(data) > LONGEST_NAME:
        raise _unreadable(text)
    return data


def _decoded(raw: bytes, encoding: str, text: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise _unreadable(text) from None


def _unreadable(text: str) -> InputError:
    return InputError(f"this is no distinguished name: {text[:200]!a}")
