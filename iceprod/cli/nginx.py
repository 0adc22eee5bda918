"""``iceprod nginx``."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import click

from iceprod.cli import exits
from iceprod.cli.output import json_option, note, print_json
from iceprod.cli.settings import with_settings

if TYPE_CHECKING:
    from iceprod.config import Settings


@click.group()
def nginx() -> None:
    """Put nginx in front of a server: TLS, limits, files without Python.

    The settings of the section "nginx" say how; "server.proxied" has to be true.
    """


@nginx.command()
@json_option
@with_settings
def generate(settings: Settings, *, as_json: bool) -> None:
    """Write the configuration and the static files, compressed, into nginx.directory.

    As JSON: the file as "config", the build of the static files as "build", and as "is_new"
    whether the configuration has changed.
    """
    from iceprod.server import nginx as frontend  # noqa: PLC0415 - half the server

    made = frontend.generate(settings)
    if as_json:
        print_json({"config": str(made.config), "build": made.build, "is_new": made.is_new})
        return
    click.echo(f"{made.config}: {'written' if made.is_new else 'as it was'}")


@nginx.command()
@json_option
@with_settings
def check(settings: Settings, *, as_json: bool) -> int:
    """Have nginx look at the configuration on disk; it is not changed.

    Ends with 0 if nginx takes it, 1 if not, 3 if there is none. As JSON: "valid", "fresh"
    (whether it is what the settings make), and what nginx says as "messages".
    """
    from iceprod.server import nginx as frontend  # noqa: PLC0415 - half the server

    verdict = asyncio.run(frontend.check(settings))
    if as_json:
        found = {"valid": verdict.valid, "fresh": verdict.fresh, "messages": list(verdict.messages)}
        print_json(found)
    else:
        for line in verdict.messages:
            note(line)
        click.echo("valid" if verdict.valid else "not valid")
        if not verdict.fresh:
            note("the settings have changed since: iceprod nginx generate")
    return exits.OK if verdict.valid else exits.FAILURE


@nginx.command()
@with_settings
def run(settings: Settings) -> None:
    """Write the configuration, check it, and become nginx, in the foreground.

    SIGHUP has it read the configuration anew, SIGUSR1 open its logs anew, SIGQUIT end when
    all requests are answered, SIGTERM at once.
    """
    from iceprod.server import nginx as frontend  # noqa: PLC0415 - half the server

    _prepare(settings)
    arguments = frontend.command(settings)
    os.execv(arguments[0], arguments)  # noqa: S606 - no shell is wanted


@nginx.command()
@with_settings
def reload(settings: Settings) -> None:
    """Write the configuration anew, check it, and have the running nginx take it.

    Requests under way are finished with the old one; none is dropped.
    """
    from iceprod.server import nginx as frontend  # noqa: PLC0415 - half the server

    _prepare(settings)
    note(
        f"nginx (process {frontend.send(settings, signal.SIGHUP)}) reads {settings.nginx_path / 'nginx.conf'}"
    )


@nginx.command()
@with_settings
def reopen(settings: Settings) -> None:
    """Have the running nginx open its logs anew, after they were moved away."""
    from iceprod.server import nginx as frontend  # noqa: PLC0415 - half the server

    note(f"nginx (process {frontend.send(settings, signal.SIGUSR1)}) opens its logs anew")


def _prepare(settings: Settings) -> None:
    """Write the configuration, and end here if nginx does not take it."""
    from iceprod.server import nginx as frontend  # noqa: PLC0415 - half the server

    frontend.generate(settings)
    verdict = asyncio.run(frontend.check(settings))
    if not verdict.valid:
        exits.fail("\n".join(["nginx refuses its configuration", *verdict.messages]), exits.CONFIGURATION)
