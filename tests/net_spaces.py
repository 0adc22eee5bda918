"""Networks of their own for real processes, which can be torn apart.

Each site of a test lives in a network namespace; a router between them drops, without a
word, whatever one may not send to the other.  All of it takes root and the ``ip`` of
iproute2; who has not got them is told so by `NoSpaces`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

import pytest

LOCKS: Final = Path("/run/lock")
NAMES: Final = Path("/run/netns")
MOST_NETWORKS: Final = 256
MOST_SPACES: Final = 60
LEAVE_S: Final = 10.0
_NEWNET: Final = 0x40000000  # of setns(2)
_libc = ctypes.CDLL(None, use_errno=True)


class NoSpaces(Exception):
    """There are no network namespaces to be had here, and why."""


@dataclass(frozen=True)
class Space:
    """One namespace: its name, its address, and what stands before a command that is run in it."""

    name: str
    address: str

    @property
    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread open its sockets in there; sockets stay where they were opened."""
        with Path("/proc/thread-self/ns/net").open() as home, (NAMES / self.name).open() as there:
            _set(there)
            try:
                yield
            finally:
                _set(home)

    def pids(self) -> list[int]:
        """The processes in it."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(each) for each in done.stdout.split()]


@dataclass
class NetSpaces:
    """Namespaces that reach each other, and that this process reaches, by way of one router.

    Addresses are of 198.18.0.0/15, which is for tests of networks and is used nowhere
    (RFC 2544).  A network is one test's; what a test that was killed has left behind, the next
    one that gets its number removes.
    """

    number: int = -1
    spaces: dict[str, Space] = field(default_factory=dict)
    _lock: IO[str] | None = None
    _cuts: set[tuple[str, str]] = field(default_factory=set)

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NoSpaces("network namespaces need root")
        if shutil.which("ip") is None:
            raise NoSpaces("network namespaces need iproute2")
        self._take_number()
        try:
            self._clear()
            self._make_router()
        except OSError as exc:
            self.__exit__()
            raise NoSpaces(f"no network namespaces here: {exc}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def add(self, label: str) -> Space:
        """Another namespace, which reaches all others."""
        number = len(self.spaces) + 1
        assert number < MOST_SPACES
        space = Space(f"{self._prefix}-{label}", self._ends(number)[1])
        _ip("netns", "add", space.name)
        self.spaces[label] = space
        self._link(number, space.name)
        return space

    @property
    def own_address(self) -> str:
        """That of this process, as the namespaces reach it."""
        return self._ends(0)[1]

    def cut(self, source: str, target: str) -> None:
        """Lose everything that one sends to the other; what comes the other way still arrives."""
        if (source, target) not in self._cuts:
            self._cuts.add((source, target))
            self._route("add", source, target)

    def part(self, one: str, other: str) -> None:
        """Lose everything between two."""
        self.cut(one, other)
        self.cut(other, one)

    def mend(self) -> None:
        """Let everything through again."""
        while self._cuts:
            self._route("del", *self._cuts.pop())

    def _route(self, verb: str, source: str, target: str) -> None:
        ends = (self.spaces[source].address, self.spaces[target].address)
        _ip("-n", self._router, "rule", verb, "from", ends[0], "to", ends[1], "blackhole", "priority", "100")

    @property
    def _prefix(self) -> str:
        return f"iceprod{self.number}"

    @property
    def _router(self) -> str:
        return f"{self._prefix}-router"

    def _take_number(self) -> None:
        """A network that nobody has, for as long as this process lives."""
        LOCKS.mkdir(parents=True, exist_ok=True)
        for number in range(MOST_NETWORKS):
            lock = (LOCKS / f"iceprod-net-{number}").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self.number, self._lock = number, lock
            return
        raise NoSpaces("all networks are in use")

    def _make_router(self) -> None:
        _ip("netns", "add", self._router)
        _ip("-n", self._router, "link", "set", "lo", "up")
        _run("ip", "netns", "exec", self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._link(0, "")

    def _link(self, number: int, name: str) -> None:
        """Connect a namespace, or this process' own, to the router."""
        near, far = f"{self._prefix}l{number}", f"{self._prefix}r{number}"
        hub, own = self._ends(number)
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self._router)
        if name:
            _ip("link", "set", near, "netns", name)
        inside = ("-n", name) if name else ()
        for where, link, address in ((("-n", self._router), far, hub), (inside, near, own)):
            _ip(*where, "addr", "add", f"{address}/30", "dev", link)
            _ip(*where, "link", "set", link, "up")
        if name:
            _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "route", "add", "default" if name else f"198.18.{self.number}.0/24", "via", hub)

    def _ends(self, number: int) -> tuple[str, str]:
        """The router's address of a link, and that of the other end."""
        return f"198.18.{self.number}.{4 * number + 1}", f"198.18.{self.number}.{4 * number + 2}"

    def _clear(self) -> None:
        """Remove the network with all that runs in it."""
        names = [path.name for path in NAMES.glob(f"{self._prefix}-*")] if NAMES.is_dir() else []
        spaces = [Space(name, "") for name in names]
        _end(spaces)
        for space in spaces:
            with suppress(OSError):
                _ip("netns", "del", space.name)
        with suppress(OSError):  # it goes with the router, but not at once
            _ip("link", "del", f"{self._prefix}l0")
        self.spaces.clear()
        self._cuts.clear()


@contextmanager
def spaces_or_skip() -> Iterator[NetSpaces]:
    """A network for a test, which is skipped where there are none."""
    with ExitStack() as stack:
        try:
            net = stack.enter_context(NetSpaces())
        except NoSpaces as exc:
            pytest.skip(str(exc))
        yield net


def _end(spaces: list[Space]) -> None:
    """End all processes of some namespaces, the slow ones by force."""
    deadline = time.monotonic() + LEAVE_S
    signals = [signal.SIGTERM]
    while left := [pid for space in spaces for pid in space.pids()]:
        if time.monotonic() > deadline - LEAVE_S / 2:
            signals = [signal.SIGKILL]
        if time.monotonic() > deadline:
            return
        for pid in left:
            for number in signals:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        signals = []
        time.sleep(0.05)


def _set(namespace: IO[str]) -> None:
    if _libc.setns(namespace.fileno(), _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
