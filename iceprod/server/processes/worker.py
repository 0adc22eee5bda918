"""A worker: one of several processes that accept on the same sockets, told by a supervisor.

The supervisor hands it the sockets and one end of a socket pair.  On that the worker says
``ready`` and then now and then ``alive``; the supervisor says ``leave`` with how.  When the
supervisor has gone, the pair ends, and so does the worker: nothing is left that holds the
ports.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from iceprod.server.processes.leaving import Leave, Orders
from iceprod.server.processes.roster import Reached
from iceprod.server.processes.sockets import Sockets, adopt
from iceprod.server.processes.workplace import ALIVE_S, Assignment

logger = structlog.get_logger(__name__)


class Answering(Protocol):
    """What a worker runs: `iceprod.server.process.Server`."""

    async def start(self) -> None:
        """Answer on the sockets that it was given."""

    async def stop(self, leave: Leave | None = None) -> None:
        """Leave; a second call changes nothing."""

    @property
    def reached(self) -> Reached:
        """Where it answers."""


async def work(make: Callable[[Sockets], Answering], assignment: Assignment, *, drain_s: float) -> None:
    """Answer until told to leave."""
    orders, loop = Orders(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, orders.give, Leave(linger_s=drain_s, finish_s=drain_s))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them along; meant is the supervisor
        loop.add_signal_handler(number, lambda: None)
    server = make(adopt(assignment.sockets))
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=assignment.control))
    listening = asyncio.create_task(_listen(reader, orders, alone=Leave(finish_s=drain_s)))
    beating: asyncio.Task[None] | None = None
    try:
        await server.start()
        orders.is_ready = True
        writer.write(b"ready " + msgspec.json.encode(server.reached) + b"\n")
        beating = asyncio.create_task(_beat(writer))
        leave = await orders.given()
        logger.info("worker leaves", number=assignment.number)
        await server.stop(leave)  # which may take long, and is no reason to be taken for dead
    finally:
        listening.cancel()
        await server.stop()
        if beating is not None:
            beating.cancel()
        writer.close()


async def _listen(reader: asyncio.StreamReader, orders: Orders, *, alone: Leave) -> None:
    """Take orders; the end of the supervisor is one, too."""
    with suppress(ConnectionError):
        async for line in reader:
            order, _, how = line.partition(b" ")
            if order == b"leave":
                orders.give(msgspec.json.decode(how, type=Leave))
    logger.warning("the supervisor has gone")
    orders.give(alone)


async def _beat(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(ALIVE_S)
            writer.write(b"alive\n")
            await writer.drain()
