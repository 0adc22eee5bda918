"""No server: a folder of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from iceprod.model.location import Location
from iceprod.movers.local import LocalMover
from tests.movers.place import Place, Server, reaching, small_disk


class LocalServer(Server):
    def __init__(self, folder: Path, *, has_small_disk: bool) -> None:
        self._folder = folder
        self._has_small_disk = has_small_disk

    def place(self, folder: str) -> Place:
        path = self._folder / folder
        path.mkdir()
        root = Location("file", "", 0, str(path))
        full = Location("file", "", 0, str(self._folder / "full")) if self._has_small_disk else None
        return Place(LocalMover(), reaching(root=str(self._folder)), root, path, full=full)


@contextlib.contextmanager
def local_server(folder: Path) -> Iterator[LocalServer]:
    with small_disk(folder / "full") as full:
        yield LocalServer(folder, has_small_disk=full is not None)
