"""``iceprod certificate``: client certificates, and for whom they speak."""

from __future__ import annotations

from pathlib import Path

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site


@click.group()
def certificate() -> None:
    """Say for whom client certificates speak."""


@certificate.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@output.json_option
@on_site
def list_(site: Site, *, limit: int, as_json: bool) -> None:
    """List your certificates; an administrator sees all."""
    found = site.listed("certificate.list", limit=limit)
    if as_json:
        output.print_json(found)
        return
    columns = ("certificate_id", "kind", "name", "subject", "issuer", "label")
    rows = (tuple(item[column] for column in columns) for item in found["items"])
    output.print_table(("id", *columns[1:]), rows)


@certificate.command()
@click.argument("kind", type=click.Choice(("user", "pilot", "site")))
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=False)
@click.option("--subject", help="Its subject, if you do not have the file.")
@click.option("--issuer", help="Its issuer, if you do not have the file.")
@click.option("--label", help="What it is for.")
@output.json_option
@on_site
def add(
    site: Site,
    *,
    kind: str,
    name: str,
    file: Path | None,
    subject: str | None,
    issuer: str | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Let the certificate in FILE (PEM) speak for the user, pilot or site NAME.

    Only its names are kept: those who renew it under the same names need not ask again.
    """
    if (file is None) == (subject is None or issuer is None):
        raise click.UsageError("give the FILE, or both --subject and --issuer")
    made = site.call(
        "certificate.add",
        kind=kind,
        name=name,
        certificate=_first(file.read_text(encoding="utf-8", errors="replace")) if file else None,
        subject=subject,
        issuer=issuer,
        label=label,
    )
    if as_json:
        output.print_json(made)
        return
    output.note(f"{made['subject']}, issued by {made['issuer']}, speaks for the {kind} {name}")
    click.echo(made["certificate_id"])


def _first(pem: str) -> str:
    """The first certificate of a file; a key that may stand beside it stays here."""
    _, begin, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition("-----END CERTIFICATE-----")
    if not begin or not end:
        raise click.UsageError("there is no certificate in the file (PEM)")
    return begin + body + end + "\n"


@certificate.command()
@click.argument("certificate_ids", nargs=-1, required=True, metavar="CERTIFICATE_ID...")
@on_site
def revoke(site: Site, *, certificate_ids: tuple[str, ...]) -> None:
    """Let certificates speak for nobody any more."""
    for identifier in certificate_ids:
        site.call("certificate.revoke", certificate_id=identifier)
        output.note(f"certificate {identifier} speaks for nobody now")
