"""Runs one task: its scopes one inside the other, its modules as processes, its files moved."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from iceprod.errors import FormatError
from iceprod.model.config import options_for
from iceprod.model.plan import TaskRun, expand_task
from iceprod.pilot import processes
from iceprod.pilot.assignment import Assignment, Failure, Result, TaskFailure
from iceprod.pilot.command import task_environment
from iceprod.pilot.keeper import Keeper
from iceprod.pilot.logs import TaskLogs
from iceprod.pilot.processes import Child
from iceprod.pilot.sandbox import SCOPES, Sandbox
from iceprod.pilot.staging import Stager
from iceprod.pilot.steps import Steps
from iceprod.pilot.through_site import NO_RELAY, Relay
from iceprod.pilot.usage import Usage

GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agent gives a task to run in.

    ``confirm`` returns whether the lease still holds, asking the server if it must.
    ``urls`` has the addresses of the temporary areas; ``files_url`` where the task's token
    may be shown, and ``relay`` the site as the way to other places.
    """

    sandbox: Sandbox
    transfers: Executor
    keeper: Keeper
    key: str
    inherited: Mapping[str, str]
    confirm: Callable[[], Awaitable[bool]]
    urls: Mapping[str, str] = field(default_factory=dict)
    files_url: str = ""
    relay: Relay = NO_RELAY
    gpus: Sequence[str] = ()
    publishes: bool = True  # whether outputs are sent; an offline run may keep them


class Stopped(Exception):
    """The task was told to stop; nothing is to be reported about it."""


