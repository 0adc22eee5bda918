"""``iceprod site``: sites that share work."""

from __future__ import annotations

from typing import Any, Final

import click

from iceprod.cli import asking, output
from iceprod.cli.connection import Site, on_site
from iceprod.cli.site_leaving import join, leave, move, watch
from iceprod.cli.site_letters import dead_letters, discard, retry

_FIELDS: Final = (
    ("name", "name"),
    ("role", "role"),
    ("status", "status"),
    ("address", "url"),
    ("version", "version"),
    ("protocol", "protocol"),
    ("share", "share"),
    ("most tasks", "most_tasks"),
    ("lease (s)", "lease_s"),
    ("tasks", "tasks"),
    ("waiting operations", "waiting"),
    ("oldest of them (s)", "lag_s"),
    ("refused operations", "dead"),
    ("failed calls in a row", "failures"),
    ("last failure", "reason"),
    ("note", "note"),
)


@click.group()
def site() -> None:
    """Share work with other sites: lend them tasks, or run theirs.

    A parent lends tasks to its children. A site is invited by its parent's administrator, and
    joins on its own machine.
    """


_role = click.option(
    "--role", type=click.Choice(("parent", "child")), help="Which is meant, if both have this name."
)


@site.command()
@click.argument("name")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="For how long the code is good.")
@click.option("--again", is_flag=True, help="Let a site that has joined join anew.")
@output.json_option
@on_site
def invite(site: Site, *, name: str, hours: float | None, again: bool, as_json: bool) -> None:
    """Invite a site that is to be called NAME; prints the code by which it may join once."""
    lifetime_s = None if hours is None else hours * 3600.0
    made = site.call("site.invite", name=name, lifetime_s=lifetime_s, again=again or None)
    if as_json:
        output.print_json(made)
        return
    output.note(f"good once, until {output.when(made['expires_at'])}; on the other site's machine:")
    output.note(f"    iceprod site join {site.url}")
    click.echo(made["code"])


@site.command("list")
@output.json_option
@on_site
def list_(site: Site, *, as_json: bool) -> None:
    """List the sites that work is shared with."""
    found = site.call("site.list")
    if as_json:
        output.print_json(found)
        return
    rows = (
        (
            item["name"],
            item["role"],
            item["status"],
            output.when(item["contact_at"]),
            item["tasks"] or "",
            item["waiting"] or "",
            item["dead"] or "",
            item["version"],
            output.when(item["expires_at"]),
            item["reason"],
        )
        for item in found["items"]
    )
    columns = (
        "name",
        "role",
        "status",
        "last seen",
        "tasks",
        "waiting",
        "refused",
        "version",
        "certificate",
        "trouble",
    )
    output.print_table(columns, rows)


@site.command()
@click.argument("name")
@_role
@output.json_option
@on_site
def show(site: Site, *, name: str, role: str | None, as_json: bool) -> None:
    """Show what is known of a site."""
    _show(site.call("site.get", name=name, role=role), as_json=as_json)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json(found)
        return
    times = (("joined", "joined_at"), ("last seen", "contact_at"), ("certificate until", "expires_at"))
    output.print_fields(
        [
            *((label, found[field]) for label, field in _FIELDS),
            *((label, output.when(found[field])) for label, field in times),
        ]
    )


@site.command()
@click.argument("name")
@_role
@on_site
def pause(site: Site, *, name: str, role: str | None) -> None:
    """Lend a child, or take from a parent, no more tasks; those that were lent go on."""
    site.call("site.pause", name=name, role=role)
    output.note(f"{name} is paused")


@site.command()
@click.argument("name")
@_role
@on_site
def resume(site: Site, *, name: str, role: str | None) -> None:
    """Go on after a pause, or leave a parent no more."""
    site.call("site.resume", name=name, role=role)
    output.note(f"work is shared with {name} again")


@site.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@on_site
def revoke(site: Site, *, name: str, yes: bool) -> None:
    """End it with the child NAME, at once: its tasks are taken back, and what it sends is refused."""
    if not yes:
        asking.confirm(f"Take all tasks back from {name}, and refuse it from now on?", instead="--yes")
    taken = site.call("site.revoke", name=name)
    output.note(f"{name} is a stranger now; tasks taken back: {taken['tasks']}")


@site.command("set")
@click.argument("name")
@_role
@click.option("--share", type=click.FloatRange(min=0), help="Weight of a child among children.")
@click.option("--most-tasks", type=click.IntRange(min=0), help="Most tasks that a child may hold.")
@click.option(
    "--lease",
    "lease_s",
    type=click.FloatRange(min=0, min_open=True),
    help="For how many seconds a child holds a task without being heard of.",
)
@click.option("--address", metavar="URL", help="Where a parent is reached from now on.")
@click.option("--note", help="A word for people.")
@output.json_option
@on_site
def set_(site: Site, *, name: str, address: str | None, as_json: bool, **changes: Any) -> None:
    """Change what was set for a site; what is not given stays."""
    _show(site.call("site.set", name=name, url=address, **changes), as_json=as_json)


for command in (join, leave, move, watch, dead_letters, retry, discard):
    site.add_command(command)
