"""A proxy before a server that loses, repeats, delays and garbles calls by rules.

Rules are data, and what befalls the nth call of a method follows from the rules and the seed
alone: a schedule under which something breaks can be run again.  It stands between nginx and
the server, so TLS and client certificates are nginx' own, as ever.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final, Self

from tests.net_spaces import Space

MOST_HEAD: Final = 64 * 1024
CHUNK: Final = 64 * 1024
RPC_PATH: Final = "/jsonrpc"


class Fault(StrEnum):
    """What may befall a call."""

    LOSE_REQUEST = "lose request"  # the server never hears of it
    LOSE_ANSWER = "lose answer"  # the server does what it was asked, and the client never knows
    DELAY = "delay"
    TWICE = "twice"  # it is delivered again ``delay_s`` later, when others have passed
    REORDER = "reorder"  # it waits until another one has passed, or for ``delay_s``
    TRUNCATE_REQUEST = "truncate request"
    TRUNCATE_ANSWER = "truncate answer"


@dataclass(frozen=True)
class Rule:
    """``chance`` of the calls whose name matches ``calls`` (as file names do) suffer it, ``most`` in all.

    A call is named by its method, and a request that is no JSON-RPC as ``PUT /files/…``.
    """

    fault: Fault
    calls: str = "site.*"
    chance: float = 1.0
    most: int | None = None
    delay_s: float = 0.5


@dataclass
class Schedule:
    """Rules, the first that applies decides; ``done`` says what befell which calls."""

    rules: Sequence[Rule] = ()
    seed: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    done: list[tuple[str, int, Fault]] = field(default_factory=list)
    _used: Counter[Rule] = field(default_factory=Counter)

    def verdict(self, name: str) -> tuple[Rule | None, random.Random]:
        """What happens to the next call of a name, and the dice for its details."""
        self.seen[name] += 1
        number = self.seen[name]
        for rule in self.rules:
            dice = random.Random(f"{self.seed}/{rule.fault}/{name}/{number}")
            is_meant = fnmatchcase(name, rule.calls) and dice.random() < rule.chance
            if is_meant and (rule.most is None or self._used[rule] < rule.most):
                self._used[rule] += 1
                self.done.append((name, number, rule.fault))
                return rule, dice
        return None, random.Random(0)

    def told(self) -> str:
        """What happened, in a line."""
        counts = Counter(f"{fault} {name}" for name, _, fault in self.done)
        return ", ".join(f"{number} × {what}" for what, number in sorted(counts.items())) or "nothing"


@dataclass(frozen=True)
class _Request:
    """One that was read whole: its head without the empty line, and its body."""

    head: bytes
    body: bytes

    @property
    def name(self) -> str:
        method, path = self.head.decode("latin-1").split(" ", 2)[:2]
        if method != "POST" or path.partition("?")[0] != RPC_PATH:
            return f"{method} {path}"
        return _method_of(self.body, _header(self.head, "content-encoding"))

    def with_body(self, body: bytes) -> _Request:
        """The same, with another body and the length of that."""
        lines = [line for line in self.head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
        lines.append(b"Content-Length: %d" % len(body))
        return _Request(b"\r\n".join(lines), body)


class FaultProxy:
    """The proxy, in a thread; ``schedule`` may be replaced at any time.

    It listens on ``port`` of 127.0.0.1 (0 takes any free one), in ``space`` if that is given,
    and hands everything to ``target`` there.
    """

    def __init__(
        self,
        target: int,
        *,
        port: int = 0,
        space: Space | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.port = port
        self.schedule = schedule or Schedule()
        self.errors: list[str] = []
        self._target = target
        self._space = space
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._is_ready = threading.Event()
        self._end: asyncio.Event
        self._passed: asyncio.Event
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(10), self.errors
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def _run(self) -> None:
        try:
            with self._space.entered() if self._space else nullcontext():
                asyncio.run(self._serve())
        except OSError as exc:
            self.errors.append(repr(exc))
            raise

    async def _serve(self) -> None:
        self._loop, self._end, self._passed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", self.port, limit=MOST_HEAD)
        self.port = server.sockets[0].getsockname()[1]
        self._is_ready.set()
        async with server:
            await self._end.wait()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; with the next one the client comes by another connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._one(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # one of the two is gone, or the proxy, and with the connection the other gets to know it
        finally:
            self._tasks.discard(task)
            with suppress(OSError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        length = int(_header(head, "content-length") or 0)
        if not head.startswith(b"POST /jsonrpc"):
            name = _Request(head, b"").name
            rule, dice = self.schedule.verdict(name)
            if rule is None or _is_chunked(head):
                await self._relay(head, reader, writer)
                return
            request = _Request(head, await reader.readexactly(length))
        else:
            request = _Request(head, await reader.readexactly(length))
            rule, dice = self.schedule.verdict(request.name)
        await self._suffer(rule, dice, request, writer)
        self._passed.set()
        self._passed = asyncio.Event()

    async def _suffer(
        self, rule: Rule | None, dice: random.Random, request: _Request, writer: asyncio.StreamWriter
    ) -> None:
        fault = rule.fault if rule else None
        if fault is Fault.LOSE_REQUEST:
            return
        if fault is Fault.DELAY:
            await asyncio.sleep(rule.delay_s)
        if fault is Fault.REORDER:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._passed.wait(), rule.delay_s)
        if fault is Fault.TRUNCATE_REQUEST:
            await self._ask_half(request, dice, writer)
            return
        if fault in (Fault.LOSE_ANSWER, Fault.TRUNCATE_ANSWER):
            answer = await self._ask(request)
            if fault is Fault.TRUNCATE_ANSWER:
                writer.write(_half_answer(answer, dice))
                await writer.drain()
            return
        await self._pass(request, writer)
        if fault is Fault.TWICE:
            await asyncio.sleep(rule.delay_s)
            await self._ask(request)

    async def _pass(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        """Hand a request on, and the answer back as it comes."""
        async with AsyncExitStack() as stack:
            reader = await self._send(stack, request)
            await _copy(reader, writer)
        writer.close()

    async def _ask(self, request: _Request) -> bytes:
        """Hand a request on; the whole answer."""
        async with AsyncExitStack() as stack:
            return await (await self._send(stack, request)).read()

    async def _ask_half(self, request: _Request, dice: random.Random, writer: asyncio.StreamWriter) -> None:
        """Hand half a body on, which says that it is whole, or else that more is to come."""
        half = request.body[: dice.randrange(max(1, len(request.body)))]
        async with AsyncExitStack() as stack:
            if dice.random() < 0.5:
                await _copy(await self._send(stack, request.with_body(half)), writer)
            else:
                await self._send(stack, _Request(request.head, half))

    async def _send(self, stack: AsyncExitStack, request: _Request) -> asyncio.StreamReader:
        """A connection to the server on which a request was sent; what comes back."""
        reader, writer = await self._connect(stack)
        writer.write(_closing(request.head) + b"\r\n\r\n" + request.body)
        await writer.drain()
        return reader

    async def _connect(self, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        stack.callback(writer.close)
        return reader, writer

    async def _relay(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let bytes pass both ways, however many there are, until the server has said all."""
        async with AsyncExitStack() as stack:
            there, back = await self._connect(stack)
            back.write(_closing(head) + b"\r\n\r\n")
            upwards = asyncio.create_task(_quietly(_copy, reader, back))
            try:
                await _copy(there, writer)
            finally:
                upwards.cancel()


