"""What is written beside a copy, and beside one that is still coming."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from iceprod.model.location import Location
from iceprod.movers.base import Facts

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Told(msgspec.Struct, frozen=True):
    """What an origin told of a file, as it is kept on disk."""

    size_bytes: int
    modified_at: float | None = None
    validator: str = ""
    checksums: dict[str, str] = {}

    @classmethod
    def of(cls, facts: Facts) -> Told:
        """The same of facts that have a size."""
        return cls(facts.size_bytes or 0, facts.modified_at, facts.validator, dict(facts.checksums))

    def facts(self) -> Facts:
        """The same as a value of the port."""
        return Facts(self.size_bytes, self.modified_at, self.validator, self.checksums)


class Copy(msgspec.Struct, frozen=True):
    """A complete copy; ``data`` is the name of the file that has the bytes.

    ``reader`` is the user alone who may see it, empty for everybody who finds the origin.
    ``checksums`` are those of the bytes that lie here: sha512, sha256, adler32 and md5.
    """

    url: str
    reader: str
    origin: str
    told: Told
    checksums: dict[str, str]
    fetched_at: float
    data: str


class Coming(msgspec.Struct, frozen=True):
    """A copy that is being made in the file of that ``inode``, since the machine's start ``boot``."""

    url: str
    reader: str
    origin: str
    told: Told
    inode: int
    boot: str


T = TypeVar("T", Copy, Coming)


def read(path: Path, kind: type[T]) -> T | None:
    """What a file says; None where there is none, or nothing that makes sense."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def key_of(locations: Sequence[Location], reader: str) -> str:
    """The name under which a copy is kept: nobody but ``reader`` has the same.

    All places count, not the first alone: else who names two could have the contents of one
    served as the other's.
    """
    text = "\n".join([*map(str, locations), reader]).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()


def can_be_told_apart(facts: Facts) -> bool:
    """Whether a changed file would be noticed by its facts."""
    return bool(facts.validator) or facts.modified_at is not None


def boot_id() -> str:
    """When this machine was started: what was written before may not all have reached the disk."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
