"""A server that is one process, which restarts itself without losing its sockets."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from iceprod import clock
from iceprod.config import Settings
from iceprod.errors import ConfigError
from iceprod.server.process import Server, tune_interpreter
from iceprod.server.processes import roster, systemd
from iceprod.server.processes.leaving import Leave, Orders
from iceprod.server.processes.roster import Member, Roster
from iceprod.server.processes.sockets import Sockets

logger = structlog.get_logger(__name__)


async def serve(
    settings: Settings, *, given: Sockets, reread: Callable[[], Settings], ready_file: Path | None = None
) -> Sockets | None:
    """Run a server until SIGTERM or SIGINT; a second one ends it at once.

    At SIGHUP it ends too, unless the settings as they are then are wrong, and returns its
    listening sockets, still open: clients that come wait in the kernel for the program that
    goes on with them.
    """
    server, orders = Server(settings, given=given), Orders()
    await server.start()
    restart = _Restart(settings, orders, reread)
    _obey(settings, orders, restart, has_successor=bool(given))
    orders.is_ready = True
    tune_interpreter()
    watchdog = asyncio.create_task(systemd.feed_watchdog())
    kept: Sockets | None = None
    try:
        restart.tell()  # before anybody hears that it is ready
        with roster.announced(server.reached, data_dir=settings.data_dir, ready_file=ready_file):
            systemd.notify("READY=1")
            leave = await orders.given()
        if restart.is_asked:
            systemd.reloading()
            kept = {name: bound.dup() for name, bound in server.sockets.items()}
        else:
            systemd.notify("STOPPING=1")
        logger.info("stopping", restarts=restart.is_asked)
        await server.stop(leave)
    finally:
        watchdog.cancel()
        roster.remove(settings.data_dir)
        await server.stop()
    logger.info("stopped")
    return kept


class _Restart:
    """Whether the process is to become its own successor."""

    def __init__(self, settings: Settings, orders: Orders, reread: Callable[[], Settings]) -> None:
        self.is_asked = False
        self._settings = settings
        self._orders = orders
        self._reread = reread
        now = clock.now()
        self._roster = Roster(os.getpid(), now, (Member(0, os.getpid(), now),))

    def ask(self) -> None:
        """Leave, if a successor could start with the settings as they are now."""
        if self.is_asked:
            return
        try:
            self._reread()
        except ConfigError as exc:
            logger.error("restart given up", error=exc.message)  # noqa: TRY400 - it says all there is
            failed = self._roster.failed_restarts + 1
            self._roster = msgspec.structs.replace(self._roster, failed_restarts=failed)
            self.tell()
            return
        self.is_asked = True
        drain_s = self._settings.server.drain_s
        self._orders.give(Leave(linger_s=drain_s, finish_s=drain_s, accepts=True, keeps_polls=True))

    def tell(self) -> None:
        """Bring the file about the processes up to date."""
        roster.write(self._settings.data_dir, self._roster)


def _obey(settings: Settings, orders: Orders, restart: _Restart, *, has_successor: bool) -> None:
    """Let signals give the orders."""
    loop, drain_s = asyncio.get_running_loop(), settings.server.drain_s
    at_once = Leave(finish_s=drain_s)
    if has_successor:
        at_term = Leave(linger_s=drain_s, finish_s=drain_s, accepts=True, keeps_polls=True)
    elif settings.store_path is None:
        # There may be other servers, and a proxy that knows them all: it must not lose what it
        # sends on a connection that was idle.
        at_term = Leave(linger_s=drain_s, finish_s=drain_s)
    else:
        at_term = at_once
    loop.add_signal_handler(signal.SIGTERM, orders.give, at_term)
    loop.add_signal_handler(signal.SIGINT, orders.give, at_once)
    loop.add_signal_handler(signal.SIGHUP, restart.ask)
