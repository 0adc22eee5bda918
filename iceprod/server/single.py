"""A server that is one process, which restarts itself without losing its sockets."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import structlog

from iceprod import clock
from iceprod.config import Settings
from iceprod.server import roster, systemd
from iceprod.server.leaving import Leave, Orders
from iceprod.server.process import Server, tune_interpreter
from iceprod.server.roster import Member, Roster
from iceprod.server.sockets import Sockets

logger = structlog.get_logger(__name__)


async def serve(settings: Settings, *, given: Sockets, ready_file: Path | None = None) -> Sockets | None:
    """Run a server until SIGTERM or SIGINT; a second one ends it at once.

    At SIGHUP it ends too, and returns its listening sockets, still open: clients that come
    wait in the kernel for the program that goes on with them.
    """
    server, orders = Server(settings, given=given), Orders()
    await server.start()
    restart = _obey(settings, orders, has_successor=bool(given))
    orders.is_ready = True
    tune_interpreter()
    watchdog = asyncio.create_task(systemd.feed_watchdog())
    kept: Sockets | None = None
    try:
        with roster.announced(server.reached, data_dir=settings.data_dir, ready_file=ready_file):
            _tell(settings.data_dir)
            systemd.notify("READY=1")
            leave = await orders.given()
        if restart.is_set():
            systemd.reloading()
            kept = {name: bound.dup() for name, bound in server.sockets.items()}
        else:
            systemd.notify("STOPPING=1")
        logger.info("stopping", restarts=restart.is_set())
        await server.stop(leave)
    finally:
        watchdog.cancel()
        roster.remove(settings.data_dir)
        await server.stop()
    logger.info("stopped")
    return kept


def _obey(settings: Settings, orders: Orders, *, has_successor: bool) -> asyncio.Event:
    """Let signals give the orders; the event tells whether to restart."""
    loop, restart = asyncio.get_running_loop(), asyncio.Event()
    at_once = Leave(finish_s=settings.server.drain_s)
    drain_s = settings.server.drain_s
    # Where the store is shared there may be other servers, and a proxy that knows them all: it
    # must not lose what it sends on a connection that was idle.
    leaving = at_once if settings.store_path is not None else Leave(linger_s=drain_s, finish_s=drain_s)
    gently = Leave(linger_s=drain_s, finish_s=drain_s, accepts=True, keeps_polls=True)

    def hang_up() -> None:
        restart.set()
        orders.give(gently)

    loop.add_signal_handler(signal.SIGTERM, orders.give, gently if has_successor else leaving)
    loop.add_signal_handler(signal.SIGINT, orders.give, at_once)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    return restart


def _tell(data_dir: Path) -> None:
    now = clock.now()
    roster.write(data_dir, Roster(os.getpid(), now, (Member(0, os.getpid(), now),)))
