"""``iceprod doctor``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from iceprod.cli import output
from iceprod.cli.settings import with_settings

if TYPE_CHECKING:
    from iceprod.config import Settings


@click.command()
@output.json_option
@with_settings
def doctor(settings: Settings, *, as_json: bool) -> int:
    """Check that a site can work, and say what to do if not.

    Looks at the settings, the data directory, the disk, the store and who shares it, other
    sites, the ports, the processes, systemd, nginx, certificates, the clock and the grids,
    whether the server runs or not. Exits with 1 if something has failed.
    """
    from iceprod.server import diagnosis  # noqa: PLC0415 - the whole server

    findings = asyncio.run(diagnosis.diagnose(settings))
    if as_json:
        output.print_json({"items": [asdict(finding) for finding in findings], "next": None})
    else:
        rows = ((item.check, item.verdict, item.message, item.advice) for item in findings)
        output.print_table(("check", "verdict", "found", "what to do"), rows)
    return int(any(item.verdict is diagnosis.Verdict.FAILED for item in findings))
