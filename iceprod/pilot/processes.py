"""Starting processes, waiting for them, and ending everything they left behind.

A task's processes are found by three marks, of which a program can hardly lose all: they
descend from the module's process, they are in its session, or their environment holds the
task's key.  Linux only: `/proc` and pidfds are read directly, which costs a tenth of what
a library would.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar
from weakref import WeakKeyDictionary

KEY_VARIABLE = "ICEPROD_TASK_KEY"
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


def prepare_this_process() -> None:
    """Adopt orphans of tasks, hide this process's memory and environment from its tasks.

    The pilot's token is in them, and tasks run under the same user.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def take_secret(name: str) -> str:
    """The value of an environment variable, which is nowhere in the environment any more.

    Without it the variable would be gone for this program, but not for who reads
    ``/proc/PID/environ``; and what a task wants staged may be ``/proc/self/environ`` itself.
    """
    value = os.environ.get(name, "")
    with contextlib.suppress(OSError, AttributeError):
        getenv = ctypes.CDLL(None).getenv
        getenv.restype, getenv.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        place = getenv(name.encode())
        if place:
            ctypes.memset(place, 0, len(os.fsencode(value)))
    os.environ.pop(name, None)
    return value


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One line of `/proc/PID/stat`: what is needed to find and measure trees."""

    pid: int
    parent: int
    session: int
    cpu_s: float
    rss_bytes: int


_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def snapshot() -> dict[int, ProcessInfo]:
    """Every process of this machine that may be seen, zombies left out."""
    found = {}
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            info = _read_stat(entry.name)
            if info is not None:
                found[info.pid] = info
    return found


def _read_stat(pid: str) -> ProcessInfo | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses too: what follows the last one counts.
    fields = text[text.rfind(b")") + 2 :].split()
    if fields[0] == b"Z":
        return None
    return ProcessInfo(
        pid=int(pid),
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_s=(int(fields[11]) + int(fields[12])) * _TICK_S,
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def has_key(pid: int, key: str) -> bool:
    """Whether the environment that ``pid`` was started with holds the task key ``key``."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{KEY_VARIABLE}={key}".encode() in environment


def tree(roots: Iterable[int], key: str, processes: Mapping[int, ProcessInfo]) -> list[ProcessInfo]:
    """The processes of a task among ``processes``: ``roots`` lead its sessions.

    Only orphans that this process has adopted are asked for their key: everything else
    that a task started still descends from it.
    """
    sessions = set(roots)
    children: dict[int, list[int]] = {}
    for info in processes.values():
        children.setdefault(info.parent, []).append(info.pid)
    own = os.getpid()
    todo = [
        info.pid
        for info in processes.values()
        if info.pid in sessions
        or info.session in sessions
        or (info.parent == own and info.session != own and has_key(info.pid, key))
    ]
    found: dict[int, ProcessInfo] = {}
    while todo:
        pid = todo.pop()
        if pid not in found and pid in processes:
            found[pid] = processes[pid]
            todo.extend(children.get(pid, ()))
    found.pop(own, None)
    return list(found.values())


_started: set[int] = set()  # children of this process that it started itself and has not reaped


def started(pid: int) -> None:
    """Say that ``pid`` is this process's own child, and no orphan."""
    _started.add(pid)


def adopted() -> set[int]:
    """The orphans that were given to this process; nothing where the kernel does not list children."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", "rb", buffering=0) as file:
            children = file.read().split()
    except OSError:
        return set()
    return set(map(int, children)) - _started


def send(pids: Iterable[int], number: int) -> None:
    """Send signal ``number`` to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def reap(pids: Iterable[int]) -> None:
    """Take the exit status of adopted orphans, so that they do not stay as zombies."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


class _Endings:
    """Tells when programs end.

    The event loop has one reader for all of them: adding one for each costs more than all else
    that is done here.
    """

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Endings]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._awaited: dict[int, asyncio.Future[None]] = {}
        loop.add_reader(self._epoll.fileno(), self._tell)

    @classmethod
    def here(cls) -> _Endings:
        """Those of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loops:
            cls._of_loops[loop] = cls(loop)
        return cls._of_loops[loop]

    async def wait(self, pid: int) -> None:
        """Wait for the end of a child."""
        handle = os.pidfd_open(pid)
        ended = self._awaited[handle] = asyncio.get_running_loop().create_future()
        try:
            self._epoll.register(handle, select.EPOLLIN | select.EPOLLONESHOT)
            await ended
        finally:
            del self._awaited[handle]
            os.close(handle)  # which takes it out of the epoll, too

    def _tell(self) -> None:
        for handle, _ in self._epoll.poll(0):
            ended = self._awaited.get(handle)
            if ended is not None and not ended.done():
                ended.set_result(None)


class Child:
    """One started program, in a session of its own."""

    _pilot_peak_bytes: ClassVar[int] = 0

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        started(self.pid)
        self.exit_status: int | None = None
        self.cpu_s = 0.0
        self.peak_rss_bytes = 0

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> Child:
        """Start ``argv``; OSError if it can't be executed.

        Nothing is run between fork and exec, so the C library can use vfork: some 1 ms.
        """
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        return cls(process)

    async def wait(self) -> int:
        """The exit status, negative for a signal, once the program itself has ended."""
        await _Endings.here().wait(self.pid)
        return self._collect()

    def _collect(self) -> int:
        if self.exit_status is None:
            _, status, usage = os.wait4(self.pid, 0)
            self.exit_status = os.waitstatus_to_exitcode(status)
            self._process.returncode = self.exit_status
            _started.discard(self.pid)
            self.cpu_s = usage.ru_utime + usage.ru_stime
            self.peak_rss_bytes = self._own_peak(usage.ru_maxrss * 1024)
        return self.exit_status

    @classmethod
    def _own_peak(cls, peak_bytes: int) -> int:
        """A program's peak memory by the kernel's count, or 0 if that tells nothing.

        Between fork and exec a process has its parent's pages, and the kernel counts those too:
        only a peak above the pilot's own, which never falls, is the program's.
        """
        if peak_bytes > cls._pilot_peak_bytes:
            cls._pilot_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return peak_bytes if peak_bytes > cls._pilot_peak_bytes else 0

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group that this program leads.

        The group outlives its leader while members remain; once all have gone, nothing is done.
        """
        with contextlib.suppress(OSError):
            os.killpg(self.pid, number)

    def abandon(self) -> None:
        """Kill the program and take its status at once; for when nothing else may be awaited."""
        self.signal_group(signal.SIGKILL)
        self._collect()
