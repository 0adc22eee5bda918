"""An FTP server that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

FACTS = "250-facts\r\n Type=file;Size={size};Modify=20260102030405; /hits.i3\r\n250 End.\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class FakeFtp:
    """``answers`` has a text, or a function of the server and the argument, by verb.

    ``data`` is given to a data connection as its two streams; what it returns ends the transfer.
    """

    size: int = 10
    greeting: str = "220 hello\r\n"
    answers: dict[str, str | Callable[[FakeFtp, str], Awaitable[str]]] = field(default_factory=dict)
    data: Callable[[FakeFtp, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]] | None = None
    features: str = ""
    commands: list[str] = field(default_factory=list)
    port: int = 0
    writer: asyncio.StreamWriter | None = None
    _data: asyncio.Queue[Streams] = field(default_factory=asyncio.Queue)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def standard(self, verb: str) -> str | None:
        return {
            "USER": "331 password\r\n",
            "PASS": "230 in\r\n",
            "FEAT": f"211-Features\r\n{self.features}211 End\r\n",
            "TYPE": "200 ok\r\n",
            "MODE": "200 ok\r\n",
            "OPTS": "200 ok\r\n",
            "PORT": "200 ok\r\n",
            "REST": "350 ok\r\n",
            "DELE": "250 ok\r\n",
            "RNFR": "350 ok\r\n",
            "RNTO": "250 ok\r\n",
            "MLST": FACTS.format(size=self.size),
        }.get(verb)

    async def passive(self) -> int:
        return await self.listen("127.0.0.1")

    async def listen(self, host: str) -> int:
        """Take data connections there; the port."""
        server = await asyncio.start_server(self._take_data, host, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def connect(self, host: str, port: int) -> asyncio.StreamWriter:
        """Make a data connection."""
        _, writer = await asyncio.open_connection(host, port)
        self._writers.append(writer)
        return writer

    def _take_data(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._data.put_nowait((reader, writer))

    async def _answer(self, verb: str, argument: str) -> str:
        given = self.answers.get(verb)
        if isinstance(given, str):
            return given
        if given is not None:
            return await given(self, argument)
        if verb == "EPSV":
            return f"229 here (|||{await self.passive()}|)\r\n"
        if verb in ("RETR", "STOR", "MLSD", "ERET"):
            return await self._transfer()
        return self.standard(verb) or "502 no such command\r\n"

    async def _transfer(self) -> str:
        assert self.data is not None
        assert self.writer is not None
        self.writer.write(b"150 now\r\n")
        streams = await self._data.get()
        try:
            return await self.data(self, *streams)
        finally:
            streams[1].close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            writer.write(self.greeting.encode())
            while line := await reader.readline():
                verb, _, argument = line.decode().strip().partition(" ")
                self.commands.append(f"{verb} {argument}".strip())
                writer.write((await self._answer(verb, argument)).encode("utf-8", "surrogateescape"))
                await writer.drain()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def fake_ftp(**more: object) -> AsyncIterator[FakeFtp]:
    """Such a server, while the context lasts."""
    fake = FakeFtp(**more)  # type: ignore[arg-type]
    server = await asyncio.start_server(fake.accept, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        await fake.end()
