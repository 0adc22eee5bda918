"""How much the copies take, one number that all processes share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Balance:
    """Bytes taken and promised; what is written to it is kept when the context ends."""

    used_bytes: int


class Ledger:
    """A file with one number, for one process at a time.

    It may be wrong after a crash, and is then too large rather than too small; whoever finds no
    room counts anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def balance(self) -> Iterator[Balance]:
        """The number, which nobody else changes meanwhile."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = Balance(_number(os.pread(descriptor, 32, 0)))
            yield found
            os.pwrite(descriptor, b"%-31d\n" % max(0, found.used_bytes), 0)
        finally:
            os.close(descriptor)


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
