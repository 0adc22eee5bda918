"""One plain connection that speaks HTTP/1.1, and the bodies that come by it."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from iceprod.movers.base import PlainBody
from iceprod.movers.bodies import PIECE_BYTES, Upload
from iceprod.movers.http_wire import (
    END_OF_HEAD,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_LINE,
    Broken,
    Framing,
    Head,
    chunk_size,
    parse_fields,
    parse_head,
)

_RECEIVE_BYTES: Final = 256 * 1024
_CONTINUE_S: Final = 2.0
_LAST_WORDS_S: Final = 2.0
_MOST_INTERIM: Final = 8


class Connection:
    """A socket that does not block, and what has come by it and was not taken yet."""

    def __init__(self, sock: socket.socket, *, stall_s: float) -> None:
        self._sock = sock
        self._stall_s = stall_s
        self._buffer = bytearray()
        self.is_spoiled = False

    def close(self) -> None:
        """End it; may be called again."""
        self._sock.close()

    @property
    def is_quiet(self) -> bool:
        """Whether it is open and nothing has come that nobody asked for."""
        if self._buffer or self.is_spoiled:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def has_buffered(self) -> bool:
        """Whether something can be taken without waiting."""
        return bool(self._buffer)

    async def ask(self, head: bytes, upload: Upload | None, *, stall_s: float) -> Head:
        """Send a request and read the head of the answer.

        Raises:
            Broken: none came.
        """
        self._stall_s = stall_s
        await self._send(head)
        if upload is None:
            async with _patience(self._stall_s):
                return await self._final_head(asyncio.Event())
        return await self._ask_with(upload)

    async def receive(self, most: int) -> bytes:
        """Up to ``most`` bytes; none when the other side has closed.

        Raises:
            Broken: the connection broke, or nothing came for too long.
        """
        if not self._buffer:
            async with _patience(self._stall_s):
                data = await self._receive()
            if len(data) <= most:
                return data
            self._buffer += data
        taken = bytes(self._buffer[:most])
        del self._buffer[: len(taken)]
        return taken

    async def line(self) -> bytes:
        """The next line, without its end.

        Raises:
            Broken: there is none, or it is too long.
        """
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                raise Broken("a line of the answer is too long")
            async with _patience(self._stall_s):
                await self._more()
        if end > MAX_LINE:
            raise Broken("a line of the answer is too long")
        taken = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return taken

    def hand_over(self, length: int) -> PlainBody:
        """The socket, for who reads ``length`` bytes of it."""
        self.is_spoiled = True
        head = bytes(self._buffer[:length])
        self._buffer.clear()
        return PlainBody(self._sock, head, length - len(head))

    async def _ask_with(self, upload: Upload) -> Head:
        """Send the body, unless an answer comes first that makes it needless."""
        self.is_spoiled = True
        may_go_on = asyncio.Event()
        answer = asyncio.create_task(self._final_head(may_go_on))
        try:
            if upload.ask_first:
                await _wait_for_either(answer, may_go_on)
            is_whole = await self._send_all(upload, answer)
            async with _patience(self._stall_s if is_whole else _LAST_WORDS_S):
                head = await answer
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
        if not is_whole and head.status < 300:
            raise Broken("the origin took a part of the file for the whole")
        return head

    async def _send_all(self, upload: Upload, answer: asyncio.Task[Head]) -> bool:
        """Whether all was sent before there was an answer or the connection broke."""
        left = upload.size_bytes
        while not (left and answer.done()):
            piece = await upload.next_piece()
            if not piece:
                return left == 0
            left -= len(piece)
            try:
                await self._send(piece)
            except Broken:
                # What the origin has to say about it may have come before.
                return False
        return False

    async def _final_head(self, may_go_on: asyncio.Event) -> Head:
        """The head of the answer, without the interim ones before it."""
        for _ in range(_MOST_INTERIM):
            head = await self._head()
            if head.status >= 200:
                return head
            if head.status == 101:
                raise Broken("the origin changed the protocol unasked")
            may_go_on.set()
        raise Broken("the origin gave no final answer")

    async def _head(self) -> Head:
        while (end := self._buffer.find(END_OF_HEAD)) < 0:
            if len(self._buffer) > MAX_HEAD:
                break
            await self._more()
        if not 0 <= end <= MAX_HEAD:
            raise Broken("the head of the answer is too long")
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + len(END_OF_HEAD)]
        return parse_head(raw)

    async def _more(self) -> None:
        data = await self._receive()
        if not data:
            raise Broken("the origin closed the connection")
        self._buffer += data

    async def _receive(self) -> bytes:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            pass
        except OSError as exc:
            raise Broken(f"the connection broke: {exc.strerror}") from None
        else:
            # An origin faster than the reader never lets it wait: others have their turn.
            await asyncio.sleep(0)
            return data
        try:
            return await asyncio.get_running_loop().sock_recv(self._sock, _RECEIVE_BYTES)
        except OSError as exc:
            raise Broken(f"the connection broke: {exc.strerror}") from None

    async def _send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), _RECEIVE_BYTES):
            async with _patience(self._stall_s):
                try:
                    await loop.sock_sendall(self._sock, data[start : start + _RECEIVE_BYTES])
                except OSError as exc:
                    raise Broken(f"the connection broke: {exc.strerror}") from None


class _patience:  # noqa: N801 - used like a function
    """Raise `Broken` where what is done inside takes longer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        try:
            await self._timeout.__aexit__(*raised)  # type: ignore[arg-type]
        except TimeoutError:
            raise Broken(f"nothing moved for {self._seconds:g} s") from None


