"""Where the contract suite of all movers works: a folder behind a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iceprod.model.location import Location
from iceprod.movers.addresses import Addresses
from iceprod.movers.base import Access, Mover

FULL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Place:
    """An empty folder that is reached by ``mover``; ``folder`` is the same on the disk.

    ``forbidden`` is a file that the server does not give out, ``full`` a folder with room for
    `FULL_BYTES`; None where there can be none.  ``port`` is where the server listens for all
    that it says, None where a relay in front of that port would not see the bytes of files.
    Where not ``takes_any_name`` the server knows ASCII only, and the mover is to say so.
    """

    mover: Mover
    access: Access
    root: Location
    folder: Path
    forbidden: Location | None = None
    full: Location | None = None
    port: int | None = None
    can_list: bool = True
    can_delete: bool = True
    large_bytes: int = 300 * 1024 * 1024
    takes_any_name: bool = True

    def at(self, name: str) -> Location:
        return self.root.child(name)

    def by(self, port: int) -> Place:
        """The same, reached by another port."""
        return dataclasses.replace(self, root=dataclasses.replace(self.root, port=port))


class Server(ABC):
    """A server that runs as long as the context lasts, with places in it."""

    @abstractmethod
    def place(self, folder: str) -> Place:
        """A new place with a mover of its own, for one test."""


def reaching(**more: object) -> Access:
    """How servers on this machine are reached."""
    return Access(policy=Addresses(allow_private=True), **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system with little room, mounted in ``folder``; None where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "tmpfs", str(folder)]
    may = os.getuid() == 0 and shutil.which("mount") is not None
    if not may or subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
