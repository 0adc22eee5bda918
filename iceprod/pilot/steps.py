"""The order of things within a task: scopes one inside the other, modules, files in and out."""

from __future__ import annotations

import json
import signal
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from iceprod.model.plan import File, ModuleRun, Needs, SoftwareClass, TaskRun
from iceprod.pilot.assignment import Failure, TaskFailure
from iceprod.pilot.command import call_arguments, command, in_container, is_program
from iceprod.pilot.logs import TaskLogs
from iceprod.pilot.sandbox import SCOPES, Sandbox
from iceprod.pilot.software import Software
from iceprod.pilot.staging import Stager

STDERR_TAIL_BYTES = 4096


class Host(Protocol):
    """What the steps need of whoever runs the task."""

    sandbox: Sandbox

    @property
    def publishes(self) -> bool:
        """Whether outputs are sent."""

    def environment(self, *, clear: bool) -> dict[str, str]:
        """The environment of the task's processes."""

    async def execute(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Run one program to its end; its exit status."""

    async def in_thread(self, work: Callable[[], None]) -> None:
        """Do something that blocks."""

    async def confirm(self) -> None:
        """Make sure that the lease holds."""

    def check(self) -> None:
        """Raise what ends the task, if something does."""

    def keep_stats(self, name: str, stats: Any) -> None:
        """Add what a module reported about itself."""


class Steps:
    """The order of things within a task: enter a scope, run what is inside, leave it."""

    def __init__(self, host: Host, task: TaskRun, stager: Stager, logs: TaskLogs) -> None:
        self._host = host
        self._task = task
        self._stager = stager
        self._logs = logs
        self._software = Software(stager)

    async def run(self) -> None:
        """Run the task; raises TaskFailure, or Stopped, if it does not come to a good end."""
        await self._enter(self._task.needs)
        for tray in self._task.trays:
            await self._enter(tray.needs)
            for module in tray.modules:
                await self._enter(module.needs)
                await self._module(module, tray.iteration)
                await self._leave(module.needs)
            await self._leave(tray.needs)
            self._host.sandbox.clear_scope("tray_temp")
        await self._leave(self._task.needs)
        for scope in SCOPES:
            self._host.sandbox.clear_scope(scope)

    async def _enter(self, needs: Needs) -> None:
        """Bring in what a scope needs."""
        for file in needs.files:
            if file.is_input:
                await self._move(self._stager.fetch, file)
        for wanted in needs.classes:
            await self._host.in_thread(lambda wanted=wanted: self._install(wanted))  # type: ignore[misc]

    async def _leave(self, needs: Needs) -> None:
        """Publish what a scope has made, which ended well."""
        outputs = [file for file in needs.files if file.is_output]
        if outputs and self._host.publishes:
            await self._host.confirm()
            for file in outputs:
                await self._move(self._stager.store, file)

    async def _move(self, move: Callable[[File], None], file: File) -> None:
        await self._host.in_thread(lambda: move(file))

    def _install(self, wanted: SoftwareClass) -> None:
        try:
            self._software.install(wanted)
        except (OSError, tarfile.TarError) as exc:
            raise TaskFailure(Failure("transfer", f"class {wanted.name}: {exc}")) from exc

    async def _module(self, module: ModuleRun, iteration: int) -> None:
        """Run one module; raises TaskFailure unless it ends with status 0."""
        where = f"module {module.name or module.pointer} (iteration {iteration})"
        src = await self._source(module)
        sandbox = self._host.sandbox
        env = self._software.extend(self._host.environment(clear=module.env_clear))
        is_call = bool(module.running_class) and not is_program(module.running_class)
        try:
            module = self._with_shell(module)
            argv = command(module, src=src, env=env, call=sandbox.call)
            if self._task.container:
                argv = in_container(self._task.container, argv, root=sandbox.root, work=sandbox.work)
            self._write_configs(module)
            if is_call:
                sandbox.call.write_text(call_arguments(module, src=src, stats=sandbox.stats))
            self._logs.say(f"{where}: {json.dumps(argv)}")
            status = await self._host.execute(argv, env)
        except (OSError, ValueError) as exc:
            raise TaskFailure(Failure("config", f"{where} can't be started: {exc}")) from exc
        self._host.check()
        self._logs.say(f"{where} ended with status {status}")
        if is_call:
            self._collect_stats(module, sandbox.stats)
        if status != 0:
            raise TaskFailure(self._failure(where, status))

    def _with_shell(self, module: ModuleRun) -> ModuleRun:
        """``module`` with an ``env_shell`` that lies in a class at its real place."""
        first, *rest = module.env_shell or ("",)
        if not first or first.split("/")[0] not in self._software.places:
            return module
        return replace(module, env_shell=(str(self._software.source(first)), *rest))

    async def _source(self, module: ModuleRun) -> Path | None:
        if not module.src:
            return None
        if "://" not in module.src and not module.src.startswith("file:"):
            return self._software.source(module.src)
        found: list[Path] = []
        await self._host.in_thread(lambda: found.append(self._software.source(module.src)))
        return found[0]

    def _write_configs(self, module: ModuleRun) -> None:
        for name, content in module.configs.items():
            path = self._host.sandbox.local(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))

    def _collect_stats(self, module: ModuleRun, path: Path) -> None:
        with suppress(OSError, ValueError):
            self._host.keep_stats(module.name or module.pointer, json.loads(path.read_text()))
            path.unlink()

    def _failure(self, where: str, status: int) -> Failure:
        tail = self._logs.stderr.tail(STDERR_TAIL_BYTES).decode(errors="replace")
        last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
        reason = f": {last[:300]}" if last else ""
        if status < 0:
            name = signal.strsignal(-status) or "unknown"
            summary = f"{where} was ended by signal {-status} ({name}){reason}"
            return Failure("signal", summary, signal=-status, stderr_tail=tail)
        return Failure("exit", f"{where} exited with {status}{reason}", exit_code=status, stderr_tail=tail)
