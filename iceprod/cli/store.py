"""``iceprod store``: what is done to a site's database as a whole."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from iceprod.cli import output
from iceprod.cli.backup import backup, restore
from iceprod.cli.output import note
from iceprod.cli.progress import shown
from iceprod.cli.settings import with_settings

if TYPE_CHECKING:
    from iceprod.config import Settings
    from iceprod.server.stores import CheckedStore, Place
    from iceprod.store.canonical import Sum

_FORCE = "Do not ask whether a server uses a database."


@click.group()
def store() -> None:
    """Copy, check, back up and migrate a site's database."""


store.add_command(backup)
store.add_command(restore)


@store.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--restart", is_flag=True, help="Drop what a copy that was cut off has left in TO, and begin anew."
)
@click.option("--force", is_flag=True, help=_FORCE)
@output.json_option
@with_settings
def copy(settings: Settings, *, source: str, target: str, restart: bool, force: bool, as_json: bool) -> None:
    """Copy the whole database FROM into the empty database TO, and compare them.

    FROM and TO are URLs, sqlite:///PATH or mongodb://HOST[:PORT]/DATABASE. As a URL with a
    password should be seen by nobody, each may also be "settings" for the database of the
    site's own settings, "env:NAME" for the URL in an environment variable, or "-" for the next
    line of standard input.

    No server may use either. A copy that is cut off, however, goes on when the command is
    repeated. At the end numbers and SHA-256 digests of the records of each kind have to be the
    same on both sides; until then no server starts with TO.
    """
    from iceprod.server import stores  # noqa: PLC0415 - the whole server

    places = _place(settings, source), _place(settings, target)
    with shown() as progress:
        copied = asyncio.run(stores.copy(*places, progress=progress, force=force, restart=restart))
    if as_json:
        names = {"from": places[0].name, "to": places[1].name}
        output.print_json({**names, "resumed": copied.resumed, "verified": True, "kinds": _sums(copied.sums)})
        return
    _print_sums(copied.sums)
    if copied.resumed:
        note("this went on with a copy that had been cut off")
    note(f"{places[1].name} is now equal to {places[0].name}")


@store.command()
@click.option("--repair", is_flag=True, help="Count jobs and tasks afresh and correct the counters.")
@click.option("--force", is_flag=True, help=_FORCE)
@output.json_option
@with_settings
def check(settings: Settings, *, repair: bool, force: bool, as_json: bool) -> int:
    """Look through a site's database for damage, wrong counters and records of things that are not.

    Prints number and SHA-256 digest of the records of each kind, by which two databases can be
    compared. No server may use it; "iceprod doctor" looks at a database in use. Exits with 1 if
    anything is wrong.
    """
    from iceprod.server import stores  # noqa: PLC0415 - the whole server

    place = stores.own(settings)
    with shown() as progress:
        found = asyncio.run(stores.check(place, progress=progress, force=force, repair=repair))
    if as_json:
        output.print_json(_checked(place, found))
        return int(not found.is_sound)
    _print_sums(found.content.sums)
    for drift in found.repaired:
        note(f"corrected: dataset {drift.dataset_id}: {drift.what} was {drift.stored}, is {drift.counted}")
    if found.recounted:
        note(f"corrected: what is kept of files, of {found.recounted} users, groups or datasets")
    for problem in _problems(found):
        note(f"wrong: {problem}")
    note(f"{place.name} is {'sound' if found.is_sound else 'not sound'}")
    return int(not found.is_sound)


@store.command()
@output.json_option
@with_settings
def migrate(settings: Settings, *, as_json: bool) -> None:
    """Bring a site's database to the schema of this release.

    A server does the same at its start. Make a backup first: there is no way back.
    """
    from iceprod.server import stores  # noqa: PLC0415 - the whole server

    place = stores.own(settings)
    done = asyncio.run(stores.migrate(place))
    if as_json:
        output.print_json({"store": place.name, "before": done.before, "after": done.after})
    elif done.before == done.after:
        note(f"{place.name} has schema {done.after} already")
    else:
        note(f"{place.name} had schema {done.before} and has {done.after} now")


def _place(settings: Settings, word: str) -> Place:
    """The store that an argument stands for."""
    from iceprod.server import stores  # noqa: PLC0415 - the whole server

    if word == "settings":
        return stores.own(settings)
    if word == "-":
        return stores.at(settings, sys.stdin.readline().strip())
    if word.startswith("env:"):
        url = os.environ.get(word.removeprefix("env:"))
        if url is None:
            raise click.UsageError(f"the environment variable {word.removeprefix('env:')} is not set")
        return stores.at(settings, url.strip())
    return stores.at(settings, word)


def _sums(sums: Mapping[Any, Sum]) -> dict[str, dict[str, Any]]:
    return {str(kind): {"count": found.count, "sha256": found.sha256} for kind, found in sums.items()}


def _print_sums(sums: Mapping[Any, Sum]) -> None:
    rows = ((str(kind), found.count, found.sha256) for kind, found in sums.items())
    output.print_table(("kind", "records", "sha256"), rows)


def _problems(found: CheckedStore) -> list[str]:
    more = found.content.faults - len(found.content.problems)
    unfinished = ["it is a copy that was not finished"] if found.unfinished else []
    return [*unfinished, *found.damage, *found.content.problems, *([f"… and {more} more"] if more else [])]


def _checked(place: Place, found: CheckedStore) -> dict[str, Any]:
    return {
        "store": place.name,
        "sound": found.is_sound,
        "kinds": _sums(found.content.sums),
        "problems": _problems(found),
        "repaired": [
            {"dataset_id": d.dataset_id, "what": d.what, "stored": d.stored, "counted": d.counted}
            for d in found.repaired
        ],
        "recounted": found.recounted,
    }
