"""The server process of the demo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from iceprod.cli.settings import load_settings
from iceprod.errors import Unavailable

_START_S: Final = 120.0
_STOP_S: Final = 20.0
_GRACE_S: Final = 1.0
_LOG_LINES: Final = 20


class DemoServer:
    """``iceprod serve`` on free ports of this machine, with its data in ``folder``.

    ``arguments`` are more of the command's.  As a context manager it ends with the block,
    unless it was told to stay.
    """

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self._arguments = arguments
        self.url = ""
        self._stays = False
        self._ready = folder / "ready.json"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid if self._process else 0

    @property
    def token(self) -> str:
        """The API token of the site's first account."""
        return (self.folder / "token.txt").read_text(encoding="utf-8").strip()

    def __enter__(self) -> Self:
        address = ["--host", "127.0.0.1", "--port", "0", "--rpc-port", "0"]
        command = [sys.executable, "-m", "iceprod.cli.main", "serve", "--data", str(self.folder), *address]
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches this process only, which
            # then ends the server in good order.
            self._process = subprocess.Popen(
                [*command, "--ready-file", str(self._ready), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **_grid_environment()},
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None or self._stays:
            return
        with _undisturbed():
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            end_pilots(self.folder)

    def wait_until_ready(self) -> str:
        """The server's address, once it answers.

        Raises Unavailable if it ends or takes too long.
        """
        deadline = time.monotonic() + _START_S
        while not self._ready.exists():
            self.check()
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the server did not start within {_START_S:.0f} s; its log:\n{self._tail()}"
                )
            time.sleep(0.05)
        self.url = str(json.loads(self._ready.read_text(encoding="utf-8"))["url"])
        return self.url

    def check(self) -> None:
        """Raise Unavailable if the server has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise Unavailable(f"the server ended with {self._process.returncode}; its log:\n{self._tail()}")

    def leave_running(self) -> None:
        """Let the server live on after this block."""
        self._stays = True

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])


def end_pilots(folder: Path) -> None:
    """End the pilots that a server has left behind: a pilot outlives its server by design."""
    from iceprod.server import beside  # noqa: PLC0415 - the whole server

    settings = load_settings(None, server={"data_dir": folder})
    # There is no server any more to which they could report.
    asyncio.run(beside.end_pilots(settings, within_s=_STOP_S, grace_s=_GRACE_S))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM: who asks once more must not leave half of a site running."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def _grid_environment() -> dict[str, str]:
    """Room for two pilots at least, so that tasks overlap, but not for all of a large machine."""
    cores = max(2, min(8, os.cpu_count() or 2))
    grid = {"max_pilots": cores, "cpu": cores, "memory": 0.5 * cores, "disk": 0.5 * cores}
    return {"ICEPROD_GRIDS": json.dumps({"local": grid})}
