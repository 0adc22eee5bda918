"""``iceprod backup`` and ``iceprod restore``, which ``iceprod store`` has too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iceprod.cli.output import note
from iceprod.cli.progress import shown
from iceprod.cli.settings import with_settings

if TYPE_CHECKING:
    from iceprod.config import Settings


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="MongoDB: do not ask whether a server uses the database.")
@with_settings
def backup(settings: Settings, *, target: Path, force: bool) -> None:
    """Copy a site's database to the new file TARGET.

    A SQLite database is copied while it is used, as of one moment. The servers of a MongoDB
    database have to be stopped. Either backup can be restored into either kind of database.
    The files that tasks hand to each other are not in it.
    """
    from iceprod.server import backups  # noqa: PLC0415 - the whole server

    size = asyncio.run(backups.backup(settings, target, force=force))
    note(f"{target}: {size / 1e6:.1f} MB")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--restart", is_flag=True, help="MongoDB: drop what a restoration that was cut off has left.")
@with_settings
def restore(settings: Settings, *, source: Path, restart: bool) -> None:
    """Put the backup SOURCE in the place of a site's database.

    The server has to be stopped. The present database is kept beside it under another name; a
    MongoDB database has to be empty. A restoration into MongoDB that was cut off goes on
    when it is repeated. Sites that run tasks for this one tell it afterwards what they hold,
    before tasks are given to anybody.
    """
    from iceprod.server import backups, stores  # noqa: PLC0415 - the whole server

    with shown() as progress:
        former = asyncio.run(backups.restore(settings, source, restart=restart, progress=progress))
    note(f"{stores.own(settings).name} is now as in {source}")
    if former:
        note(f"the former one is {former}")
