"""How results are shown: JSON for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

STATUS_COLORS: Mapping[str, str] = {
    "complete": "#4c9be8",
    "processing": "#e8c14c",
    "queued": "#b99be8",
    "waiting": "#8fa3b5",
    "idle": "#5d6b78",
    "suspended": "#d97fc0",
    "failed": "#e8743b",
    "errors": "#e8743b",
}
"""Colours that people with any colour vision tell apart; the word always stands beside them."""

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_NOTABLE: Final = 0.0005
"""Less of a GB, core or hour than this is not worth a column."""


def json_option(command: Command) -> Command:
    """The option ``--json`` that every reading command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A message to the person, on stderr."""
    click.echo(message, err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table; plain lines with tabs where stdout is no terminal, so that other programs can cut them."""
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(plain(cell) for cell in row))
        return
    from rich.console import Console  # noqa: PLC0415 - only when somebody looks
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: what users named may hold what rich takes for markup.
        table.add_row(*(Text(plain(cell), style=STATUS_COLORS.get(str(cell), "")) for cell in row))
    Console().print(table)


def print_fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair a line."""
    shown = [(name, plain(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {value}")


def plain(cell: Any) -> str:
    """The text of a cell, without what could steer the terminal."""
    text = "" if cell is None else str(cell)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def state(subject: str, status: str) -> str:
    """``dataset x is complete``; also where the status is no adjective."""
    return f"{subject} has errors" if status == "errors" else f"{subject} is {status}"


def when(instant: float | None) -> str:
    """An instant as UTC to the second."""
    return "" if not instant else datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def how_long(duration_s: float | None) -> str:
    """A duration as 1:02:03, with days where there are any."""
    if duration_s is None:
        return "?"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02}:{seconds:02}"


def counts(by_status: Mapping[str, int]) -> str:
    """``12 complete, 3 processing``: the statuses that occur, in the order of `STATUS_COLORS`."""
    return ", ".join(f"{by_status[name]} {name}" for name in STATUS_COLORS if by_status.get(name)) or "none"


def amounts(resources: Mapping[str, Any] | None) -> str:
    """Resources in words: ``1 cpu, 2 GB memory``; what is too little to matter is left out."""
    units = {"cpu": "cpu", "gpu": "gpu", "memory": "GB memory", "disk": "GB disk", "time": "h", "time_h": "h"}
    values = resources or {}
    shown = ((f"{values[key]:.5g}", unit) for key, unit in units.items() if values.get(key, 0) >= _NOTABLE)
    return ", ".join(f"{amount} {unit}" for amount, unit in shown)


def size(count: float) -> str:
    """Bytes as people read them, in powers of ten: ``1.5 GB``."""
    for unit in _UNITS[:-1]:
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} {_UNITS[-1]}"
