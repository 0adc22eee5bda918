"""What goes wrong below the port, and how the port's errors come of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from iceprod.errors import (
    AccessDenied,
    ConflictError,
    IceProdError,
    InputError,
    NotFoundError,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location

if TYPE_CHECKING:
    from iceprod.movers.gridftp.replies import Reply

_WORDS: Final = 200

# Servers say the reason in words only; those of the C library's errors are the same everywhere.
_REASONS: Final[tuple[tuple[str, str], ...]] = (
    (
        r"c=PATH_NOT_FOUND|Errno: 2\b|no such file|not found|does not exist|c=NOT_A_DIRECTORY|not a dir",
        "absent",
    ),
    (
        r"c=PERMISSION_DENIED|Errno: (1|13|30)\b|permission|not permitted|not allowed|denied|read-only",
        "denied",
    ),
    (r"c=NO_SPACE|Errno: (28|122)\b|no space|quota|insufficient storage|disk full", "full"),
    (r"c=PATH_EXISTS|Errno: (17|39)\b|file exists|already exists|not empty", "exists"),
    (r"c=IS_A_DIRECTORY|Errno: 21\b|is a directory|not a plain file|not a regular file", "directory"),
)
_BY_CODE: Final = {452: "full", 552: "full", 530: "denied", 532: "denied", 535: "denied", 534: "denied"}
_UNKNOWN_COMMANDS: Final = frozenset({500, 501, 502, 504})


class ProtocolFault(Exception):
    """The server says what it may not; the connection is of no further use."""


class Refused(Exception):
    """The server answered ``reply`` to a command named ``verb``."""

    def __init__(self, verb: str, reply: Reply) -> None:
        super().__init__(f"{verb} was answered {reply.code}")
        self.verb = verb
        self.reply = reply

    @property
    def is_unknown(self) -> bool:
        """Whether the server has no such command, as far as one can tell."""
        return self.reply.code in _UNKNOWN_COMMANDS and self.reason == ""

    @property
    def reason(self) -> str:
        """``absent``, ``denied``, ``full``, ``exists``, ``directory`` or empty."""
        text = self.reply.text
        for pattern, reason in _REASONS:
            if re.search(pattern, text, re.IGNORECASE):
                return reason
        return _BY_CODE.get(self.reply.code, "")


def in_words(text: str) -> str:
    """What a server said, fit for a message: short and printable."""
    shown = " ".join(text.split())[:_WORDS]
    return "".join(one if one.isprintable() else "?" for one in shown)


def error_of(refused: Refused, location: Location, done_bytes: int) -> IceProdError:
    """The port's error for what a server refused."""
    said = f"{location.authority} answered {refused.reply.code} to {refused.verb}"
    # Replies to a login may repeat what was sent.
    if refused.verb not in ("USER", "PASS", "ADAT", "AUTH"):
        said += f": {in_words(refused.reply.text)}"
    source = str(location)
    match refused.reason:
        case "absent":
            return NotFoundError("file", source)
        case "denied":
            return AccessDenied(said, source=source)
        case "full":
            return Unavailable(said, reason="storage_full", source=source)
        case "exists" | "directory":
            return ConflictError(said, source=source)
    if refused.reply.code in (502, 504):
        return InputError(said, source=source)
    return TransferFailed(said, source=source, done_bytes=done_bytes)


@contextmanager
def told_of(location: Location, done: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Turn faults of the protocol and of the network into the port's errors."""
    try:
        yield
    except Refused as refused:
        raise error_of(refused, location, done()) from refused
    except TimeoutError:
        raise _failed(location, "nothing came for too long", done()) from None
    except (OSError, ProtocolFault, EOFError) as error:
        raise _failed(location, in_words(str(error)) or type(error).__name__, done()) from error


def _failed(location: Location, why: str, done_bytes: int) -> TransferFailed:
    return TransferFailed(f"{location.authority}: {why}", source=str(location), done_bytes=done_bytes)
