"""nginx as a process beside the server: started, reloaded, started again when it dies, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final

import structlog

from iceprod.clock import Clock, monotonic
from iceprod.config import Settings
from iceprod.errors import ConfigError, IceProdError, Unavailable
from iceprod.server.nginx.control import check, command, left_over, listens, pid_path, written_pid
from iceprod.server.nginx.generating import generate

logger = structlog.get_logger(__name__)

_START_S: Final = 20.0
_LOOK_AGAIN_S: Final = 0.01
_LEAVE_S: Final = 5.0
_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 10.0
_STEADY_S: Final = 60.0
_STDERR: Final = "logs/stderr.log"


class NginxProcess:
    """One nginx in front of this server: `start`, then `stop`.

    It runs in a process group of its own.  When its master dies, of whatever cause, the
    workers that are left finish what they are at, and a new one takes the ports.
    """

    def __init__(self, settings: Settings, *, clock: Clock = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The pid of the master process while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Write the configuration, start nginx with it, and return once it listens.

        Raises:
            ConfigError: the settings or what they make do not do, or a port is taken.
        """
        await self._prepare()
        former = written_pid(self._settings)
        if former is not None and left_over(former):
            logger.warning("an nginx of an earlier server is still there and has to leave", pid=former)
            await self._clear(former)
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name="keep nginx")

    async def reload(self, settings: Settings | None = None) -> None:
        """Write the configuration anew, from other settings if given, and have nginx take it.

        Requests under way are finished by the old workers; none is dropped.

        Raises:
            ConfigError: nginx does not take it, and goes on with what it has.
        """
        self._settings = settings or self._settings
        await self._prepare()
        self._send(signal.SIGHUP)

    def reopen(self) -> None:
        """Have nginx open its logs anew, after they were moved away."""
        self._send(signal.SIGUSR1)

    def _send(self, number: signal.Signals) -> None:
        if self.pid is None:
            raise Unavailable("nginx is being started again")
        os.kill(self.pid, number)

    async def stop(self, *, within_s: float = 10.0) -> None:
        """Let requests under way end, for a bounded time, then end nginx."""
        self._is_stopping = True
        process = self._process
        if process is not None:
            await _end(process, within_s=within_s)
            _kill_group(process.pid, signal.SIGKILL)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _prepare(self) -> None:
        await asyncio.to_thread(generate, self._settings)
        verdict = await check(self._settings)
        if not verdict.valid:
            raise ConfigError("\n".join(["nginx refuses its configuration", *verdict.messages]))

    async def _spawn(self) -> None:
        """Start it and wait until it has its ports, which is when it writes its pid."""
        pid_path(self._settings).unlink(missing_ok=True)
        said = self._settings.nginx_path / _STDERR
        with said.open("wb") as stderr:
            self._process = process = await asyncio.create_subprocess_exec(
                *command(self._settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        deadline = self._clock() + _START_S
        while written_pid(self._settings) != process.pid:
            if process.returncode is not None or self._clock() > deadline:
                _kill_group(process.pid, signal.SIGKILL)
                reason = said.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
                raise ConfigError(f"nginx does not start\n{reason}")
            await asyncio.sleep(_LOOK_AGAIN_S)
        logger.info("nginx listens", pid=process.pid, port=self._settings.nginx.https_port)

    async def _keep(self) -> None:
        pause_s, began = _PAUSE_S, self._clock()
        while self._process is not None:
            status = await self._process.wait()
            if self._is_stopping:
                return
            logger.warning("nginx ended and is started again", status=status)
            pause_s = _PAUSE_S if self._clock() - began > _STEADY_S else min(pause_s * 2, _PAUSE_MAX_S)
            began = self._clock()
            await self._restart(self._process.pid, pause_s)

    async def _restart(self, former: int, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self.restarts += 1
        try:
            await self._clear(former)
            await self._spawn()
        except (IceProdError, OSError) as exc:
            logger.error("nginx does not start", error=str(exc))  # noqa: TRY400 - tried again, told each time

    async def _clear(self, former: int) -> None:
        """Have what is left of a former nginx give the ports free; it ends when its requests have."""
        # A master that leaves in good order takes the file with the pid along, which is soon another's.
        _kill(former, signal.SIGKILL)
        for pid in left_over(former):
            _kill(pid, signal.SIGQUIT)
        deadline = self._clock() + _LEAVE_S
        while self._is_held(former):
            if self._clock() > deadline:
                raise Unavailable("an earlier nginx does not leave its ports")
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _is_held(self, former: int) -> bool:
        """Whether processes of a former nginx still listen."""
        ports = {self._settings.nginx.https_port, self._settings.nginx.http_port}
        return any(listens(pid, ports) for pid in left_over(former))


async def _end(process: asyncio.subprocess.Process, *, within_s: float) -> None:
    for number, patience_s in ((signal.SIGQUIT, within_s), (signal.SIGTERM, _LEAVE_S)):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
    _kill_group(process.pid, signal.SIGKILL)
    await process.wait()


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
