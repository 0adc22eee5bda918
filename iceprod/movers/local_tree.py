"""What `movers.local` does on its threads: calls of the system that reach nothing outside a directory."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from iceprod.movers.base import Entry, Facts

DRAFT: Final = ".iceprod-draft-"
"""How names of files begin that are not complete."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a pipe would hold the thread for ever.
_REGULAR: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NAMELESS: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_NO_NAMELESS: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


@contextmanager
def open_folder(root: str, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """A descriptor of the directory at ``names`` below ``root``, reached without following a link."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
            inner = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(root: str, names: Sequence[str]) -> tuple[int, Facts]:
    """A descriptor of a file, and what it is.

    Raises:
        FileNotFoundError: what is there is no regular file.
    """
    with open_folder(root, names[:-1]) as parent:
        descriptor = os.open(names[-1], _REGULAR, dir_fd=parent)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "no regular file")
    return descriptor, facts_of(found)


def facts_at(root: str, names: Sequence[str]) -> Facts:
    """What is there: a regular file or a directory.

    Raises:
        FileNotFoundError: neither is.
    """
    if not names:
        with open_folder(root, ()) as descriptor:
            return facts_of(os.fstat(descriptor))
    with open_folder(root, names[:-1]) as parent:
        found = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise FileNotFoundError(errno.ENOENT, "neither file nor directory")
    return facts_of(found)


def facts_of(found: os.stat_result) -> Facts:
    """What the system tells of a file or directory."""
    if stat.S_ISDIR(found.st_mode):
        return Facts(modified_at=found.st_mtime, is_directory=True)
    validator = f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'
    return Facts(size_bytes=found.st_size, modified_at=found.st_mtime, validator=validator)


def scan(root: str, names: Sequence[str]) -> Generator[Entry, None, None]:
    """Files and directories in a directory, in the system's order; links, pipes and drafts are left out."""
    with open_folder(root, names) as descriptor, os.scandir(descriptor) as found:
        for each in found:
            with suppress(FileNotFoundError):
                is_one = each.is_dir(follow_symlinks=False) or each.is_file(follow_symlinks=False)
                if is_one and not each.name.startswith(DRAFT):
                    yield Entry(each.name, facts_of(each.stat(follow_symlinks=False)))


def delete(root: str, names: Sequence[str]) -> None:
    """Delete a file, and make sure of it."""
    with open_folder(root, names[:-1]) as parent:
        os.unlink(names[-1], dir_fd=parent)
        os.fsync(parent)


class Draft:
    """A file that is being written, without a name where the file system knows that."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self._name = names[-1]
        self._draft = DRAFT + secrets.token_hex(8)
        self._has_name = False
        with open_folder(root, names[:-1], create=True) as parent:
            self._parent = os.dup(parent)
        try:
            self._descriptor = self._begin()
        except BaseException:
            os.close(self._parent)
            raise

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def commit(self) -> None:
        """Make it durable and put it into its place, instead of a former file if there is one."""
        os.fsync(self._descriptor)
        self._check_place()
        if not self._has_name:
            # A file without a name gets one by its descriptor; see open(2), O_TMPFILE.
            source = f"/proc/self/fd/{self._descriptor}"
            os.link(source, self._draft, dst_dir_fd=self._parent, follow_symlinks=True)
            self._has_name = True
        os.rename(self._draft, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._has_name = False
        os.fsync(self._parent)

    def close(self) -> None:
        """Leave nothing behind but what was committed."""
        os.close(self._descriptor)
        if self._has_name:
            with suppress(FileNotFoundError):
                os.unlink(self._draft, dir_fd=self._parent)
        os.close(self._parent)

    def _begin(self) -> int:
        try:
            return os.open(".", _NAMELESS, 0o666, dir_fd=self._parent)
        except OSError as exc:
            if exc.errno not in _NO_NAMELESS:
                raise
        descriptor = os.open(self._draft, _NEW, 0o666, dir_fd=self._parent)
        self._has_name = True
        return descriptor

    def _check_place(self) -> None:
        with suppress(FileNotFoundError):
            found = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise FileExistsError(errno.EEXIST, "something else is there")
