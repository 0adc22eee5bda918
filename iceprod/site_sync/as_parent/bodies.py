"""What the statements of children hold, by their kind."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from iceprod.errors import InputError
from iceprod.model.federation import OperationKind
from iceprod.services.reporting import ErrorParameter, Name, StatsParameter, Text


class Started(msgspec.Struct, frozen=True):
    """Where a pilot has begun."""

    hostname: Name = ""


class Logged(msgspec.Struct, frozen=True):
    """A log (base64 of zlib) in place of what the attempt had sent under that name."""

    name: str
    data: str


class Finished(msgspec.Struct, frozen=True):
    """What an attempt that went well has taken."""

    stats: StatsParameter = StatsParameter()


class Failed(msgspec.Struct, frozen=True):
    """Why an attempt failed, and what it took."""

    error: ErrorParameter


class Returned(msgspec.Struct, frozen=True):
    """Why a task is given back."""

    reason: Text = ""


Body = Started | Logged | Finished | Failed | Returned

_TYPES: Final[dict[OperationKind, type[Body]]] = {
    OperationKind.STARTED: Started,
    OperationKind.LOG: Logged,
    OperationKind.FINISHED: Finished,
    OperationKind.FAILED: Failed,
    OperationKind.RETURNED: Returned,
}


def read(kind: OperationKind, body: dict[str, Any]) -> Body:
    """What a statement of a kind that is stated says; fields that are not known are passed over.

    Raises:
        InputError: that is none.
    """
    try:
        return msgspec.convert(body, _TYPES[kind])
    except (ValueError, RecursionError) as error:
        raise InputError(f"a statement of kind {kind} can't be read: {error}") from None
