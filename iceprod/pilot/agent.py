"""The pilot's life: register, claim what fits, run it, keep the leases, report, leave in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iceprod._version import __version__
from iceprod.errors import Unavailable
from iceprod.model.resources import NOTHING, Resources
from iceprod.pilot import processes
from iceprod.pilot.ahead import Ahead
from iceprod.pilot.assignment import Assignment, Failure, Result, host
from iceprod.pilot.client import Call, Caller, RpcError
from iceprod.pilot.configs import Configs, Fetched
from iceprod.pilot.keeper import Keeper
from iceprod.pilot.leases import Held, Leases
from iceprod.pilot.reporter import Journal, Report, Reporter
from iceprod.pilot.runner import Surroundings, TaskRunner
from iceprod.pilot.sandbox import Sandboxes
from iceprod.pilot.slots import Slots

logger = logging.getLogger("iceprod.pilot")

QUICK_S = 30.0
LONGEST_POLL_S = 25.0
SHORT_POLL_S = 1.0
SAMPLE_S = 1.0
MOST_PER_CLAIM = 64
SMALL_SANDBOX_BYTES = 1_000_000
ENOUGH_AHEAD = 2  # tasks in hand with which a report may wait for others


@dataclass(frozen=True, slots=True)
class Settings:
    """What a pilot is told at its start."""

    url: str
    token: str = field(repr=False)
    work_dir: Path
    cert_file: str = ""  # of a certificate that speaks for this pilot, in the place of a token
    grid: str = ""
    idle_s: float = 600.0
    most_tasks: int | None = None
    most_failures: int = 10
    grace_s: float = 10.0  # for reporting what is left, once told to end
    live_log_s: float = 10.0  # how often the tails of logs are sent while tasks run
    inherited: Mapping[str, str] = field(default_factory=dict)


class Agent:
    """One pilot; `run` is its whole life."""

    def __init__(self, settings: Settings, slots: Slots, *, keeper: Keeper, key: str) -> None:
        self._settings = settings
        self._slots = slots
        self._ahead = Ahead(slots)
        self._keeper = keeper
        self._key = key
        self._claimer, self._control, self._reports = (
            Caller(settings.url, settings.token, cert_file=settings.cert_file, name=name)
            for name in ("claim", "control", "report")
        )
        self._transfers = ThreadPoolExecutor(8, thread_name_prefix="transfer")
        self._sandboxes = Sandboxes(settings.work_dir)
        self._configs = Configs(self._control, settings.url)
        self._journal = Journal(settings.work_dir / "outbox")
        self._leases = Leases(self._control, slots, lost=self._lost, drain=self.drain, refused=self._refused)
        self._reporter = Reporter(self._reports, self._journal, self._leases.settle)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._idle_since = time.monotonic()
        self._begun = 0
        self._failures = 0
        self._reason = ""  # why no more tasks are asked for
        self._terminated = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Live until there is a reason not to; the exit code of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        helpers: list[asyncio.Task[None]] = []
        try:
            self._claiming = asyncio.create_task(self._work(helpers))
            with contextlib.suppress(asyncio.CancelledError):
                await self._claiming
            await self._leave()
        except RpcError as exc:
            logger.error("the server refuses this pilot: %s", exc)  # noqa: TRY400 - no traceback for people
            self._exit_code = 1
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._close()
        return self._exit_code

    def add_left_over(self, reports: list[Report]) -> None:
        """Report what an earlier pilot of this directory could not."""
        for report in reports:
            self._journal.keep(report)
            self._reporter.add(report)

    def drain(self, reason: str) -> None:
        """Ask for no more tasks, and hand back those that wait; the running ones are finished."""
        self._stop_asking(reason)
        self._hand_back(reason)

    def _stop_asking(self, reason: str) -> None:
        if not self._reason:
            self._reason = reason
            logger.warning("draining: %s", reason)
        self._changed.set()

    def _hand_back(self, reason: str) -> None:
        """Give up the tasks that were claimed ahead."""
        for assignment in self._ahead.hand_back():
            if assignment.lease_id in self._leases:
                self._begun -= 1
                self._release(assignment, reason)

    def _terminate(self) -> None:
        """Hand everything back, and go; on SIGTERM and SIGINT."""
        self._terminated.set()
        self.drain("the pilot was told to end")
        for runner in self._leases.runners():
            runner.stop()
        if self._claiming is not None:
            self._claiming.cancel()

    async def _work(self, helpers: list[asyncio.Task[None]]) -> None:
        try:
            await self._ask_for_work(helpers)
        except Unavailable as exc:
            self.drain(str(exc))

    async def _ask_for_work(self, helpers: list[asyncio.Task[None]]) -> None:
        await self._register()
        loops = (self._reporter.run(), self._leases.keep(), self._samples(), self._live_logs())
        helpers += [asyncio.create_task(_guarded(loop)) for loop in loops]
        while not self._reason:
            if await self._wait_for_room():
                await self._claim()

    async def _register(self) -> None:
        answer = await self._claimer.insist(
            "pilot.register",
            {
                "grid": self._settings.grid,
                **host(),
                "version": __version__,
                "offer": self._slots.to_wire(self._slots.all()),
            },
            give_up=self._is_useless,
        )
        self._leases.period_s = float((answer or {}).get("heartbeat_s") or self._leases.period_s)
        logger.info("registered as %s", (answer or {}).get("pilot_id", "?"))

    async def _wait_for_room(self) -> bool:
        """Whether a task may be asked for now; waits for a change if not."""
        self._changed.clear()
        most = self._settings.most_tasks
        if most is not None and self._begun >= most:
            self._stop_asking(f"no more than {most} tasks are to be run")
        elif not self._tasks and self._slots.is_out_of_time():
            self.drain("its time is over")
        elif not self._tasks and self._idle_s() >= self._settings.idle_s:
            self.drain(f"there was nothing to do for {self._settings.idle_s:g} s")
        elif self._has_room():
            return True
        else:
            await self._changed.wait()
        return False

    def _has_room(self) -> bool:
        room = self._room()
        return room.cpu > 0 and room.memory > 0 and not self._slots.is_out_of_time()

    def _room(self) -> Resources:
        """What tasks may be asked for now."""
        return self._ahead.room(runner.usage.wall_s() for runner in self._leases.runners())

    def _idle_s(self) -> float:
        return 0.0 if self._tasks else time.monotonic() - self._idle_since

    def _is_useless(self) -> bool:
        """Whether a server that does not answer need not be waited for any longer."""
        has_nothing = not self._leases.ids() and self._idle_s() >= self._settings.idle_s
        return has_nothing or self._slots.is_out_of_time()

    async def _claim(self) -> None:
        """Ask for tasks once, start what comes, and rest as long as the server asks."""
        if self._reporter.is_sending:
            answer = await self._claim_along()
            if answer is not None:
                self._take(answer)
            if len(self._ahead) < ENOUGH_AHEAD:
                self._reporter.hurry()
            return
        params = self._claim_params()
        answer = await self._claimer.insist(
            "pilot.claim", params, timeout_s=params["wait_s"] + 60.0, give_up=self._is_useless
        )
        self._take(answer)
        if not answer.get("tasks") and not self._reason:
            rest_s = float(answer.get("retry_after_s") or 0.0)
            await self._rest(max(rest_s, 0.0 if params["wait_s"] > 0 else SHORT_POLL_S))

    async def _claim_along(self) -> Any:
        """The answer to a claim that went to the server together with reports; None if there was none."""

        def call() -> Call:
            return "pilot.claim", {**self._claim_params(), "wait_s": 0.0}

        try:
            return await self._reporter.along(call)
        except Unavailable:
            return None
        except RpcError as exc:
            if not exc.may_retry:
                raise
            return None

    def _take(self, answer: Mapping[str, Any]) -> None:
        """Start the tasks that a claim has brought, or keep them until there is room."""
        for raw in answer.get("tasks") or ():
            self._keep(Assignment.from_wire(raw))
        self._begin()
        if answer.get("drain"):
            self.drain("the site gives it no more tasks")

    def _claim_params(self) -> dict[str, Any]:
        room = self._room()
        most = max(1, min(MOST_PER_CLAIM, int(room.cpu)))
        if self._settings.most_tasks is not None:
            most = min(most, self._settings.most_tasks - self._begun)
        left_s = max(0.0, self._settings.idle_s - self._idle_s())
        wait_s = SHORT_POLL_S if self._tasks else min(LONGEST_POLL_S, left_s)
        return {
            "offer": self._slots.to_wire(room),
            "max_tasks": most,
            "wait_s": round(wait_s, 3),
            "held": self._leases.ids(),
        }

    async def _rest(self, seconds: float) -> None:
        """Wait, but no longer than until something changes here."""
        limit_s = min(seconds, 60.0, max(0.0, self._settings.idle_s - self._idle_s()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._changed.wait()

    def _keep(self, assignment: Assignment) -> None:
        if assignment.lease_id in self._leases:
            return
        self._leases.add(assignment)
        if self._reason or not self._ahead.add(assignment):
            self._release(assignment, self._reason or "it does not fit into what there is here")
            return
        self._begun += 1

    def _begin(self) -> None:
        """Start what waits, as far as there is room."""
        while (found := self._ahead.next()) is not None:
            assignment, gpus = found
            if assignment.lease_id not in self._leases:  # lost while it waited
                self._slots.give_back(assignment.resources, gpus)
                continue
            task = asyncio.create_task(self._attempt(assignment, gpus))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _attempt(self, assignment: Assignment, gpus: list[str]) -> None:
        """One attempt from its start to its report."""
        runner: TaskRunner | None = None
        try:
            config = await self._configs.get(assignment)
            runner = self._runner(assignment, config, gpus)
            result = await self._run(runner)
        except RpcError as exc:
            failure = Failure("config", f"the server did not give the configuration: {exc}")
            result = Result(failure=failure, time_used_s=0.0, used=NOTHING)
        self._conclude(assignment, result)
        if runner is not None:
            await self._clean(runner)
        self._slots.give_back(assignment.resources, gpus)
        self._begin()
        self._idle_since = time.monotonic()
        self._tasks.discard(asyncio.current_task())
        self._changed.set()

    def _runner(self, assignment: Assignment, config: Fetched, gpus: list[str]) -> TaskRunner:
        around = Surroundings(
            sandbox=self._sandboxes.take(),
            transfers=self._transfers,
            keeper=self._keeper,
            key=self._key,
            inherited=self._settings.inherited,
            confirm=lambda: self._leases.confirm(assignment.lease_id),
            urls=config.urls_for(assignment),
            files_url=config.files_url,
            relay=config.relay,
            gpus=gpus,
        )
        return TaskRunner(assignment, config.config, around)

    async def _run(self, runner: TaskRunner) -> Result | None:
        held = self._leases.get(runner.assignment.lease_id)
        if held is None or self._terminated.is_set():
            return None
        held.runner = runner
        try:
            return await runner.run()
        finally:
            held.runner = None

    async def _clean(self, runner: TaskRunner) -> None:
        runner.close()
        if runner.usage.disk_bytes <= SMALL_SANDBOX_BYTES and not runner.was_halted:
            self._sandboxes.give_back(runner.sandbox)
        else:
            await asyncio.to_thread(runner.sandbox.remove)

    def _conclude(self, assignment: Assignment, result: Result | None) -> None:
        """Report a result; hand back what was stopped here; forget what was lost."""
        if assignment.lease_id not in self._leases:
            return
        if result is None:
            self._release(assignment, self._reason or "it was stopped")
            return
        self._reporter.add(Report.of(assignment, result), in_a_hurry=len(self._ahead) < ENOUGH_AHEAD)
        self._ahead.ended(result.time_used_s if result.failure is None else math.inf)
        if result.failure is None:
            self._failures = 0
        elif result.time_used_s < QUICK_S:
            self._failures += 1
            if self._failures >= self._settings.most_failures:
                self.drain(f"{self._failures} tasks in a row failed at once: {result.failure.summary}")

    def _release(self, assignment: Assignment, reason: str) -> None:
        call = ("pilot.release", {**assignment.lease, "reason": reason})
        self._reporter.add(Report(assignment.lease_id, (call,)))

    def _lost(self, held: Held) -> None:
        self._reporter.drop(held.assignment.lease_id)
        if held.runner is not None:
            held.runner.stop()

    def _refused(self, reason: str) -> None:
        self._exit_code = 1
        self.drain(f"the server refuses this pilot: {reason}")

    async def _samples(self) -> None:
        """Measure all running tasks, and end whatever belongs to none of them."""
        while True:
            await asyncio.sleep(SAMPLE_S)
            if self._ahead.is_overdue():
                self._hand_back("what runs here takes longer than expected")
            orphans, runners = processes.adopted(), self._leases.runners()
            if not (orphans or runners):
                continue
            snapshot = processes.snapshot()
            for runner in runners:
                orphans -= runner.sample(snapshot)
            processes.send(orphans & snapshot.keys(), signal.SIGKILL)
            processes.reap(orphans)

    async def _live_logs(self) -> None:
        """Show the server the tails of the logs of tasks that run for long."""
        while True:
            await asyncio.sleep(self._settings.live_log_s)
            for runner in self._leases.runners():
                if runner.logs is not None and runner.usage.wall_s() > self._settings.live_log_s / 2:
                    lease = runner.assignment.lease
                    for name, data in runner.logs.news().items():
                        with contextlib.suppress(Unavailable, RpcError):
                            await self._control.once("pilot.log", {**lease, "name": name, "data": data})

    async def _leave(self) -> None:
        """Wait for what runs, send what is left, say good-bye."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._flush()
        if self._reporter.keep_rest():
            logger.warning("not all results could be reported; they are kept in %s", self._settings.work_dir)
        with contextlib.suppress(Unavailable, RpcError, TimeoutError):
            async with asyncio.timeout(self._settings.grace_s):
                await self._control.once("pilot.bye", {})

    async def _flush(self) -> None:
        """Wait for the reports to be taken: while there is time, or briefly once told to end."""
        waits = [asyncio.ensure_future(wait) for wait in (self._reporter.flushed(), self._terminated.wait())]
        left_s = self._slots.free().time_h * 3600
        await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if not waits[0].done():
            await asyncio.wait(waits[:1], timeout=self._settings.grace_s)
        for wait in waits:
            wait.cancel()

    def _close(self) -> None:
        for caller in (self._claimer, self._control, self._reports):
            caller.close()
        self._transfers.shutdown(wait=False, cancel_futures=True)


async def _guarded(loop: Any) -> None:
    """Run one of the pilot's loops; a bug in it is said, and does not go unnoticed for ever."""
    try:
        await loop
    except asyncio.CancelledError:
        raise
    except Exception:
        logger.exception("a loop of the pilot failed")
        raise SystemExit(70) from None
