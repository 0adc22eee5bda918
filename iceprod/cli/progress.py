"""Progress of work on a store: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from iceprod.cli.output import note

Show = Callable[[str, str, int, int], None]
"""What is being done, with what kind of record, how many of how many."""

_DOING: Final = {"copy": "copying", "verify": "verifying", "check": "checking"}
_LINE_EVERY_S: Final = 5.0


@contextmanager
def shown() -> Iterator[Show]:
    """Something to call as work goes on; what it shows goes to stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415 - only when somebody looks
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("starting", total=None)

        def show(step: str, kind: str, done: int, total: int) -> None:
            progress.update(bar, description=f"{_DOING[step]} {kind}", completed=done, total=total or 1)

        yield show


class _Lines:
    """For pipes and logs: a line for each kind when it is done, and now and then before."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()

    def __call__(self, step: str, kind: str, done: int, total: int) -> None:
        now = time.monotonic()
        if total and (done == total or now - self._shown_at >= _LINE_EVERY_S):
            note(f"{_DOING[step]} {kind}: {done} of {total}")
            self._shown_at = now
