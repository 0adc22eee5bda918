"""A worker as its supervisor sees it: a process, and what the two tell each other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog

from iceprod.server.processes.leaving import Leave
from iceprod.server.processes.roster import Reached
from iceprod.server.processes.sockets import Sockets
from iceprod.server.processes.workplace import VARIABLE, Assignment

logger = structlog.get_logger(__name__)

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_NOT_PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Child:
    """A worker process that was started."""

    def __init__(self, number: int, process: Process, streams: _Streams) -> None:
        self.number = number
        self.ready_at = 0.0
        self.reached = Reached("", "")
        self._process = process
        self._reader, self._writer = streams
        self._ready: asyncio.Future[Reached | None] = asyncio.get_running_loop().create_future()
        self._heard = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(), name=f"listen to worker {number}")

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ready(self) -> Reached | None:
        """Where it answers, once it does; None if it ended before."""
        return await asyncio.shield(self._ready)

    async def ended(self) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        code = await self._process.wait()
        await self._listening
        return code

    async def silent(self, longest_s: float) -> None:
        """Wait until a worker that lives has not said so for ``longest_s``."""
        with suppress(TimeoutError):
            while True:
                self._heard.clear()
                async with asyncio.timeout(longest_s):
                    await self._heard.wait()

    def leave(self, how: Leave) -> None:
        """Tell it to leave."""
        with suppress(ConnectionError):
            self._writer.write(b"leave " + msgspec.json.encode(how) + b"\n")

    def kill(self) -> None:
        """End it at once, if it still lives."""
        if self._process.returncode is None:
            # Not by the process object, whose look at whether it lives takes the exit code
            # away from asyncio's.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _listen(self) -> None:
        try:
            async for line in self._reader:
                self._heard.set()
                word, _, rest = line.partition(b" ")
                if word == b"ready" and not self._ready.done():
                    self._ready.set_result(msgspec.json.decode(rest, type=Reached))
        except ConnectionError:
            pass
        finally:
            self._writer.close()
            if not self._ready.done():
                self._ready.set_result(None)


async def start(command: Sequence[str], number: int, *, sockets: Sockets, lock: int) -> Child:
    """Start a worker that inherits ``sockets``, and with ``lock`` the hold on the data directory."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        descriptors = {name: bound.fileno() for name, bound in sockets.items()}
        assignment = Assignment(number, theirs.fileno(), lock, descriptors)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            env=_environment(os.environ, assignment),
            pass_fds=(theirs.fileno(), lock, *descriptors.values()),
        )
    return Child(number, process, await asyncio.open_connection(sock=ours))


def _environment(environment: Mapping[str, str], assignment: Assignment) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name not in _NOT_PASSED_ON}
    return {**kept, VARIABLE: msgspec.json.encode(assignment).decode()}
