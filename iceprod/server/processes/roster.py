"""What a server tells about itself in files: its addresses, and the processes it consists of."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from iceprod._version import __version__
from iceprod.server.processes.directory import PROCESSES_FILE, write_private

logger = structlog.get_logger(__name__)


class Reached(msgspec.Struct, frozen=True):
    """The addresses of a server that answers, without a slash at the end."""

    url: str
    rpc_url: str


@contextmanager
def announced(reached: Reached, *, data_dir: Path, ready_file: Path | None) -> Iterator[None]:
    """Say where the server is; ``ready_file`` is there as long as it answers."""
    facts = {
        "url": reached.url,
        "rpc_url": reached.rpc_url,
        "pid": os.getpid(),
        "version": __version__,
        "data_dir": str(data_dir),
    }
    if ready_file is not None:
        write_private(ready_file, msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.write(f"iceprod is ready: {reached.url}/ (JSON-RPC: {reached.rpc_url}/jsonrpc)\n")
    sys.stdout.flush()
    logger.info("ready", **facts)
    try:
        yield
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


class Member(msgspec.Struct, frozen=True):
    """A worker: its place, its process, since when it is ready (seconds since the epoch)."""

    number: int
    pid: int
    ready_at: float


class Roster(msgspec.Struct, frozen=True):
    """The processes of a server.

    ``pid`` is the one to which signals go.  ``restarts`` counts how often all others were
    replaced as asked, ``failed_restarts`` how often that was given up.
    """

    pid: int
    started_at: float
    members: tuple[Member, ...] = ()
    wanted: int = 1
    restarts: int = 0
    failed_restarts: int = 0


def write(data_dir: Path, roster: Roster) -> None:
    """Tell; a full disk is no reason to stop."""
    try:
        write_private(data_dir / PROCESSES_FILE, msgspec.json.encode(roster).decode() + "\n")
    except OSError:
        return


def read(data_dir: Path) -> Roster | None:
    """What the server there has told; None if none runs."""
    try:
        return msgspec.json.decode((data_dir / PROCESSES_FILE).read_bytes(), type=Roster)
    except (OSError, msgspec.DecodeError):
        return None


def remove(data_dir: Path) -> None:
    """Tell nothing any more: the server ends."""
    (data_dir / PROCESSES_FILE).unlink(missing_ok=True)
