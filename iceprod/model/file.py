"""Files that are known: what they are, where they lie, whose they are, and what moving them took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Replica:
    """A place where a file lies; ``site`` is empty for this one, ``seen_at`` when it was last found.

    ``url`` is a path (``/files/…``) where this server has the file itself, else an address.
    """

    url: str
    site: str
    seen_at: float

    @property
    def is_here(self) -> bool:
        """Whether this server has the file itself."""
        return self.url.startswith("/")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of the catalogue.

    ``name`` is its path, unique within ``dataset_id`` (empty for files of the whole site) and
    as people look for it, like ``job_temp/3/hits.npz``.  ``checksums`` has lower-case
    hexadecimal by algorithm; ``sha256`` is always there.  ``job_index`` and ``task_index`` say
    what made it, None where that is not known.
    """

    dataset_id: str
    name: str
    size_bytes: int
    checksums: Mapping[str, str]
    owner: str
    group: str
    created_at: float
    job_index: int | None = None
    task_index: int | None = None
    replicas: tuple[Replica, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether this site keeps it: one of its places is, or none is known."""
        return not self.replicas or any(replica.is_here for replica in self.replicas)


class Direction(StrEnum):
    """Which way bytes went, as seen from the server."""

    IN = "in"  # from a client or an origin
    OUT = "out"  # to a client or an origin


@dataclass(frozen=True, slots=True)
class Flow:
    """Whose bytes they are: what transfers are limited and accounted by.

    ``user`` is the owner of the dataset for tasks.  ``origin`` is the name of the origin in the
    settings, empty for files of this site; ``peer`` the site at the other end, if it is one.
    ``service`` is the class of use: ``proxy``, ``upload``, ``files``, ``cache`` or ``forward``.
    """

    user: str
    direction: Direction
    service: str
    group: str = ""
    dataset_id: str = ""
    origin: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What went one way for one user on one day (UTC, ``YYYY-MM-DD``)."""

    day: str
    flow: Flow
    bytes_moved: int
    transfers: int


@dataclass(frozen=True, slots=True)
class Stored:
    """How much is kept here for one holder: ``kind`` is ``user``, ``group`` or ``dataset``."""

    kind: str
    holder: str
    bytes_kept: int = 0
    files_kept: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """How much may be kept for one holder; None for no limit, ``holder`` empty for whoever has no own."""

    kind: str
    holder: str
    bytes_most: int | None = None
    files_most: int | None = None

    @property
    def is_limit(self) -> bool:
        """Whether it limits anything."""
        return self.bytes_most is not None or self.files_most is not None


@dataclass(frozen=True, slots=True)
class OriginCredential:
    """A secret for an origin, encrypted; ``user`` is empty where it is the site's own.

    ``sealed`` is unreadable without the site's key.  ``expires_at`` is None where it lasts.
    """

    origin: str
    user: str
    kind: str
    sealed: bytes = field(repr=False)
    created_at: float
    expires_at: float | None = None
    note: str = ""
