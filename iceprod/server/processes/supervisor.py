"""The supervisor: holds the sockets and the data directory, and keeps workers running.

It opens no store and answers no request.  A worker that dies is replaced; at SIGHUP all are
replaced, one after the other, without a request lost; at SIGTERM they finish what they have.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from iceprod import clock
from iceprod.config import Settings
from iceprod.errors import ConfigError, IceProdError, Unavailable
from iceprod.server.processes import roster, sockets, systemd
from iceprod.server.processes.directory import PORTS_FILE, data_directory, told
from iceprod.server.processes.roster import Reached, Roster
from iceprod.server.processes.workers import Plan, WorkerFailed, Workers

logger = structlog.get_logger(__name__)

_BAD_CONFIG: Final = 78


class _Signals:
    """What the supervisor was told."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.restart = asyncio.Event()
        main, loop = asyncio.current_task(), asyncio.get_running_loop()

        def asked_to_stop() -> None:
            if self.stop.is_set() and main is not None:
                main.cancel()
            self.stop.set()

        loop.add_signal_handler(signal.SIGTERM, asked_to_stop)
        loop.add_signal_handler(signal.SIGINT, asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self.restart.set)


class Front(Protocol):
    """A proxy in front: nginx."""

    async def start(self) -> None:
        """Start it, and return once it listens."""

    async def renew(self, settings: Settings) -> None:
        """Have it take other settings, if they are others."""

    async def stop(self, *, within_s: float) -> None:
        """End it, what is under way before."""


class Supervisor:
    """Keeps workers, and a proxy in front if asked for, until it is told to stop.

    ``reread`` gives the settings as they are now; raises ConfigError if they are wrong.
    """

    def __init__(
        self, workers: Workers, *, data_dir: Path, front: Front | None, reread: Callable[[], Settings]
    ) -> None:
        self._workers = workers
        self._data_dir = data_dir
        self._front = front
        self._reread = reread
        self._signals = _Signals()
        self._started_at = clock.now()

    async def run(self, ready_file: Path | None) -> None:
        """Work until SIGTERM or SIGINT; a second one ends all at once.

        Raises:
            WorkerFailed: the workers did not get ready.
            ConfigError: the proxy can't be started.
        """
        try:
            reached = await _unless(self._signals.stop, self._start())
            if reached is not None:
                self._tell()  # before anybody hears that it is ready
                with roster.announced(reached, data_dir=self._data_dir, ready_file=ready_file):
                    await self._attend()
            systemd.notify("STOPPING=1")
            logger.info("stopping")
            await self._stop()
        finally:
            await self._workers.kill()
            roster.remove(self._data_dir)
        logger.info("stopped")

    async def _start(self) -> Reached:
        reached = await self._workers.start_first()
        # It answers for all: nobody who waits for the site need wait for the other workers.
        started = await asyncio.gather(
            self._workers.start_others(), self._start_front(), return_exceptions=True
        )
        for error in started:
            if error is not None:
                if self._front is not None:
                    await self._front.stop(within_s=0.0)
                raise error
        return reached

    async def _start_front(self) -> None:
        if self._front is not None:
            await self._front.start()

    async def _stop(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._front is not None:
                group.create_task(self._front.stop(within_s=self._workers.plan.drain_s))
            group.create_task(self._workers.stop(has_front=self._front is not None))

    async def _attend(self) -> None:
        systemd.notify("READY=1")
        async with asyncio.TaskGroup() as group:
            works = (self._keep_telling(), self._restart_when_asked(), systemd.feed_watchdog())
            tasks = [group.create_task(work) for work in works]
            await self._signals.stop.wait()
            for task in tasks:
                task.cancel()

    async def _restart_when_asked(self) -> None:
        while True:
            await self._signals.restart.wait()
            self._signals.restart.clear()
            systemd.reloading()
            logger.info("replacing the workers")
            done = await self._restart()
            logger.info("workers replaced" if done else "the former workers go on")
            systemd.notify("READY=1")

    async def _restart(self) -> bool:
        try:
            settings = self._reread()
            done = await self._workers.restart()
            if done and self._front is not None:
                await self._front.renew(settings)
        except IceProdError as exc:
            logger.error("restart given up", error=exc.message)  # noqa: TRY400 - it says all there is
            self._workers.give_up_restart()
            return False
        return done

    async def _keep_telling(self) -> None:
        while True:
            await self._workers.changed.wait()
            self._workers.changed.clear()
            self._tell()

    def _tell(self) -> None:
        """Bring the file about the processes up to date."""
        workers = self._workers
        roster.write(
            self._data_dir,
            Roster(
                pid=os.getpid(),
                started_at=self._started_at,
                members=workers.members,
                wanted=workers.plan.count,
                restarts=workers.restarts,
                failed_restarts=workers.failed_restarts,
            ),
        )


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Reached]) -> Reached | None:
    """What ``work`` gives, or None if ``stop`` comes first."""
    starting, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        return starting.result()
    starting.cancel()
    return None


def plan_of(settings: Settings, command: Sequence[str], *, has_successor: bool) -> Plan:
    """What the settings ask for.

    Raises:
        ConfigError: they ask for several processes on a store that only one may use.
    """
    server = settings.server
    is_shared = settings.store_path is None
    if server.processes > 1 and not is_shared:
        message = (
            "several processes need a store that can be shared: set store.url to mongodb://HOST/DATABASE"
        )
        raise ConfigError(message, fields=[{"path": "server.processes", "message": message}])
    return Plan(
        command=tuple(command),
        count=server.processes,
        overlaps=is_shared,
        drain_s=server.drain_s,
        handover_s=server.handover_s,
        has_successor=has_successor,
    )


def run(
    settings: Settings,
    plan: Plan,
    *,
    given: sockets.Sockets,
    ready_file: Path | None,
    reread: Callable[[], Settings],
) -> None:
    """Run a server of several processes until it is told to stop.

    Raises:
        ConfigError: it cannot start with these settings.
        Unavailable: its workers could not start.
    """
    data_dir = settings.data_dir
    with ExitStack() as stack, asyncio.Runner() as runner:
        lock = stack.enter_context(data_directory(data_dir, patience_s=2 * plan.drain_s + plan.spare_s))
        bound = sockets.complete(given, settings)
        stack.callback(sockets.close, bound)
        ports = {sockets.NAMES[name]: sockets.port_of(each) for name, each in bound.items()}
        stack.enter_context(told(data_dir / PORTS_FILE, ports))

        async def main() -> None:
            workers, front = Workers(plan, bound, lock=lock), _front(settings)
            await Supervisor(workers, data_dir=data_dir, front=front, reread=reread).run(ready_file)

        try:
            runner.run(main())
        except WorkerFailed as exc:
            kind = ConfigError if exc.code == _BAD_CONFIG else Unavailable
            raise kind(f"{exc}; it has said why") from None
        except asyncio.CancelledError:
            logger.warning("stopped at once, as asked twice")


def _front(settings: Settings) -> Front | None:
    if not settings.nginx.supervised:
        return None
    from iceprod.server.processes.front import NginxFront  # noqa: PLC0415 - much, for what few need

    return NginxFront(settings)
