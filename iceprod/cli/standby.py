"""``iceprod follow`` and ``iceprod promote``: a standby copy of a site, and making it the site."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iceprod.cli.output import note
from iceprod.cli.settings import with_settings
from iceprod.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from iceprod.config import Settings


@click.command()
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the copy is.",
)
@click.option("--every", "every_s", type=click.FloatRange(min=1), default=30.0, help="In seconds.")
@click.option("--files", "with_files", is_flag=True, help="Copy the files of the temp areas, too.")
@click.option("--once", is_flag=True, help="Make one copy, and end.")
@with_settings
def follow(settings: Settings, *, folder: Path, every_s: float, with_files: bool, once: bool) -> None:
    """Keep a standby copy of a site with a SQLite database current, until interrupted.

    The server may run. Copied are the database, as of one moment, the site's authority, what it is
    known by at its parents, and the key of its credentials; only the newest copy is kept.
    Settings are not copied. "iceprod promote" makes the copy the site.
    """
    asyncio.run(_follow(settings, folder.absolute(), every_s=every_s, with_files=with_files, once=once))


async def _follow(settings: Settings, folder: Path, *, every_s: float, with_files: bool, once: bool) -> None:
    from iceprod.server import standby  # noqa: PLC0415 - the whole server

    trouble, is_first = "", True
    while True:
        try:
            made = await standby.copy_to(settings, folder, with_files=with_files)
        except (InputError, NotFoundError):
            raise
        except Exception as error:
            if once:
                raise
            # A disk that is full or away may be better the next time; the copy before is whole.
            if str(error) != trouble:
                note(f"no copy: {error}")
            trouble = str(error)
        else:
            if trouble or is_first:
                note(f"{made} is current")
            trouble, is_first = "", False
        if once:
            return
        await asyncio.sleep(every_s)


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@with_settings
def promote(settings: Settings, *, folder: Path | None) -> None:
    """Make the standby copy in FOLDER the site, in place of one that is gone.

    To be done where the site is to run from now on, with its settings; no server may run there.
    Other sites tell it what they hold of it, and do not speak to the one that was
    replaced any more, should that come back. Without FOLDER the present database stays, and is
    taken for one that was restored by other means, as by those of MongoDB.
    """
    from iceprod.server import backups, standby, stores  # noqa: PLC0415 - the whole server

    if folder is None:
        note(f"{stores.own(settings).name} begins with term {asyncio.run(backups.begin_term(settings))}")
        return
    former = asyncio.run(standby.promote(settings, folder))
    note(f"{stores.own(settings).name} is now as in {folder}")
    if former:
        note(f"the former one is {former}")
