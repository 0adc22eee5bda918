"""The copies on disk: found, begun, completed, evicted, so that a crash at any moment does no harm.

::

    copies/ab/KEY.json       what is known of a copy; its presence makes the copy count
    copies/ab/KEY.SERIAL     its bytes, complete and synced before the other is written
    coming/KEY.part, .json   one that is being made, and what it is going to be
    pins/KEY                 a copy that stays
    ledger                   how much all of them take

Who makes a copy holds an exclusive lock (flock) on its file, who reads one a shared lock: the
system takes both back when a process dies, however it dies.  Everything here blocks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from iceprod.errors import Unavailable
from iceprod.services.cache import entry
from iceprod.services.cache.disk import is_at, lock, sync, write
from iceprod.services.cache.entry import Coming, Copy
from iceprod.services.cache.ledger import Ledger
from iceprod.services.cache.part import SEALED, Part

_TRIES: Final = 20
_SPARE: Final = 0.02  # of all room, freed beside what is needed: not every copy shall cost a search


@dataclass(frozen=True, slots=True)
class Room:
    """How much there is for copies."""

    max_bytes: int
    keep_free_bytes: int


@dataclass(slots=True)
class Opened:
    """A copy open for reading; `checked_at` is when the origin was last asked for changes."""

    copy: Copy
    descriptor: int
    checked_at: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A copy as lists show it."""

    key: str
    copy: Copy
    read_at: float
    checked_at: float
    is_pinned: bool


