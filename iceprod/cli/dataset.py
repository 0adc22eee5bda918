"""``iceprod dataset``: submit datasets, follow and steer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from iceprod.cli import asking, output, watching
from iceprod.cli.connection import Site, on_site
from iceprod.cli.dataset_where import where
from iceprod.cli.documents import content
from iceprod.cli.reasons import print_reasons
from iceprod.errors import FormatError
from iceprod.formats.dataset import loads

HERE: Final = "here"
"""What this site is called where sites are named."""
STATUSES: Final = ["processing", "complete", "errors", "suspended"]


@click.group()
def dataset() -> None:
    """Submit datasets, follow and steer them."""


@dataset.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-n", "--jobs", type=click.IntRange(min=1), required=True, help="How many jobs.")
@click.option("--description", help="What it is for; by default the one in the file.")
@click.option("--group", help="The group whose share it uses.")
@click.option("--priority", type=click.FloatRange(0, 1), help="0 to 1 within your share; 0.5 by default.")
@click.option("--debug", is_flag=True, help="Suspend failing tasks for inspection instead of retrying.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give a steering parameter another value; may be repeated.",
)
@click.option("--only", multiple=True, metavar="SITE", help="Run tasks there alone; may be repeated.")
@click.option("--never", multiple=True, metavar="SITE", help="Run no tasks there; may be repeated.")
@click.option("-w", "--watch", is_flag=True, help="Follow its progress until it ends.")
@output.json_option
@on_site
def submit(
    site: Site,
    *,
    file: Path,
    jobs: int,
    settings: tuple[str, ...],
    only: tuple[str, ...],
    never: tuple[str, ...],
    debug: bool,
    watch: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Submit the configuration in FILE (JSON or YAML; - reads standard input)."""
    config = with_settings(read_config(file), settings)
    options |= {"only": _site_names(only) or None, "never": _site_names(never) or None}
    made = site.call("dataset.submit", config=config, njobs=jobs, debug=debug or None, **options)
    for warning in made["warnings"]:
        output.note(f"warning: {warning['path']}: {warning['message']}")
    if as_json:
        output.print_json(made)
    else:
        click.echo(made["dataset_id"])
        page = f"{site.url}/datasets/{made['dataset_id']}"
        output.note(f"dataset {made['number']} has {jobs} job{'s' if jobs != 1 else ''}: {page}")
    return watching.watch(site, made["dataset_id"]) if watch else 0


def read_config(file: Path) -> dict[str, Any]:
    """The dataset configuration in a JSON or YAML file; its rules are the server's to check.

    Raises FormatError if it is neither, or not one object.
    """
    try:
        return loads(content(file), format="json" if file.suffix == ".json" else "")
    except FormatError as exc:
        raise FormatError(f"{file}: {exc.message}", **exc.detail) from None


