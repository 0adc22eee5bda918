"""Uploads on the disk: a folder for each, which one process at a time writes to.

::

    HOLDER/ID/about.json   what was announced, and the stage (`About`); replaced as a whole
    HOLDER/ID/data         the bytes, maybe with some at the end that do not count
    HOLDER/ID/mark         how many bytes count, and since when (`Mark`)
    HOLDER/ID/lock         locked (flock) by who writes to the folder
    HOLDER/over/ID/…       what is remembered of an upload that is over: never looked at but when asked for

What counts is on the disk before the mark says so: whatever is killed at whatever moment, the
mark is never too high.  ``HOLDER`` is made from the name of whom the uploads are of, and the id
of an upload holds it, so that neither finding nor counting them looks at anybody else's.
Everything here blocks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from iceprod import ids
from iceprod.errors import ConflictError, NotFoundError, RateLimited
from iceprod.services.filestore import FileTree, told
from iceprod.services.uploads.values import OVER, About, Mark, Part, Stage, UploadView

_HOLDER: Final = 16
_ID: Final = re.compile(r"([0-9a-f]{16})([0-9A-Za-z]{13})")
_ABOUT, _DATA, _MARK, _LOCK = "about.json", "data", "mark", "lock"
_MARK_FORM: Final = re.compile(rb"(\d{20}) (\d{14}\.\d{3})\n")
_DRAFT, _GONE, _OVER = ".new-", ".gone-", "over"


def holder_name(user: str) -> str:
    """The folder of the uploads that are of one user."""
    return hashlib.sha256(user.encode()).hexdigest()[:_HOLDER]


@dataclass(frozen=True, slots=True)
class Kept:
    """An upload as it is on the disk at one moment."""

    upload_id: str
    about: About
    mark: Mark

    @property
    def is_between(self) -> bool:
        """Whether something is left to do with it although its bytes are all there."""
        about = self.about
        if about.stage is Stage.STORING:
            return True
        is_whole = about.length is not None and self.mark.offset == about.length
        is_sent = about.is_used or not about.secret
        return about.stage is Stage.OPEN and is_whole and is_sent and about.part is not Part.PARTIAL

    def expires_at(self, expire_s: float) -> float:
        """When it, or what is remembered of it, goes."""
        return (self.mark.moved_at if self.about.over_at is None else self.about.over_at) + expire_s

    def view(self, expire_s: float) -> UploadView:
        """It as it is shown."""
        about = self.about
        return UploadView(
            upload_id=self.upload_id,
            target=about.target,
            stage=about.stage,
            offset=self.mark.offset,
            length=about.length,
            owner=about.holder.user,
            dataset_id=about.holder.dataset_id,
            protocol=about.protocol,
            part=about.part,
            concat=about.concat,
            metadata=about.metadata,
            sha256=about.sha256,
            error=about.error,
            tries=about.tries,
            created_at=about.created_at,
            expires_at=self.expires_at(expire_s),
        )


class Held:
    """An upload that nobody else writes to until `release`."""

    def __init__(self, shelf: Shelf, kept: Kept, folder: Path, lock: int) -> None:
        self._shelf = shelf
        self._folder = folder
        self._lock = lock
        self._data = -1
        self.upload_id = kept.upload_id
        self.about = kept.about
        self.mark = kept.mark

    @property
    def data_path(self) -> Path:
        """Where the bytes are."""
        return self._folder / _DATA

    @property
    def is_whole(self) -> bool:
        """Whether all bytes that were announced are there and count."""
        return self.about.length is not None and self.mark.offset == self.about.length

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``; it does not count yet.

        Raises:
            Unavailable: the disk is full.
        """
        with told():
            self._shelf.check_space(len(data))
            descriptor, view = self._descriptor(), memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written

    def keep(self, offset: int, *, now: float) -> None:
        """Let the bytes before ``offset`` count, once they are on the disk.

        Raises:
            Unavailable: the disk is full.
        """
        with told():
            os.fsync(self._descriptor())
            self._set_mark(Mark(offset, now))

    def cut(self) -> None:
        """Throw away the bytes that do not count."""
        with told():
            os.ftruncate(self._descriptor(), self.mark.offset)

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return os.pread(self._descriptor(), size, offset)

    def take(self, path: Path, *, now: float) -> None:
        """Take a file of this disk as the data, all of which counts.

        Raises:
            NotFoundError: there is none.
        """
        with told():
            size = _synced_size(path)
            path.rename(self.data_path)
            _sync(self._folder)
            self._close_data()
            self._set_mark(Mark(size, now))

    def change(self, about: About) -> None:
        """Write down something new about it; durable when this returns."""
        with told():
            _replace(self._folder / _ABOUT, msgspec.json.encode(about))
        self.about = about
        if about.stage in OVER:
            self.retire()

    def retire(self) -> None:
        """Give the space of the data back, and get out of the way."""
        self._close_data()
        with told():
            self.data_path.unlink(missing_ok=True)
            over = self._folder.parent / _OVER
            if self._folder.parent.name != _OVER:
                over.mkdir(mode=0o700, exist_ok=True)
                self._folder = self._folder.rename(over / self._folder.name)

    def remove(self) -> None:
        """Leave nothing of it."""
        gone = self._folder.with_name(f"{_GONE}{ids.new_id()}")
        with told():
            self._folder.rename(gone)
            _sync(gone.parent)
        shutil.rmtree(gone, ignore_errors=True)

    def release(self) -> None:
        """Let others write to it; may be called again."""
        self._close_data()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _set_mark(self, mark: Mark) -> None:
        descriptor = os.open(self._folder / _MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, _mark_line(mark), 0)
        finally:
            os.close(descriptor)
        self.mark = mark

    def _descriptor(self) -> int:
        if self._data < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._data = os.open(self.data_path, flags, 0o600)
        return self._data

    def _close_data(self) -> None:
        if self._data >= 0:
            os.close(self._data)
            self._data = -1


