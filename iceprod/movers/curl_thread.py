"""libcurl's transfers on threads, for the protocol of which libcurl may block.

libcurl ends a connection of ssh by waiting for the other side, whatever calls it.  On the loop
one broken connection would stop everything, so each transfer has a thread for as long as it
lasts.  Back-pressure is the same as in `movers.curl`: callbacks wait till the loop has taken
what came.  A transfer is ended from the loop by shutting its sockets down.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Generic, TypeVar

import pycurl

from iceprod.errors import AccessDenied
from iceprod.movers.base import AddressPolicy
from iceprod.movers.bodies import Upload
from iceprod.movers.curl import HELD_BYTES, CurlError, allowed_socket

_MOST_THREADS: Final = 32
_MOST_SOCKETS: Final = 8
_MOST_KEPT: Final = 4
_KEPT_S: Final = 30.0
_END_S: Final = 5.0


class Session:
    """A handle with its connection."""

    def __init__(self, policy: AddressPolicy) -> None:
        self.handle = pycurl.Curl()
        self.sockets: list[socket.socket] = []
        self.refused: AccessDenied | None = None
        self._policy = policy

    def begin(self) -> None:
        """Forget the options of the former transfer; the connection stays."""
        self.refused = None
        self.handle.reset()
        self.handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self.handle.setopt(pycurl.MAXCONNECTS, 1)

    def shut_down(self) -> None:
        """Break its connections, so that nothing waits for them; safe from other threads."""
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, on a thread."""
        self.shut_down()
        self.handle.close()
        for sock in self.sockets:
            sock.close()

    def _open_socket(self, _: int, address: Any) -> socket.socket | int:
        """A socket for an address that is allowed, of which libcurl gets a duplicate."""
        try:
            sock = allowed_socket(address, self._policy)
        except AccessDenied as exc:
            self.refused = exc
            return int(pycurl.SOCKET_BAD)
        self.sockets.append(sock)
        return sock


class ThreadTransfer:
    """One transfer; what the loop and the thread share is guarded by ``_turn``."""

    def __init__(self, session: Session) -> None:
        self.handle = session.handle
        self.sent_bytes = 0
        self.has_ended = False
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._turn = threading.Condition()
        self._error: CurlError | None = None
        self._is_given_up = False
        self._pieces: list[bytes] = []
        self._held = 0
        self._offered = memoryview(b"")
        self._is_last = False
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self._wanted = asyncio.Event()
        self.handle.setopt(pycurl.WRITEFUNCTION, self._write)
        self.handle.setopt(pycurl.READFUNCTION, self._read)
        self.handle.setopt(pycurl.XFERINFOFUNCTION, self._look_up)
        self.handle.setopt(pycurl.NOPROGRESS, 0)

    @property
    def has_pieces(self) -> bool:
        """Whether something came that was not taken yet."""
        return bool(self._pieces)

    async def wait_for_body(self, *, stall_s: float | None) -> None:
        """Wait for the first bytes, or for the end.

        Raises:
            CurlError: it failed before, or nothing came for ``stall_s``.
            AccessDenied: no address of the host is allowed.
        """
        while not self._pieces and not self.has_ended:
            self._came.clear()
            try:
                async with asyncio.timeout(stall_s):
                    await self._came.wait()
            except TimeoutError:
                raise CurlError(0, f"nothing moved for {stall_s:g} s") from None
        if not self._pieces and self._error is not None:
            raise self._session.refused or self._error

    async def read(self, *, stall_s: float) -> bytes:
        """The next piece, at most 1 MiB; empty at the end; raises as `wait_for_body`."""
        await self.wait_for_body(stall_s=stall_s)
        with self._turn:
            data, self._pieces, self._held = b"".join(self._pieces), [], 0
            self._turn.notify_all()
        return data

    async def feed(self, upload: Upload) -> None:
        """Send what ``upload`` has, once libcurl asks for it."""
        await self._wanted.wait()
        while piece := await upload.next_piece():
            self._taken.clear()
            with self._turn:
                self._offered = memoryview(piece)
                self._turn.notify_all()
            while self._offered and not self.has_ended:
                await self._taken.wait()
                self._taken.clear()
        with self._turn:
            self._is_last = True
            self._turn.notify_all()

    def give_up(self) -> None:
        """Have the thread end it."""
        with self._turn:
            self._is_given_up = True
            self._turn.notify_all()
        self._session.shut_down()

    def run(self) -> None:
        """Carry it out, on a thread."""
        error = None
        try:
            self.handle.perform()
        except pycurl.error as exc:
            error = CurlError(*exc.args[:2])
        self._tell(self._finish, error)

    def _finish(self, error: CurlError | None) -> None:
        self.has_ended = True
        self._error = error
        for event in (self._came, self._taken, self._wanted):
            event.set()

    def _tell(self, callback: Callable[..., object], *values: object) -> None:
        # A loop that has ended meanwhile wants to know nothing more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *values)

    def _write(self, data: bytes) -> int:
        with self._turn:
            self._turn.wait_for(lambda: self._held < HELD_BYTES or self._is_given_up)
            if self._is_given_up:
                return -1
            self._pieces.append(data)
            self._held += len(data)
        self._tell(self._came.set)
        return len(data)

    def _read(self, most: int) -> bytes | int:
        self._tell(self._wanted.set)
        with self._turn:
            self._turn.wait_for(lambda: self._offered or self._is_last or self._is_given_up)
            if self._is_given_up:
                return int(pycurl.READFUNC_ABORT)
            data = bytes(self._offered[:most])
            self._offered = self._offered[len(data) :]
            self.sent_bytes += len(data)
        if not self._offered:
            self._tell(self._taken.set)
        return data

    def _look_up(self, *_: object) -> int:
        return 1 if self._is_given_up else 0


