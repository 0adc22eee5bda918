"""Copies, in a file tree, of what another site has the original of.

What a copy is, is noted with its digest: it may be replaced or removed when its original changes,
which nothing may that was put there by a task of this site and is not at its own site yet.  So
whatever happens to a copy, happens to exactly that file and not to one that has come in its place.
Blocks, as the tree does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from iceprod import ids
from iceprod.errors import NotFoundError
from iceprod.services.filestore import Draft, FileFacts, FileTree, Whole, identity_of, told


class Copies:
    """Puts copies into a tree, and takes them out again."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree

    def facts(self, names: Sequence[str]) -> FileFacts | None:
        """What is known of the file at that path; None if there is none."""
        try:
            opened = self._tree.read(names)
        except NotFoundError:
            return None
        opened.close()
        return opened.facts

    def mark(self, names: Sequence[str], facts: FileFacts) -> bool:
        """Note that a file is a copy from now on; False if it is there no more.

        Raises:
            Unavailable: the disk is full.
        """
        found = self.facts(names)
        if found is None or found.identity != facts.identity:
            return False
        with told():
            self._tree.note_digest(names, facts.identity, facts.digest, is_copy=True)
        return True

    def put(self, draft: Draft, names: Sequence[str], *, instead_of: FileFacts | None = None) -> bool:
        """Put a copy where nothing is, or one that it is newer than; False if something else is there."""
        with told():
            identity = draft.seal()
            if instead_of is not None:
                self.remove(names, instead_of)
            with self._tree.directory(names[:-1], create=True) as parent:
                if _is_there(names[-1], parent):
                    return False
                self._tree.note_digest(names, identity, draft.digest, is_copy=True)
                try:
                    os.link(draft.path, names[-1], dst_dir_fd=parent, follow_symlinks=False)
                except FileExistsError:
                    # The note of what has come there at this very moment is lost: it will be read again.
                    self._tree.forget_digest(names)
                    return False
                os.fsync(parent)
        return True

    def remove(self, names: Sequence[str], facts: FileFacts) -> bool:
        """Delete a copy; False if something else is there by now, or nothing."""
        grave = self._tree.incoming / ids.new_id()
        try:
            with self._tree.directory(names[:-1]) as parent:
                os.rename(names[-1], grave, src_dir_fd=parent)
                is_it = identity_of(grave.lstat()) == facts.identity
                if not is_it:
                    with suppress(FileExistsError):  # a still newer one
                        os.link(grave, names[-1], dst_dir_fd=parent, follow_symlinks=False)
                os.fsync(parent)
        except (FileNotFoundError, NotADirectoryError):
            return False
        grave.unlink()
        return is_it

    def same(self, names: Sequence[str], digest: bytes) -> Draft | None:
        """A draft of the same bytes as the file at that path, if that has the digest; no byte is copied."""
        found = self.facts(names)
        if found is None or found.digest != digest:
            return None
        path = self._tree.incoming / ids.new_id()
        try:
            with self._tree.directory(names[:-1]) as parent:
                os.link(names[-1], path, src_dir_fd=parent, follow_symlinks=False)
        except OSError:  # gone, or the disk has no second names for files
            return None
        if identity_of(path.lstat()) != found.identity:
            path.unlink()
            return None
        return _Twin(self._tree, path, descriptor=os.open(path, os.O_RDONLY | os.O_CLOEXEC), digest=digest)


class _Twin(Whole):
    """Another name of a file, which is nothing by itself."""

    def discard(self) -> None:
        """Let go of it, and of the name."""
        super().discard()
        self.path.unlink(missing_ok=True)


def _is_there(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
