"""Where a file is: addresses of all protocols, checked and in one spelling.

An address that two programs read differently is how a check is got around, so one that is
odd in any way is refused rather than mended: user names and passwords (they would be logged),
control characters, backslashes, ``.`` and ``..``, encoded slashes, host names that are none.
Source: RFC 3986 sections 3 and 6; ``file:`` as RFC 8089.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from iceprod.errors import InputError

PORTS: Final = {"http": 80, "https": 443, "ftp": 21, "gsiftp": 2811, "sftp": 22, "globus": 443}
"""Scheme → port that it stands for."""
MAX_LENGTH: Final = 4096

_PARTS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?")
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KEPT: Final = "/:@!$&'()*+,;=~"


@dataclass(frozen=True, slots=True)
class Location:
    """One address; ``path`` is decoded, ``query`` as it was written, ``host`` in lower case.

    IPv6 addresses have no brackets in ``host``.  ``port`` is never 0 but for ``file:``, which
    has no host either.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def authority(self) -> str:
        """``host`` or ``host:port``, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (0, PORTS.get(self.scheme)) else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query, encoded: what follows the authority."""
        path = quote(self.path, safe=_KEPT, errors="surrogateescape")
        return f"{path}?{self.query}" if self.query else path

    @property
    def name(self) -> str:
        """The last name of the path; empty for a directory."""
        return self.path.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """The address as it may stand in messages and lists: queries hold signatures and keys."""
        return str(replace(self, query=""))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def is_below(self, other: Location) -> bool:
        """Whether ``other`` is this place or a directory that holds it."""
        mine, its = (self.scheme, self.host, self.port), (other.scheme, other.host, other.port)
        folder = other.path.rstrip("/")
        return mine == its and (self.path == folder or self.path.startswith(f"{folder}/"))

    def child(self, name: str) -> Location:
        """The file of that name in the directory that this is."""
        return Location(self.scheme, self.host, self.port, f"{self.path.rstrip('/')}/{name}")


def parse_location(text: str) -> Location:
    """The location that ``text`` is the address of.

    Raises:
        InputError: it is none, is longer than `MAX_LENGTH`, or could be read in two ways.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(f"an address has at most {MAX_LENGTH} characters")
    found = _PARTS.fullmatch(text)
    if found is None or not text.isprintable() or " " in text or "\\" in text:
        raise InputError(f"{text[:80]!r} is no address")
    scheme, authority, path, query = found[1].lower(), found[2] or "", found[3], found[4] or ""
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise InputError("a file: address names no host")
        return Location(scheme, "", 0, _clean_path(path))
    if scheme not in PORTS:
        raise InputError(f"nothing here speaks {scheme}: known are {', '.join(sorted(PORTS))} and file")
    host, port = _split_authority(authority, PORTS[scheme])
    return Location(scheme, host, port, _clean_path(path or "/"), query)


def _split_authority(authority: str, default: int) -> tuple[str, int]:
    if "@" in authority:
        raise InputError("an address may not hold a user name or a password; store a credential instead")
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        if not bracket or separator not in ("", ":") or not _is_ipv6(host):
            raise InputError("the host is no IPv6 address")
        host = str(ipaddress.IPv6Address(host))
    else:
        host, separator, port = authority.partition(":")
        host = host.lower().removesuffix(".")
        _check_host(host)
    if not separator:
        return host, default
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise InputError("the port is no number from 1 to 65535")
    return host, int(port)


def _check_host(host: str) -> None:
    """Refuse what is no name and no plain IPv4 address: ``0x7f.1`` and ``2130706433`` are both to some."""
    if not _NAME.fullmatch(host):
        raise InputError("the host is no name and no address")
    last = host.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise InputError("an IPv4 address has four decimal numbers") from None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text


def _clean_path(raw: str) -> str:
    if not raw.startswith("/"):
        raise InputError("the path of an address begins with a slash")
    if _ESCAPE.search(raw):
        raise InputError("a percent sign is followed by two hexadecimal digits")
    path = unquote_to_bytes(raw).decode("utf-8", "surrogateescape")
    # An encoded slash or dot segment would mean another file to whoever decodes first.
    if raw.lower().count("%2f") or any(
        # What follows a semicolon is dropped by servlet containers, dCache's among them.
        name.partition(";")[0] in (".", "..")
        for name in path.split("/")
    ):
        raise InputError("a path has no '.', no '..' and no encoded slash")
    if any(ord(character) < 32 or ord(character) == 127 or character == "\\" for character in path):
        raise InputError("a path has no control characters and no backslash")
    return path
