"""A web server of files that counts, cuts and waits as a test says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote

_STEP = 256 * 1024


@dataclass
class HttpOrigin:
    """``files`` by path; ``gets`` counts bodies that were asked for; ``cut_at`` ends one body there."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    version: str = '"1"'
    gets: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    cut_at: int | None = None
    cuts: int = 1
    has_length: bool = True
    extra: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a stream server tells of cancelled tasks as of errors
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split("\r\n")[0].split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:] if line)
        }
        self.heads.append({"method": method, "target": target, **headers})
        data = self.files.get(unquote(target.partition("?")[0]))
        if data is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        first, last, status = 0, len(data) - 1, "200 OK"
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if found:
            first, status = int(found[1]), "206 Partial Content"
            last = min(last, int(found[2])) if found[2] else last
        told = [f"HTTP/1.1 {status}", f"ETag: {self.version}", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"]
        if found:
            told.append(f"Content-Range: bytes {first}-{last}/{len(data)}")
        told.append(
            f"Content-Length: {last + 1 - first}" if self.has_length else "Transfer-Encoding: chunked"
        )
        writer.write("\r\n".join([*told, self.extra, "\r\n"] if self.extra else [*told, "\r\n"]).encode())
        if method == "HEAD":
            return True
        self.gets.append(target)
        return await self._send(writer, memoryview(data)[first : last + 1], first)

    async def _send(self, writer: asyncio.StreamWriter, data: memoryview, first: int) -> bool:
        for start in range(0, len(data), _STEP):
            await self.gate.wait()
            piece = bytes(data[start : start + _STEP])
            at = first + start
            if self.cut_at is not None and self.cuts and at + len(piece) > self.cut_at:
                self.cuts -= 1
                writer.write(piece[: max(0, self.cut_at - at)] if self.has_length else b"")
                await writer.drain()
                return False
            writer.write(piece if self.has_length else b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            self.sent += len(piece)
        if not self.has_length:
            writer.write(b"0\r\n\r\n")
        return True


@asynccontextmanager
async def open_origin() -> AsyncIterator[HttpOrigin]:
    origin = HttpOrigin()
    origin.gate.set()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, limit=2**16)
    port = server.sockets[0].getsockname()[1]
    origin.url = f"http://127.0.0.1:{port}"
    try:
        yield origin
    finally:
        origin.gate.set()
        server.close()
        for task in list(origin.tasks):
            task.cancel()
        await asyncio.gather(*origin.tasks, return_exceptions=True)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    is_cut: bool


class RawClient:
    """A client that sees what really comes: also how a connection ends."""

    def __init__(self, url: str, token: str) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._token = token
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> RawClient:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port, limit=2**16)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(self, path: str, method: str = "GET", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self._token}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), {name.lower(): value for name, value in headers.items()}

    async def answer(self, method: str = "GET") -> Answer:
        status, headers = await self.head()
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"", False)
        try:
            if "content-length" in headers:
                return Answer(
                    status, headers, await self.reader.readexactly(int(headers["content-length"])), False
                )
            return Answer(status, headers, await self._chunks(), False)
        except asyncio.IncompleteReadError as exc:
            return Answer(status, headers, exc.partial, True)
        except ConnectionError:
            return Answer(status, headers, b"", True)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        await self.ask(path, method, **headers)
        return await self.answer(method)