_S = TypeVar("_S", bound=Session)


class ThreadDriver(Generic[_S]):
    """Transfers on threads, and connections that are kept for those with an equal key."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="libcurl")
        self._kept: dict[object, list[_S]] = {}
        self._is_closed = False

    def close(self) -> None:
        """End connections that are kept, and the threads."""
        self._is_closed = True
        kept, self._kept = self._kept, {}
        for session in (each for several in kept.values() for each in several):
            self._threads.submit(session.close)
        self._threads.shutdown(wait=False)

    def session(self, key: object, make: Callable[[], _S]) -> _S:
        """One that is kept under that key, or a new one; to be given to `running`."""
        several = self._kept.get(key)
        session = several.pop() if several else make()
        session.begin()
        return session

    @asynccontextmanager
    async def running(
        self, key: object, session: _S, options: Mapping[int, Any]
    ) -> AsyncIterator[ThreadTransfer]:
        """Run a transfer with those options of libcurl; the context ends it."""
        try:
            transfer = ThreadTransfer(session)
            for option, value in options.items():
                session.handle.setopt(option, value)
            running = asyncio.get_running_loop().run_in_executor(self._threads, transfer.run)
        except BaseException:
            self._end(session)
            raise
        try:
            yield transfer
        finally:
            was_given_up = not transfer.has_ended
            if was_given_up:
                transfer.give_up()
            running.add_done_callback(lambda _: self._let_go(key, session, is_good=not was_given_up))
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running), _END_S)

    def _let_go(self, key: object, session: _S, *, is_good: bool) -> None:
        several = self._kept.get(key, [])
        has_room = len(session.sockets) <= _MOST_SOCKETS and len(several) < _MOST_KEPT
        if is_good and has_room and not self._is_closed:
            self._kept[key] = several
            several.append(session)
            asyncio.get_running_loop().call_later(_KEPT_S, self._drop, key, session)
        else:
            self._end(session)

    def _drop(self, key: object, session: _S) -> None:
        several = self._kept.get(key, [])
        if session in several:
            several.remove(session)
            self._end(session)
        if not several:
            self._kept.pop(key, None)

    def _end(self, session: _S) -> None:
        try:
            self._threads.submit(session.close)
        except RuntimeError:
            # The threads have ended already, as after `close`.
            session.close()
