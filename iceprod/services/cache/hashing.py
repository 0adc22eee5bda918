"""Checksums of a file, all in one pass: those of this site, and those that grid tools expect."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from typing import Final

ALGORITHMS: Final = ("sha512", "sha256", "adler32", "md5")
_STEP: Final = 1024 * 1024


class Hashes:
    """Checksums of the first ``size_bytes`` of a file."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._adler = 1
        md5 = hashlib.md5(usedforsecurity=False)
        self._others = {"sha512": hashlib.sha512(), "sha256": hashlib.sha256(), "md5": md5}

    def read(self, descriptor: int, upto: int) -> None:
        """Take in what lies behind what was taken in, up to ``upto``; blocks.

        Raises:
            OSError: it can't be read, or is not there.
        """
        while self.size_bytes < upto:
            data = os.pread(descriptor, min(_STEP, upto - self.size_bytes), self.size_bytes)
            if not data:
                raise OSError("a file has become shorter")
            for each in self._others.values():
                each.update(data)
            self._adler = zlib.adler32(data, self._adler)
            self.size_bytes += len(data)

    def found(self) -> dict[str, str]:
        """The checksums in lower-case hexadecimal, by algorithm."""
        found = {name: each.hexdigest() for name, each in self._others.items()}
        return found | {"adler32": f"{self._adler:08x}"}


def mismatch(found: Mapping[str, str], told: Mapping[str, str]) -> str:
    """The first algorithm by which two sets of checksums contradict each other, or nothing."""
    for name, value in told.items():
        if name in found and found[name] != value.lower().rjust(len(found[name]), "0"):
            return name
    return ""
