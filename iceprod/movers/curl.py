"""libcurl's transfers on the asyncio loop, with back-pressure both ways.

libcurl tells which sockets it waits for and when it wants to be called; the loop does the
waiting.  It is paused when the reader has not yet taken what came, and when there is nothing
to send yet, so a transfer holds about a MiB whatever the size of the file.
Sources: libcurl's manual, ``curl_multi_socket_action`` and ``curl_easy_pause``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import pycurl

from iceprod.errors import AccessDenied
from iceprod.movers.base import Access, AddressPolicy
from iceprod.movers.bodies import Upload

HELD_BYTES: Final = 512 * 1024
"""How much may have come that the reader has not taken, before libcurl has to wait."""

_RECEIVE_BYTES: Final = 256 * 1024
_MOST_CONNECTIONS: Final = 32
_KEPT_S: Final = 30.0

_T = TypeVar("_T")


class CurlError(Exception):
    """A transfer failed; ``code`` is libcurl's, 0 where it was ended here."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Transfer:
    """One transfer; made with `new_transfer`, set up by its protocol, begun by `Multi.running`."""

    def __init__(self, policy: AddressPolicy) -> None:
        self.handle = pycurl.Curl()
        self.lines: list[bytes] = []
        self.refused: AccessDenied | None = None
        self.sent_bytes = 0
        self._policy = policy
        self._error: CurlError | None = None
        self._has_ended = False
        self._pieces: list[bytes] = []
        self._held = 0
        self._is_paused = False
        self._offered = memoryview(b"")
        self._is_last = False
        self._came = asyncio.Event()
        self._wanted = asyncio.Event()
        self._set_callbacks()

    def _set_callbacks(self) -> None:
        self.handle.setopt(pycurl.WRITEFUNCTION, self._write)
        self.handle.setopt(pycurl.HEADERFUNCTION, self._header)
        self.handle.setopt(pycurl.READFUNCTION, self._read)
        self.handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)

    @property
    def has_ended(self) -> bool:
        """Whether libcurl is done with it, for good or ill."""
        return self._has_ended

    @property
    def has_pieces(self) -> bool:
        """Whether something came that was not taken yet."""
        return bool(self._pieces)

    async def wait_for_body(self, *, stall_s: float | None) -> None:
        """Wait for the first bytes, or for the end.

        Raises:
            CurlError: it failed before.
            AccessDenied: no address of the host is allowed.
        """
        await self._wait_for_more(stall_s)
        if not self._pieces and self._error is not None:
            raise self._failure()

    async def wait_for_line(self, *, stall_s: float | None) -> None:
        """Wait for another header line, or as `wait_for_body`."""
        count = len(self.lines)
        while count == len(self.lines) and not self._pieces:
            if self._has_ended:
                if self._error is not None:
                    raise self._failure()
                return
            await self._wait(stall_s)

    async def read(self, *, stall_s: float) -> bytes:
        """The next piece, at most 1 MiB; empty at the end.

        Raises:
            CurlError: it failed, or nothing came for ``stall_s``.
        """
        await self.wait_for_body(stall_s=stall_s)
        data, self._held = b"".join(self._pieces), 0
        self._pieces.clear()
        if self._is_paused:
            self._is_paused = False
            self._go_on()
        return data

    async def feed(self, source: Upload) -> None:
        """Send what ``source`` has, once libcurl asks for it."""
        await self._wanted.wait()
        while piece := await source.next_piece():
            self._offered = memoryview(piece)
            await self._sent()
        self._is_last = True
        self._go_on()

    def finish(self, code: int, message: str) -> None:
        """Note that libcurl has ended it."""
        self._has_ended = True
        if code:
            self._error = CurlError(code, message)
        self._came.set()
        self._wanted.set()

    async def _sent(self) -> None:
        while self._offered and not self._has_ended:
            self._wanted.clear()
            self._go_on()
            if self._offered:
                await self._wanted.wait()

    async def _wait_for_more(self, stall_s: float | None) -> None:
        while not self._pieces and not self._has_ended:
            await self._wait(stall_s)

    async def _wait(self, stall_s: float | None) -> None:
        self._came.clear()
        try:
            async with asyncio.timeout(stall_s):
                await self._came.wait()
        except TimeoutError:
            raise CurlError(0, f"nothing moved for {stall_s:g} s") from None

    def _failure(self) -> Exception:
        return self.refused or self._error or CurlError(0, "the transfer ended")

    def _go_on(self) -> None:
        if not self._has_ended:
            self.handle.pause(pycurl.PAUSE_CONT)

    def _write(self, data: bytes) -> int | None:
        if self._held >= HELD_BYTES:
            self._is_paused = True
            return int(pycurl.WRITEFUNC_PAUSE)
        self._pieces.append(data)
        self._held += len(data)
        self._came.set()
        return None

    def _header(self, line: bytes) -> None:
        self.lines.append(line)
        self._came.set()

    def _read(self, most: int) -> bytes | int:
        if self._offered:
            data = bytes(self._offered[:most])
            self._offered = self._offered[len(data) :]
            self.sent_bytes += len(data)
            if not self._offered:
                self._wanted.set()
            return data
        if self._is_last:
            return b""
        self._wanted.set()
        return int(pycurl.READFUNC_PAUSE)

    def _open_socket(self, _: int, address: Any) -> socket.socket | int:
        """A socket for an address that is allowed: libcurl connects to no other."""
        try:
            sock = allowed_socket(address, self._policy)
        except AccessDenied as exc:
            self.refused = exc
            return int(pycurl.SOCKET_BAD)
        # libcurl gets a duplicate, made when this returns.
        asyncio.get_running_loop().call_soon(sock.close)
        return sock