async def _wait_for_either(answer: asyncio.Task[Head], may_go_on: asyncio.Event) -> None:
    """Wait for an answer or for leave to go on, but not for ever: old servers give none."""
    leave = asyncio.create_task(may_go_on.wait())
    try:
        await asyncio.wait({answer, leave}, timeout=_CONTINUE_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leave.cancel()


class LengthBody:
    """A body of known length."""

    def __init__(self, connection: Connection, length: int) -> None:
        self._connection = connection
        self.length: int | None = length
        self._left = length

    @property
    def is_finished(self) -> bool:
        """Whether all of it was read."""
        return self._left == 0

    async def read(self) -> bytes:
        """The next piece."""
        if not self._left:
            return b""
        data = await self._connection.receive(min(self._left, PIECE_BYTES))
        if not data:
            raise Broken("the file ended before its length")
        self._left -= len(data)
        return data

    def plain(self) -> PlainBody | None:
        """The connection that the rest comes by."""
        body = self._connection.hand_over(self._left)
        self._left = 0
        return body


class ChunkedBody:
    """A body in chunks; an end without a last chunk is none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.length: int | None = None
        self._left = 0
        self.is_finished = False

    async def read(self) -> bytes:
        """What of the next chunks has come already, or else the next piece."""
        pieces, size = [], 0
        while not self.is_finished and size < PIECE_BYTES and (not size or self._connection.has_buffered):
            if not self._left:
                await self._begin_chunk()
                continue
            data = await self._connection.receive(min(self._left, PIECE_BYTES - size))
            if not data:
                raise Broken("the file ended without its last chunk")
            pieces.append(data)
            size += len(data)
            await self._took(len(data))
        return b"".join(pieces)

    def plain(self) -> PlainBody | None:
        """None: the sizes of chunks lie between the bytes."""
        return None

    async def _begin_chunk(self) -> None:
        self._left = chunk_size(await self._connection.line())
        if not self._left:
            for _ in range(MAX_FIELDS):
                line = await self._connection.line()
                if not line:
                    self.is_finished = True
                    return
                parse_fields([line])
            raise Broken("too many fields follow the file")

    async def _took(self, size: int) -> None:
        self._left -= size
        if not self._left and await self._connection.line():
            raise Broken("a chunk is longer than it said")


class OpenBody:
    """A body that ends with the connection: a part that ends orderly can't be told from the whole."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.length: int | None = None
        self.is_finished = False

    async def read(self) -> bytes:
        """The next piece."""
        return await self._connection.receive(PIECE_BYTES)

    def plain(self) -> PlainBody | None:
        """None: there is no length to go by."""
        return None


def body_of(connection: Connection, framing: Framing) -> LengthBody | ChunkedBody | OpenBody:
    """The body that is framed like that."""
    if framing.is_chunked:
        return ChunkedBody(connection)
    if framing.length is not None:
        return LengthBody(connection, framing.length)
    return OpenBody(connection)
