"""Which processes a server consists of, told in a file for ``iceprod restart`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from iceprod.server.directory import PROCESSES_FILE, write_private


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
    nginx_pid: int = 0


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
