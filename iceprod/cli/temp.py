"""``iceprod temp``: files of the temp areas whose time is over."""

from __future__ import annotations

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site


@click.group()
def temp() -> None:
    """Look after the temp areas of jobs, datasets and the site."""


@temp.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=10_000, show_default=True)
@output.json_option
@on_site
def clean(site: Site, *, dry_run: bool, limit: int, as_json: bool) -> None:
    """Delete files whose job or dataset has been complete for long enough (settings: files.temp).

    The site does so by itself now and then.
    """
    done = site.call("temp.clean", dry_run=dry_run, limit=limit)
    if as_json:
        output.print_json(done)
        return
    rows = (
        (each["path"], each["files"], output.size(each["size_bytes"]), each["reason"])
        for each in done["items"]
    )
    output.print_table(("path", "files", "size", "why"), rows)
    verb = "would go" if dry_run else "went"
    output.note(f"{done['files']} files, {output.size(done['size_bytes'])}, {verb}")
