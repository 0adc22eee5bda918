"""How a process takes leave of its clients.

Where the listening sockets go on without this process (others accept on them, or its
successor will), a connection that is idle must not simply be closed: a request may be on
its way.  Such connections are kept for a while; each answer says that it was the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tornado.httpserver import HTTPServer

from iceprod.server.processes.leaving import Leave

if TYPE_CHECKING:
    from iceprod.server.app import Application
    from iceprod.server.fastlane import FastLane


class GeneralPort(HTTPServer):
    """Tornado's server, which knows who is connected."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """As Tornado's server is."""
        super().initialize(*args, **kwargs)
        self.clients: set[object] = set()
        self._changed = asyncio.Event()

    def start_request(self, server_conn: object, request_conn: Any) -> Any:
        """Note a client; asked at its first request, and before that is read."""
        self.clients.add(server_conn)
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Forget a client."""
        super().on_close(server_conn)
        self.clients.discard(server_conn)
        self._changed.set()

    def say_goodbye(self) -> None:
        """Close each connection after the request that comes next."""
        self.conn_params.no_keep_alive = True

    async def emptied(self, clients: set[object], timeout_s: float) -> None:
        """Wait until those clients have gone, but not for ever."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.clients.isdisjoint(clients):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass


# Connections that the kernel has handed over are known after a few turns of the loop.
_TURNS: Final = 10


@dataclass(frozen=True, slots=True)
class Doors:
    """What lets clients in, and who looks after them.

    ``send_viewers_away`` ends live pages, which may come again; ``end_polls`` ends all that waits
    for something to happen, for good.
    """

    send_viewers_away: Callable[[], None]
    end_polls: Callable[[], None]
    application: Application
    ports: tuple[GeneralPort, ...]
    lane: FastLane | None

    async def close(self, leave: Leave) -> None:
        """Let nobody in any more, and let what is under way end."""
        self.application.is_leaving = True
        for port in self.ports:
            port.say_goodbye()
        if self.lane is not None:
            self.lane.is_draining = True
        if not leave.keeps_polls:
            self.end_polls()
        waited_for: set[object] = set()
        if leave.accepts:
            # They would watch for ever, and hold the process up; here they may come again at once.
            self.send_viewers_away()
            waited_for = self._clients()
            await self._gone(waited_for, leave.linger_s)
        await self._stop_accepting()
        self.end_polls()
        # Also who has only just connected has not asked yet.
        await self._gone(self._clients() - waited_for, leave.linger_s)
        await self._finish(leave.finish_s)

    async def _stop_accepting(self) -> None:
        for port in self.ports:
            port.stop()
        if self.lane is not None:
            self.lane.stop_accepting()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _clients(self) -> set[object]:
        lane: set[object] = set() if self.lane is None else set(self.lane.clients)
        return lane.union(*(port.clients for port in self.ports))

    async def _gone(self, clients: set[object], timeout_s: float) -> None:
        """Wait until those clients have gone, but not for ever."""
        if not timeout_s:
            return
        async with asyncio.TaskGroup() as group:
            for port in self.ports:
                group.create_task(port.emptied(clients, timeout_s))
            if self.lane is not None:
                of = self.lane.clients & clients
                group.create_task(self.lane.emptied(timeout_s, of=of))

    async def _finish(self, timeout_s: float) -> None:
        self.application.is_stopping = True
        async with asyncio.TaskGroup() as group:
            if self.lane is not None:
                group.create_task(self.lane.drain(timeout_s=timeout_s))
            group.create_task(self.application.drained(timeout_s))
        for port in self.ports:
            await port.close_all_connections()
