"""The terms of a site: each time that it goes on from an old memory of its own, a new one begins.

A term is higher than all before it.  Children tell the one in which they speak, so that what
was said to a site that remembered more, or to a copy of it that somebody else has replaced, is
told from what is said to this one.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from iceprod.store.base import ValueRepository

NAME: Final = "federation.term"
"""The document of the store; that of a site that was never restored has none."""


class Term(msgspec.Struct, frozen=True, omit_defaults=True):
    """The present term, and whether children have still to say what they hold since it began."""

    number: int = 0
    is_recovering: bool = False


def read(text: str | None) -> Term:
    """A term from its document."""
    return Term() if text is None else msgspec.json.decode(text, type=Term)


async def current(values: ValueRepository) -> Term:
    """The term of a store."""
    return read(await values.get(NAME))


async def begin(values: ValueRepository, *, above: int, now: float) -> int:
    """Begin with a term over that of the store, ``above``, and whatever may have been begun elsewhere.

    Of that nothing is known here: that a term is no less than the seconds since the epoch
    makes it another one when the same backup is restored twice, and higher if clocks are right.
    """
    number = max(above + 1, (await current(values)).number + 1, math.ceil(now))
    await keep(values, Term(number, is_recovering=True))
    return number


async def keep(values: ValueRepository, term: Term) -> None:
    """Have this be the term of a store."""
    await values.put(NAME, msgspec.json.encode(term).decode())
