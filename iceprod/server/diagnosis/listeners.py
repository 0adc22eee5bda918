"""The ports: whether the server answers there, or could listen."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import msgspec

from iceprod.config import Settings
from iceprod.errors import IceProdError
from iceprod.server.diagnosis.findings import Finding, failed, good
from iceprod.server.processes import sockets
from iceprod.server.processes.directory import PORTS_FILE, data_directory


def look(settings: Settings, ports: dict[str, int], *, is_running: bool) -> Iterator[Finding]:
    """One finding for each port; ``ports`` are those of the server that runs."""
    for name, (host, port) in sockets.wanted(settings).items():
        setting = sockets.NAMES[name]
        yield _port(setting, host, ports.get(setting, port), running=is_running)


def ports_in_use(settings: Settings) -> dict[str, int]:
    """The ports of the server that runs, which may be others than those of the settings."""
    try:
        return msgspec.json.decode((settings.data_dir / PORTS_FILE).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}


def is_running(settings: Settings) -> bool:
    """Whether a server holds the data directory."""
    if not settings.data_dir.exists():
        return False
    try:
        with data_directory(settings.data_dir):
            return False
    except IceProdError:
        return True


def _port(setting: str, host: str, port: int, *, running: bool) -> Finding:
    if port == 0:
        return good(setting, "any free port")
    where = f"{host}:{port}"
    taken = answers(host, port)
    if running and taken:
        return good(setting, f"the server listens on {where}")
    if running:
        return failed(setting, f"the server does not answer on {where}", "look at its log")
    if taken:
        return failed(setting, f"another program listens on {where}", f"set {setting}")
    return good(setting, f"{where} is free")


def answers(host: str, port: int) -> bool:
    """Whether anybody takes connections there."""
    try:
        with closing(socket.create_connection((host or "127.0.0.1", port), timeout=2)):
            return True
    except OSError:
        return False