class Shelf:
    """The directory of all uploads."""

    def __init__(self, root: Path, *, keep_free_bytes: int, most: int) -> None:
        self._root = root
        self._most = most
        # The web server in front puts bodies beside the uploads, so that they need only be renamed.
        self.tree = FileTree(root, keep_free_bytes=keep_free_bytes)

    def open(self) -> None:
        """Make the directories."""
        self.tree.open()

    def check_space(self, size_bytes: int) -> None:
        """Refuse what would leave too little space.

        Raises:
            Unavailable: there is too little left on the disk.
        """
        self.tree.check_space(size_bytes)

    def create(self, about: About) -> str:
        """A new upload without data; its id.

        Raises:
            RateLimited: its holder has too many that are not complete.
            Unavailable: the disk is full.
        """
        holder = self._root / holder_name(about.holder.user)
        with told():
            holder.mkdir(mode=0o700, exist_ok=True)
            with _locked(holder):
                if len(_names(holder)) >= self._most:
                    raise RateLimited(
                        f"{self._most} uploads are open already; complete or cancel some", retry_after_s=60.0
                    )
                name = ids.new_id()
                self._fill(holder / f"{_DRAFT}{name}", about)
                (holder / f"{_DRAFT}{name}").rename(holder / name)
                _sync(holder)
        return holder.name + name

    @staticmethod
    def _fill(folder: Path, about: About) -> None:
        folder.mkdir(mode=0o700)
        contents = {_ABOUT: msgspec.json.encode(about), _MARK: _mark_line(Mark(0, about.created_at))}
        for name, data in {**contents, _DATA: b"", _LOCK: b""}.items():
            _write(folder / name, data)
        _sync(folder)

    def load(self, upload_id: str) -> Kept:
        """An upload as it is now.

        Raises:
            NotFoundError: there is none.
        """
        for folder in self._folders(upload_id):
            with suppress(NotFoundError):
                return _load(upload_id, folder)
        raise NotFoundError("upload", upload_id)

    def hold(self, upload_id: str) -> Held:
        """Let nobody else write to an upload.

        Raises:
            NotFoundError: there is none.
            ConflictError: somebody else does; ``reason`` is ``locked``.
        """
        for folder in self._folders(upload_id):
            with suppress(NotFoundError):
                return self._hold(upload_id, folder)
        raise NotFoundError("upload", upload_id)

    def _hold(self, upload_id: str, folder: Path) -> Held:
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise NotFoundError("upload", upload_id) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Read only now: whoever had the lock before may have changed it, or moved it away.
            return Held(self, _load(upload_id, folder), folder, lock)
        except BlockingIOError:
            os.close(lock)
            raise ConflictError("another request is writing to this upload", reason="locked") from None
        except BaseException:
            os.close(lock)
            raise

    def all(self, user: str | None = None) -> Iterator[Kept]:
        """The uploads of one user, or of everybody, that are not over, in no order."""
        for holder in self._holders(user):
            for name in _names(holder):
                with suppress(NotFoundError):
                    yield _load(holder.name + name, holder / name)

    def over(self, user: str | None = None) -> Iterator[Kept]:
        """The uploads of one user, or of everybody, that are over, the latest first."""
        found: list[tuple[int, str, Path]] = []
        for holder in self._holders(user):
            for name in _names(holder / _OVER, holder.name):
                folder = holder / _OVER / name
                with suppress(FileNotFoundError):
                    found.append((folder.stat().st_mtime_ns, holder.name + name, folder))
        for _, upload_id, folder in sorted(found, reverse=True):
            with suppress(NotFoundError):
                yield _load(upload_id, folder)

    def _holders(self, user: str | None) -> list[Path]:
        return sorted(self._root.iterdir()) if user is None else [self._root / holder_name(user)]

    def sweep(self, *, before: float) -> None:
        """Delete what creating and removing left behind before that instant."""
        self.tree.clean(before=before)
        for holder in self._root.iterdir():
            leftovers = (
                holder.glob(f"{_DRAFT}*"),
                holder.glob(f"{_GONE}*"),
                holder.glob(f"{_OVER}/{_GONE}*"),
            )
            for path in (each for found in leftovers for each in found):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        shutil.rmtree(path, ignore_errors=True)

    def _folders(self, upload_id: str) -> tuple[Path, Path]:
        """Where an upload may be; it goes from the first place to the second and never back."""
        found = _ID.fullmatch(upload_id)
        if found is None:
            raise NotFoundError("upload", upload_id)
        holder = self._root / found[1]
        return holder / found[2], holder / _OVER / found[2]


def _load(upload_id: str, folder: Path) -> Kept:
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
        found = _MARK_FORM.fullmatch((folder / _MARK).read_bytes())
    except (OSError, msgspec.DecodeError):
        raise NotFoundError("upload", upload_id) from None
    mark = Mark(int(found[1]), float(found[2])) if found else Mark(0, about.created_at)
    return Kept(upload_id, about, mark)


def _names(folder: Path, holder: str = "") -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _ID.fullmatch((holder or folder.name) + name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _mark_line(mark: Mark) -> bytes:
    return b"%020d %018.3f\n" % (mark.offset, mark.moved_at)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for one's turn among those who make uploads there."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    _write(draft, data)
    draft.replace(path)
    _sync(path.parent)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _synced_size(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