def allowed_socket(address: Any, policy: AddressPolicy) -> socket.socket:
    """A socket for an address as libcurl's callback tells it, which may be connected to.

    Raises:
        AccessDenied: it may not.
    """
    host, port = address.addr[:2]
    policy.check(host.decode() if isinstance(host, bytes) else host, port)
    return socket.socket(address.family, address.socktype, address.protocol)


class Multi:
    """The transfers of one loop under one address policy, and the connections they share."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, _MOST_CONNECTIONS)
        # Files on one HTTP/2 connection would wait for the slowest of their readers.
        self._multi.setopt(pycurl.M_PIPELINING, 0)
        self.transfers: dict[pycurl.Curl, Transfer] = {}
        self._watched: set[int] = set()
        self._sockets: dict[int, int] = {}
        self._timer: asyncio.Handle | None = None

    @contextmanager
    def running(self, transfer: Transfer) -> Iterator[None]:
        """Begin a transfer, and end what is left of it."""
        self.transfers[transfer.handle] = transfer
        self._multi.add_handle(transfer.handle)
        try:
            yield
        finally:
            del self.transfers[transfer.handle]
            descriptor = self._note_socket(transfer.handle)
            if not transfer.has_ended:
                self._break_socket(descriptor)
            self._multi.remove_handle(transfer.handle)
            transfer.finish(0, "")
            transfer.handle.close()

    def close(self) -> None:
        """End connections that are kept."""
        for descriptor in list(self._sockets):
            self._break_socket(descriptor)
        self._multi.close()
        self._set_timer(-1)
        for descriptor in list(self._watched):
            self._unwatch(descriptor)

    def _note_socket(self, handle: pycurl.Curl) -> int:
        """Remember the connection of a transfer, by what tells it from a later one of the same number."""
        descriptor = int(handle.getinfo(pycurl.ACTIVESOCKET))
        with suppress(OSError):
            self._sockets[descriptor] = os.fstat(descriptor).st_ino
        return descriptor

    def _break_socket(self, descriptor: int) -> None:
        """End a connection at once.

        To end one in good order, libcurl may wait for the other side, and the loop with it.
        """
        inode = self._sockets.pop(descriptor, None)
        with suppress(OSError):
            if os.fstat(descriptor).st_ino == inode:
                with socket.socket(fileno=os.dup(descriptor)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)

    def _watch(self, what: int, descriptor: int, *_: object) -> None:
        self._unwatch(descriptor)
        if what in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._loop.add_reader(descriptor, self._act, descriptor, pycurl.CSELECT_IN)
        if what in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.add_writer(descriptor, self._act, descriptor, pycurl.CSELECT_OUT)
        if what != pycurl.POLL_REMOVE:
            self._watched.add(descriptor)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.remove(descriptor)
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)

    def _set_timer(self, after_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if after_ms >= 0:
            self._timer = self._loop.call_later(after_ms / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, descriptor: int, events: int) -> None:
        self._multi.socket_action(descriptor, events)
        left = 1
        while left:
            left, good, bad = self._multi.info_read()
            for handle in good:
                self._finish(handle, 0, "")
            for handle, code, message in bad:
                self._finish(handle, code, message)

    def _finish(self, handle: pycurl.Curl, code: int, message: str) -> None:
        transfer = self.transfers.get(handle)
        if transfer is not None:
            transfer.finish(code, message)


class Driver:
    """Transfers by libcurl.

    A connection is used again only for who might have opened it: under the same address policy,
    with the same authorities and the same credential, as far as that belongs to a connection.
    """

    def __init__(self) -> None:
        self._multis: dict[object, Multi] = {}

    def close(self) -> None:
        """End connections that are kept."""
        multis, self._multis = self._multis, {}
        for multi in multis.values():
            if not multi.transfers:
                multi.close()

    @contextmanager
    def running(self, transfer: Transfer, access: Access) -> Iterator[None]:
        """Run a transfer that was set up; the context ends it."""
        key = sharing(access)
        multi = self._multis.get(key)
        if multi is None:
            multi = self._multis[key] = Multi()
        try:
            with multi.running(transfer):
                yield
        finally:
            if not multi.transfers:
                if self._multis.get(key) is multi:
                    asyncio.get_running_loop().call_later(_KEPT_S, self._end_idle, key, multi)
                else:
                    multi.close()

    def _end_idle(self, key: object, multi: Multi) -> None:
        if self._multis.get(key) is multi and not multi.transfers:
            del self._multis[key]
            multi.close()


def sharing(access: Access) -> object:
    """What has to be equal for a connection to be used again."""
    credential = access.credential
    if credential is not None and credential.kind == "token":
        credential = None  # it is shown anew with every request
    options = tuple(sorted(access.options.items()))
    return access.policy, access.ca_path, credential, access.certificate, options


async def while_feeding(transfer: Transfer, upload: Upload, wait: Callable[[], Awaitable[_T]]) -> _T:
    """What ``wait`` returns while ``upload`` is sent; raises what of both fails first."""
    if not upload.size_bytes:
        # libcurl would not ask for it, and it is verified by being asked for.
        await upload.next_piece()
    feeder = asyncio.ensure_future(transfer.feed(upload))
    waiter = asyncio.ensure_future(wait())
    try:
        await asyncio.wait({feeder, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if feeder.done():
            feeder.result()
        return await waiter
    finally:
        feeder.cancel()
        waiter.cancel()
        await asyncio.gather(feeder, waiter, return_exceptions=True)


def common_options(url: str, access: Access, *, protocol: int) -> dict[int, Any]:
    """Options of a transfer that speaks that one protocol, by no proxy, and gives up in time."""
    return {
        pycurl.URL: url,
        pycurl.PROTOCOLS: protocol,
        pycurl.PROXY: "",
        pycurl.NOPROXY: "*",
        pycurl.NOSIGNAL: 1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.BUFFERSIZE: _RECEIVE_BYTES,
        pycurl.UPLOAD_BUFFERSIZE: _RECEIVE_BYTES,
        pycurl.CONNECTTIMEOUT_MS: max(1, int(access.connect_timeout_s * 1000)),
    }


def stall_options(access: Access) -> dict[int, Any]:
    """Options by which libcurl itself ends a transfer that does not move, in whole seconds."""
    return {
        pycurl.LOW_SPEED_LIMIT: 1,
        pycurl.LOW_SPEED_TIME: max(1, round(access.stall_timeout_s)),
    }


def verify_peer(handle: pycurl.Curl, access: Access) -> None:
    """Have the other side's certificate verified by the authorities of ``access``."""
    handle.setopt(pycurl.SSL_VERIFYPEER, 1)
    handle.setopt(pycurl.SSL_VERIFYHOST, 2)
    handle.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    # libcurl's own idea of the system's authorities is that of the machine it was built on.
    system = ssl.get_default_verify_paths()
    place = access.ca_path or system.cafile or system.capath
    if place is not None:
        is_folder = os.path.isdir(place)
        handle.setopt(pycurl.CAPATH if is_folder else pycurl.CAINFO, str(place))
        handle.unsetopt(pycurl.CAINFO if is_folder else pycurl.CAPATH)
