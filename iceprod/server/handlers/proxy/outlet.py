"""The way out to a client: from socket to socket, from file to socket, or in blocks.

Between plain sockets bytes go through a pipe inside the kernel (splice), from a file straight
to a plain socket (sendfile); through TLS they pass this process in blocks.  In any case no more
is taken than the client has room for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.web import RequestHandler

from iceprod.errors import TransferFailed
from iceprod.movers.base import PlainBody

BLOCK: Final = 1024 * 1024
STALL_S: Final = 300.0
"""How long a client may take nothing at all."""
_SIP: Final = 4096
"""How much a client gets through this process when it has no room for more, to know when it has."""
_SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_RESET: Final = struct.pack("ii", 1, 0)


class Outlet:
    """A client's connection after the head of the answer has been sent."""

    def __init__(self, handler: RequestHandler, *, stall_s: float = STALL_S) -> None:
        self._handler = handler
        self._connection = cast(HTTP1Connection, handler.request.connection)
        self._stream = cast(IOStream, cast(Any, self._connection).stream)
        self._stall_s = stall_s

    @property
    def is_plain(self) -> bool:
        """Whether bytes can go to its socket without passing this process."""
        is_plain = isinstance(self._stream, IOStream) and not isinstance(self._stream, SSLIOStream)
        return is_plain and self._connection._expected_content_remaining is not None  # noqa: SLF001 - see `_sent`

    def reset(self) -> None:
        """End the connection so that the client can't take what it has for the whole."""
        with suppress(OSError, AttributeError):
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._stream.close()

    async def write(self, data: bytes) -> None:
        """Send a block; returns when there is room for another.

        Raises:
            StreamClosedError: the client has gone, or takes nothing.
        """
        self._handler.write(data)
        async with self._patience():
            await self._handler.flush()

    async def send_file(self, descriptor: int, offset: int, size: int) -> int:
        """Send up to ``size`` bytes of a file; how many went.

        Raises:
            StreamClosedError: the client has gone, or takes nothing.
            TransferFailed: the file has become shorter.
        """
        size = min(size, BLOCK)
        await _warmed(descriptor, offset, size)
        try:
            sent = os.sendfile(self._socket(), descriptor, offset, size)
        except BlockingIOError:
            piece = os.pread(descriptor, min(size, _SIP), offset)
            await self._wait_with(piece)
            return len(piece)
        except OSError as exc:
            raise StreamClosedError(real_error=exc) from None
        if sent == 0:
            raise TransferFailed("the file on the disk has become shorter", done_bytes=offset)
        self._sent(sent)
        await asyncio.sleep(0)  # a client that always has room holds up nobody
        return sent

    async def relay(self, body: PlainBody, *, stall_s: float) -> AsyncGenerator[int, None]:
        """Send what comes from another plain socket; tells how many bytes went, time and again.

        Raises:
            StreamClosedError: the client has gone, or takes nothing.
            TransferFailed: too little came, or nothing for ``stall_s``.
        """
        if body.head:
            await self.write(body.head)
            yield len(body.head)
        with _pipe() as (into, out_of):
            left, inside = body.length, 0
            while left or inside:
                taken = self._take(body.sock, into, left) if left else None
                if taken is not None:
                    left, inside = left - taken, inside + taken
                if not inside:
                    await _readable(body.sock.fileno(), stall_s, left)
                    continue
                went = await self._pour(out_of, inside)
                inside -= went
                yield went

    def _take(self, sock: socket.socket, into: int, most: int) -> int | None:
        """Let the kernel move bytes into the pipe; None where nothing has come or nothing fits."""
        try:
            taken = os.splice(sock.fileno(), into, min(most, BLOCK), flags=_SPLICE)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise TransferFailed(f"the origin broke off: {exc.strerror}") from None
        if taken == 0:
            raise TransferFailed("the origin broke off")
        return taken

    async def _pour(self, out_of: int, size: int) -> int:
        try:
            went = os.splice(out_of, self._socket(), size, flags=_SPLICE)
        except BlockingIOError:
            piece = os.read(out_of, min(size, _SIP))
            await self._wait_with(piece)
            return len(piece)
        except OSError as exc:
            raise StreamClosedError(real_error=exc) from None
        self._sent(went)
        await asyncio.sleep(0)  # neither do two that are equally fast
        return went

    def _sent(self, size: int) -> None:
        """Tell the connection what went past it, which else would miss it when the answer ends."""
        left = self._connection._expected_content_remaining  # noqa: SLF001 - there is no other way
        if left is not None:
            self._connection._expected_content_remaining = left - size  # noqa: SLF001 - the same

    def _socket(self) -> int:
        """The number of the socket, for this moment: when the client goes, another may get it."""
        if self._stream.closed():
            raise StreamClosedError
        return self._stream.socket.fileno()

    async def _wait_with(self, piece: bytes) -> None:
        """Wait until the client takes more, by giving the stream a little to send: it does the waiting."""
        if not piece:
            raise TransferFailed("the file on the disk has become shorter")
        await self.write(piece)

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._stall_s):
                yield
        except TimeoutError:
            self.reset()
            raise StreamClosedError from None


class _pipe:  # noqa: N801 - used like a function
    """A pipe inside the kernel: the end to put in, the end to take out."""

    def __enter__(self) -> tuple[int, int]:
        self._ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # more than a user may have of all pipes together
            fcntl.fcntl(self._ends[1], fcntl.F_SETPIPE_SZ, BLOCK)
        return self._ends[1], self._ends[0]

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            os.close(end)


async def _readable(descriptor: int, stall_s: float, left: int) -> None:
    try:
        async with asyncio.timeout(stall_s):
            await _ready(descriptor)
    except TimeoutError:
        raise TransferFailed(f"the origin sent nothing for {stall_s:.0f} s, {left} bytes missing") from None


async def _ready(descriptor: int) -> None:
    """Wait until a descriptor can be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def _warmed(descriptor: int, offset: int, size: int) -> None:
    """Have a part of a file in memory, so that sending it does not wait for the disk."""
    if all(_is_in_memory(descriptor, at) for at in (offset, offset + size - 1)):
        return
    await asyncio.to_thread(_read_through, os.dup(descriptor), offset, size)


def _is_in_memory(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def _read_through(descriptor: int, offset: int, size: int) -> None:
    try:
        os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
