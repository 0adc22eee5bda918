"""A new file that gets its name when it is complete and on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iceprod.errors import AlreadyExists


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """An empty file beside ``target``, for its owner only, that becomes ``target`` at the end.

    Raises:
        AlreadyExists: there is something at ``target``, before or after.
    """
    if target.exists():
        raise AlreadyExists(f"{target} exists already")
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield partial
        _name(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _name(partial: Path, target: Path) -> None:
    """Give the finished file its name, unless something has taken it meanwhile."""
    sync(partial)
    try:
        os.link(partial, target)
    except FileExistsError:
        raise AlreadyExists(f"{target} exists already") from None
    sync(target.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
