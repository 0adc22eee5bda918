"""``iceprod site dead-letters``, ``retry`` and ``discard``: reports that a parent has refused."""

from __future__ import annotations

from typing import Final

import click

from iceprod.cli import asking, output
from iceprod.cli.connection import Site, on_site

_MOST: Final = 100_000
_BATCH: Final = 1000


@click.command("dead-letters")
@click.option("--peer", metavar="NAME", help="Of that parent only.")
@click.option("--limit", type=click.IntRange(1, _MOST), default=100, show_default=True)
@output.json_option
@on_site
def dead_letters(site: Site, *, peer: str | None, limit: int, as_json: bool) -> None:
    """List reports that a parent has refused for good, newest first."""
    found = site.listed("site.dead_letters", limit=limit, peer=peer)
    if as_json:
        output.print_json(found)
        return
    rows = (
        (
            each["number"],
            each["peer"],
            each["kind"],
            each["task_id"],
            output.when(each["happened_at"]),
            output.when(each["refused_at"]),
            each["reason"],
        )
        for each in found["items"]
    )
    output.print_table(("number", "parent", "kind", "task there", "happened", "refused", "reason"), rows)


def _chosen(site: Site, numbers: tuple[int, ...], *, all_of: str | None) -> list[int]:
    """The letters that are meant, as they were written."""
    if bool(numbers) == bool(all_of):
        raise click.UsageError("give numbers of letters, or --all-of with a parent")
    if all_of:
        found = site.listed("site.dead_letters", limit=_MOST, peer=all_of)
        return sorted(each["number"] for each in found["items"])
    return list(numbers)


def _changed(site: Site, method: str, numbers: list[int]) -> int:
    parts = (numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH))
    return sum(site.call(method, numbers=part)["changed"] for part in parts)


@click.command()
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER]...")
@click.option("--all-of", metavar="NAME", help="All that this parent has refused.")
@on_site
def retry(site: Site, *, numbers: tuple[int, ...], all_of: str | None) -> None:
    """Send refused reports again, once the reason is gone.

    A report whose lease is over changes nothing at the parent.
    """
    count = _changed(site, "site.retry", _chosen(site, numbers, all_of=all_of))
    output.note(f"{count} queued again")


@click.command()
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER]...")
@click.option("--all-of", metavar="NAME", help="All that this parent has refused.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@on_site
def discard(site: Site, *, numbers: tuple[int, ...], all_of: str | None, yes: bool) -> None:
    """Drop refused reports: the parent is never told."""
    chosen = _chosen(site, numbers, all_of=all_of)
    if chosen and not yes:
        asking.confirm(f"Drop {len(chosen)} for ever?", instead="--yes")
    output.note(f"{_changed(site, 'site.discard', chosen)} dropped")
