"""This machine: Python, the data directory, the disk, the grids."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from typing import Final

from iceprod.config import Settings
from iceprod.server.diagnosis.findings import Finding, failed, good, warning

_LOW_DISK_BYTES: Final = 10**9


def look(settings: Settings) -> Iterator[Finding]:
    """What must be right before a server can start at all."""
    yield _python()
    yield from _directory(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return good("python", f"Python {version}, SQLite {sqlite3.sqlite_version}")


def _directory(settings: Settings) -> Iterator[Finding]:
    path = settings.data_dir
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if os.access(existing, os.W_OK):
        yield good("data directory", f"{path} can be written")
    else:
        advice = "set server.data_dir, or change its owner"
        yield failed("data directory", f"{existing} cannot be written", advice)
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.1f} GB free"
    if free > _LOW_DISK_BYTES:
        yield good("disk", text)
    else:
        yield warning("disk", text, "make room: uploads stop at files.keep_free_bytes")


def grids(settings: Settings) -> Iterator[Finding]:
    """Where pilots are started."""
    for name, grid in settings.grids.items():
        text = f"{grid.kind}, at most {grid.max_pilots} pilots"
        if grid.max_pilots:
            yield good(f"grid {name}", text)
        else:
            yield warning(f"grid {name}", text, f"nothing runs here: set grids.{name}.max_pilots")