class Shelf:
    """The directory of the copies; several processes may use one."""

    def __init__(self, root: Path, room: Room) -> None:
        self.room = room
        self.copies = root / "copies"
        self.parts = root / "coming"
        self._root = root
        self._pins = root / "pins"
        self._ledger = Ledger(root / "ledger")
        self._boot = entry.boot_id()

    def open(self) -> None:
        """Make the directories."""
        for directory in (self._root, self.copies, self.parts, self._pins):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # Finding

    def find(self, key: str) -> Opened | None:
        """The copy of that key, which stays as long as it is open; None if there is none."""
        for _ in range(_TRIES):
            path = self._meta(key)
            copy = entry.read(path, Copy)
            if copy is None:
                return None
            try:
                descriptor = os.open(path.parent / copy.data, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # replaced or evicted at this moment
            with suppress(OSError):
                found = os.fstat(descriptor)
                is_there = lock(descriptor, fcntl.LOCK_SH) and os.fstat(descriptor).st_nlink > 0
                if is_there and found.st_size == copy.told.size_bytes:
                    return Opened(copy, descriptor, path.stat().st_mtime)
            os.close(descriptor)
        return None

    def known(self, key: str) -> Copy | None:
        """What is known of the copy of that key."""
        opened = self.find(key)
        if opened is None:
            return None
        os.close(opened.descriptor)
        return opened.copy

    def touch(self, key: str, copy: Copy, at: float) -> None:
        """Note that a copy was read: those not read for longest go first."""
        with suppress(FileNotFoundError):
            os.utime(self._meta(key).parent / copy.data, (at, at))

    def note_checked(self, key: str, at: float) -> None:
        """Note that a copy is still what the origin has."""
        with suppress(FileNotFoundError):
            os.utime(self._meta(key), (at, at))

    def all(self) -> Iterator[Kept]:
        """All copies."""
        for path in self.copies.glob("*/*.json"):
            with suppress(FileNotFoundError):
                copy, key = entry.read(path, Copy), path.stem
                if copy is not None:
                    read_at = (path.parent / copy.data).stat().st_mtime
                    yield Kept(key, copy, read_at, path.stat().st_mtime, self.is_pinned(key))

    def accel_name(self, key: str, copy: Copy) -> str:
        """The path of a copy's bytes below the directory of the copies."""
        return f"{key[:2]}/{copy.data}"

    # Making

    def begin(self, key: str) -> Part:
        """The file for a new copy, to be written by the first who comes, and watched by the others."""
        path = self.parts / f"{key}.part"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            leads = lock(descriptor, fcntl.LOCK_EX)
            if is_at(path, descriptor):
                return Part(key, path, descriptor, leads)
            os.close(descriptor)

    def coming(self, part: Part) -> Coming | None:
        """What ``part`` is going to be, once its leader has said so."""
        found = entry.read(self.about(part.key), Coming)
        is_its = found is not None and found.inode == os.fstat(part.descriptor).st_ino
        return found if is_its else None

    def can_go_on(self, part: Part) -> Coming | None:
        """What the bytes of ``part`` belong to, if they can be trusted: none were lost since."""
        found = self.coming(part)
        return found if found is not None and found.boot == self._boot else None

    def announce(self, part: Part, coming: Coming) -> None:
        """Say what ``part`` is going to be, and promise it its room.

        Raises:
            Unavailable: there is no room, whatever else goes.
        """
        coming = msgspec.structs.replace(coming, inode=os.fstat(part.descriptor).st_ino, boot=self._boot)
        # Written first: whoever counts anew must see it, and whoever promised twice does no harm.
        write(self.about(part.key), msgspec.json.encode(coming))
        try:
            self._reserve(part, coming.told.size_bytes)
        except BaseException:
            self.about(part.key).unlink(missing_ok=True)
            raise

    def complete(self, part: Part, copy: Copy, *, at: float) -> Copy:
        """Make the copy count; ``part`` holds it open for reading from now on."""
        os.fsync(part.descriptor)
        meta = self._meta(part.key)
        meta.parent.mkdir(mode=0o700, exist_ok=True)
        former = entry.read(meta, Copy)
        copy = msgspec.structs.replace(copy, data=f"{part.key}.{secrets.token_hex(4)}")
        with self._ledger.balance():  # whoever counts meanwhile would find it nowhere
            os.rename(part.path, meta.parent / copy.data)
            os.fchmod(part.descriptor, SEALED)
            os.utime(part.descriptor, (at, at))
            fcntl.flock(part.descriptor, fcntl.LOCK_SH)
            sync(meta.parent)
            write(meta, msgspec.json.encode(copy), at=at, durable=True)
            self.about(part.key).unlink(missing_ok=True)
        if former is not None:
            self._forget_data(meta.parent / former.data)
        return copy

    def discard(self, part: Part) -> None:
        """Leave nothing of a copy that its leader gives up."""
        size = self._promised(part.key)
        part.path.unlink(missing_ok=True)
        self.about(part.key).unlink(missing_ok=True)
        self._give_back(size)

    # Room

    def used_bytes(self) -> int:
        """How much the copies take, and those that are coming are going to."""
        with self._ledger.balance() as balance:
            return balance.used_bytes

    def _reserve(self, part: Part, size: int) -> None:
        with self._ledger.balance() as balance:
            if balance.used_bytes + size > self.room.max_bytes or self._lacks(size, part) > 0:
                balance.used_bytes = self._make_room(size, part)
            if balance.used_bytes + size > self.room.max_bytes or self._lacks(size, part) > 0:
                raise Unavailable("there is no room for another copy", reason="storage_full")
            balance.used_bytes += size

    def _lacks(self, size: int, part: Part) -> int:
        """How many bytes the disk has too few for ``size`` more, beside what was promised already."""
        found = os.statvfs(self._root)
        free = found.f_bavail * found.f_frsize - self.room.keep_free_bytes
        promised = sum(max(0, whole - there) for key, whole, there in self._parts() if key != part.key)
        return promised + size - part.size_bytes - free

    def _make_room(self, size: int, part: Part) -> int:
        """Evict what was not read for longest until ``size`` fits; how much is taken then."""
        kept = sorted(self.all(), key=lambda each: each.read_at)
        used = sum(each.copy.told.size_bytes for each in kept)
        used += sum(whole for key, whole, _ in self._parts() if key != part.key)
        missing = max(used + size - self.room.max_bytes, self._lacks(size, part))
        spare = int(self.room.max_bytes * _SPARE) if missing > 0 else 0
        for each in kept:
            if missing + spare <= 0:
                break
            if not each.is_pinned and self.evict(each.key, counted=False):
                used -= each.copy.told.size_bytes
                missing -= each.copy.told.size_bytes
        return used

    def evict(self, key: str, *, by_force: bool = False, counted: bool = True) -> bool:
        """Remove a copy unless somebody reads it; whether it is gone.

        ``by_force`` those who read it read on, and nobody else finds it.
        """
        opened = self.find(key)
        if opened is None:
            return False
        try:
            if not by_force and not lock(opened.descriptor, fcntl.LOCK_EX):
                return False
            # What makes it count goes first: bytes without it are rubbish, not a broken copy.
            self._meta(key).unlink(missing_ok=True)
            (self._meta(key).parent / opened.copy.data).unlink(missing_ok=True)
        finally:
            os.close(opened.descriptor)
        if counted:
            self._give_back(opened.copy.told.size_bytes)
        return True

    def recount(self) -> None:
        """Count what is there anew."""
        with self._ledger.balance() as balance:
            balance.used_bytes = sum(each.copy.told.size_bytes for each in self.all())
            balance.used_bytes += sum(whole for _, whole, _ in self._parts())

    def _give_back(self, size: int) -> None:
        with self._ledger.balance() as balance:
            balance.used_bytes -= size

    def _parts(self) -> Iterator[tuple[str, int, int]]:
        """Key, promised size and present size of all that is coming."""
        for path in self.parts.glob("*.part"):
            with suppress(FileNotFoundError):
                yield path.stem, self._promised(path.stem), path.stat().st_size

    def _promised(self, key: str) -> int:
        found = entry.read(self.about(key), Coming)
        return found.told.size_bytes if found else 0

    # Pins

    def is_pinned(self, key: str) -> bool:
        """Whether a copy stays."""
        return (self._pins / key).exists()

    def pin(self, key: str, *, on: bool) -> None:
        """Let a copy stay, or go when its turn comes; also one that is not there yet."""
        if on:
            (self._pins / key).touch(mode=0o600)
        else:
            (self._pins / key).unlink(missing_ok=True)

    def _forget_data(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._give_back(size)

    def _meta(self, key: str) -> Path:
        return self.copies / key[:2] / f"{key}.json"

    def about(self, key: str) -> Path:
        """Where it is said what is coming."""
        return self.parts / f"{key}.json"
