"""``iceprod restart``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iceprod.cli import output
from iceprod.cli.settings import with_settings
from iceprod.errors import NotFoundError, Unavailable

if TYPE_CHECKING:
    from iceprod.config import Settings
    from iceprod.server.processes.roster import Roster

_LOOK_S = 0.1


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 86400),
    default=300.0,
    show_default=True,
    help="How long to wait for the new processes, in seconds.",
)
@with_settings
def restart(settings: Settings, *, timeout_s: float) -> None:
    """Replace the processes of a running server without failing a request.

    The new ones have the settings and the code that are there now. Of several processes one
    after the other is replaced; a single one leaves its listening sockets to its successor,
    and clients that come in between wait for a moment.
    """
    from iceprod.server.processes import roster  # noqa: PLC0415 - reads with msgspec

    former = roster.read(settings.data_dir)
    if former is None or not Path(f"/proc/{former.pid}").exists():
        raise NotFoundError("running server with its data in", settings.data_dir)
    os.kill(former.pid, signal.SIGHUP)
    deadline = time.monotonic() + timeout_s
    while not _is_done(former, present := roster.read(settings.data_dir)):
        if time.monotonic() > deadline:
            raise Unavailable(f"no new processes within {timeout_s:.0f} s; look at the server's log")
        time.sleep(_LOOK_S)
    if present is not None and present.failed_restarts > former.failed_restarts:
        raise Unavailable(
            "the new processes did not start, and the former ones go on; look at the server's log"
        )
    output.note("restarted")


def _is_done(former: Roster, present: Roster | None) -> bool:
    if present is None:  # a single process that is between two lives
        return False
    count = present.restarts + present.failed_restarts
    return present.started_at != former.started_at or count > former.restarts + former.failed_restarts
