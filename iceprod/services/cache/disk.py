"""Locks, and files that appear whole."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock(descriptor: int, kind: int) -> bool:
    """Take a lock of that kind at once, or not at all."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Whether that path still leads to that open file."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[int | None]:
    """A descriptor for reading, None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes, *, at: float | None = None, durable: bool = False) -> None:
    """Put ``data`` at ``path``, whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with draft.open("xb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    if at is not None:
        os.utime(draft, (at, at))
    draft.replace(path)
    if durable:
        sync(path.parent)


def sync(directory: Path) -> None:
    """Let what was named in a directory outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def age_s(path: Path) -> float:
    """How long ago a file was written to, by the file system's clock."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
