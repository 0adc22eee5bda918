"""Progress of files that are moved: a bar for each on a terminal, a line for each elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from iceprod.cli.file_transfer import Moved
from iceprod.cli.output import note


class Shown(Protocol):
    """Where progress is shown; threads may use it at once."""

    def begin(self, name: str) -> Moved:
        """Show another file; call what you get as its bytes move."""
        ...


@contextmanager
def shown() -> Iterator[Shown]:
    """Progress on stderr, as long as the context lasts."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415 - only when somebody looks
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        class Bars:
            def begin(self, name: str) -> Moved:
                bar = progress.add_task(name, total=None)
                return lambda done, total: progress.update(bar, completed=done, total=total)

        yield Bars()


class _Lines:
    """For pipes and logs, which want no more than a line."""

    def begin(self, name: str) -> Moved:
        note(f"{name} …")
        return lambda _done, _total: None
