"""The keys that secrets for origins are sealed with: a file, never the store.

Whoever has a copy of the store has no secret without this file.  It has a key in each line,
``ID KEY`` (32 bytes in Base64); the first one seals, all of them open, so a new one is put
before the others and old ones are taken out when nothing is sealed with them any more.

A sealed secret is a format byte, the key's id, a nonce of 12 bytes and AES-256-GCM of the
secret, with what it belongs to as associated data: one that is put in the place of another
does not open.  Source: NIST SP 800-38D; RFC 5116.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from iceprod.errors import ConfigError, ConflictError, Unavailable

_FORMAT: Final = b"\x01"
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_LINE: Final = re.compile(r"([0-9a-f]{8}) ([A-Za-z0-9+/]{43}=)")
_HEADING: Final = (
    "# Keys of credentials for origins. The first seals; all of them open. Keep a copy in a safe place.\n"
)


class KeyRing:
    """The keys of one file; it is read again when it changes, and made when it is first needed.

    Everything here blocks, for a moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: dict[bytes, AESGCM] = {}
        self._read_as: tuple[int, int, int] | None = None

    def __repr__(self) -> str:
        return f"KeyRing({str(self.path)!r})"

    def seal(self, secret: bytes, purpose: bytes) -> bytes:
        """``secret``, to be opened for the same purpose only.

        Raises:
            Unavailable: the key file cannot be used.
        """
        self._read(make=True)
        identifier, key = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return b"".join((_FORMAT, identifier, nonce, key.encrypt(nonce, secret, purpose)))

    def open(self, sealed: bytes, purpose: bytes) -> bytes:
        """What was sealed.

        Raises:
            Unavailable: the key is not there.
            ConflictError: it was damaged, or sealed for another purpose.
        """
        start = 1 + _ID_BYTES
        identifier, nonce = sealed[1:start], sealed[start : start + _NONCE_BYTES]
        self._read(make=False)
        key = self._keys.get(identifier)
        if sealed[:1] != _FORMAT or key is None:
            raise Unavailable(
                "a credential is sealed with a key that is not in the key file of this server",
                reason="no_key",
            )
        try:
            return key.decrypt(nonce, sealed[start + _NONCE_BYTES :], purpose)
        except InvalidTag:
            raise ConflictError("a credential in the store was damaged, or is another's") from None

    def is_newest(self, sealed: bytes) -> bool:
        """Whether it is sealed with the key that seals now."""
        self._read(make=False)
        return sealed[1 : 1 + _ID_BYTES] == next(iter(self._keys), b"")

    def rotate(self) -> int:
        """Put a new key before the others; how many there are then."""
        self._read(make=True)
        lines = [line for line in self._text().splitlines() if _LINE.fullmatch(line)]
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        _write_new(partial, "\n".join((_HEADING.rstrip(), _new_line(), *lines, "")))
        os.replace(partial, self.path)
        _sync(self.path.parent)
        return len(lines) + 1

    def _read(self, *, make: bool) -> None:
        try:
            if make and not self.path.exists():
                self._make()
            found = os.stat(self.path)
        except FileNotFoundError:
            self._keys, self._read_as = {}, None
            return
        except OSError as error:
            raise Unavailable(f"the key file of credentials cannot be used: {error.strerror}") from None
        read_as = (found.st_mtime_ns, found.st_size, found.st_ino)
        if read_as != self._read_as:
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise ConfigError(f"{self.path} may be read by others; chmod 600 it")
            self._keys = _parsed(self._text(), self.path)
            self._read_as = read_as

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{self.path} cannot be read as keys of credentials") from None

    def _make(self) -> None:
        """Make the file; of several processes one wins."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        _write_new(partial, f"{_HEADING}{_new_line()}\n")
        try:
            with suppress(FileExistsError):
                os.link(partial, self.path)
        finally:
            partial.unlink()
        _sync(self.path.parent)


def _parsed(text: str, path: Path) -> dict[bytes, AESGCM]:
    keys = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        key = _decoded(found[2]) if found else b""
        if found is None or len(key) != _KEY_BYTES:
            raise ConfigError(f"{path} has a line that is no key of credentials")
        keys[found[1].encode()] = AESGCM(key)
    if not keys:
        raise ConfigError(f"{path} has no key of credentials")
    return keys


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _new_line() -> str:
    return f"{secrets.token_hex(_ID_BYTES // 2)} {base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
