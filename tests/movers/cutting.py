"""A relay between a mover and its server that spoils what the server says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from enum import StrEnum


class Harm(StrEnum):
    CUT = "cut"  # closed in good order
    RESET = "reset"
    STALL = "stall"
    CORRUPT = "corrupt"  # one byte is another


class Relay:
    """Passes bytes on; ``harm`` is done once ``after`` bytes came from the server, by all connections."""

    def __init__(self, port: int, harm: Harm, after: int) -> None:
        self._target = port
        self._harm = harm
        self._left = after
        self._is_done = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there_writer))
                group.create_task(self._pass(there_reader, writer, is_down=True))
        except* (ConnectionError, _Over):
            pass
        finally:
            for each in (writer, there_writer):
                each.close()

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_down: bool = False
    ) -> None:
        while data := await source.read(65536):
            if is_down:
                data = await self._harmed(data, target)
            target.write(data)
            await target.drain()
        raise _Over

    async def _harmed(self, data: bytes, target: asyncio.StreamWriter) -> bytes:
        if self._is_done or len(data) <= self._left:
            self._left -= len(data)
            return data
        self._is_done = True
        if self._harm is Harm.CORRUPT:
            place = self._left
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        target.write(data[: self._left])
        with contextlib.suppress(ConnectionError):
            await target.drain()
        if self._harm is Harm.STALL:
            await asyncio.get_running_loop().create_future()
        if self._harm is Harm.RESET:
            sock = target.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            target.transport.abort()
        raise _Over


class _Over(Exception):
    pass


@contextlib.asynccontextmanager
async def relay(port: int, harm: Harm, *, after: int) -> AsyncIterator[int]:
    """The port of such a relay."""
    made = Relay(port, harm, after)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await made.end()
        await server.wait_closed()
