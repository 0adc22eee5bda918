"""``iceprod audit``: what was done and what was refused, as the site has written it down."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site


@click.group()
def audit() -> None:
    """Read the audit trail."""


@audit.command("list")
@click.option("--action", help="Of one action only, as site.refused; of several, as site. (with the dot).")
@click.option("--principal", metavar="NAME", help="Done by, or refused to, one only.")
@click.option("--target", metavar="NAME", help="About one thing only.")
@click.option(
    "--since",
    type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S")),
    help="Not older than that (UTC).",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@output.json_option
@on_site
def list_(
    site: Site,
    *,
    action: str | None,
    principal: str | None,
    target: str | None,
    since: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List entries, newest first.

    Refusals to sites, and of their certificates, are counted for a minute and written down once.
    """
    found = site.listed(
        "audit.list",
        limit=limit,
        action=action,
        principal=principal,
        target=target,
        since=since.replace(tzinfo=UTC).timestamp() if since else None,
    )
    if as_json:
        output.print_json(found)
        return
    rows = (
        (output.when(item["at"]), item["principal"], item["action"], item["target"], _told(item["detail"]))
        for item in found["items"]
    )
    output.print_table(("at", "principal", "action", "target", "detail"), rows)


def _told(detail: dict[str, object]) -> str:
    return ", ".join(
        f"{name}: {text if isinstance(text, str) else json.dumps(text)}" for name, text in detail.items()
    )