async def _quietly(copy: Callable[..., Awaitable[None]], *streams: Any) -> None:
    with suppress(OSError):
        await copy(*streams)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


def _closing(head: bytes) -> bytes:
    """A head that asks for the connection to be closed after the answer."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close"])


def _half_answer(answer: bytes, dice: random.Random) -> bytes:
    """The head with a part of the body, which says that it is whole, or else that more is to come."""
    head, _, body = answer.partition(b"\r\n\r\n")
    half = _Request(head, body[: dice.randrange(max(1, len(body)))])
    if dice.random() < 0.5:
        half = half.with_body(half.body)
    return half.head + b"\r\n\r\n" + half.body


def _header(head: bytes, name: str) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.lower() == name:
            return value.strip()
    return ""


def _is_chunked(head: bytes) -> bool:
    return "chunked" in _header(head, "transfer-encoding").lower()


def _method_of(body: bytes, encoding: str) -> str:
    """The method of a call, the first one's of a batch; empty if it can't be told."""
    try:
        if encoding in ("gzip", "deflate"):
            body = zlib.decompress(body, wbits=zlib.MAX_WBITS | 32)
        message = json.loads(body)
        return str((message[0] if isinstance(message, list) else message)["method"])
    except (ValueError, LookupError, TypeError, zlib.error):
        return ""
