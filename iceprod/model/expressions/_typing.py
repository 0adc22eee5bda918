"""Text to typed value: the last step of every expression."""

from __future__ import annotations

import json
from typing import Any

# What a JSON document can begin with; anything else need not be tried.  Of those that begin
# with a letter there are few.
_JSON_STARTS = frozenset("{[\"'-0123456789 \t\r\n")
_JSON_WORDS = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
}


def literal(text: str) -> Any:
    """The value that ``text`` spells: JSON (single quotes tolerated), a number, or itself.

    A text within double quotes stays as it is, quotes included.
    """
    if text.startswith('"') and text.endswith('"'):
        return text
    if text[:1] in _JSON_STARTS:
        try:
            return json.loads(text.replace("'", '"'))
        except (ValueError, RecursionError):
            pass
    word = text.rstrip(" \t\r\n")
    return _JSON_WORDS[word] if word in _JSON_WORDS else _word(text)


def _word(text: str) -> Any:
    lowered = text.lower() if len(text) < 6 else ""
    if lowered in ("true", "false"):
        return lowered == "true"
    first = text[:1]
    if first == "/" or (first.isalpha() and first not in "iInN"):
        return text  # neither a digit nor infinite nor NaN, which is seen sooner than tried
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def spelled(value: Any) -> str:
    """The text that stands for ``value`` inside a larger text."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return str(value)
