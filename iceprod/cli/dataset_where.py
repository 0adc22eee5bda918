"""``iceprod dataset where``."""

from __future__ import annotations

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site


@click.command()
@click.argument("dataset_id")
@output.json_option
@on_site
def where(site: Site, *, dataset_id: str, as_json: bool) -> None:
    """Tell where the tasks of a dataset run and ran.

    Of other sites attempts are counted, of this one tasks.
    """
    found = site.call("dataset.where", dataset_id=dataset_id)
    if as_json:
        output.print_json(found)
        return
    rows = (
        (
            each["site"] or "(this site)",
            each["running"],
            each["finished"],
            each["failed"],
            each["returned"] if each["site"] else "",
        )
        for each in found["items"]
    )
    output.print_table(("site", "running", "finished", "failed", "returned"), rows)
