"""This machine: Python, the data directory, the disk, open files, the clock, the grids."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from iceprod.config import Settings
from iceprod.server.diagnosis.findings import Finding, failed, good, warning
from iceprod.server.fastlane_request import FastLaneLimits
from iceprod.server.processes import roster

_LOW_DISK_BYTES: Final = 10**9
_SPARE_FILES: Final = 256
_OPEN_FILES: Final = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)


def look(settings: Settings) -> Iterator[Finding]:
    """What must be right before a server can start at all."""
    yield _python()
    yield from _directory(settings)
    yield _open_files(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return good("python", f"Python {version}, SQLite {sqlite3.sqlite_version}")


def _directory(settings: Settings) -> Iterator[Finding]:
    path = settings.data_dir
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    mode = stat.S_IMODE(path.stat().st_mode) if existing == path else 0o700
    if not os.access(existing, os.W_OK):
        advice = "set server.data_dir, or change its owner"
        yield failed("data directory", f"{existing} cannot be written", advice)
    elif mode & 0o077:
        advice = f"chmod 700 {path}: there are secrets in it"
        yield warning("data directory", f"others may look into {path} (mode {mode:o})", advice)
    else:
        yield good("data directory", f"{path} can be written")
    yield _disk("disk", existing)
    others = {
        "files": settings.files_path,
        "uploads": settings.uploads_path,
        "copies": settings.cache_path,
    }
    for what, wanted in others.items():
        folder = next(each for each in (wanted, *wanted.parents) if each.exists())
        if folder.stat().st_dev != existing.stat().st_dev:
            yield _disk(f"disk of {what}", folder)


def _disk(check: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free"
    if free > _LOW_DISK_BYTES:
        return good(check, text)
    return warning(check, text, "make room: uploads stop at files.keep_free_bytes")


def _open_files(settings: Settings) -> Finding:
    """Whether as many clients as are let in may have a file descriptor each."""
    needed = settings.pages.max_streams + FastLaneLimits().connections + _SPARE_FILES
    # A server takes what it may have, so of a server to come the hard limit tells.
    limit = _limit_of_server(settings) or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return good("open files", f"at most {limit}" if limit >= 0 else "no limit")
    advice = f"ulimit -n {needed}, or LimitNOFILE={needed} in the systemd unit"
    return warning("open files", f"at most {limit}, but {needed} clients are let in", advice)


def _limit_of_server(settings: Settings) -> int:
    """What the server that runs has; 0 if none does, or that cannot be seen."""
    running = roster.read(settings.data_dir)
    try:
        text = Path(f"/proc/{running.pid}/limits").read_text(encoding="ascii") if running else ""
    except OSError:
        return 0
    found = _OPEN_FILES.search(text)
    return int(found[1]) if found else 0


def grids(settings: Settings) -> Iterator[Finding]:
    """Where pilots are started."""
    for name, grid in settings.grids.items():
        text = f"{grid.kind}, at most {grid.max_pilots} pilots"
        if grid.max_pilots:
            yield good(f"grid {name}", text)
        else:
            yield warning(f"grid {name}", text, f"nothing runs here: set grids.{name}.max_pilots")
