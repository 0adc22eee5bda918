"""Facts of files as MLST and MLSD tell them (RFC 3659 section 7). No I/O."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from iceprod.movers.base import Entry, Facts
from iceprod.movers.gridftp.faults import ProtocolFault

MAX_LINE: Final = 16 * 1024
_TIME: Final = re.compile(r"(\d{14})(?:\.(\d{1,9}))?")
_DIRECTORIES: Final = frozenset({"dir", "cdir", "pdir"})


class ListingError(ProtocolFault):
    """These are no facts of a file."""


def parse_facts(line: str) -> tuple[str, Facts, str]:
    """Type in lower case, facts and name of one line.

    Raises:
        ListingError: it is none.
    """
    told, space, name = line.lstrip(" ").partition(" ")
    if not space or not name or "=" not in told:
        raise ListingError(f"no facts of a file: {line[:80]!r}")
    facts: dict[str, str] = {}
    for fact in told.removesuffix(";").split(";"):
        key, equals, value = fact.partition("=")
        if not equals:
            raise ListingError(f"no facts of a file: {line[:80]!r}")
        facts[key.lower()] = value
    kind = facts.get("type", "file").lower()
    is_directory = kind in _DIRECTORIES
    found = Facts(
        size_bytes=None if is_directory else _size(facts.get("size", "")),
        modified_at=parse_time(facts.get("modify", "")),
        is_directory=is_directory,
    )
    return kind, found, name


def parse_entry(line: str) -> Entry | None:
    """The entry of a directory that a line of MLSD tells; None for the directory itself and its parent.

    Raises:
        ListingError: it is none, or its name is none.
    """
    kind, facts, name = parse_facts(line)
    if kind in ("cdir", "pdir") or name in (".", ".."):
        return None
    # Some servers give the whole path; none may give one that leads elsewhere.
    name = name.rstrip("/").rpartition("/")[2]
    if not name or name in (".", "..") or any(ord(one) < 32 or ord(one) == 127 for one in name):
        raise ListingError("a name that is none")
    return Entry(name, facts)


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of ``YYYYMMDDHHMMSS[.F]`` in UTC; None where it is no time."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    try:
        moment = datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return moment + (float(f"0.{found[2]}") if found[2] else 0.0)


def _size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class LineSplitter:
    """Cuts a listing into lines, however the network has cut it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now.

        Raises:
            ListingError: one has no end.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise ListingError("a line without end")
        texts = (line.rstrip(b"\r").decode("utf-8", "surrogateescape") for line in lines)
        return [text for text in texts if text]

    def finish(self) -> list[str]:
        """The last line, where it was not ended."""
        return self.feed(b"\n") if self._rest else []
