"""Data connections: where they go to, and who is at the other end.

A server says where data is to be fetched or brought.  That address is connected to only when it
is the control connection's own, or among those that the option ``data_hosts`` allows; else a
server could have anybody's ports knocked at from here (CERT CA-1997-27).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, Final

from iceprod.errors import AccessDenied
from iceprod.movers.dialing import dial
from iceprod.movers.gridftp import replies
from iceprod.movers.gridftp.faults import ProtocolFault, Refused
from iceprod.movers.gridftp.proxies import Identity
from iceprod.movers.gridftp.session import Session, trust
from iceprod.movers.gridftp.wire import Stream, TlsWire, Wire

GRACE_S: Final = 5.0
"""How long a server may take to say why it ended a data connection."""
FOREVER_S: Final = 30 * 86400.0
"""For waits that something else ends."""
_MAX_STRIPES: Final = 64

Address = tuple[str, int]


async def passive(session: Session) -> Address:
    """Have the server wait for one connection; where.

    Raises:
        Refused: it does not.
        AccessDenied: it is not to be connected to.
    """
    peer = session.control.sock.getpeername()[0]
    # The short form names no address, so nothing can be wrong with it; but data may lie elsewhere.
    if session.options.data_hosts == "control" or ":" in peer:
        try:
            reply = await session.control.command("EPSV")
            return peer, replies.extended_port(reply.text)
        except Refused as refused:
            if ":" in peer or not refused.is_unknown:
                raise
    reply = await session.control.command("PASV")
    return _checked(session, replies.passive_address(reply.text))


async def striped_passive(session: Session) -> list[Address]:
    """Have each of the server's data nodes wait; where.

    Raises:
        Refused: they don't.
        AccessDenied: one is not to be connected to.
    """
    reply = await session.control.command("SPAS")
    found = replies.striped_addresses(reply)
    if len(found) > _MAX_STRIPES:
        raise ProtocolFault("too many addresses of data connections")
    return [_checked(session, address) for address in found]


def _checked(session: Session, address: Address) -> Address:
    peer = session.control.sock.getpeername()[0]
    if not session.options.allows_data_host(address[0], peer):
        raise AccessDenied(f"the server wants data at {address[0]}, which is not its own address")
    return address


async def connect(session: Session, address: Address) -> Wire:
    """A connection to where the server waits.

    Raises:
        AccessDenied: the policy does not allow that address.
        TransferFailed: nobody answers.
    """
    sock = await dial(*address, session.access)
    return Wire(sock, stall_s=session.access.stall_timeout_s)


class Listener:
    """Waits for the server to connect, as it must where it sends blocks."""

    def __init__(self, session: Session) -> None:
        self._session = session
        local, self._peer = session.control.sock.getsockname()[0], session.control.sock.getpeername()[0]
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._sock.bind((local, 0))
            self._sock.listen(128)
        except OSError:
            self._sock.close()
            raise

    async def announce(self) -> None:
        """Tell the server where.

        Raises:
            Refused: it does not want to.
        """
        address, port = self._sock.getsockname()[:2]
        if ":" in address:
            await self._session.control.command("EPRT", f"|2|{address}|{port}|")
        else:
            await self._session.control.command("PORT", replies.port_argument(address, port))

    async def accept(self) -> Wire:
        """The next connection of the server's; others' are closed."""
        while True:
            sock, address = await asyncio.get_running_loop().sock_accept(self._sock)
            if self._session.options.allows_data_host(address[0], self._peer):
                return Wire(sock, stall_s=self._session.access.stall_timeout_s)
            sock.close()

    def close(self) -> None:
        """Wait no more."""
        self._sock.close()


async def secured(session: Session, wire: Wire, *, accepts: bool = False) -> Stream:
    """The data connection as the session's options want it: proven, protected, or as it is.

    Raises:
        OSError: TLS failed, or the other end is not the server that was given the proxy.
    """
    if session.identity is None or session.options.dcau == "N":
        return wire
    context = _context(session.identity, session.access.ca_path, accepts=accepts)
    in_clear = session.options.protection == "C"
    stream = await TlsWire.over(wire, context, accepts=accepts, stays=not in_clear)
    if not session.delegated or stream.tls.peer != session.delegated:
        raise ConnectionAbortedError("somebody else is at the end of the data connection")
    return stream.bare() if in_clear else stream


def _context(identity: Identity, ca_path: str | None, *, accepts: bool) -> ssl.SSLContext:
    """TLS of data connections.

    Its other end must show the very proxy that was signed in this session, so its chain is asked
    for only where TLS would else not have it shown.  Above TLS 1.2 tickets come in between the
    handshake and what is sent in the clear, and globus-gridftp-server waits for ever.
    """
    if accepts:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
        trust(context, ca_path)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    # The shorter key is as safe for data, and faster at both ends.
    context.set_ciphers("ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES")
    identity.show(context)
    return context


async def start(
    session: Session, verb: str, argument: str, securing: Sequence[Awaitable[Stream]]
) -> list[Stream]:
    """Begin a transfer: send the command and secure data connections while the server begins.

    Raises:
        Refused: the server does not begin.
        OSError, ProtocolFault: the connections failed.
    """
    session.busy = True
    await session.control.send(verb, argument)
    begun = asyncio.ensure_future(_begun(session, verb))
    streams = asyncio.ensure_future(_all(securing))
    both: list[asyncio.Task[Any]] = [begun, streams]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        if not begun.done():
            await asyncio.wait({begun}, timeout=GRACE_S)
        if begun.done():
            begun.result()
        return await streams
    finally:
        await give_up(begun, streams)


async def _all(securing: Sequence[Awaitable[Stream]]) -> list[Stream]:
    return list(await asyncio.gather(*securing))


async def _begun(session: Session, verb: str) -> None:
    reply = await session.control.reply()
    if reply.code not in (125, 150):
        session.busy = reply.is_preliminary
        if reply.code < 400:
            raise ProtocolFault(f"{verb} was answered {reply.code}, which begins nothing")
        raise Refused(verb, reply)


async def ended(session: Session, verb: str, *, within_s: float | None = None) -> None:
    """Hear that a transfer has ended well.

    Raises:
        Refused: it has not.
    """
    try:
        await session.control.final(verb, within_s=within_s)
    except Refused:
        session.busy = False
        raise
    session.busy = False


async def reason(session: Session, verb: str) -> Refused | None:
    """What the server has against a transfer that broke, if it says so soon."""
    with suppress(OSError, ProtocolFault):
        try:
            await ended(session, verb, within_s=GRACE_S)
        except Refused as refused:
            return refused
    return None


async def give_up(*tasks: asyncio.Future[Any]) -> None:
    """End tasks that nobody waits for any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
