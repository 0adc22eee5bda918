"""Connect to a host by name, to no address that was not checked.

The address that was checked is the very one that is connected to, so a name that leads
elsewhere a moment later gains nothing.  Of several addresses the next is tried when one has
not answered for a while, both families in turn (RFC 8305, without its finer points).
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from iceprod.errors import TransferFailed
from iceprod.movers.base import Access, AddressPolicy

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → numeric addresses, the preferred ones first; raises OSError if there are none."""

_NEXT_AFTER_S: Final = 0.25
_MOST_ADDRESSES: Final = 16


async def system_addresses(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def checked_addresses(
    host: str, port: int, policy: AddressPolicy, *, resolve: Resolve = system_addresses
) -> list[str]:
    """The addresses of ``host``, each of them allowed.

    Raises:
        AccessDenied: one of them is not: a name that leads to two places is not to be trusted.
        TransferFailed: there are none.
    """
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
        policy.check(host, port)
        return [host]
    try:
        found = list(await resolve(host, port))
    except OSError as exc:
        raise TransferFailed(f"the name {host} is not known: {exc.strerror}", source=host) from None
    for address in found:
        policy.check(address, port)
    if not found:
        raise TransferFailed(f"the name {host} has no address", source=host)
    return _in_turns(found)[:_MOST_ADDRESSES]


async def dial(host: str, port: int, access: Access, *, resolve: Resolve = system_addresses) -> socket.socket:
    """A connection to ``host`` that does not block; whoever gets it closes it.

    Raises:
        AccessDenied: an address of it is not allowed.
        TransferFailed: it has none, or none that answers within ``access.connect_timeout_s``.
    """
    try:
        async with asyncio.timeout(access.connect_timeout_s):
            addresses = await checked_addresses(host, port, access.policy, resolve=resolve)
            return await _first_connected(addresses, port)
    except TimeoutError:
        said = f"{host}:{port} did not answer within {access.connect_timeout_s:g} s"
        raise TransferFailed(said, source=host) from None
    except OSError as exc:
        raise TransferFailed(f"{host}:{port} can't be reached: {exc.strerror}", source=host) from None


def _in_turns(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 one after the other, beginning with the kind that came first."""
    first_is_6 = ":" in addresses[0]
    kinds = ([each for each in addresses if (":" in each) is kind] for kind in (first_is_6, not first_is_6))
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    return [each for each in mixed if each is not None]


async def _first_connected(addresses: Sequence[str], port: int) -> socket.socket:
    """Try them, a new one each time another failed or let wait; the others are closed."""
    waiting: set[asyncio.Task[socket.socket]] = set()
    error: OSError = OSError("no address")
    left = iter(addresses)
    try:
        while True:
            address = next(left, None)
            if address is not None:
                waiting.add(asyncio.create_task(_connected(address, port)))
            elif not waiting:
                raise error
            patience = None if address is None else _NEXT_AFTER_S
            done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    done.remove(task)
                    waiting |= done
                    return task.result()
                if isinstance(failed := task.exception(), OSError):
                    error = failed
    finally:
        await _give_up(waiting)


async def _connected(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


async def _give_up(tasks: set[asyncio.Task[socket.socket]]) -> None:
    """End attempts that nobody waits for any more, and what they have reached."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()
