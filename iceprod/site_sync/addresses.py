"""Where parents are reached: over TLS, or on this very machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from iceprod.errors import InputError


def parent_url(url: str) -> str:
    """The address of a site as it is kept: without a slash at its end.

    Raises:
        InputError: it is none, holds what has no place in it, or leads over plain http to
            another machine, where everybody on the way could read and change what is said.
    """
    address = url.strip().rstrip("/").removesuffix("/jsonrpc")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not address.isascii():
        raise _wrong("an address begins with https:// and names a host")
    if parts.query or parts.fragment or parts.username is not None:
        raise _wrong("an address has no user, query or fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise _wrong("a site on another machine is reached by https only")
    return address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its address or by the name that is never anything else."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(message: str) -> InputError:
    return InputError(message, fields=[{"path": "/url", "message": message}])
