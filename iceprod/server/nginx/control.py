"""nginx from outside: have it look at its configuration, and send it signals."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from iceprod.config import Settings
from iceprod.errors import ConfigError, NotFoundError, Unavailable
from iceprod.server.nginx.generating import config_path, is_fresh

_NAME: Final = "nginx"
_CHECK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What nginx says of a configuration; not fresh if the settings would make another one."""

    valid: bool
    fresh: bool
    messages: tuple[str, ...]


def command(settings: Settings) -> list[str]:
    """The program with its arguments, which runs until it is ended.

    Raises:
        ConfigError: there is no such program.
    """
    program = shutil.which(
        settings.nginx.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        message = f"there is no program {settings.nginx.program}: install nginx, or say where it is"
        raise ConfigError(message, fields=[{"path": "nginx.program", "message": message}])
    return [program, "-e", "stderr", "-p", str(settings.nginx_path), "-c", str(config_path(settings))]


async def check(settings: Settings) -> Verdict:
    """Have nginx look at the configuration on disk.

    Raises:
        NotFoundError: there is none.
        ConfigError: there is no nginx.
    """
    if not config_path(settings).exists():
        raise NotFoundError("configuration of nginx", config_path(settings))
    process = await asyncio.create_subprocess_exec(
        *command(settings),
        "-t",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_CHECK_S):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Unavailable("nginx did not say in time what it thinks of its configuration") from None
    lines = tuple(line for line in said.decode(errors="replace").splitlines() if line.strip())
    return Verdict(process.returncode == 0, is_fresh(settings), lines)


def send(settings: Settings, number: signal.Signals) -> int:
    """Send a signal to the nginx that runs with this configuration; its pid.

    Raises:
        Unavailable: none runs.
    """
    pid = running(settings)
    if pid is None:
        raise Unavailable(f"no nginx runs with {config_path(settings)}")
    os.kill(pid, number)
    return pid


def running(settings: Settings) -> int | None:
    """The pid of the nginx that runs with this configuration."""
    pid = written_pid(settings)
    return pid if pid is not None and _is_nginx(pid) else None


def pid_path(settings: Settings) -> Path:
    """Where nginx writes its pid once it listens."""
    return settings.nginx_path / "nginx.pid"


def written_pid(settings: Settings) -> int | None:
    """What is written there, whether it still runs or not."""
    try:
        return int(pid_path(settings).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def left_over(pid: int) -> list[int]:
    """Processes of an nginx that was started as ``pid``, in a group of its own, and that still run."""
    return [each for each in psutil.pids() if (each == pid or _group(each) == pid) and _is_nginx(each)]


def listens(pid: int, ports: set[int]) -> bool:
    """Whether a process holds one of these ports open for clients."""
    try:
        found = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port in ports for each in found)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _is_nginx(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.name() == _NAME and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
