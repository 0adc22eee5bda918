"""What lies in a file tree, and how whole directories of it go away.

A directory that is to go is first renamed out of sight, so that nobody meets half of it, and
then deleted; what a crash leaves of it is deleted with other leftovers.  Blocks, as the tree does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from iceprod import ids
from iceprod.errors import NotFoundError
from iceprod.services.filestore import FileTree, discard

GRAVE: Final = "gone-"
"""How the names of directories begin, among drafts, that are being deleted."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file or directory of the tree; of a directory ``size_bytes`` is the sum of its ``files``.

    ``written_at`` is the latest that any of it was written to.
    """

    names: tuple[str, ...]
    size_bytes: int
    files: int
    written_at: float


class Sweep:
    """Looks through a tree, and deletes from it."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree

    def names(self, *parents: str) -> list[str]:
        """The names in a directory, sorted; none where there is no such directory."""
        with suppress(FileNotFoundError, NotADirectoryError), self._tree.directory(parents) as directory:
            return sorted(os.listdir(directory))
        return []

    def found(self, names: Sequence[str]) -> Found:
        """How much lies at that path.

        Raises:
            NotFoundError: there is nothing.
        """
        size = files = 0
        latest = 0.0
        for each in self._entries(names):
            latest = max(latest, each.st_mtime)
            if not stat.S_ISDIR(each.st_mode):
                size += each.st_size
                files += 1
        return Found(tuple(names), size, files, latest)

    def remove(self, names: Sequence[str]) -> Found:
        """Delete what lies at that path, a directory with all that is in it.

        Raises:
            NotFoundError: there is nothing.
        """
        found = self.found(names)
        inner = list(self._files(names))
        grave = self._tree.incoming / f"{GRAVE}{ids.new_id()}"
        with self._tree.directory(names[:-1]) as parent:
            os.rename(names[-1], grave, src_dir_fd=parent)
            os.fsync(parent)
        for path in inner:
            self._tree.forget_digest(path)
        discard(grave)
        return found

    def _entries(self, names: Sequence[str]) -> Iterator[os.stat_result]:
        """Of the thing at that path, and of all that is in it; links are things, not ways."""
        try:
            with self._tree.directory(names[:-1]) as parent:
                top = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
                yield top
                if not stat.S_ISDIR(top.st_mode):
                    return
                for _, folders, files, directory in os.fwalk(names[-1], dir_fd=parent):
                    for name in (*folders, *files):
                        with suppress(FileNotFoundError):
                            yield os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("file", "/".join(names)) from None

    def _files(self, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The paths of all files at or below that path."""
        with self._tree.directory(names[:-1]) as parent:
            if not stat.S_ISDIR(os.stat(names[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                yield tuple(names)
                return
            for folder, _, files, _ in os.fwalk(names[-1], dir_fd=parent):
                for name in files:
                    yield (*names[:-1], *folder.split("/"), name)
