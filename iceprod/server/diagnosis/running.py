"""The server that runs: its processes, its unit of systemd, its clock."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from iceprod.config import Settings
from iceprod.server.diagnosis.findings import Finding, failed, good, warning
from iceprod.server.processes import roster
from iceprod.server.processes.roster import Roster
from iceprod.server.processes.sockets import url_of

_UNIT: Final = "iceprod.service"
_SYSTEMCTL_S: Final = 10.0
_ANSWER_S: Final = 5.0
_CLOCK_S: Final = 3.0  # a Date header knows whole seconds only


async def look(settings: Settings, ports: dict[str, int], *, is_running: bool) -> list[Finding]:
    """How it does; nothing if none runs, but for a unit that should have started it."""
    findings = [*_processes(settings), *await _clock(settings, ports)] if is_running else []
    return [*findings, *await _unit(is_running=is_running)]


def _processes(settings: Settings) -> list[Finding]:
    told = roster.read(settings.data_dir)
    if told is None:
        return [warning("server", "a command holds the data directory, or the server starts", "look again")]
    return [_members(told), *_restarts(told)]


def _members(told: Roster) -> Finding:
    missing = told.wanted - sum(1 for one in told.members if Path(f"/proc/{one.pid}").exists())
    if missing:
        message = f"{missing} of {told.wanted} processes are not there"
        return failed("server", message, "its log tells why they do not start")
    plural = "processes" if told.wanted > 1 else "process"
    return good("server", f"{told.wanted} {plural}, signals go to {told.pid}")


def _restarts(told: Roster) -> list[Finding]:
    if not told.failed_restarts:
        return []
    message = f"{told.failed_restarts} restarts were given up"
    return [warning("restarts", message, "correct what the log tells, then: iceprod restart")]


async def _unit(*, is_running: bool) -> list[Finding]:
    """What systemd says, where the unit is installed."""
    facts = await _systemctl() if shutil.which("systemctl") else {}
    if facts.get("LoadState") != "loaded":
        return []
    state = facts.get("ActiveState", "unknown")
    if state == "failed":
        return [failed("systemd", f"{_UNIT} has failed", f"journalctl -u {_UNIT}")]
    if facts.get("UnitFileState") != "enabled":
        message = f"{_UNIT} is not started at boot"
        return [warning("systemd", message, f"systemctl enable {_UNIT}")]
    if not is_running:
        return [warning("systemd", f"{_UNIT} is {state}", f"systemctl start {_UNIT}")]
    return [good("systemd", f"{_UNIT} is {state}")]


async def _systemctl() -> dict[str, str]:
    """Properties of the unit; none where systemd does not run."""
    process = await asyncio.create_subprocess_exec(
        *("systemctl", "show", _UNIT, "--property=LoadState,ActiveState,UnitFileState"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said = b""
    try:
        async with asyncio.timeout(_SYSTEMCTL_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
    lines = (line.partition("=") for line in said.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}


async def _clock(settings: Settings, ports: dict[str, int]) -> list[Finding]:
    """Compare this machine's clock with that of whoever answers at the site's address."""
    own = url_of(settings.server.host, ports.get("server.port", settings.server.port))
    url = f"{settings.server.url.rstrip('/') or own}/healthz"
    try:
        theirs = await asyncio.to_thread(_date_of, url)
    except (OSError, ValueError) as exc:
        advice = "does server.url lead here? is nginx running?"
        return [warning("address", f"{url} does not answer: {str(exc)[:100]}", advice)]
    offset_s = theirs - time.time()
    if abs(offset_s) > _CLOCK_S:
        message = f"{url} is {offset_s:+.0f} s off"
        return [good("address", f"{url} answers"), warning("clock", message, "let NTP set both clocks")]
    return [good("address", f"{url} answers"), good("clock", "the same at the site's address")]


def _date_of(url: str) -> float:
    """The Date header, in seconds since the epoch; whose certificate it is is another check's matter."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(url)  # noqa: S310 - http or https, by the settings' own check
    with urllib.request.urlopen(request, timeout=_ANSWER_S, context=context) as answer:  # noqa: S310 - as above
        return parsedate_to_datetime(answer.headers["Date"] or "").timestamp()
