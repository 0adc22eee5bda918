"""The directory that a task has to itself, and getting rid of it whatever is in there."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from pathlib import Path

logger = logging.getLogger("iceprod.pilot")

SCOPES = ("task_temp", "tray_temp")
LOGS = ("stdout", "stderr")
_MODE = 0o755


class Sandbox:
    """``root`` holds the modules' working and temporary directories.

    The logs lie in ``root`` itself, where no module writes by accident.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.tmp = root / "tmp"
        self.call, self.stats = root / "call.json", root / "stats.json"
        self._scopes = {scope: str(root / scope) for scope in SCOPES}
        self._logs = [str(root / name) for name in LOGS]
        self._is_ready = False

    def create(self) -> None:
        """Make the directories; OSError if the disk does not let us."""
        if self._is_ready:
            return
        try:
            self.root.mkdir(mode=0o700)
        except FileExistsError:
            remove_tree(self.root)
            self.root.mkdir(mode=0o700)
        for directory in (self.work, self.tmp):
            directory.mkdir()
            directory.chmod(_MODE)

    def local(self, name: str) -> Path:
        """Where the file that a configuration calls ``name`` lies."""
        return self.work / name.removeprefix("file://").removeprefix("file:")

    def scope_url(self, scope: str) -> str:
        """The address of the temporary area ``scope``, which is a directory of this sandbox."""
        return f"file:{self._scopes[scope]}"

    def clear_scope(self, scope: str) -> None:
        """Empty a temporary area at the end of its scope."""
        path = self._scopes[scope]
        if os.path.lexists(path):
            remove_tree(Path(path))

    def recycle(self) -> bool:
        """Make it ready for the next task, if this one left nothing in it.

        Making and deleting directories is a good part of what a trivial task costs.
        """
        try:
            for log in self._logs:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(log)
            left = set(os.listdir(self.root)) != {self.work.name, self.tmp.name}
            used = left or os.listdir(self.work) or os.listdir(self.tmp)
            modes = {stat.S_IMODE(os.stat(path).st_mode) for path in (self.work, self.tmp)}
        except OSError:
            used, modes = True, set()
        self._is_ready = not used and modes == {_MODE}
        return self._is_ready

    def remove(self) -> None:
        """Delete everything; what can't be deleted is left, and said in the pilot's log."""
        if not remove_tree(self.root):
            logger.warning("could not remove all of %s", self.root)


class Sandboxes:
    """The sandboxes of one pilot, below ``base``; clean ones are used again."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._free: list[Sandbox] = []
        self._made = 0

    def take(self) -> Sandbox:
        """A sandbox for the next task."""
        if self._free:
            return self._free.pop()
        self._made += 1
        return Sandbox(self._base / f"task-{self._made}")

    def give_back(self, sandbox: Sandbox) -> None:
        """The task is over: nothing of it may be left."""
        if sandbox.recycle():
            self._free.append(sandbox)
        else:
            sandbox.remove()


def remove_tree(path: Path) -> bool:
    """Delete a directory tree, opening up directories that were closed; whether nothing is left."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        return True
    _open_up(path)
    # A directory is opened before the walk goes into it; nobody but root could read it otherwise.
    for parent, directories, _ in os.walk(path):
        for name in directories:
            _open_up(Path(parent, name))
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _open_up(directory: Path) -> None:
    with contextlib.suppress(OSError):
        if not directory.is_symlink():
            directory.chmod(0o700)


def size_bytes(path: Path) -> int:
    """The disk blocks that a tree takes, hard links and all; what vanishes meanwhile counts nothing."""
    total = 0
    todo = [str(path)]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
