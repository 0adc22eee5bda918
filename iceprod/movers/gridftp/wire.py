"""Sockets that are waited for: each wait ends when nothing moves for too long.

`Wire` is plain; `TlsWire` has TLS over it, by memory BIOs as everywhere in GridFTP.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final, Self

from iceprod.movers.gridftp.gsi import NO_DELEGATION, Secured

PIECE_BYTES: Final = 256 * 1024
"""Most that is read or enciphered at once: of larger pieces each would be new memory to the system."""

_SENT_BYTES: Final = 64 * 1024
# A sender this far is fast enough to be woken for once in a while only, ...
_FAST_BYTES: Final = 4 << 20
_WAKE_BYTES: Final = 256 * 1024
# ... until it lets one wait so long for them.
_SLOW_S: Final = 0.25
# So often others get their turn though the network never makes one wait.
_TURN_BYTES: Final = 2 << 20


class Wire:
    """A connected socket that does not block; ``head`` is what was received of it before."""

    def __init__(self, sock: socket.socket, *, stall_s: float | None, head: bytes = b"") -> None:
        self.sock = sock
        self.stall_s = stall_s
        self._head = head
        self._received = 0
        self._is_slow = False
        self._unbroken = 0

    def take_head(self) -> bytes:
        """What was received before and not read yet; it is not read again."""
        head, self._head = self._head, b""
        return head

    async def receive(self, limit: int = PIECE_BYTES) -> bytes:
        """What has come, at most ``limit`` bytes; empty at the end.

        Raises:
            TimeoutError: nothing came.
            OSError: the connection broke.
        """
        if self._head:
            head, self._head = self._head[:limit], self._head[limit:]
            return head
        try:
            data = self.sock.recv(limit)
        except (BlockingIOError, InterruptedError):
            self._unbroken = 0
            data = await self._awaited(limit)
        self._unbroken += len(data)
        if self._unbroken >= _TURN_BYTES:
            self._unbroken = 0
            await asyncio.sleep(0)
        if self._received < _FAST_BYTES <= self._received + len(data):
            self._wake_for(_WAKE_BYTES)
        self._received += len(data)
        return data

    async def _awaited(self, limit: int) -> bytes:
        """Wait for more; for a good deal of it, as long as that comes soon."""
        loop = asyncio.get_running_loop()
        if self._received >= _FAST_BYTES and not self._is_slow:
            try:
                async with asyncio.timeout(_SLOW_S):
                    return await loop.sock_recv(self.sock, limit)
            except TimeoutError:
                self._is_slow = True
                self._wake_for(1)
        async with asyncio.timeout(self.stall_s):
            return await loop.sock_recv(self.sock, limit)

    def _wake_for(self, count: int) -> None:
        # Waking for each packet costs more than the packet.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it.

        Raises:
            TimeoutError: nothing was taken.
            OSError: the connection broke.
        """
        left = memoryview(data)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(self.stall_s):
                    await asyncio.get_running_loop().sock_sendall(self.sock, left[:_SENT_BYTES])
                left = left[_SENT_BYTES:]
        # Whoever sends from memory would else keep all others waiting.
        self._unbroken += len(data)
        if self._unbroken >= _TURN_BYTES:
            self._unbroken = 0
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection; what was not read yet is thrown away."""
        with suppress(OSError):
            self.sock.close()


class TlsWire:
    """A `Wire` with TLS on it."""

    def __init__(self, wire: Wire, tls: Secured) -> None:
        self.wire = wire
        self.tls = tls
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    @classmethod
    async def over(cls, wire: Wire, context: ssl.SSLContext, *, accepts: bool, stays: bool) -> Self:
        """Shake hands as GSI does it on data connections.

        Where TLS does not stay for what follows (protection C), the connecting side says in a last
        record that nothing is delegated; where it does, that byte would be one of the file.

        Raises:
            OSError: TLS or the connection failed.
        """
        tls = Secured(context, accepts=accepts)
        made = cls(wire, tls)
        while not tls.handshake():
            await made._exchange()
        await wire.send(tls.give())
        if stays:
            return made
        if accepts:
            await made._flag()
        else:
            await wire.send(tls.encipher(NO_DELEGATION))
        return made

    def bare(self) -> Wire:
        """The wire without TLS, to go on in the clear."""
        return Wire(self.wire.sock, stall_s=self.wire.stall_s, head=self.tls.rest())

    async def _exchange(self) -> None:
        await self.wire.send(self.tls.give())
        token = await self.wire.receive(_SENT_BYTES)
        if not token:
            raise ConnectionResetError("the data connection ended in its handshake")
        self.tls.take(token)

    async def _flag(self) -> None:
        flag = bytearray(1)
        while not self.tls.decipher_into(memoryview(flag)):
            await self._exchange()
        if bytes(flag) != NO_DELEGATION:
            raise ConnectionAbortedError("the data connection wants to delegate")

    async def receive(self, limit: int = PIECE_BYTES) -> bytes:
        """As `Wire.receive`."""
        wanted = self._buffer[: min(limit, PIECE_BYTES)]
        while not (count := self.tls.decipher_into(wanted)):
            token = await self.wire.receive(PIECE_BYTES)
            if not token:
                return b""
            self.tls.take(token)
        return bytes(wanted[:count])

    async def send(self, data: bytes | memoryview) -> None:
        """As `Wire.send`."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            await self.wire.send(self.tls.encipher(view[start : start + PIECE_BYTES]))

    async def finish(self) -> None:
        """As `Wire.finish`."""
        await self.wire.finish()

    def close(self) -> None:
        """As `Wire.close`."""
        self.wire.close()


Stream = Wire | TlsWire