def with_settings(config: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """``config`` with steering parameters changed as ``NAME=VALUE`` says; JSON values keep their type."""
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{setting!r} is not NAME=VALUE", param_hint="--set")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        steering = config.get("steering") or {}
        parameters = {**(steering.get("parameters") or {}), name: value}
        config = {**config, "steering": {**steering, "parameters": parameters}}
    return config


@dataset.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@click.option("--owner", help="Only those of this user.")
@click.option("--group", help="Only those of this group.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@output.json_option
@on_site
def list_(site: Site, *, limit: int, as_json: bool, **filters: str | None) -> None:
    """List datasets, newest first."""
    found = site.listed("dataset.list", limit=limit, **filters)
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("number", "id", "status", "jobs", "owner", "submitted", "description"),
        (
            (
                item["number"],
                item["dataset_id"],
                item["status"],
                item["jobs_wanted"],
                item["owner"],
                output.when(item["created_at"]),
                item["description"],
            )
            for item in found["items"]
        ),
    )


@dataset.command()
@click.argument("dataset_id")
@click.option("--config", "only_config", is_flag=True, help="Print the configuration, and nothing else.")
@output.json_option
@on_site
def show(site: Site, *, dataset_id: str, only_config: bool, as_json: bool) -> None:
    """Show a dataset and how far it is.

    As JSON: what dataset.get tells, with what dataset.progress tells as "progress".
    """
    if only_config:
        output.print_json(site.call("dataset.config", dataset_id=dataset_id))
        return
    found = site.call("dataset.get", dataset_id=dataset_id)
    progress = site.call("dataset.progress", dataset_id=dataset_id)
    if as_json:
        output.print_json({**found, "progress": progress})
        return
    output.print_fields(
        [
            ("dataset", f"{found['dataset_id']} (number {found['number']})"),
            ("status", f"{found['status']}{', truncated' if found['truncated'] else ''}"),
            ("description", found["description"]),
            ("owner", f"{found['owner']} ({found['group']})"),
            ("submitted", output.when(found["created_at"])),
            ("jobs", f"{progress['jobs_wanted']}: {output.counts(progress['jobs'])}"),
            ("tasks", output.counts(progress["tasks"])),
            *([("runs", rules)] if (rules := site_rules(found)) != "anywhere" else []),
            ("page", f"{site.url}/datasets/{dataset_id}"),
        ]
    )
    rows = [(task["index"], task["name"], output.counts(task["counts"])) for task in progress["by_task"]]
    click.echo()
    output.print_table(("index", "task", "of the jobs made so far"), rows)


@dataset.command()
@click.argument("dataset_id")
@on_site
def watch(site: Site, *, dataset_id: str) -> int:
    """Follow a dataset until it ends; exits with 1 unless it is complete then."""
    return watching.watch(site, dataset_id)


@dataset.command()
@click.argument("dataset_id")
@output.json_option
@on_site
def why(site: Site, *, dataset_id: str, as_json: bool) -> None:
    """Say why tasks of a dataset are not running."""
    print_reasons(site.call("dataset.why", dataset_id=dataset_id), as_json=as_json)


@dataset.command()
@click.argument("dataset_id")
@click.option(
    "-n", "--jobs", type=click.IntRange(min=1), required=True, help="The new total, not how many more."
)
@on_site
def extend(site: Site, *, dataset_id: str, jobs: int) -> None:
    """Give a dataset more jobs."""
    site.call("dataset.extend", dataset_id=dataset_id, njobs=jobs)
    output.note(f"dataset {dataset_id} is to have {jobs} jobs")


@dataset.command()
@click.argument("dataset_id")
@click.argument("priority", type=click.FloatRange(0, 1))
@on_site
def priority(site: Site, *, dataset_id: str, priority: float) -> None:
    """Set a dataset's PRIORITY, 0 to 1 within its owner's share."""
    site.call("dataset.priority", dataset_id=dataset_id, priority=priority)
    output.note(f"dataset {dataset_id} has priority {priority:g}")


@dataset.command()
@click.argument("dataset_id")
@click.option("--only", multiple=True, metavar="SITE", help="Run tasks there alone; may be repeated.")
@click.option("--never", multiple=True, metavar="SITE", help="Run no tasks there; may be repeated.")
@click.option("--anywhere", is_flag=True, help="Run tasks wherever they fit.")
@on_site
def sites(
    site: Site, *, dataset_id: str, only: tuple[str, ...], never: tuple[str, ...], anywhere: bool
) -> None:
    """Set at which sites tasks of a dataset may run; "here" is this one.

    Tasks that are at another site already go on there.
    """
    if anywhere == bool(only or never):
        raise click.UsageError("give --only, --never or both, or --anywhere")
    found = site.call(
        "dataset.sites", dataset_id=dataset_id, only=_site_names(only), never=_site_names(never)
    )
    output.note(f"dataset {dataset_id} runs {site_rules(found)}")


def _site_names(names: tuple[str, ...]) -> list[str]:
    return ["" if name == HERE else name for name in names]


def site_rules(found: dict[str, Any]) -> str:
    """Where a dataset's tasks may run, in words."""
    only, never = (
        ", ".join(name or HERE for name in found[field]) for field in ("only_sites", "never_sites")
    )
    parts = [f"only at {only}" if only else "", f"never at {never}" if never else ""]
    return " and ".join(filter(None, parts)) or "anywhere"


def _steer(verb: str, text: str, done: str, *, confirm: str | None = None) -> None:
    """Add a command that calls ``dataset.<verb>`` for each dataset named."""

    @dataset.command(verb.replace("_", "-"), help=text, short_help=text)
    @click.argument("dataset_ids", nargs=-1, required=True, metavar="DATASET_ID...")
    @click.option("-y", "--yes", is_flag=True, hidden=confirm is None, help="Do not ask.")
    @on_site
    def command(site: Site, *, dataset_ids: tuple[str, ...], yes: bool) -> None:
        if confirm and not yes:
            asking.confirm(confirm, instead="--yes")
        for dataset_id in dataset_ids:
            site.call(f"dataset.{verb}", dataset_id=dataset_id)
            output.note(f"dataset {dataset_id}: {done}")


dataset.add_command(where)

_steer("suspend", "Stop a dataset: nothing of it is run until it is resumed.", "suspended")
_steer("resume", "Let a suspended dataset go on.", "resumed")
_steer(
    "reset", "Run a dataset's failed and suspended tasks again.", "failed and suspended tasks will run again"
)
_steer(
    "hard_reset",
    "Run all tasks of a dataset again, the complete ones too.",
    "all tasks will run again",
    confirm="Run every task again and forget the results?",
)
_steer("truncate", "Make no more jobs of a dataset; those made already go on.", "no more jobs will be made")
