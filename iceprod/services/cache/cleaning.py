"""Cleaning up after processes that died while they made copies."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Final

from iceprod.services.cache import entry
from iceprod.services.cache.disk import age_s, is_at, lock, opened
from iceprod.services.cache.entry import Copy
from iceprod.services.cache.part import Part
from iceprod.services.cache.shelf import Shelf

REST_S: Final = 3600.0
"""How long a copy that nobody goes on with waits for somebody who does."""
_NOTE_S: Final = 60.0
"""After how long a note that is still being written belongs to nobody."""


def clean(shelf: Shelf) -> int:
    """Remove what nobody is at any more, and count what is left; how much was removed.

    What can be gone on with stays for a while.  Other processes may be at work meanwhile: theirs
    is locked.
    """
    count = sum(_clean_part(shelf, path) for path in shelf.parts.glob("*.part"))
    for path in shelf.parts.glob("*.json"):
        if not path.with_suffix(".part").exists() and age_s(path) > _NOTE_S:
            path.unlink(missing_ok=True)
    count += sum(map(_clean_folder, shelf.copies.iterdir()))
    shelf.recount()
    return count


def _clean_part(shelf: Shelf, path: Path) -> bool:
    with opened(path) as descriptor:
        if descriptor is None or not lock(descriptor, fcntl.LOCK_EX) or not is_at(path, descriptor):
            return False
        part = Part(path.stem, path, descriptor, leads=True)
        if shelf.can_go_on(part) is not None and age_s(path) < REST_S:
            return False
        path.unlink()
        shelf.about(path.stem).unlink(missing_ok=True)
        return True


def _clean_folder(folder: Path) -> int:
    copies = {path: entry.read(path, Copy) for path in folder.glob("[!.]*.json")}
    broken = {path for path, copy in copies.items() if _is_broken(path, copy)}
    named = {copy.data for path, copy in copies.items() if copy is not None and path not in broken}
    for path in broken:
        path.unlink(missing_ok=True)
    count = len(broken)
    for path in folder.iterdir():
        if path.name.startswith("."):
            is_left = age_s(path) > _NOTE_S
        else:
            is_bytes = path.suffix != ".json"
            is_left = is_bytes and path.name not in named and _is_nobodys(path)
        if is_left:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _is_broken(path: Path, copy: Copy | None) -> bool:
    try:
        return copy is None or (path.parent / copy.data).stat().st_size != copy.told.size_bytes
    except FileNotFoundError:
        return entry.read(path, Copy) == copy  # else it has been replaced meanwhile


def _is_nobodys(path: Path) -> bool:
    """Whether bytes that no copy named are not just being made one."""
    with opened(path) as descriptor:
        if descriptor is None or not lock(descriptor, fcntl.LOCK_EX):
            return False
        copy = entry.read(path.parent / f"{path.name.partition('.')[0]}.json", Copy)
        return copy is None or copy.data != path.name
