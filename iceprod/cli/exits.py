"""From an error to an exit code and to what is said about it: the one place."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from iceprod.errors import IceProdError

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
DENIED: Final = 4
UNAVAILABLE: Final = 5
CONFIGURATION: Final = 78

EXIT_CODES: Final[dict[str, int]] = {
    "internal": FAILURE,
    "invalid_input": USAGE,
    "invalid_query": USAGE,
    "invalid_document": FAILURE,
    "not_authenticated": DENIED,
    "access_denied": DENIED,
    "quota_exceeded": DENIED,
    "not_found": NOT_FOUND,
    "conflict": FAILURE,
    "already_exists": FAILURE,
    "invalid_transition": FAILURE,
    "version_mismatch": FAILURE,
    "lease_lost": FAILURE,
    "too_large": FAILURE,
    "rate_limited": UNAVAILABLE,
    "unavailable": UNAVAILABLE,
    "transfer_failed": UNAVAILABLE,
    "bad_config": CONFIGURATION,
}
"""Slug of an `iceprod.errors.IceProdError` → exit code of the process."""

_NEXT_STEPS: Final[dict[str, str]] = {
    "not_authenticated": "sign in with: iceprod login --url URL  (or set ICEPROD_TOKEN_FILE)",
    "access_denied": "ask the owner of the object or an administrator of the site",
    "version_mismatch": "fetch the present version, apply your change to it, and try again",
    "unavailable": "is the server running at this address? Try: iceprod doctor",
    "rate_limited": "wait a little and try again",
    "bad_config": "see what may be set with: iceprod config example",
}

_LISTS: Final[dict[str, str]] = {
    "dataset": "iceprod dataset list",
    "job": "iceprod job list DATASET_ID",
    "task": "iceprod task list DATASET_ID",
    "log": "iceprod task log TASK_ID --json",
    "pilot": "iceprod pilot list",
    "user": "iceprod user list",
    "token": "iceprod token list",
    "certificate": "iceprod certificate list",
}
"""Kind of thing that was not found → the command that lists those that there are."""


def told(error: IceProdError) -> int:
    """Say on stderr what is wrong and what to do next; gives the exit code."""
    click.echo(f"error: {error.message}", err=True)
    for line in _fields(error.detail.get("fields")):
        if line.strip() not in error.message:
            click.echo(line, err=True)
    listing = _LISTS.get(str(error.detail.get("kind")))
    step = f"list what there is with: {listing}" if listing else _NEXT_STEPS.get(error.code)
    if step:
        click.echo(f"next: {step}", err=True)
    return EXIT_CODES.get(error.code, FAILURE)


def _fields(fields: Any) -> list[str]:
    if not isinstance(fields, list):
        return []
    return [
        f"  {item.get('path') or '/'}: {item.get('message')}" for item in fields if isinstance(item, dict)
    ]


def fail(message: str, code: int = FAILURE) -> None:
    """End the process with ``message`` on stderr."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
