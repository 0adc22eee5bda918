"""Telling systemd how it stands, if that has started us.

The protocol is one datagram per message to the socket that NOTIFY_SOCKET names:
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress


def notify(*lines: str) -> bool:
    """Send assignments like ``READY=1``; False if nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # a name in the abstract name space
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto("\n".join(lines).encode(), address)
        return True
    return False


def reloading() -> bool:
    """Say that new processes take over; ``READY=1`` ends it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_s() -> float:
    """How often systemd wants ``WATCHDOG=1`` at least, in seconds; 0 for never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if microseconds.isdigit() and is_ours else 0.0


async def feed_watchdog() -> None:
    """Show systemd, if it wants to know, that the loop of this process turns."""
    every_s = watchdog_s() / 3
    while every_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)
