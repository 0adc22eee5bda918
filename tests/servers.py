"""Real servers for tests: processes on free ports of 127.0.0.1, with their own data."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from iceprod.config import Settings, load
from iceprod.rpc.client import SyncClient
from iceprod.server import beside

ROOT = Path(__file__).parent.parent
START_S = 120.0
QUIET_GRID = '{"local": {"max_pilots": 0}}'


@dataclass
class RunningSite:
    """``iceprod serve`` in a process; started on entering, ended by its pid on leaving.

    ``grids`` is the setting of that name as JSON; by default nothing runs by itself.
    ``arguments`` go to ``iceprod serve``; ``ca_file`` is whom its clients trust.  ``within`` stands
    before its command, which listens on ``host``.
    """

    folder: Path
    grids: str = QUIET_GRID
    settings: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    ca_file: str | None = None
    within: Sequence[str] = ()
    host: str = "127.0.0.1"
    url: str = ""
    rpc_url: str = ""
    token: str = ""
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.token:
            self.token = asyncio.run(beside.prepare(self.loaded(), name="admin")).token
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.grids != QUIET_GRID:
            # A pilot outlives its server by design.
            asyncio.run(beside.end_pilots(self.loaded(), within_s=25.0))

    def loaded(self) -> Settings:
        """The settings of this site, as far as they say where its data is."""
        store = {"url": self.settings.get("ICEPROD_STORE__URL", "")}
        return load(overrides={"server": {"data_dir": self.folder}, "store": store})

    @property
    def environment(self) -> dict[str, str]:
        """What commands need to speak to this site as its administrator."""
        return {"ICEPROD_URL": self.url, "ICEPROD_TOKEN": self.token}

    def start(self, *, port: int = 0, rpc_port: int = 0) -> None:
        """Start the process and wait until it answers."""
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        ports = ["--host", self.host, "--port", str(port), "--rpc-port", str(rpc_port)]
        serve = [sys.executable, "-m", "iceprod.cli.main", "serve", "--data", str(self.folder), *ports]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, *serve, "--ready-file", str(ready), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean, "ICEPROD_GRIDS": self.grids, **self.settings},
            )
        deadline = time.monotonic() + START_S
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log()}")
            time.sleep(0.02)
        facts = json.loads(ready.read_text())
        self.url, self.rpc_url = facts["url"], facts["rpc_url"]

    def start_again(self) -> None:
        """Start the process where it was, for clients that know no other address."""
        if "--nginx" in self.arguments:  # it is nginx that they know
            self.start()
        else:
            port, rpc_port = (int(url.rpartition(":")[2]) for url in (self.url, self.rpc_url))
            self.start(port=port, rpc_port=rpc_port)

    def stop(self, *, kill: bool = False) -> None:
        """End the process, in good order or at once."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log(self) -> str:
        """What the server wrote to its log."""
        return (self.folder / "server.log").read_text(errors="replace")

    def client(self, token: str | None = None) -> SyncClient:
        """A client of this site, the administrator's by default."""
        secret = self.token if token is None else token
        return SyncClient(f"{self.url}/jsonrpc", token=secret, ca_file=self.ca_file)

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of one method, called as the administrator."""
        with self.client() as client:
            return client.call(method, **params)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output read as JSON."""
        return json.loads(self.out)


def run(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120,
    within: Sequence[str] = (),
) -> Ran:
    """Run ``iceprod`` in a process of its own; ``within`` stands before its command."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
    command: Sequence[str] = (*within, sys.executable, "-m", "iceprod.cli.main", *arguments)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**clean, **(env or {})},
        cwd=cwd,
        timeout=timeout_s,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass
class RunningPilot:
    """``iceprod-pilot`` in a process of its own, with credentials made for it."""

    site: RunningSite
    folder: Path
    offer: Mapping[str, float]
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.site.call("pilot.credentials", grid="hand", resources=dict(self.offer))
        token = self.folder / "token"
        token.write_text(made["passkey"])
        amounts = [text for name, value in self.offer.items() for text in (f"--{name}", f"{value:g}")]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
        with (self.folder / "pilot.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "iceprod.pilot.main", "--url", self.site.rpc_url),
                    *("--token-file", str(token), "--work-dir", str(self.folder / "work"), *amounts),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def until(condition: Callable[[], Any], *, within_s: float = 180.0) -> Any:
    """What ``condition`` returns once it is true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found
