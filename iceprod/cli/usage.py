"""``iceprod usage``: how many bytes were moved, and for whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site

_BAR: Final = 24
_KEYS: Final = ("day", "user", "group", "dataset", "origin", "peer", "service", "direction")


@click.command()
@click.option("--since", metavar="DAY", help="First day (UTC), YYYY-MM-DD; four weeks ago if not given.")
@click.option("--until", metavar="DAY", help="Last day (UTC).")
@click.option("--user", metavar="NAME", help="Of one user only.")
@click.option("--dataset", metavar="ID", help="Of one dataset only.")
@click.option(
    "--by",
    type=click.Choice(_KEYS),
    multiple=True,
    default=("day", "direction"),
    show_default=True,
    help="What to add up by; may be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100_000, help="Most records to add up.")
@output.json_option
@on_site
def usage(
    site: Site,
    *,
    since: str | None,
    until: str | None,
    user: str | None,
    dataset: str | None,
    by: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Tell how many bytes were moved: yours, or as an administrator everybody's.

    "in" is what came to the site, "out" what left it.
    """
    since = since or (datetime.now(UTC) - timedelta(weeks=4)).strftime("%Y-%m-%d")
    found = site.listed("usage.list", limit=limit, since=since, until=until, user=user, dataset_id=dataset)
    rows = add_up(found["items"], by)
    if as_json:
        output.print_json({"items": rows, "complete": found.get("next") is None})
        return
    most = max((row["bytes_moved"] for row in rows), default=0)
    output.print_table(
        (*by, "bytes", "transfers", ""),
        (
            (*(row[key] for key in by), output.size(row["bytes_moved"]), row["transfers"], _bar(row, most))
            for row in rows
        ),
    )
    if found.get("next") is not None:
        output.note(f"only the newest {limit} records were added up; see --limit")


def add_up(records: Iterable[Mapping[str, Any]], by: tuple[str, ...]) -> list[dict[str, Any]]:
    """Sums of ``bytes_moved`` and ``transfers`` by the values of those keys, in their order."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for record in records:
        key = tuple(str(record["dataset_id" if name == "dataset" else name]) for name in by)
        total = sums.setdefault(key, [0, 0])
        total[0] += record["bytes_moved"]
        total[1] += record["transfers"]
    return [
        {**dict(zip(by, key, strict=True)), "bytes_moved": moved, "transfers": count}
        for key, (moved, count) in sorted(sums.items())
    ]


def _bar(row: Mapping[str, Any], most: int) -> str:
    return "█" * round(_BAR * row["bytes_moved"] / most) if most else ""
