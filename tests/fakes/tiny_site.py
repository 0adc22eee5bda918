"""A site of several processes whose workers start fast and keep nothing: ``python -m tests.fakes.tiny_site``.

Sockets, supervisor, worker and fast lane are the real ones. The settings come from the
environment; ``BROKEN`` names a file that keeps workers from starting while it exists.
Methods: ``pid`` → the process, ``sleep`` → the process after ``seconds``, ``stall`` → never.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import uvloop

from iceprod import log
from iceprod.config import load
from iceprod.model.principal import ANONYMOUS
from iceprod.rpc.dispatch import Dispatcher
from iceprod.rpc.registry import Call, Registry
from iceprod.server.fastlane import FastLane
from iceprod.server.processes import sockets, supervisor, workplace
from iceprod.server.processes.draining import Doors
from iceprod.server.processes.leaving import Leave
from iceprod.server.processes.roster import Reached
from iceprod.server.processes.worker import work


def dispatcher() -> Dispatcher:
    registry = Registry()

    @registry.method("pid", action=None)
    def pid(_call: Call) -> int:
        """Who answers."""
        return os.getpid()

    @registry.method("sleep", action=None)
    async def sleep(_call: Call, *, seconds: float) -> int:
        """Take time."""
        await asyncio.sleep(seconds)
        return os.getpid()

    @registry.method("stall", action=None)
    def stall(_call: Call) -> None:
        """Hang the whole process."""
        time.sleep(3600)

    return Dispatcher(
        registry, authenticate=lambda _token: ANONYMOUS, authorize=lambda *_: None, services=None
    )


class TinyServer:
    """What answers in a worker."""

    def __init__(self, given: sockets.Sockets) -> None:
        self.lane = FastLane(dispatcher())
        self.given = given
        urls = [f"http://127.0.0.1:{sockets.port_of(given[name])}" for name in ("http", "rpc")]
        self.reached = Reached(*urls)
        self.doors = Doors(nobody, nobody, SimpleNamespace(drained=no_requests), (), self.lane)
        self.leave: Leave | None = None

    async def start(self) -> None:
        self.given["http"].close()
        await self.lane.start(bound=self.given["rpc"])

    async def stop(self, leave: Leave | None = None) -> None:
        if self.leave is None:
            self.leave = leave or Leave()
            await self.doors.close(self.leave)


def nobody() -> None:
    """No page is live, and nobody waits."""


async def no_requests(_timeout_s: float) -> None:
    """What the general port would have to finish."""


def main() -> None:
    settings = load()
    log.configure(level="info", form="json")
    assignment = workplace.taken(os.environ)
    if assignment is not None:
        if Path(os.environ["BROKEN"]).exists():
            os.close(assignment.control)  # as is done while an error makes its way up
            time.sleep(0.2)
            sys.exit("it is broken")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(TinyServer, assignment, drain_s=settings.server.drain_s))
        return
    command = (sys.executable, "-m", "tests.fakes.tiny_site")
    given = sockets.passed(os.environ)
    plan = supervisor.plan_of(settings, command, has_successor=bool(given))
    plan = replace(plan, silent_s=float(os.environ["SILENT_S"]), pause_s=0.05)
    supervisor.run(settings, plan, given=given, ready_file=settings.data_dir / "ready.json", reread=load)


if __name__ == "__main__":
    main()
