"""The control connection: commands and replies, enciphered once GSI has been agreed on."""

from __future__ import annotations

import asyncio
import base64
import binascii
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from iceprod.errors import InputError
from iceprod.movers.gridftp.faults import ProtocolFault, Refused
from iceprod.movers.gridftp.gsi import Secured, Tokens
from iceprod.movers.gridftp.replies import Reply, ReplyParser
from iceprod.movers.gridftp.wire import Wire

_READ: Final = 64 * 1024
_MAX_ROUNDS: Final = 20


class Control:
    """One control connection, used by one caller at a time.

    A wait for a reply ends after ``stall_s``, unless it says otherwise.  After a wait that was
    given up nobody knows which reply is to which command, and it is not ``is_sound``.
    """

    def __init__(self, sock: socket.socket, *, stall_s: float) -> None:
        # Replies may take as long as whoever waits for them says.
        self._wire = Wire(sock, stall_s=None)
        self._stall_s = stall_s
        self._parser = ReplyParser()
        self._plain = ReplyParser()
        self._tls: Secured | None = None
        self._waiting: deque[Reply] = deque()
        self.is_sound = True

    @property
    def sock(self) -> socket.socket:
        """The connection itself."""
        return self._wire.sock

    async def send(self, verb: str, argument: str = "") -> None:
        """Send a command.

        Raises:
            InputError: there is a line's end in it.
            OSError: the connection broke.
        """
        line = f"{verb} {argument}" if argument else verb
        if any(one in line for one in "\r\n\0"):
            raise InputError("a line's end in a command")
        data = line.encode("utf-8", "surrogateescape") + b"\r\n"
        if self._tls is not None:
            data = b"ENC " + base64.b64encode(self._tls.encipher(data)) + b"\r\n"
        with self._sound_only_if_done():
            async with asyncio.timeout(self._stall_s):
                await self._wire.send(data)

    @contextmanager
    def _sound_only_if_done(self) -> Iterator[None]:
        sound, self.is_sound = self.is_sound, False
        yield
        self.is_sound = sound

    async def reply(self, *, within_s: float | None = None) -> Reply:
        """The next reply, preliminary ones included.

        Raises:
            TimeoutError: none came.
            OSError: the connection broke.
            ProtocolFault: what came is none.
        """
        with self._sound_only_if_done():
            async with asyncio.timeout(self._stall_s if within_s is None else within_s):
                while not self._waiting:
                    await self._receive()
        return self._waiting.popleft()

    async def _receive(self) -> None:
        data = await self._wire.receive(_READ)
        if not data:
            raise ConnectionResetError("the server ended the control connection")
        self._parser.feed(data)
        while (reply := self._parser.next()) is not None:
            self._waiting.extend(self._opened(reply))

    def _opened(self, reply: Reply) -> list[Reply]:
        """The replies that one holds: itself, unless it is enciphered."""
        if self._tls is None:
            return [reply]
        if not reply.is_protected:
            # Anybody could have sent it.
            raise ProtocolFault("a reply without protection where all have it")
        for line in reply.lines:
            self._plain.feed(self._tls.decipher(_decoded(line)).replace(b"\0", b""))
        found: list[Reply] = []
        while (inner := self._plain.next()) is not None:
            found.append(inner)
        return found

    async def final(
        self, verb: str, *, within_s: float | None = None, note: Callable[[Reply], None] = lambda reply: None
    ) -> Reply:
        """The reply that ends what ``verb`` began; ``note`` sees the preliminary ones before it.

        Raises:
            Refused: it is a refusal.
        """
        while (reply := await self.reply(within_s=within_s)).is_preliminary:
            note(reply)
        if not (reply.is_good or reply.is_more):
            raise Refused(verb, reply)
        return reply

    async def command(self, verb: str, argument: str = "", *, within_s: float | None = None) -> Reply:
        """Send a command and wait for its end.

        Raises:
            Refused: it was not done.
        """
        await self.send(verb, argument)
        return await self.final(verb, within_s=within_s)

    async def secure(self, tls: Secured, tokens: Tokens) -> None:
        """Agree on GSI; after that all is enciphered.

        Raises:
            Refused: the server does not want to, or not with this credential.
            ProtocolFault: it does not keep to the protocol.
            ssl.SSLError: it is not trusted.
        """
        await self.command("AUTH", "GSSAPI")
        try:
            token = next(tokens)
            for _ in range(_MAX_ROUNDS):
                reply = await self.command("ADAT", base64.b64encode(token).decode())
                answer = _decoded(reply.text.partition("ADAT=")[2])
                if reply.is_good:
                    tls.take(answer)
                    break
                token = tokens.send(answer)
        except StopIteration:
            raise ProtocolFault("GSI without end") from None
        tokens.close()
        # Whoever is in the middle may neither end the handshake early, nor slip a reply in before.
        if not tls.version or self._waiting:
            raise ProtocolFault("GSI ended before its time")
        self._tls = tls

    def close(self) -> None:
        """Close the connection; a transfer under way ends with it."""
        self._wire.close()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolFault("a token that is no base64") from None
