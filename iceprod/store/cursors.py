"""Cursors: where a page ended, in a text that callers hand back without reading it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec

from iceprod.errors import QueryError
from iceprod.model.paging import MAX_PAGE, Page

_Place = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


def encode(*place: int | float | str) -> str:
    """A cursor that names ``place``."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def decode(cursor: str, shape: Any) -> Any:
    """The place that `encode` was given; ``shape`` is the tuple type it must have.

    Raises:
        QueryError: this is no cursor of that list.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=shape)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise QueryError("this cursor belongs to no list, or to another one") from None


def number_of(page: Page, default: int) -> int:
    """The one whole number that a page starts after; ``default`` for the first page."""
    if page.cursor is None:
        return default
    (place,) = decode(page.cursor, tuple[_Place])
    return int(place)


def checked(page: Page) -> Page:
    """``page`` itself.

    Raises:
        QueryError: its size is not allowed.
    """
    if not 1 <= page.limit <= MAX_PAGE:
        raise QueryError(f"a page has 1 to {MAX_PAGE} rows, not {page.limit}")
    return page
