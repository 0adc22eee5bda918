"""A process that dies between any two steps of making a copy, and what the next one finds."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import suppress

import pytest

from iceprod.services.cache.cleaning import clean
from iceprod.services.cache.entry import Coming, Copy, Told
from iceprod.services.cache.hashing import Hashes
from iceprod.services.cache.shelf import Room, Shelf

OLD, NEW = b"old contents" * 100, b"new" * 1000
KEY = "ab" * 32
STEPS = ("open", "pwrite", "rename", "replace", "fchmod", "utime", "fsync", "unlink", "mkdir")


def make(shelf: Shelf, data: bytes) -> None:
    """A copy, as a fetch makes it."""
    part = shelf.begin(KEY)
    if part.size_bytes:
        shelf.discard(part)
        part.close()
        part = shelf.begin(KEY)
    told = Told(len(data), 1.0, hashlib.md5(data).hexdigest())
    shelf.announce(part, Coming("http://x/", "", "far", told, 0, ""))
    for start in range(0, len(data), 1000):
        part.write(data[start : start + 1000])
    hashes = Hashes()
    hashes.read(part.descriptor, len(data))
    shelf.complete(part, Copy("http://x/", "", "far", told, hashes.found(), 0.0, ""), at=1.0)
    part.close()


def open_shelf(folder) -> Shelf:
    shelf = Shelf(folder, Room(10**6, 0))
    shelf.open()
    clean(shelf)
    return shelf


def found(shelf: Shelf) -> bytes | None:
    opened = shelf.find(KEY)
    if opened is None:
        return None
    data = os.pread(opened.descriptor, 10**6, 0)
    os.close(opened.descriptor)
    assert hashlib.sha512(data).hexdigest() == opened.copy.checksums["sha512"]
    return data


def die_at(folder, step: int) -> bool:
    """Whether a process that makes a copy died before its step of that number."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(real):
            def call(*args, **more):
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **more)

            return call

        with suppress(BaseException):
            shelf = Shelf(folder, Room(10**6, 0))
            for name in STEPS:
                setattr(os, name, dying(getattr(os, name)))
            make(shelf, NEW)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("with_old", [False, True])
def test_a_copy_is_whole_or_not_there_wherever_its_maker_died(tmp_path, with_old):
    outcomes = []
    for step in range(1, 100):
        folder = tmp_path / str(step)
        shelf = open_shelf(folder)
        if with_old:
            make(shelf, OLD)
        died = die_at(folder, step)

        before = found(Shelf(folder, Room(10**6, 0)))  # also by a process that ran all the time
        shelf = open_shelf(folder)
        after = found(shelf)

        assert before in (None, OLD if with_old else None, NEW)
        assert after == before
        make(shelf, NEW)
        assert found(shelf) == NEW
        assert clean(shelf) == 0
        assert shelf.used_bytes() == len(NEW)
        names = [path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        assert len(names) == 3, names  # the bytes, what is known of them, the ledger
        outcomes.append(after)
        if not died:
            break

    assert len(outcomes) > 15
    assert set(outcomes) == {OLD if with_old else None, NEW}


def test_bytes_that_came_before_a_crash_are_gone_on_with_after_it(tmp_path):
    shelf = open_shelf(tmp_path)
    part = shelf.begin(KEY)
    shelf.announce(part, Coming("http://x/", "", "far", Told(len(NEW), 1.0, "v"), 0, ""))
    part.write(NEW[:1500])
    part.close()  # as the system does for a process that died

    again = open_shelf(tmp_path)
    part = again.begin(KEY)

    assert (part.leads, part.size_bytes) == (True, 1500)
    assert again.can_go_on(part).told.size_bytes == len(NEW)
    assert again.used_bytes() == len(NEW)
    # After the machine itself has gone down nobody knows which of them reached the disk.
    again._boot = "another"
    assert again.can_go_on(part) is None
    part.close()
    clean(again)
    assert list(tmp_path.glob("coming/*.part")) == []


def test_a_short_file_is_never_a_copy(tmp_path):
    shelf = open_shelf(tmp_path)
    make(shelf, NEW)
    data = next(path for path in tmp_path.glob("copies/*/*") if path.suffix != ".json")
    data.chmod(0o600)
    os.truncate(data, 100)

    assert found(shelf) is None
    assert clean(shelf) == 2
    assert shelf.used_bytes() == 0
