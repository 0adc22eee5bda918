"""Files in one directory tree, safe against odd names, links, crashes and full disks.

A file appears complete or not at all: it is written beside the tree, synced, checked and
then renamed into place.  Paths are walked one name at a time without following links, so
that nothing outside the tree is ever reached.  Everything here blocks; `services.files`
calls it on threads of its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from iceprod import ids
from iceprod.errors import ConflictError, InputError, NotFoundError, Unavailable

_INCOMING: Final = ".incoming"
HANDOVER: Final = ".handed-over"
"""Where in the tree the web server in front puts uploads."""
_DIGESTS: Final = ".digests"
_ARRIVING: Final = ".arriving"
_COPY: Final = "copy"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a pipe would hold the thread for ever.
_REGULAR: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK: Final = 1024 * 1024
_MAX_NAME: Final = 255
_MAX_DEPTH: Final = 32
_HANDED_OVER: Final = re.compile(r"[0-9]{1,20}")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR})


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a stored file; ``digest`` is its SHA-256.

    ``identity`` tells it from what was or will be at its path.  Of what ``is_copy`` another site
    has the original.
    """

    size_bytes: int
    modified_at: float
    digest: bytes
    identity: str = ""
    is_copy: bool = False


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` if each may be part of a path.

    Raises:
        InputError: one is empty, ``.``, ``..``, too long, or has a slash or control character.
    """
    if not 0 < len(names) <= _MAX_DEPTH:
        raise InputError(f"a path has 1 to {_MAX_DEPTH} names")
    for name in names:
        is_odd = name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name
        if is_odd or len(name.encode(errors="surrogatepass")) > _MAX_NAME:
            raise InputError(f"a path may not have the name {name[:80]!r}")
    return tuple(names)


@contextmanager
def told() -> Iterator[None]:
    """Turn what the system says of files into our errors."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError("file", "of that path") from None
    except OSError as exc:
        if exc.errno in _FULL:
            raise Unavailable("the disk is full", reason="storage_full") from None
        if exc.errno in _REFUSED or isinstance(exc, FileExistsError):
            raise ConflictError("something else is in the way at that path") from None
        raise Unavailable(f"the file store does not work: {exc.strerror}") from exc


class OpenedFile:
    """A file open for reading; it stays what it was, even if it is replaced meanwhile."""

    def __init__(self, descriptor: int, facts: FileFacts) -> None:
        self._descriptor = descriptor
        self.facts = facts

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Let go of it; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Draft:
    """A file that is not yet in its place; ``size_bytes`` is how much of it is known to `digest`."""

    def __init__(self, tree: FileTree, path: Path, descriptor: int) -> None:
        self._tree = tree
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self.path = path
        self.size_bytes = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of those bytes."""
        return self._hash.digest()

    def commit(self, names: Sequence[str]) -> bool:
        """Make it durable and put it at that path, in place of a former file if there is one.

        Returns whether it is new.

        Raises:
            ConflictError: it was discarded meanwhile, as when its sender has gone.
        """
        with told():
            self._tree.note_digest(names, self.seal(), self.digest)
            is_new = self._tree.put(self.path, names)
        self.discard()
        return is_new

    def seal(self) -> str:
        """Make it durable where it is; its identity.

        Raises:
            ConflictError: as of `commit`.
        """
        if self._descriptor < 0:
            raise ConflictError("the upload was broken off")
        os.fsync(self._descriptor)
        return identity_of(os.fstat(self._descriptor))

    def discard(self) -> None:
        """Leave nothing behind; may be called again, and after `commit`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(FileNotFoundError):
            self.path.unlink()


class Incoming(Draft):
    """A file that is being written by this process."""

    def __init__(self, tree: FileTree, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        path = tree.incoming / name
        super().__init__(tree, path, os.open(path, flags, 0o600))

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            Unavailable: the disk is full.
        """
        with told():
            self._tree.check_space(len(data))
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self._hash.update(data)
        self.size_bytes += len(data)


class HandedOver(Draft):
    """A file that the web server in front has received; it is read once, for its digest."""

    def __init__(self, tree: FileTree, path: Path, descriptor: int) -> None:
        super().__init__(tree, path, descriptor)
        self.whole_size_bytes = os.fstat(descriptor).st_size
        # Who waited for a piece may give up, and throw the file away, while it is read.
        self._lock = threading.Lock()

    def read_more(self) -> bytes:
        """The next piece, at most 1 MiB; empty at the end, and after `discard`."""
        with self._lock:
            if self._descriptor < 0:
                return b""
            data = os.pread(self._descriptor, _CHUNK, self.size_bytes)
            self._hash.update(data)
            self.size_bytes += len(data)
            return data

    def discard(self) -> None:
        """As of any draft."""
        with self._lock:
            super().discard()


class Whole(Draft):
    """A file that is complete and on the disk already, and whose digest is known.

    It stays where it is if it does not get into its place.
    """

    def __init__(self, tree: FileTree, path: Path, *, descriptor: int, digest: bytes) -> None:
        super().__init__(tree, path, descriptor)
        self._known = digest
        self.size_bytes = os.fstat(descriptor).st_size

    @property
    def digest(self) -> bytes:
        """SHA-256 of all its bytes."""
        return self._known

    def discard(self) -> None:
        """Let go of it, without deleting it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileTree:
    """The directory that holds all files, under names that were checked by `check_names`."""

    def __init__(self, root: Path, *, keep_free_bytes: int = 0) -> None:
        self._root = root
        self._keep_free_bytes = keep_free_bytes
        self.incoming = root / _INCOMING
        self.handover = root / HANDOVER
        self.arriving = root / _ARRIVING
        self._digests = root / _DIGESTS

    def open(self) -> None:
        """Make the directories."""
        for directory in (self._root, self.incoming, self.handover, self.arriving, self._digests):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clean(self, *, before: float) -> int:
        """Delete what was begun and last written to before that instant; how much that was.

        Younger drafts may be another process's that is still at them.
        """
        count = 0
        for directory in (self.incoming, self.handover):
            for path in directory.iterdir():
                with suppress(FileNotFoundError):
                    if path.lstat().st_mtime < before:
                        discard(path)
                        count += 1
        return count

    def check_space(self, size_bytes: int) -> None:
        """Refuse what would leave too little space.

        Raises:
            Unavailable: there is too little left on the disk.
        """
        room = os.statvfs(self._root)
        if room.f_bavail * room.f_frsize - size_bytes < self._keep_free_bytes:
            raise Unavailable("the disk is full", reason="storage_full")

    def begin(self) -> Incoming:
        """Begin to write a file."""
        with told():
            return Incoming(self, ids.new_id())

    def take_over(self, path: str) -> HandedOver:
        """Take hold of a file that the web server in front says it has put there.

        Raises:
            InputError: that is no place where it puts files.
            NotFoundError: there is none.
            Unavailable: it belongs to another system user.
        """
        parent, _, name = path.rpartition("/")
        if parent != str(self.handover) or not _HANDED_OVER.fullmatch(name):
            raise InputError("that is no file that was handed over")
        with told():
            directory = os.open(self.handover, _DIRECTORY)
            try:
                descriptor = os.open(name, _REGULAR, dir_fd=directory)
            finally:
                os.close(directory)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(descriptor)
            raise InputError("that is no file that was handed over")
        return HandedOver(self, self.handover / name, descriptor)

    def adopt(self, path: Path, digest: bytes) -> Whole:
        """Take a file that is complete and on the disk; from another disk a copy of it.

        Raises:
            NotFoundError: there is none.
            Unavailable: there is no room for a copy.
        """
        with told():
            descriptor = os.open(path, _REGULAR)
            if os.fstat(descriptor).st_dev == os.stat(self._root).st_dev:
                return Whole(self, path, descriptor=descriptor, digest=digest)
            with os.fdopen(descriptor, "rb") as source:
                self.check_space(os.fstat(source.fileno()).st_size)
                target = self._copied(source)
            return Whole(self, target, descriptor=os.open(target, _REGULAR), digest=digest)

    def _copied(self, source: BinaryIO) -> Path:
        target = self.incoming / ids.new_id()
        try:
            with open(target, "xb", opener=_privately) as copy:
                shutil.copyfileobj(source, copy, _CHUNK)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target

    def read(self, names: Sequence[str]) -> OpenedFile:
        """Open a file for reading.

        Raises:
            NotFoundError: there is none.
        """
        with told(), self.directory(names[:-1]) as parent:
            descriptor = os.open(names[-1], _REGULAR, dir_fd=parent)
        try:
            return OpenedFile(descriptor, self._facts(names, descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def delete(self, names: Sequence[str]) -> None:
        """Delete a file.

        Raises:
            NotFoundError: there is none.
        """
        with told(), self.directory(names[:-1]) as parent:
            os.unlink(names[-1], dir_fd=parent)
            os.fsync(parent)
        self.forget_digest(names)

    def put(self, source: Path, names: Sequence[str]) -> bool:
        """Rename ``source`` to its place; whether nothing was there before."""
        with self.directory(names[:-1], create=True) as parent:
            try:
                is_new = False
                if not stat.S_ISREG(os.stat(names[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                    raise FileExistsError
            except FileNotFoundError:
                is_new = True
            os.rename(source, names[-1], dst_dir_fd=parent)
            os.fsync(parent)
        return is_new

    def note_digest(
        self, names: Sequence[str], identity: str, digest: bytes, *, is_copy: bool = False
    ) -> None:
        """Remember the digest of exactly that file, so that it need not be read again for it."""
        path = self._digest_path(names)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = self.incoming / ids.new_id()
        words = (identity, digest.hex(), *([_COPY] if is_copy else []))
        draft.write_text(" ".join(words), encoding="ascii")
        draft.replace(path)

    def forget_digest(self, names: Sequence[str]) -> None:
        """Forget the digest of a file that is gone."""
        self._digest_path(names).unlink(missing_ok=True)

    def _facts(self, names: Sequence[str], descriptor: int) -> FileFacts:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotFoundError("file", names[-1])
        identity = identity_of(found)
        digest, is_copy = self._noted(names, identity)
        return FileFacts(
            found.st_size, found.st_mtime, digest or _digest_of(descriptor), identity, is_copy=is_copy
        )

    def _noted(self, names: Sequence[str], identity: str) -> tuple[bytes, bool]:
        """The digest that was noted of the file of that identity, or nothing, and whether it is a copy."""
        try:
            text = self._digest_path(names).read_text(encoding="ascii")
            noted, digest, *more = text.removeprefix(identity).split(" ")
            found = bytes.fromhex(digest)
        except (OSError, ValueError):
            return b"", False
        if noted or not text.startswith(identity) or len(found) != hashlib.sha256().digest_size:
            return b"", False
        return found, more == [_COPY]

    def _digest_path(self, names: Sequence[str]) -> Path:
        name = hashlib.sha256("/".join(names).encode(errors="surrogatepass")).hexdigest()
        return self._digests / name[:2] / name[2:]

    @contextmanager
    def directory(self, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """A descriptor of the directory at ``names``, reached without following a link."""
        descriptor = os.open(self._root, _DIRECTORY)
        try:
            for name in names:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=descriptor)
                inner = os.open(name, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def _privately(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def discard(path: Path) -> None:
    """Delete a draft, or a directory that is on its way out (`services.sweeping`)."""
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def identity_of(found: os.stat_result) -> str:
    """What tells a file from what was or will be at its path."""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def _digest_of(descriptor: int) -> bytes:
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(descriptor, _CHUNK, offset):
        digest.update(data)
        offset += len(data)
    return digest.digest()
