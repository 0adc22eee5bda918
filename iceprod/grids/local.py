"""The local grid: pilots are processes on this machine.

Each pilot has a directory: ``grid-job.json`` says which process it is, ``pilot.log`` is
what it printed, ``work`` is where its tasks live.  The pilots outlive the server; the next
one reads the directories and takes hold of the same processes again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import structlog

from iceprod.clock import now
from iceprod.errors import GridUnavailable, InputError
from iceprod.grids._logfile import bound, last_line
from iceprod.grids._machine import machine, os_name
from iceprod.grids._processes import Identity, Process, kill_marked
from iceprod.grids.base import (
    FINAL,
    TOKEN_VARIABLE,
    Grid,
    GridDescription,
    GridJobId,
    GridReport,
    GridSettings,
    GridSpec,
    GridState,
    pilot_arguments,
)
from iceprod.model.resources import NOTHING, Offer, Requirements, Resources, lacks

logger = structlog.get_logger(__name__)

PILOT = (sys.executable, "-m", "iceprod.pilot.main")
MARK_VARIABLE = "ICEPROD_PILOT_ID"
GRACE_S = 20.0  # what a pilot gets to hand back its tasks
_KEPT = 20  # directories (with the log alone) of pilots that have ended
_RECORD, _LOG, _WORK = "grid-job.json", "pilot.log", "work"


@dataclass(slots=True)
class _Job:
    """One pilot; ``process`` is None once it has ended."""

    directory: Path
    resources: Resources
    report: GridReport
    process: Process | None = None
    ended_at: float = 0.0
    cancelled: bool = False
    deadline: asyncio.TimerHandle | None = field(default=None, repr=False)

    def save(self) -> None:
        """Write what the next server must know; whole or not at all."""
        identity = asdict(self.process.identity) if self.process else None
        text = json.dumps(
            {
                "process": identity,
                "resources": asdict(self.resources),
                "reason": self.report.reason,
                "ended_at": self.ended_at,
            }
        )
        new = self.directory / f"{_RECORD}.new"
        new.write_text(text)
        new.replace(self.directory / _RECORD)


class LocalGrid(Grid):
    """Processes on this machine, never more than its resources hold."""

    poll_s = 1.0
    is_machine_bound = True

    def __init__(
        self,
        settings: GridSettings,
        *,
        directory: Path,
        command: Sequence[str] = PILOT,
        grace_s: float = GRACE_S,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._directory = directory.absolute()
        self._command = command
        self._grace_s = grace_s
        self._capacity = Offer(os=settings.os or os_name(), site=settings.site)
        self._jobs: dict[GridJobId, _Job] = {}
        self._changed: Callable[[], None] = lambda: None
        self._sweeps: set[asyncio.Task[None]] = set()

    async def open(self, changed: Callable[[], None]) -> None:
        """Measure the machine and find the pilots that an earlier server started."""
        self._changed = changed
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _capacity(machine(self._directory), self._settings)
        self._capacity = replace(self._capacity, resources=found)
        for directory in sorted(self._directory.iterdir()):
            self._recover(directory)
        await self._settled()

    async def close(self) -> None:
        """Let go of the pilots, which carry on."""
        await self._settled()
        for job in self._jobs.values():
            if job.process:
                self._release(job)
        self._jobs.clear()

    async def submit(self, spec: GridSpec) -> GridJobId:
        """Start a pilot.  What this does on the loop takes about two milliseconds."""
        self._admit(spec)
        job_id = GridJobId(spec.pilot_id)
        job = _Job(self._directory / job_id, spec.offer.resources, GridReport(GridState.RUNNING))
        try:
            (job.directory / _WORK).mkdir(parents=True, mode=0o700)
            job.process = self._start(spec, job.directory)
            job.save()
        except OSError as exc:
            if job.process:
                self._end_unrecorded(job.process)
            shutil.rmtree(job.directory, ignore_errors=True)
            raise GridUnavailable(f"cannot start a pilot: {exc}", grid=self.name) from exc
        self._jobs[job_id] = job
        self._watch(job_id, job.process)
        return job_id

    async def jobs(self) -> Mapping[GridJobId, str]:
        """Every pilot that runs."""
        return {job_id: str(job_id) for job_id in self._running()}

    async def poll(self, ids: Collection[GridJobId]) -> Mapping[GridJobId, GridReport]:
        """How some pilots are; also keeps their logs within bounds."""
        found = {i: self._jobs[i] for i in ids if i in self._jobs}
        for job in found.values():
            if job.process:
                bound(job.directory / _LOG)
        return {i: job.report for i, job in found.items()}

    async def cancel(self, job_id: GridJobId) -> None:
        """Ask a pilot to hand back its tasks and end; kill it if it does not in time."""
        job = self._jobs.get(job_id)
        if job is None or job.process is None or job.cancelled:
            return
        job.cancelled = True
        job.process.send(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        job.deadline = loop.call_later(self._grace_s, job.process.send, signal.SIGKILL)

    async def describe(self) -> GridDescription:
        """The machine, and what its pilots leave of it."""
        return GridDescription(
            name=self.name,
            kind=self._settings.kind,
            largest=self._capacity,
            free=self._free(),
            jobs=len(self._running()),
        )

    def _running(self) -> dict[GridJobId, _Job]:
        return {i: job for i, job in self._jobs.items() if job.report.state not in FINAL}

    def _free(self) -> Resources:
        free = self._capacity.resources
        for job in self._running().values():
            free = free.minus(job.resources)
        return free

    def _admit(self, spec: GridSpec) -> None:
        wanted = Requirements(resources=spec.offer.resources)
        if missing := lacks(wanted, self._capacity):
            raise InputError(f"grid {self.name} is too small: {missing[0]}", grid=self.name)
        if missing := lacks(wanted, Offer(resources=self._free())):
            raise GridUnavailable(f"grid {self.name} is full: {missing[0]}", grid=self.name)

    def _start(self, spec: GridSpec, directory: Path) -> Process:
        # The server's own settings may hold secrets, which are not for pilots and tasks.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
        environ |= {TOKEN_VARIABLE: spec.secret, MARK_VARIABLE: spec.pilot_id}
        arguments = pilot_arguments(spec, grid=self.name, work_dir=str(directory / _WORK))
        return Process.start([*self._command, *arguments], environ=environ, log=directory / _LOG)

    @staticmethod
    def _end_unrecorded(process: Process) -> None:
        process.send(signal.SIGKILL)
        os.waitid(os.P_PIDFD, process.fileno(), os.WEXITED)
        process.close()

    def _recover(self, directory: Path) -> None:
        job_id = GridJobId(directory.name)
        try:
            record = json.loads((directory / _RECORD).read_text())
            resources = Resources(**record["resources"])
            identity = Identity(**record["process"]) if record["process"] else None
        except (OSError, ValueError, TypeError, KeyError):
            # A server died while it started this pilot, so nobody knows of it.
            self._jobs[job_id] = job = _Job(directory, NOTHING, GridReport(GridState.RUNNING))
            self._sweep(job_id, job, GridReport(GridState.FAILED, "its start was interrupted"))
            return
        job = _Job(directory, resources, GridReport(GridState.RUNNING), ended_at=record["ended_at"])
        self._jobs[job_id] = job
        if identity is None:
            job.report = GridReport(GridState.ENDED, record["reason"])
        elif process := Process.find(identity):
            job.process = process
            self._watch(job_id, process)
        else:
            self._sweep(job_id, job, GridReport(GridState.ENDED, "ended while no server ran"))

    def _watch(self, job_id: GridJobId, process: Process) -> None:
        asyncio.get_running_loop().add_reader(process.fileno(), self._on_exit, job_id)

    def _release(self, job: _Job) -> None:
        if job.process:
            asyncio.get_running_loop().remove_reader(job.process.fileno())
            job.process.close()
            job.process = None
        if job.deadline:
            job.deadline.cancel()
            job.deadline = None

    def _on_exit(self, job_id: GridJobId) -> None:
        job = self._jobs[job_id]
        status = job.process.exit_status() if job.process else None
        self._release(job)
        self._sweep(job_id, job, self._verdict(job, status))

    @staticmethod
    def _verdict(job: _Job, status: int | None) -> GridReport:
        if job.cancelled:
            return GridReport(GridState.ENDED, "cancelled")
        if status is None:
            return GridReport(GridState.ENDED, "ended; an earlier server had started it")
        if status == 0:
            return GridReport(GridState.ENDED)
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        said = last_line(job.directory / _LOG)
        return GridReport(GridState.FAILED, f"{how}: {said}" if said else how)

    def _sweep(self, job_id: GridJobId, job: _Job, verdict: GridReport) -> None:
        task = asyncio.get_running_loop().create_task(self._clean(job_id, job, verdict))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def _clean(self, job_id: GridJobId, job: _Job, verdict: GridReport) -> None:
        """Kill what the pilot left running and remove its files, and only then say that it ended.

        Whoever hears of the end gives its tasks to others, so none may still be at work.
        """
        work = job.directory / _WORK
        killed = await asyncio.to_thread(
            kill_marked, environ=(MARK_VARIABLE, job_id), argv=("--work-dir", str(work))
        )
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
        job.ended_at, job.report = now(), verdict
        try:
            job.save()
        except OSError:
            logger.warning("record of an ended pilot not kept", pilot_id=job_id, exc_info=True)
        logger.info("local pilot ended", pilot_id=job_id, reason=verdict.reason, killed=killed)
        await self._prune()
        self._changed()

    async def _prune(self) -> None:
        ended = [i for i, job in self._jobs.items() if job.report.state in FINAL]
        ended.sort(key=lambda i: self._jobs[i].ended_at)
        for job_id in ended[:-_KEPT]:
            job = self._jobs.pop(job_id)
            await asyncio.to_thread(shutil.rmtree, job.directory, ignore_errors=True)

    async def _settled(self) -> None:
        while self._sweeps:
            await asyncio.gather(*self._sweeps, return_exceptions=True)


def _capacity(found: Resources, settings: GridSettings) -> Resources:
    """What the settings say, and where they say nothing, what the machine has."""
    given = {
        "cpu": settings.cpu,
        "gpu": settings.gpu,
        "memory": settings.memory,
        "disk": settings.disk,
        "time_h": settings.time,
    }
    return replace(found, **{name: value for name, value in given.items() if value is not None})
