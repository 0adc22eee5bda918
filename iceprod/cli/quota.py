"""``iceprod quota``: how much may be kept, and is."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site

_KINDS: Final = ("user", "group", "dataset")
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)b?", re.I)


class _Size(click.ParamType[int]):
    """A number of bytes, as ``500GB``, or ``none``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is no size: write 500GB, 2.5TB, or a number of bytes", param, ctx)
        return round(float(found[1]) * _UNITS[found[2].lower()])


@click.group()
def quota() -> None:
    """Show and set how much may be kept at a site.

    What counts are the files of the site itself, as the catalogue has them; those that lie
    elsewhere do not.  Sizes are in powers of ten: 500GB is 500 000 000 000 bytes.
    """


@quota.command()
@click.argument("kind", type=click.Choice(_KINDS), required=False)
@click.argument("holder", required=False)
@output.json_option
@on_site
def show(site: Site, *, kind: str | None, holder: str | None, as_json: bool) -> None:
    """Tell what the user, group or dataset HOLDER may keep, and keeps.

    Without it, what you and your groups may; for administrators all limits that there are.
    """
    if (kind is None) != (holder is None):
        raise click.UsageError("give both KIND and HOLDER, or none of them")
    if kind is not None:
        found = site.call("quota.get", kind=kind, holder=holder)
        items = [found]
    else:
        found = site.call("quota.list")
        items = found["items"]
    if as_json:
        output.print_json(found)
        return
    rows = (
        (
            item["kind"],
            item["holder"] or "(others)",
            output.size(item["bytes_kept"]),
            "any" if item["bytes_most"] is None else output.size(item["bytes_most"]),
            item["files_kept"],
            "any" if item["files_most"] is None else item["files_most"],
            _share(item),
            item["source"],
        )
        for item in items
    )
    columns = ("kind", "holder", "kept", "of", "files", "of", "used", "limit")
    output.print_table(columns, rows)


def _share(item: dict[str, Any]) -> str:
    """How much of the limit is used, in percent."""
    shares = [
        item[f"{what}_kept"] / item[f"{what}_most"] for what in ("bytes", "files") if item[f"{what}_most"]
    ]
    return f"{100 * max(shares):.0f} %" if shares else ""


@quota.command("set")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("holder", required=False, default="")
@click.option("--bytes", "bytes_most", type=_Size(), metavar="SIZE", help="Most bytes, like 500GB.")
@click.option("--files", "files_most", type=click.IntRange(min=0), help="Most files.")
@click.option("--forget", is_flag=True, help="Forget the limit: the next wider one holds again.")
@on_site
def set_(
    site: Site, *, kind: str, holder: str, bytes_most: int | None, files_most: int | None, forget: bool
) -> None:
    """Limit what the user, group or dataset HOLDER may keep; without it, whoever has no own limit.

    The limit takes the place of a former one as a whole: what is not given is not limited.
    """
    if forget == (bytes_most is not None or files_most is not None):
        raise click.UsageError("give --bytes, --files or both, or --forget")
    site.call("quota.set", kind=kind, holder=holder, bytes_most=bytes_most, files_most=files_most)
    whose = f"{kind} {holder}" if holder else f"every {kind} that has no own limit"
    if forget:
        output.note(f"the limit of {whose} is forgotten")
        return
    limits = [output.size(bytes_most)] if bytes_most is not None else []
    limits += [f"{files_most} files"] if files_most is not None else []
    output.note(f"{whose} may keep {' and '.join(limits)}")
