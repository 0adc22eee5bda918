"""``iceprod credential``: secrets for origins, which go in and never come out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site
from iceprod.cli.settings import with_settings
from iceprod.errors import InputError

if TYPE_CHECKING:
    from iceprod.config import Settings

_MOST: Final = 65_536
_file = click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True)


@click.group()
def credential() -> None:
    """Give a site what it needs to fetch files for you elsewhere.

    A secret is read from a file or from standard input, never from the command line, and is
    kept encrypted.  Nobody gets it back, you neither.
    """


def _holder(command: Any) -> Any:
    command = click.option("--user", metavar="NAME", help="Of that user (administrators).")(command)
    return click.option("--site", "is_sites", is_flag=True, help="The site's own (administrators).")(command)


def _user(user: str | None, *, is_sites: bool) -> str | None:
    if user and is_sites:
        raise click.UsageError("give --user or --site, not both")
    return "" if is_sites else user


@credential.command("list")
@_holder
@output.json_option
@on_site
def list_(site: Site, *, user: str | None, is_sites: bool, as_json: bool) -> None:
    """List your credentials for origins, without their secrets."""
    found = site.call("credential.list", user=_user(user, is_sites=is_sites))
    if as_json:
        output.print_json(found)
        return
    rows = (
        (
            item["origin"],
            item["kind"],
            output.when(item["expires_at"]) or "never",
            item["renewal"] or "no",
            output.when(item["created_at"]),
            item["note"],
        )
        for item in found["items"]
    )
    output.print_table(("origin", "kind", "ends", "renewed", "since", "note"), rows)


@credential.command()
@click.argument("origin")
@click.argument("file", type=_file, required=False)
@click.option("--kind", type=click.Choice(("token", "password", "x509", "ssh")), required=True)
@click.option("--login", metavar="NAME", help="The name that goes with a password or an ssh key.")
@click.option("--note", help="What it is for.")
@click.option("--refresh-token-file", type=_file, help="What the token is renewed by.")
@click.option("--client-id", help="The client that the refresh token was given to.")
@click.option("--client-secret-file", type=_file, help="The secret of that client, if it has one.")
@click.option(
    "--proxy-hours",
    type=click.FloatRange(min=0.2, max=168),
    help="Show the origin proxies of that life instead of the certificate itself.",
)
@_holder
@output.json_option
@on_site
def add(
    site: Site,
    *,
    origin: str,
    file: Path | None,
    kind: str,
    login: str | None,
    note: str | None,
    refresh_token_file: Path | None,
    client_id: str | None,
    client_secret_file: Path | None,
    proxy_hours: float | None,
    user: str | None,
    is_sites: bool,
    as_json: bool,
) -> None:
    """Keep the secret in FILE ("-" for standard input) for ORIGIN, in place of a former one.

    A token and a password are the first line of the file; x509 is PEM text of certificate,
    key and chain, like a grid proxy, which is where it is looked for if FILE is not given.
    """
    if file is None and kind == "x509":
        file = Path(os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}")  # noqa: S108
    if file is None and refresh_token_file is None:
        raise click.UsageError('give the FILE that holds the secret, or "-" for standard input')
    made = site.call(
        "credential.put",
        origin=origin,
        kind=kind,
        secret=None if file is None else _read(file, is_line=kind in ("token", "password")),
        login=login,
        note=note,
        refresh_token=None if refresh_token_file is None else _read(refresh_token_file, is_line=True),
        client_id=client_id,
        client_secret=None if client_secret_file is None else _read(client_secret_file, is_line=True),
        proxy_hours=proxy_hours,
        user=_user(user, is_sites=is_sites),
    )
    if as_json:
        output.print_json(made)
        return
    ends = output.when(made["expires_at"])
    how = {"token": ", and is renewed", "proxy": "; origins are shown proxies made with it"}
    output.note(
        f"the credential for {origin} is kept{f' until {ends}' if ends else ''}{how.get(made['renewal'], '')}"
    )


def _read(file: Path, *, is_line: bool) -> str:
    """A secret from its file; of a text without a form its first line."""
    try:
        data = sys.stdin.buffer.read(_MOST + 1) if str(file) == "-" else file.read_bytes()[: _MOST + 1]
        text = data.decode()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no text") from None
    if len(data) > _MOST:
        raise InputError(f"{file} is too long for a secret")
    return text.partition("\n")[0].rstrip("\r") if is_line else text


@credential.command()
@click.argument("origins", nargs=-1, required=True, metavar="ORIGIN...")
@_holder
@on_site
def remove(site: Site, *, origins: tuple[str, ...], user: str | None, is_sites: bool) -> None:
    """Have the site forget credentials."""
    for origin in origins:
        site.call("credential.delete", origin=origin, user=_user(user, is_sites=is_sites))
        output.note(f"the credential for {origin} is forgotten")


@credential.command("new-key")
@with_settings
def new_key(settings: Settings) -> None:
    """Have this site seal with a new key from now on; run it where the key file is.

    The former keys stay in the file, for what they have sealed.  A server that runs takes
    the new key by itself.
    """
    from iceprod.server import vault_key  # noqa: PLC0415 - the whole server

    number = vault_key.rotate(settings)
    output.note(f"{settings.credential_key_path} has {number} keys; keep a copy in a safe place")
