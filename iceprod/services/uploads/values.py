"""What an upload is, as it is written down beside its data and as others are shown it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from iceprod.errors import InputError
from iceprod.model.principal import Principal, PrincipalKind

CHECKSUMS: Final = ("sha1", "sha256", "sha512", "md5")
"""Algorithms by which clients may prove what they send."""


class Stage(StrEnum):
    """How far an upload is."""

    OPEN = "open"  # bytes may come
    STORING = "storing"  # all came and were right; it is being put in its place
    STORED = "stored"  # it is in its place
    FORWARDING = "forwarding"  # all came and were right; an origin is to get it
    FAILED = "failed"  # it will never be in its place; `error` says why
    EXPIRED = "expired"  # nothing came for too long


OVER: Final = frozenset({Stage.STORED, Stage.FAILED, Stage.EXPIRED})
"""Stages in which there is no data any more."""


class Part(StrEnum):
    """What an upload is in a concatenation."""

    NONE = ""
    PARTIAL = "partial"  # a piece of a file, which is no file itself
    FINAL = "final"  # made of such pieces


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose the bytes are: what limits and quotas go by; the dataset's owner for tasks."""

    user: str
    group: str = ""
    dataset_id: str = ""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a client says of a file before it sends it.

    ``target`` is the path of a temp area or the address of a file at an origin, empty for a
    piece of a file.  ``length`` is None where it is told later.  ``checksums`` has lower-case
    hexadecimal by algorithm.  ``metadata`` is kept for the client as it came.  ``protocol``
    is ``tus`` or ``announced``; ``concat`` the header of that name.
    """

    target: str
    length: int | None
    checksums: dict[str, str] = field(default_factory=dict)
    metadata: str = ""
    protocol: str = "tus"
    part: Part = Part.NONE
    concat: str = ""


class About(msgspec.Struct, frozen=True):
    """What is known of an upload besides its data; a new one takes the place of the old.

    ``sha256`` is of the whole file, once that is known.  ``secret`` is the digest of the
    secret in the one-time path, by which nothing is sent any more when ``is_used``.
    Forwarding was tried ``tries`` times and is tried again at ``due_at``; ``over_at`` is when
    a stage of `OVER` began.
    """

    target: str
    length: int | None
    checksums: dict[str, str]
    metadata: str
    protocol: str
    part: Part
    concat: str
    kind: PrincipalKind
    caller: str
    groups: tuple[str, ...]
    lease_id: str
    holder: Holder
    created_at: float
    stage: Stage = Stage.OPEN
    sha256: str = ""
    secret: str = ""
    is_used: bool = False
    error: str = ""
    tries: int = 0
    due_at: float = 0.0
    over_at: float | None = None

    @property
    def principal(self) -> Principal:
        """Who sends it."""
        return Principal(self.kind, self.caller, frozenset(self.groups), self.lease_id)

    @property
    def is_local(self) -> bool:
        """Whether it is for a temp area of this site."""
        return "://" not in self.target

    def after(self, **changes: object) -> About:
        """This with some fields changed."""
        return msgspec.structs.replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Mark:
    """How much of an upload counts (is on the disk and was checked), and when that last grew."""

    offset: int
    moved_at: float


@dataclass(frozen=True, slots=True)
class UploadView:
    """How an upload is doing; ``expires_at`` is when it, or the memory of it, goes."""

    upload_id: str
    target: str
    stage: Stage
    offset: int
    length: int | None
    owner: str
    dataset_id: str
    protocol: str
    part: Part
    concat: str
    metadata: str
    sha256: str
    error: str
    tries: int
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """The settings.

    How long an upload may rest, how large a file may be, how many a user may have open, and
    how much of the disk stays free.
    """

    expire_s: float
    max_bytes: int
    most_open: int = 1000
    keep_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """A new upload; ``secret`` opens its one-time path, empty if it has none."""

    view: UploadView
    secret: str


def check_checksums(given: dict[str, str]) -> dict[str, str]:
    """``given`` in lower case, if each is a checksum.

    Raises:
        InputError: an algorithm is unknown, or a value is not its hexadecimal.
    """
    found: dict[str, str] = {}
    for name, value in given.items():
        if name not in CHECKSUMS:
            raise InputError(f"checksums may be {', '.join(CHECKSUMS)}, not {name[:20]!r}")
        text = value.strip().lower()
        size = hashlib.new(name, usedforsecurity=False).digest_size
        if len(text) != 2 * size or set(text) - set("0123456789abcdef"):
            raise InputError(f"a checksum by {name} has {2 * size} hexadecimal digits")
        found[name] = text
    return found
