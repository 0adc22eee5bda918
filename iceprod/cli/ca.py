"""``iceprod ca``: a small certificate authority of a site's own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iceprod.cli import output
from iceprod.cli.settings import with_settings

if TYPE_CHECKING:
    from iceprod.config import Settings
    from iceprod.services.ca import SiteCA

_KINDS = ("server", "site", "pilot", "user")


@click.group()
def ca() -> None:
    """Issue and revoke certificates as a small authority of the site's own.

    It is kept in the folder of the setting federation.ca, or in "ca" of the data directory, with
    every certificate and its key.
    """


def _folder(settings: Settings) -> Path:
    return settings.authority_path


def _opened(settings: Settings) -> SiteCA:
    from iceprod.services.ca import SiteCA  # noqa: PLC0415 - cryptography takes its time

    return SiteCA.open(_folder(settings))


@ca.command()
@click.option("--name", default="IceProd site", show_default=True, help="What the authority is called.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=3650, show_default=True)
@with_settings
def init(settings: Settings, *, name: str, days: float) -> None:
    """Make the authority: its key, its certificate and an empty list of revoked ones."""
    from iceprod.services.ca import SiteCA  # noqa: PLC0415

    made = SiteCA.create(_folder(settings), name=name, days=days)
    click.echo(str(made.certificate))
    output.note(f"keep {made.key} secret: who has it can be everybody here")


@ca.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="What it is for.")
@click.option("--host", "hosts", multiple=True, help="A name or address of a server; may be repeated.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=397, show_default=True)
@click.option("--renew", is_flag=True, help="Make another one for a name that has one.")
@with_settings
def issue(
    settings: Settings, *, name: str, kind: str, hosts: tuple[str, ...], days: float, renew: bool
) -> None:
    """Make a key and a certificate for NAME; prints where the two were written."""
    authority = _opened(settings)
    from iceprod.services.ca import CertificateUse  # noqa: PLC0415

    use = CertificateUse(kind)
    made = authority.issue(name, use=use, hosts=hosts, days=days, renew=renew)
    click.echo(str(authority.certificate_of(name, use)))
    click.echo(str(authority.key_of(name, use)))
    output.note(f"{made.subject}, good until {output.when(made.expires_at)}")


@ca.command()
@click.argument("which", metavar="NAME|SERIAL")
@with_settings
def revoke(settings: Settings, *, which: str) -> None:
    """Revoke the certificates of a name, or one by its number, and write the list anew."""
    authority = _opened(settings)
    for one in authority.revoke(which):
        output.note(f"certificate {one.serial} of {one.name} is revoked")
    click.echo(str(authority.crl))


@ca.command()
@output.json_option
@with_settings
def show(settings: Settings, *, as_json: bool) -> None:
    """Show what was issued, and what of it was revoked."""
    authority = _opened(settings)
    issued = authority.issued()
    if as_json:
        output.print_json(
            {
                "certificate": str(authority.certificate),
                "crl": str(authority.crl),
                "items": [asdict(one) for one in issued],
                "next": None,
            }
        )
        return
    rows = (
        (one.name, one.use, one.serial, output.when(one.expires_at), output.when(one.revoked_at))
        for one in issued
    )
    output.print_table(("name", "kind", "serial", "expires", "revoked"), rows)
