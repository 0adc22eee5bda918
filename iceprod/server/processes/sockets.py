"""Listening sockets: bound by this process, or inherited from one that keeps them open.

A socket that outlives the process behind it never refuses a connection: what comes in
between waits in the kernel's queue.  They are inherited from systemd (socket activation,
https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html), from the
supervisor of several processes, or from this very process before it restarted itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

from iceprod.config import Settings
from iceprod.errors import ConfigError

NAMES: Final[Mapping[str, str]] = {"http": "server.port", "rpc": "server.rpc_port", "tls": "tls.port"}
"""Name of a socket (``FileDescriptorName=`` of a socket unit) → the setting of its port."""
_FIRST: Final = 3
_BACKLOG: Final = 4096
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

Sockets = dict[str, socket.socket]
"""Listening sockets by name."""


def wanted(settings: Settings) -> dict[str, tuple[str, int]]:
    """The sockets that a server with these settings listens on: name → address and port."""
    server, tls = settings.server, settings.tls
    found = {"http": (server.host, server.port)}
    if server.rpc_lane:
        found["rpc"] = (server.host, server.rpc_port)
    if tls.port is not None:
        found["tls"] = (tls.host or server.host, tls.port)
    return found


def complete(given: Sockets, settings: Settings) -> Sockets:
    """``given`` as far as they are wanted, and new ones for the rest.

    Raises:
        ConfigError: an address is taken.
    """
    places = wanted(settings)
    for name in given.keys() - places.keys():
        given[name].close()
    found: Sockets = {}
    try:
        for name, (host, port) in places.items():
            found[name] = given.get(name) or bind(name, host, port)
    except ConfigError:
        close(found)
        raise
    return found


def close(sockets: Sockets) -> None:
    """Close them all in this process; others that have them go on."""
    for bound in sockets.values():
        bound.close()


def bind(name: str, host: str, port: int) -> socket.socket:
    """A new listening socket; port 0 takes any free one.

    Raises:
        ConfigError: the address is taken, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        setting = NAMES.get(name, name)
        message = f"cannot listen on {host}:{port}: {exc.strerror or exc}"
        raise ConfigError(f"{setting}: {message}", fields=[{"path": setting, "message": message}]) from None
    bound.setblocking(False)
    return bound


def adopt(descriptors: Mapping[str, int]) -> Sockets:
    """Sockets for descriptors that were inherited; programs that are started get none of them."""
    found = {}
    for name, descriptor in descriptors.items():
        os.set_inheritable(descriptor, False)
        found[name] = socket.socket(fileno=descriptor)
        found[name].setblocking(False)
    return found


def passed(environment: MutableMapping[str, str]) -> Sockets:
    """What systemd passed on, if anything; the variables are taken away, as they mean nothing to others.

    Raises:
        ConfigError: a socket has a name that we don't know.
    """
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    given = names.split(":") if names else []
    given += ["unknown"] * (int(count) - len(given))
    if len(given) == 1 and given[0] not in NAMES:
        given = ["http"]  # nothing else could be meant
    unknown = [name for name in given if name not in NAMES]
    if unknown or len(set(given)) < len(given):
        message = f"sockets passed as {':'.join(given)}: FileDescriptorName must be one of {', '.join(NAMES)}"
        raise ConfigError(message, fields=[{"path": "LISTEN_FDNAMES", "message": message}])
    return adopt({name: _FIRST + place for place, name in enumerate(given)})


def pass_on(sockets: Sockets, environment: MutableMapping[str, str]) -> None:
    """Lay out ``sockets`` for the program that this process is about to become."""
    # First out of the way, so that none is overwritten before it was moved.
    least = _FIRST + len(sockets)
    high = [fcntl.fcntl(bound.fileno(), fcntl.F_DUPFD_CLOEXEC, least) for bound in sockets.values()]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, _FIRST + place, inheritable=True)
    values = (str(os.getpid()), str(len(high)), ":".join(sockets))
    environment.update(zip(_VARIABLES, values, strict=True))


def port_of(bound: socket.socket) -> int:
    """The port that a socket listens on."""
    return int(bound.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """An address by which this machine, and if possible others, reach a listener."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
