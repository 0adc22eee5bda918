"""What this site needs to call a parent: a folder of its own for each, for the owner alone.

==================  ==================================================================
``identity.pem``    this site's certificate for the parent and its key, in one file
``ca.pem``          who vouches for the parent's own certificate
``token``           instead of a certificate, where the parent is on the same machine
``own``             where the certificate is that this site had, and keeps up, itself
==================  ==================================================================

Each is written whole or not at all, so that a renewal may be interrupted anywhere.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iceprod.errors import InputError, NotFoundError
from iceprod.services.peer_keys import CertificateFacts, facts_of, fits

_IDENTITY: Final = "identity.pem"
_AUTHORITY: Final = "ca.pem"
_TOKEN: Final = "token"  # noqa: S105 - the name of a file
_OWN: Final = "own"
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """How a parent is called: files of a certificate with its key and of an authority, or a token."""

    certificate: Path | None = None
    authority: Path | None = None
    token: str = ""


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """The folder for one parent."""

    folder: Path

    def read(self) -> Identity:
        """What is there.

        Raises:
            NotFoundError: nothing by which this site would be known.
        """
        certificate = self._certificate()
        token = _text(self.folder / _TOKEN)
        if not token and not certificate.is_file():
            raise NotFoundError("identity for parent", self.folder.name)
        authority = self.folder / _AUTHORITY
        return Identity(
            certificate=certificate if certificate.is_file() else None,
            authority=authority if authority.is_file() else None,
            token=token,
        )

    def keep_certificate(self, key: str, certificate: str, authority: str) -> None:
        """Be known by a certificate from now on, all in PEM.

        Raises:
            InputError: the key is not that of the certificate.
        """
        if not fits(key, certificate):
            raise InputError("the certificate is not for the key that was made")
        self._begin()
        self.keep_authority(authority)
        _write(self.folder / _IDENTITY, certificate.rstrip("\n") + "\n" + key)
        self._drop(_TOKEN, _OWN)

    def keep_own(self, path: Path, authority: str) -> None:
        """Be known by a certificate, with its key and chain in a file, that others look after."""
        self._begin()
        self.keep_authority(authority)
        _write(self.folder / _OWN, str(path.expanduser().absolute()))
        self._drop(_TOKEN, _IDENTITY)

    def keep_token(self, token: str) -> None:
        """Be known by a token from now on."""
        self._begin()
        _write(self.folder / _TOKEN, token)
        self._drop(_IDENTITY, _OWN, _AUTHORITY)

    def keep_authority(self, authority: str) -> None:
        """Believe a parent for whose own certificate this one (PEM) vouches."""
        if authority and authority != _text(self.folder / _AUTHORITY):
            _write(self.folder / _AUTHORITY, authority)

    def facts(self) -> CertificateFacts | None:
        """Of the certificate; None where there is a token instead.

        Raises:
            InputError: it cannot be read.
        """
        path = self._certificate()
        return facts_of(first_certificate(_text(path))) if path.is_file() else None

    def is_renewed_here(self) -> bool:
        """Whether the certificate is one that the parent has made."""
        return (self.folder / _IDENTITY).is_file()

    def stamp(self) -> Stamp:
        """What changes when a file does, or comes or goes."""
        paths = (self._certificate(), self.folder / _AUTHORITY, self.folder / _TOKEN)
        return tuple(mark for path in paths for mark in _mark(path))

    def drop(self) -> None:
        """Forget the parent."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _certificate(self) -> Path:
        own = _text(self.folder / _OWN)
        return Path(own) if own else self.folder / _IDENTITY

    def _begin(self) -> None:
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _drop(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)


def first_certificate(pem: str) -> str:
    """The first certificate of a text; a key that may stand beside it is left out.

    Raises:
        InputError: there is none.
    """
    _, begin, rest = pem.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end:
        raise InputError("there is no certificate in the file (PEM)")
    return f"{begin}{body}{end}\n"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"cannot read {path}: {exc}") from None


def _mark(path: Path) -> Stamp:
    with suppress(OSError):
        facts = path.stat()
        return ((facts.st_mtime_ns, facts.st_size, facts.st_ino),)
    return ((0, 0, 0),)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for this user's eyes only."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
