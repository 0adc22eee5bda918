"""The options by which commands find a site's settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from iceprod.config import Settings

R = TypeVar("R")


def with_settings(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options --config and --data, and the `Settings` as its first argument."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="ICEPROD_CONFIG",
        help="The settings file (TOML).",
    )
    @click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="The data directory (server.data_dir).",
    )
    @functools.wraps(command)
    def run(*args: Any, config_file: Path | None, data: Path | None, **kwargs: Any) -> R:
        return command(load_settings(config_file, server={"data_dir": data}), *args, **kwargs)

    return run


def load_settings(config_file: Path | None, **sections: dict[str, Any]) -> Settings:
    """The settings of the file and the environment, with what is not None in ``sections`` above them.

    Raises ConfigError for everything that is wrong at once.
    """
    from iceprod import log  # noqa: PLC0415 - costs a tenth of a second

    # What a command does beside a server is no news; "serve" sets up its own log later.
    log.configure(level="warning", form="text")
    return read_settings(config_file, **sections)


def read_settings(config_file: Path | None, **sections: dict[str, Any]) -> Settings:
    """As `load_settings`, which leaves the log as it is: for a server that runs already."""
    from iceprod.config import load  # noqa: PLC0415 - costs a third of a second

    given = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in sections.items()
    }
    return load(config_file, overrides={name: section for name, section in given.items() if section})
