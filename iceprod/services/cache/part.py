"""The file of a copy that is coming, as all processes see it."""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iceprod.services.cache.disk import is_at, lock

SEALED: Final = 0o400
"""The mode of a file that is complete and right."""


@dataclass(slots=True)
class Part:
    """The file of a copy that is coming; whoever ``leads`` writes it, others watch it grow."""

    key: str
    path: Path
    descriptor: int
    leads: bool

    @property
    def size_bytes(self) -> int:
        """How much of it is there."""
        return os.fstat(self.descriptor).st_size

    @property
    def is_sealed(self) -> bool:
        """Whether it is complete and its checksums were right."""
        return stat.S_IMODE(os.fstat(self.descriptor).st_mode) == SEALED

    def has_leader(self) -> bool:
        """Whether some process is still at it."""
        if not lock(self.descriptor, fcntl.LOCK_SH):
            return True
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return False

    def take_over(self) -> bool:
        """Lead it, if nobody does, and it still lies where it was begun."""
        self.leads = lock(self.descriptor, fcntl.LOCK_EX) and is_at(self.path, self.descriptor)
        return self.leads

    def let_go(self) -> None:
        """Let another go on; who reads it here reads on."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self.leads = False

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        view = memoryview(data)
        offset = self.size_bytes
        while view:
            written = os.pwrite(self.descriptor, view, offset)
            offset += written
            view = view[written:]

    def close(self) -> None:
        """Let go of it altogether."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