class TaskRunner:
    """One attempt of one task."""

    def __init__(self, assignment: Assignment, config: Mapping[str, Any], around: Surroundings) -> None:
        self.assignment = assignment
        self._config = config
        self._around = around
        self.sandbox = around.sandbox
        self.key = f"{around.key}.{assignment.lease_id}."
        self.usage = Usage(limits=assignment.resources, sandbox=self.sandbox.root, key=self.key)
        self.logs: TaskLogs | None = None
        self._child: Child | None = None
        self._ending: Failure | None = None
        self._is_stopped = False
        self._halted = threading.Event()  # tells transfers under way
        self._halt = asyncio.Event()  # tells whoever waits for them
        self._module_stats: dict[str, Any] = {}
        self._environments: dict[bool, dict[str, str]] = {}

    async def run(self) -> Result | None:
        """Run the task to its end; none if it was stopped from outside.

        The sandbox and the logs stay until somebody removes them.
        """
        failure = None
        try:
            self.sandbox.create()
            self.logs = TaskLogs(self.sandbox.root)
            await self._run_logged(self.logs)
        except TaskFailure as exc:
            failure = exc.failure
        except Stopped:
            return None
        except OSError as exc:
            failure = Failure("internal", f"the worker node failed: {exc}")
        except Exception as exc:  # noqa: BLE001 - a bug must end this task, not the pilot
            failure = Failure("internal", f"the pilot failed: {type(exc).__name__}: {exc}")
        if self._is_stopped:
            return None
        return self._result(self._ending or failure)

    def stop(self, failure: Failure | None = None) -> None:
        """End the task's processes: because of ``failure``, or for reasons outside of it."""
        if failure is None:
            self._is_stopped = True
        elif self._ending is None:
            self._ending = failure
        self._halted.set()
        self._halt.set()
        if self._child is not None:
            self._child.signal_group(signal.SIGTERM)
            asyncio.get_running_loop().call_later(GRACE_S, self._kill_everything)

    def sample(self, snapshot: Mapping[int, processes.ProcessInfo]) -> set[int]:
        """Measure the task, end it if it uses more than it asked for, and say which processes are its own."""
        if self.logs is not None:
            self.logs.trim()
        own = self.usage.sample(snapshot)
        failure = self.usage.overuse()
        if failure is not None and self._ending is None:
            self.stop(failure)
            self._kill_everything()
        return own

    @property
    def was_halted(self) -> bool:
        """Whether it was ended before its time, so that a transfer may still write into the sandbox."""
        return self._halted.is_set()

    def close(self) -> None:
        """Let go of the logs; the sandbox may be removed then."""
        if self.logs is not None:
            self.logs.close()

    async def _run_logged(self, logs: TaskLogs) -> None:
        given = self.assignment
        named = given.named
        logs.say(f"task {named.name or named.task_index} ({given.task_id}), lease {given.lease_id}")
        if given.stands_for is not None:
            logs.say(f"it is task {named.task_id} of another site")
        stager = Stager(
            sandbox=self.sandbox,
            urls={},
            files_url=self._around.files_url,
            token=given.token,
            say=logs.say,
            relay=self._around.relay,
            stopped=self._halted,
        )
        try:
            task = self._expand()
            stager.urls = task.temp_urls
            await Steps(self, task, stager, logs).run()
            logs.say("the task is complete")
        except TaskFailure as exc:
            logs.say(f"the task failed ({exc.failure.kind}): {exc.failure.summary}")
            raise
        finally:
            self._module_stats.update({kind: moved for kind, moved in stager.stats.items() if moved})

    def _expand(self) -> TaskRun:
        given, named, around = self.assignment, self.assignment.named, self._around
        scopes = {scope: self.sandbox.scope_url(scope) for scope in SCOPES}
        own = self._config.get("options") or {}
        options = options_for(
            dataset_id=named.dataset_id,
            dataset=named.dataset,
            job=named.job,
            jobs_submitted=named.jobs_submitted,
            task_id=named.task_id,
            task=named.task_index,
            debug=given.debug,
            resources=given.resources.to_format(),
            urls={name: url for name, url in {**around.urls, **scopes}.items() if name not in own},
        )
        try:
            return expand_task(self._config, named.task_index, options, environ=self.environment(clear=True))
        except FormatError as exc:
            raise TaskFailure(Failure("config", exc.message)) from exc

    def environment(self, *, clear: bool) -> dict[str, str]:
        """The environment of the task's processes, with the mark by which they are found."""
        if clear not in self._environments:
            self._environments[clear] = self._make_environment(clear=clear)
        return dict(self._environments[clear])

    def _make_environment(self, *, clear: bool) -> dict[str, str]:
        env = task_environment(
            self._around.inherited,
            home=self.sandbox.work,
            tmp=self.sandbox.tmp,
            resources=self.assignment.resources,
            gpus=self._around.gpus,
            clear=clear,
        )
        env[processes.KEY_VARIABLE] = self.key
        return env

    async def execute(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Run one program to its end, and end whatever it left behind; its exit status.

        Raises:
            Stopped, TaskFailure: the task was ended meanwhile.
            OSError: the program can't be started.
        """
        self.check()
        assert self.logs is not None  # noqa: S101 - told to the type checker
        child = Child.start(
            argv, cwd=self.sandbox.work, env=env, stdout=self.logs.stdout.file, stderr=self.logs.stderr.file
        )
        self._child = child
        self._around.keeper.watch(child.pid)
        self.usage.sessions.add(child.pid)
        try:
            return await child.wait()
        finally:
            if child.exit_status is None:
                child.abandon()
            self._sweep(child)

    def check(self) -> None:
        """Raise what ends the task, if something does."""
        if self._is_stopped:
            raise Stopped
        if self._ending is not None:
            raise TaskFailure(self._ending)

    async def in_thread(self, work: Callable[[], None]) -> None:
        """Do something that blocks; when the task is ended, do not wait for it any longer."""
        self.check()
        transfer = asyncio.get_running_loop().run_in_executor(self._around.transfers, work)
        halt = asyncio.ensure_future(self._halt.wait())
        try:
            await asyncio.wait((transfer, halt), return_when=asyncio.FIRST_COMPLETED)
        finally:
            halt.cancel()
        self.check()
        transfer.result()

    async def confirm(self) -> None:
        """Make sure that the lease holds, before something is published."""
        if not await self._around.confirm():
            self._is_stopped = True
        self.check()

    @property
    def publishes(self) -> bool:
        """Whether outputs are sent."""
        return self._around.publishes

    def keep_stats(self, name: str, stats: Any) -> None:
        """Add what a module reported about itself."""
        self._module_stats[name] = stats

    def _sweep(self, child: Child) -> None:
        """End what a program left running, and let go of it.

        Nearly always nothing is left, which the kernel tells in one read.
        """
        child.signal_group(signal.SIGKILL)
        orphans = processes.adopted()
        if orphans:
            left = processes.tree([child.pid], self.key, processes.snapshot())
            processes.send([info.pid for info in left], signal.SIGKILL)
            processes.reap(orphans)
        self.usage.ended(cpu_s=child.cpu_s, peak_rss_bytes=child.peak_rss_bytes)
        self.usage.sessions.discard(child.pid)
        self._around.keeper.forget(child.pid)
        self._child = None

    def _kill_everything(self) -> None:
        child = self._child
        if child is None:
            return
        child.signal_group(signal.SIGKILL)
        left = processes.tree([child.pid], self.key, processes.snapshot())
        processes.send([info.pid for info in left], signal.SIGKILL)

    def _result(self, failure: Failure | None) -> Result:
        with suppress(OSError):
            self.usage.measure_disk()
        logs: dict[str, str] = {}
        if self.logs is not None:
            with suppress(OSError):
                logs = self.logs.complete()
        return Result(
            failure=failure,
            time_used_s=self.usage.wall_s(),
            used=self.usage.used(),
            task_stats=self._module_stats,
            logs=logs,
        )
