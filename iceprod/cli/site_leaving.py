"""``iceprod site join``, ``leave``, ``move`` and ``watch``: changing parents, on this site's own machine."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from iceprod.cli import asking, output
from iceprod.cli.settings import with_settings

if TYPE_CHECKING:
    from iceprod.config import Settings
    from iceprod.server.joining import Outcome, Request, Watched

R = TypeVar("R")
_LINE_EVERY_S: Final = 5.0


def _ways(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options about joining, as a function that makes a request of a URL."""

    @click.option("--code", help="The code; '-' reads it from standard input. Asked for if not given.")
    @click.option(
        "--ca",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Who vouches for the parent's certificate (PEM), if not the one that the code tells of.",
    )
    @click.option(
        "--certificate",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="This site's own certificate with its key (PEM), instead of one made by the parent.",
    )
    @click.option("--as", "name", help="What the parent is called here, if not as it calls itself.")
    @functools.wraps(command)
    def run(
        *args: Any,
        code: str | None,
        ca: Path | None,
        certificate: Path | None,
        name: str | None,
        **kwargs: Any,
    ) -> R:
        def request(url: str) -> Request:
            from iceprod.server import joining  # noqa: PLC0415 - the whole server

            own = certificate and certificate.absolute()
            return joining.Request(url, _code(code), authority=ca, certificate=own, name=name or "")

        return command(*args, request=request, **kwargs)

    return run


def _code(given: str | None) -> str:
    if given == "-":
        return sys.stdin.read().strip()
    return given or asking.secret("Code", instead="--code")


def _waits(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options about how a parent is left, and how that is watched."""
    command = click.option(
        "--wait/--no-wait", default=True, help="Watch until it is done (it goes on anyway)."
    )(command)
    return click.option("--now", "at_once", is_flag=True, help="Give back what runs, too.")(command)


@click.command()
@click.argument("url")
@_ways
@output.json_option
@with_settings
def join(settings: Settings, *, url: str, request: Callable[[str], Request], as_json: bool) -> None:
    """Join the site at URL, which has invited this one.

    To be done on this site's machine by the user that its server runs as; the server may run or
    not. It takes tasks from the new parent at once.
    """
    from iceprod.server import joining  # noqa: PLC0415 - the whole server

    made = asyncio.run(joining.join(settings, request(url)))
    if as_json:
        output.print_json(_joined(made))
    _tell_joined(made, is_shown=not as_json)


@click.command()
@click.argument("old", metavar="OLD-PARENT")
@click.argument("url")
@_ways
@_waits
@output.json_option
@with_settings
def move(
    settings: Settings,
    *,
    old: str,
    url: str,
    request: Callable[[str], Request],
    at_once: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Join the site at URL, and leave OLD-PARENT without losing work.

    Nothing more is taken of the old parent; what waits goes back to it, what runs comes to its
    end, and all is told. Then it is left. `iceprod site resume OLD-PARENT` takes that back while it
    lasts. To be done on this site's machine, as joining is.
    """
    from iceprod.server import joining  # noqa: PLC0415 - the whole server

    made = asyncio.run(joining.move(settings, old, request(url), at_once=at_once))
    _tell_joined(made, is_shown=True)
    _follow(settings, old, wait=wait, as_json=as_json, more={"joined": _joined(made)})


@click.command()
@click.argument("name")
@click.option("--anyway", is_flag=True, help="In this very moment, even if the parent cannot be told.")
@_waits
@output.json_option
@with_settings
def leave(settings: Settings, *, name: str, anyway: bool, at_once: bool, wait: bool, as_json: bool) -> None:
    """Leave the parent NAME without losing work.

    Nothing more is taken of it; what waits goes back to it, what runs comes to its end, and all is
    told. `iceprod site resume NAME` takes that back while it lasts. To be done on this site's
    machine, as joining is.
    """
    from iceprod.server import joining  # noqa: PLC0415 - the whole server

    asyncio.run(joining.leave(settings, name, at_once=at_once, anyway=anyway))
    _follow(settings, name, wait=wait, as_json=as_json)


@click.command()
@click.argument("name")
@output.json_option
@with_settings
def watch(settings: Settings, *, name: str, as_json: bool) -> None:
    """Watch how the parent NAME is left; ends with 1 if it is shared with instead."""
    _follow(settings, name, wait=True, as_json=as_json)


def _follow(
    settings: Settings, name: str, *, wait: bool, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    """Show progress until a parent is left; the exit code says whether it is."""
    from iceprod.server import joining  # noqa: PLC0415 - the whole server

    if not wait:
        output.note(f"this site leaves {name}; watch it with: iceprod site watch {name}")
        return
    with _shown() as show:
        try:
            watched = asyncio.run(joining.follow(settings, name, show))
        except KeyboardInterrupt:
            output.note(f"it goes on; watch it again with: iceprod site watch {name}")
            raise
    if as_json:
        output.print_json(_watched(watched) | (more or {}))
    if watched.status != "left":
        output.note(f"{name} is not left: it is {watched.status}")
        sys.exit(1)
    output.note(f"{name} is no parent of this site any more")


def _joined(made: Outcome) -> dict[str, Any]:
    parent = made.parent
    shown = {"parent": parent.name, "url": parent.url, "known_as": made.known_as}
    return {**shown, "expires_at": parent.expires_at, "trouble": made.trouble}


def _tell_joined(made: Outcome, *, is_shown: bool) -> None:
    parent = made.parent
    if is_shown:
        output.note(f"joined {parent.name} at {parent.url} as {made.known_as}")
    if made.trouble:
        output.note(f"but {parent.name} cannot be spoken to yet: {made.trouble}")


def _watched(watched: Watched) -> dict[str, Any]:
    left = watched.left
    return {
        "parent": watched.parent,
        "status": str(watched.status),
        "tasks": left.tasks,
        "reports": left.reports,
        "refused": left.refused,
    }


def _line(watched: Watched) -> str:
    left = watched.left
    refused = f"; {left.refused} refused: see iceprod site dead-letters" if left.refused else ""
    return f"leaving {watched.parent}: {left.tasks} tasks, {left.reports} reports to tell{refused}"


@contextmanager
def _shown() -> Iterator[Callable[[Watched], None]]:
    """Something to call as a parent is left; what it shows goes to stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415 - only when somebody looks
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar, most = progress.add_task("looking", total=None), 0

        def show(watched: Watched) -> None:
            nonlocal most
            now = watched.left.tasks + watched.left.reports
            most = max(most, now)
            progress.update(bar, description=_line(watched), completed=most - now, total=most or 1)

        yield show


class _Lines:
    """For pipes and logs: a line when something has changed, at most one in five seconds."""

    def __init__(self) -> None:
        self._shown, self._shown_at = "", -_LINE_EVERY_S

    def __call__(self, watched: Watched) -> None:
        line, now = _line(watched), time.monotonic()
        if line != self._shown and now - self._shown_at >= _LINE_EVERY_S:
            output.note(line)
            self._shown, self._shown_at = line, now
