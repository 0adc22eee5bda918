"""``iceprod serve``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import click

from iceprod.cli.settings import load_settings, read_settings


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="ICEPROD_CONFIG",
    help="The settings file (TOML).",
)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data directory.")
@click.option("--host", help="The address to listen on; 127.0.0.1 by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port for people; 0 takes any free one.")
@click.option("--rpc-port", type=click.IntRange(0, 65535), help="The port for pilots; 0 takes any free one.")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    help="How many processes answer; more than one need a MongoDB store.",
)
@click.option(
    "--nginx/--no-nginx",
    "with_nginx",
    default=None,
    help="Run nginx in front, with the configuration that the settings make.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the addresses into this file, as JSON, once they answer.",
)
def serve(
    *,
    config_file: Path | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    rpc_port: int | None,
    processes: int | None,
    with_nginx: bool | None,
    ready_file: Path | None,
) -> None:
    """Run a site's server until it is told to stop (SIGTERM or Ctrl-C).

    At the first start it makes an administrator, whose password is in first-admin.txt in
    the data directory. SIGHUP replaces its processes, see "iceprod restart".
    """
    sections: dict[str, dict[str, Any]] = {
        "server": {
            "data_dir": data,
            "host": host,
            "port": port,
            "rpc_port": rpc_port,
            "processes": processes,
        },
        "nginx": {"supervised": with_nginx},
    }
    settings = load_settings(config_file, **sections)
    reread = functools.partial(read_settings, config_file, **sections)
    from iceprod.server.processes.running import run  # noqa: PLC0415 - the whole server

    run(settings, reread=reread, ready_file=ready_file, arguments=sys.argv[1:])
