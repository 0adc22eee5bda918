"""A server that says what a test wants it to say, however wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from iceprod.model.location import Location


@dataclass
class RawServer:
    """``answer`` gets each request's head; what it returns is sent, and the connection closed after it."""

    answer: Callable[[bytes], bytes]
    keeps_open: bool = False
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def location(self) -> Location:
        return Location("http", "127.0.0.1", self.port, "/file.i3")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._converse(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            writer.write(self.answer(head))
            await writer.drain()
            if not self.keeps_open:
                return


@contextlib.asynccontextmanager
async def raw_server(
    answer: bytes | Callable[[bytes], bytes], *, keeps_open: bool = False
) -> AsyncIterator[RawServer]:
    made = RawServer(answer if callable(answer) else lambda _: answer, keeps_open)
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await server.wait_closed()
