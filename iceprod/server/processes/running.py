"""What ``iceprod serve`` runs: one process, a supervisor of several, or one of those."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from iceprod import log
from iceprod.config import Settings
from iceprod.server.processes import sockets, workplace

logger = structlog.get_logger(__name__)

# Not all that there may be: some programs that tasks run close every number up to the limit.
_OPEN_FILES: Final = 32_768


def run(
    settings: Settings,
    *,
    reread: Callable[[], Settings],
    ready_file: Path | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Run a server until it is told to stop.

    ``ready_file`` is written once the server answers, as JSON with ``url``, ``rpc_url``,
    ``pid``, ``version`` and ``data_dir``.  ``arguments`` of the command ``iceprod`` are those
    by which other processes become part of this server; ``reread`` gives the settings as they
    are later.

    Raises:
        ConfigError: it cannot start with these settings.
    """
    log.configure(level=settings.log.level, form=settings.log.format)
    _allow_open_files()
    assignment = workplace.taken(os.environ)
    if assignment is not None:
        _run_worker(settings, assignment)
        return
    given = sockets.passed(os.environ)
    command = (sys.executable, "-m", "iceprod.cli.main", *arguments)
    if settings.server.processes > 1 or settings.nginx.supervised:
        from iceprod.server.processes import supervisor  # noqa: PLC0415 - it, or the whole server

        plan = supervisor.plan_of(settings, command, has_successor=bool(given))
        supervisor.run(settings, plan, given=given, ready_file=ready_file, reread=reread)
    else:
        _run_single(settings, given, command, reread=reread, ready_file=ready_file)


def _allow_open_files() -> None:
    """Take more descriptors than shells give, as far as that is allowed: each client has one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _run_worker(settings: Settings, assignment: workplace.Assignment) -> None:
    import uvloop  # noqa: PLC0415 - as the next

    from iceprod.server.process import Server, tune_interpreter  # noqa: PLC0415 - the whole server
    from iceprod.server.processes.worker import work  # noqa: PLC0415 - as the first

    def make(given: sockets.Sockets) -> Server:
        tune_interpreter()
        return Server(settings, given=given, is_worker=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(work(make, assignment, drain_s=settings.server.drain_s))
        except asyncio.CancelledError:
            logger.warning("stopped at once, as asked twice", worker=assignment.number)


def _run_single(
    settings: Settings,
    given: sockets.Sockets,
    command: tuple[str, ...],
    *,
    reread: Callable[[], Settings],
    ready_file: Path | None,
) -> None:
    import uvloop  # noqa: PLC0415 - as the next

    from iceprod.server.processes.single import serve  # noqa: PLC0415 - the whole server

    kept = None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            kept = runner.run(serve(settings, given=given, reread=reread, ready_file=ready_file))
        except asyncio.CancelledError:
            logger.warning("stopped at once, as asked twice")
    if kept is not None:
        sockets.pass_on(kept, os.environ)
        os.execv(command[0], command)  # noqa: S606 - ourselves, as we were started
