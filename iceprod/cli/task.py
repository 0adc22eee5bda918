"""``iceprod task``: list and steer tasks, read their logs, ask why they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from iceprod.cli import output
from iceprod.cli.connection import Site, on_site
from iceprod.cli.reasons import print_reasons
from iceprod.cli.steering import add_steering
from iceprod.errors import NotFoundError

STATUSES = ["idle", "waiting", "queued", "processing", "complete", "failed", "suspended"]
_PIECE = 1 << 20
_FOLLOW_S = 1.0


@click.group()
def task() -> None:
    """List and steer tasks, read their logs, ask why they wait."""


@task.command("list")
@click.argument("dataset_id")
@click.option("--job", "job_id", help="Only those of the job with this id.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@click.option("--name", help="Only those of this name.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@output.json_option
@on_site
def list_(site: Site, *, limit: int, as_json: bool, **filters: str | None) -> None:
    """List the tasks of a dataset."""
    found = site.listed("task.list", limit=limit, **filters)
    if as_json:
        output.print_json(found)
        return
    rows = (
        (
            item["job_index"],
            item["name"],
            item["task_id"],
            item["status"],
            item["failures"],
            item["evictions"],
            output.when(item["status_changed_at"]),
        )
        for item in found["items"]
    )
    output.print_table(("job", "task", "id", "status", "failures", "evictions", "since"), rows)


@task.command()
@click.argument("task_id")
@output.json_option
@on_site
def show(site: Site, *, task_id: str, as_json: bool) -> None:
    """Show a task and the history of its attempts."""
    found = site.call("task.get", task_id=task_id)
    if as_json:
        output.print_json(found)
        return
    about = found["task"]
    output.print_fields(
        [
            ("task", f"{about['task_id']} ({about['name']})"),
            ("status", f"{about['status']} since {output.when(about['status_changed_at'])}"),
            ("attempts", about["attempt"]),
            ("failures", about["failures"]),
            ("evictions", about["evictions"]),
            ("pilot", about["pilot_id"]),
            ("held back until", output.when(about["release_at"])),
        ]
    )
    if found["attempts"]:
        click.echo()
        output.print_table(
            ("attempt", "outcome", "began", "took", "on", "used", "what happened"),
            (_attempt(attempt) for attempt in found["attempts"]),
        )


def _attempt(attempt: dict[str, Any]) -> tuple[Any, ...]:
    reason = ": ".join(part for part in (attempt["failure_class"], attempt["summary"]) if part)
    return (
        attempt["attempt"],
        attempt["outcome"],
        output.when(attempt["started_at"]),
        output.how_long(attempt["walltime_s"]),
        attempt["hostname"],
        output.amounts(attempt["usage"]),
        reason,
    )


@task.command()
@click.argument("task_id")
@click.option("--name", help="Only this log: stdout, stderr or stdlog.")
@click.option("--attempt", type=click.IntRange(min=1), help="Of this attempt; by default the last one.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with stdout (or --name) while it runs.")
@output.json_option
@on_site
def log(
    site: Site, *, task_id: str, name: str | None, attempt: int | None, follows: bool, as_json: bool
) -> None:
    """Print a task's logs; as JSON, list which there are."""
    if follows:
        follow_log(site, task_id, name or "stdout")
        return
    logs = site.call("task.logs", task_id=task_id)
    if as_json:
        output.print_json(logs)
        return
    chosen = choose_logs(logs["items"], name=name, attempt=attempt)
    if not chosen:
        which = f" {name}" if name else ""
        of_attempt = f" of attempt {attempt}" if attempt else ""
        raise NotFoundError("log", f"{task_id}{which}{of_attempt}")
    for found in chosen:
        if name is None:
            output.note(f"--- {found['name']}, attempt {found['attempt']}, {found['size_bytes']} bytes")
        print_log(site, task_id, found)


def choose_logs(logs: list[dict[str, Any]], *, name: str | None, attempt: int | None) -> list[dict[str, Any]]:
    """The logs of one attempt (the last one that has any), all or that of ``name``."""
    named = [found for found in logs if name in (None, found["name"])]
    last = max((found["attempt"] for found in named), default=0)
    wanted = attempt or last
    return [found for found in named if found["attempt"] == wanted]


def follow_log(site: Site, task_id: str, name: str, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Print a log and what is added to it, until the task is not processing any more.

    Pilots send what a task prints every few seconds.  A new attempt begins from its start.
    """
    attempt = printed = 0
    while True:
        runs = site.call("task.get", task_id=task_id)["task"]["status"] == "processing"
        for found in choose_logs(site.call("task.logs", task_id=task_id)["items"], name=name, attempt=None):
            if found["attempt"] != attempt:
                attempt, printed = found["attempt"], 0
                output.note(f"--- {name}, attempt {attempt}")
            if found["size_bytes"] > printed:
                for piece in _pieces(site, task_id, found, printed):
                    click.echo(piece["text"], nl=False)
                    printed = piece["size_bytes"]
        if not runs:
            return
        pause(_FOLLOW_S)


def print_log(site: Site, task_id: str, found: dict[str, Any]) -> None:
    """One log on stdout, fetched in pieces; ends with the end of a line."""
    text = ""
    for piece in _pieces(site, task_id, found, 0):
        text = piece["text"] or text
        click.echo(piece["text"], nl=False)
    if text and not text.endswith("\n"):
        click.echo()


def _pieces(site: Site, task_id: str, found: dict[str, Any], offset: int) -> Iterator[dict[str, Any]]:
    """A log from byte ``offset`` to its end, as the site tells its parts."""
    size = offset + 1
    while offset < size:
        part = {"offset": offset, "limit": _PIECE, "attempt": found["attempt"]}
        piece = site.call("task.log", task_id=task_id, name=found["name"], **part)
        yield piece
        offset, size = offset + _PIECE, piece["size_bytes"]


@task.command()
@click.argument("task_id")
@output.json_option
@on_site
def why(site: Site, *, task_id: str, as_json: bool) -> None:
    """Say why a task is not running."""
    print_reasons(site.call("task.why", task_id=task_id), as_json=as_json)


add_steering(task, kind="task")
