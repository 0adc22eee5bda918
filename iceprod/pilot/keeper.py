"""A second process that outlives a killed pilot just long enough to end its tasks.

A pilot that is killed outright can clean up nothing, and a task that ran on would be a
ghost: the server hands it out again when the lease ends, and two would write the same
files.  The keeper is forked before the pilot starts anything.  It reads a pipe whose other
end only the pilot holds; when that closes, it kills everything that carries the pilot's
key or is in a session that the pilot has noted in memory which both share: so it sleeps
until then, however many programs begin and end.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time

from iceprod.pilot.processes import has_key, send, snapshot, started

_SCANS = 50
_PAUSE_S = 0.1
_MOST_SESSIONS = 65536  # that run at a time; pages of the memory that are never used cost nothing


class Sessions:
    """Numbers of sessions in memory that survives the one who wrote them."""

    def __init__(self) -> None:
        self._places = memoryview(mmap.mmap(-1, 4 * _MOST_SESSIONS)).cast("i")
        self._taken: dict[int, int] = {}
        self._free: list[int] = []

    def add(self, session: int) -> None:
        """Note a session; where there is no more room, its processes are found by their key alone."""
        place = self._free.pop() if self._free else len(self._taken)
        if place < _MOST_SESSIONS:
            self._taken[session] = place
            self._places[place] = session

    def discard(self, session: int) -> None:
        """Forget a session, for its number may be used again."""
        place = self._taken.pop(session, None)
        if place is not None:
            self._places[place] = 0
            self._free.append(place)

    def read(self) -> set[int]:
        """All sessions, by whichever process asks."""
        return set(self._places) - {0}


class Keeper:
    """The pilot's end of it."""

    def __init__(self, handle: int, pid: int, sessions: Sessions) -> None:
        self._handle = handle
        self._sessions = sessions
        self.pid = pid

    @classmethod
    def start(cls, key: str) -> Keeper:
        """Fork the keeper of all processes whose task key begins with ``key``."""
        sessions = Sessions()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            _keep(reading, key, sessions)
        os.close(reading)
        started(pid)
        return cls(writing, pid, sessions)

    def watch(self, session: int) -> None:
        """Tell of a session that must not outlive the pilot."""
        self._sessions.add(session)

    def forget(self, session: int) -> None:
        """Tell that a session is over."""
        self._sessions.discard(session)

    def stop(self) -> None:
        """End the keeper; to be called when no task runs any more."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._handle)


def _keep(reading: int, key: str, sessions: Sessions) -> None:
    """Wait for the pilot to end, then end what it left; never returns."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _close_inherited(reading)
        os.read(reading, 1)  # returns when the pilot has ended, for it never writes
        left_sessions = sessions.read()
        for _ in range(_SCANS):
            left = _left_behind(left_sessions, key)
            if not left:
                break
            send(left, signal.SIGKILL)
            time.sleep(_PAUSE_S)
    finally:
        os._exit(0)


def _close_inherited(reading: int) -> None:
    """Let go of what the pilot had open: a caller may wait for the end of its output."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, reading)
    os.closerange(reading + 1, 1024)


def _left_behind(sessions: set[int], key: str) -> list[int]:
    own = os.getpid()
    return [
        info.pid
        for info in snapshot().values()
        if info.pid != own and (info.session in sessions or has_key(info.pid, key))
    ]
