"""The data directory: held by one server at a time, with small files about that server in it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from iceprod.errors import ConfigError

logger = structlog.get_logger(__name__)

ADMIN_FILE: Final = "first-admin.txt"
PORTS_FILE: Final = "ports.json"
"""In the data directory while a server runs: setting of a port → the port that it got."""
PROCESSES_FILE: Final = "processes.json"
"""In the data directory while a server runs: its processes, see `iceprod.server.processes.roster`."""
LOCK_FILE: Final = "server.lock"
"""In every data directory that a server has used; locked while one does."""
_LOOK_AGAIN_S: Final = 0.05


@contextmanager
def data_directory(path: Path, *, patience_s: float = 0.0) -> Iterator[int]:
    """The data directory, held by this process and those that inherit the descriptor given.

    A server that was killed may leave workers that are just ending; for those, and for
    nothing else, it waits up to ``patience_s``.

    Raises:
        ConfigError: it can't be used, or another server uses it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # For this user alone: whoever can open it can lock it.
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _refused(f"cannot use {path}: {exc.strerror}") from None
    try:
        if not _lock(lock, patience_s):
            raise _refused(f"another server uses {path}")
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _refused(message: str) -> ConfigError:
    return ConfigError(message, fields=[{"path": "server.data_dir", "message": message}])


def _lock(lock: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline or _lives(_written(lock)):
            return False
        time.sleep(_LOOK_AGAIN_S)


def _written(lock: int) -> int:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _lives(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


@contextmanager
def told(path: Path, value: Mapping[str, Any]) -> Iterator[None]:
    """Keep ``value`` as JSON in a file for as long as the block lasts."""
    with suppress(OSError):  # a full disk must not keep the server from starting
        write_private(path, msgspec.json.encode(value).decode() + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
