"""The port to origins: what services may ask of a place that holds files, whatever it speaks.

Promises that every adapter keeps and ``tests/movers/test_movers_contract.py`` checks against
the real server:

* Memory is bounded whatever the file's size: a body is asked for piece by piece, and what was
  not asked for waits at the origin.
* A body that ends before its length raises; nobody can take a part for the whole.
* What was given up (by leaving the context, or by cancelling) is ended at once, its connection
  closed or put back in order.
* Every connection goes to an address that ``Access.policy`` allows, checked after resolution.
* Credentials are shown to the origin that they were given for, and appear in no error.

Errors: `NotFoundError`, `AccessDenied` (the origin says no), `TransferFailed` (``source``,
``done_bytes``; another try may succeed), `Unavailable` with ``reason`` ``storage_full``,
`ConflictError` (the file changed since, or is in the way), `InputError` (the protocol or the
origin has no such operation).
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from iceprod.errors import InputError
from iceprod.model.location import Location


@dataclass(frozen=True, slots=True)
class Facts:
    """What an origin tells of a file; ``size_bytes`` and ``modified_at`` are None where it does not.

    ``validator`` is a text that changes when the contents do (a strong ETag), or empty.
    ``checksums`` has lower-case hexadecimal by name (``adler32``, ``md5``, ``sha256``, ``sha512``).
    """

    size_bytes: int | None = None
    modified_at: float | None = None
    validator: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    is_directory: bool = False

    def is_same(self, other: Facts) -> bool:
        """Whether these may be the facts of one and the same contents, as far as both tell."""
        if self.validator and other.validator:
            return self.validator == other.validator
        return (self.size_bytes, self.modified_at) == (other.size_bytes, other.modified_at)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory."""

    name: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from ``offset``; ``length`` many, or all that follow."""

    offset: int = 0
    length: int | None = None


WHOLE: Final = Span()
"""All of a file."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What is shown to an origin.

    ``kind`` is ``token`` (``secret``: a bearer token), ``password`` (``user`` and ``secret``),
    ``x509`` (``secret``: PEM of certificate, key and chain; proxies as RFC 3820 say) or ``ssh``
    (``user``; ``secret``: a private key in OpenSSH's format).
    """

    kind: str
    secret: bytes = field(repr=False)
    user: str = ""


class AddressPolicy(Protocol):
    """Which addresses may be connected to; connections are used again under an equal policy alone."""

    def check(self, address: str, port: int) -> None:
        """Refuse a numeric IP ``address``; raises `AccessDenied`."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """How an origin is to be reached.

    ``ca_path`` has the authorities of its certificates (a PEM file, or a directory of HASH.0
    files), None the system's.  ``root`` is the path of the origin's own address: a ``file:`` below
    it is reached without following links.  ``redirects`` are other hosts that it may send on to
    (``*.example.org`` for all below).  ``certificate`` (``x509``) is shown beside the credential
    where the protocol knows of it.  ``options`` is what one protocol alone knows, by the names
    in the adapter's docstring.  Times in seconds.
    """

    policy: AddressPolicy
    credential: Credential | None = None
    ca_path: str | None = None
    connect_timeout_s: float = 20.0
    stall_timeout_s: float = 60.0
    root: str = "/"
    redirects: tuple[str, ...] = ()
    certificate: Credential | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlainBody:
    """The rest of a body that comes over a plain socket: ``head``, then ``length`` bytes of ``sock``.

    The socket does not block.  Who takes it reads all of ``length`` or leaves the context.
    """

    sock: socket.socket
    head: bytes
    length: int


class Incoming(ABC):
    """A body that is coming; ``facts`` are of the whole file, ``length`` of what comes (None: unknown)."""

    facts: Facts
    offset: int
    length: int | None

    @abstractmethod
    async def read(self) -> bytes:
        """The next piece, at most 1 MiB; empty at the end.

        Raises:
            TransferFailed: it ended too early, or nothing came for ``stall_timeout_s``.
        """

    def plain(self) -> PlainBody | None:
        """The connection itself, for who passes the bytes on unseen; None where there is none to give."""
        return None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A body to be sent: ``size_bytes`` long in all, its pieces asked for when they can be sent."""

    size_bytes: int
    pieces: AsyncIterator[bytes]
    checksums: Mapping[str, str] = field(default_factory=dict)


class Mover(ABC):
    """One protocol; safe to be used by many at once."""

    schemes: ClassVar[frozenset[str]]

    async def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End connections that are kept."""

    @abstractmethod
    async def stat(self, location: Location, access: Access) -> Facts:
        """What the origin tells of the file."""

    @abstractmethod
    def fetch(
        self, location: Location, access: Access, *, span: Span = WHOLE
    ) -> AbstractAsyncContextManager[Incoming]:
        """Ask for the file, or a part of it; the context ends the transfer.

        A span that begins just at the end is empty; one that ends behind it ends at it.

        Raises:
            InputError: the span begins behind the end, or the origin can't send parts.
        """

    async def put(self, location: Location, access: Access, body: Outgoing) -> None:
        """Make the file have those contents; it is there whole or not at all where the protocol can.

        Raises:
            InputError: the protocol has no such operation, or ``body`` had another size than it said.
        """
        raise _no(self, "putting")

    def list(self, location: Location, access: Access, *, limit: int) -> AsyncIterator[Entry]:
        """What lies in a directory, in the origin's order.

        Raises:
            InputError: the protocol has no directories.
            TooLarge: there are more than ``limit``.
        """
        raise _no(self, "listing")

    async def delete(self, location: Location, access: Access) -> None:
        """Delete the file."""
        raise _no(self, "deleting")

    async def checksum(self, location: Location, access: Access, algorithm: str) -> str | None:
        """The origin's own idea of a checksum, in lower-case hexadecimal; None where it has none."""
        return (await self.stat(location, access)).checksums.get(algorithm)

    async def copy(self, source: Location, target: Location, access: Access, *, to: Access) -> None:
        """Have ``source``'s server send the file to ``target``'s, both of this protocol.

        Raises:
            InputError: the protocol has no such operation.
        """
        raise _no(self, "third-party copies")


def _no(mover: Mover, what: str) -> InputError:
    return InputError(f"there is no {what} by {' or '.join(sorted(mover.schemes))}")
