"""What the tests of both RPC listeners share: a dispatcher, and requests that must be refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from iceprod.errors import NotAuthenticated
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.rpc.dispatch import Dispatcher
from iceprod.rpc.methods.meta import METHODS
from iceprod.rpc.registry import Call, Registry

ALICE = Principal(PrincipalKind.USER, "alice")
ECHO = b'{"jsonrpc":"2.0","method":"echo","params":{"value":"e"},"id":1}'
ECHOED = b'{"jsonrpc":"2.0","result":"e","id":1}'
NOTIFICATION = b'{"jsonrpc":"2.0","method":"echo","params":{"value":"e"}}'
HEAD = b"POST /jsonrpc HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer iu_alice\r\n"


class Gates:
    """Lets a test decide when a call goes on; ``open`` by default after `release`."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.opened: dict[str, asyncio.Event] = {}
        self.ended: list[str] = []
        self.running = 0
        self.most_running = 0

    def gate(self, name: str) -> asyncio.Event:
        return self.opened.setdefault(name, asyncio.Event())

    async def pass_through(self, name: str) -> str:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.started.put_nowait(name)
        try:
            await self.gate(name).wait()
            self.ended.append(name)
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        finally:
            self.running -= 1
        return name


def sample_dispatcher(gates: Gates | None = None) -> Dispatcher:
    registry = Registry()
    registry.include(METHODS)

    @registry.method("whoami", action=None)
    def whoami(call: Call) -> list[str]:
        """Who calls, from where."""
        return [call.principal.id, call.origin.remote]

    @registry.method("wait", action=None)
    async def wait(call: Call, *, name: str) -> str:
        """Wait for a gate."""
        return await call.services.pass_through(name)

    @registry.method("poll", action=None, cancellable=True)
    async def poll(call: Call, *, name: str) -> str:
        """Wait for a gate, for as long as somebody listens."""
        return await call.services.pass_through(name)

    @registry.method("large", action=None)
    def large(_call: Call, *, size: int) -> str:
        """Much text."""
        return "x" * size

    return Dispatcher(registry, authenticate=_authenticate, authorize=_authorize, services=gates)


def _authenticate(credential: str) -> Principal:
    if credential != "iu_alice":
        raise NotAuthenticated("unknown token")
    return ALICE


def _authorize(principal: Principal, action: str) -> None:
    if principal == ANONYMOUS:
        raise NotAuthenticated(f"{action} needs a credential")


def call(method: str, **params: Any) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})


def request(body: bytes = ECHO, extra: bytes = b"", head: bytes = HEAD) -> bytes:
    return b"".join((head, extra, b"Content-Length: %d\r\n\r\n" % len(body), body))


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# By which two servers in a row could disagree on where a request ends.
SMUGGLING = {
    "length and chunked": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "list of lengths": HEAD + b"Content-Length: 3, 4\r\n\r\nabcd",
    "signed length": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "negative length": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "hexadecimal length": HEAD + b"Content-Length: 0x3\r\n\r\nabc",
    "length with underscore": HEAD + b"Content-Length: 1_0\r\n\r\n0123456789",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding after chunked": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "coding with vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunk size no number": CHUNKED + b"zz\r\n\r\n0\r\n\r\n",
    "chunk size with prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size negative": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n",
    "header without colon": HEAD + b"Nonsense\r\nContent-Length: 0\r\n\r\n",
    "name with bracket": HEAD + b"Na(me: x\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "two hosts": HEAD + b"Host: there\r\nContent-Length: 0\r\n\r\n",
    "no host": b"POST /jsonrpc HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "white space in the target": b"POST /jsonrpc /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
}

# What Tornado still takes, for old clients, and the fast lane does not.
STRICTER = {
    "folded header": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"POST /jsonrpc HTTP/1.1\nHost: here\nContent-Length: 0\n\n",
    "one bare line feed": HEAD + b"X: y\nContent-Length: 0\r\n\r\n",
    "same length twice": HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "coding before chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "line feed after a chunk size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare carriage return": HEAD + b"X: y\rContent-Length: 0\r\n\r\n",
}


async def converse(port: int, data: bytes) -> bytes:
    """Send ``data`` to ``port`` and give everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            writer.write(data)
            return await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):  # all has been read; the server may have closed in any way
            await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until ``condition`` holds; TimeoutError after ten seconds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def statuses(answer: bytes) -> list[int]:
    """The status of each response in ``answer``."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        found.append(int(lines[0].split()[1]))
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
        answer = rest[int(fields.get(b"content-length", b"0")) :]
    return found
