"""Expanding one value: passes over its text until it no longer changes, then its type."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from iceprod.errors import FormatError
from iceprod.model.expressions._budget import MAX_DEPTH, Budget, Unresolvable, refused
from iceprod.model.expressions._functions import FUNCTIONS, call
from iceprod.model.expressions._rewriting import rewrite
from iceprod.model.expressions._scope import Scope
from iceprod.model.expressions._typing import literal, spelled

# Units of work, against one for each character built.
_READING = 8  # for each character read
_PHRASE = 100  # for each phrase replaced

_PLAIN = 1000  # characters of a text that is looked at without an account of its own


def expand(text: str, scope: Scope, *, budget: Budget | None = None, place: str = "") -> Any:
    """The typed value of ``text``; raises FormatError if it is over a limit.

    Its work is also taken from ``budget``, which many expressions may share; ``place`` names
    the expression for its random draws, within the scope's own place.
    What has no value in ``scope`` stays in the result as it was written.
    """
    if budget is not None and len(text) < _PLAIN and not is_open(text):
        found = literal(text)
        if found is text or not isinstance(found, str | list | dict):
            budget.spend(len(text) + _READING)
            return found
    return _Expansion(scope, Budget(outer=budget), place).value(text, MAX_DEPTH)


def is_open(text: str) -> bool:
    """Whether ``text`` may hold a phrase or an escape, so that what it gives depends on where it stands."""
    return "$" in text or "\\" in text


class _Expansion:
    """One expansion: its scope, the work it has left and the random choices it has made."""

    __slots__ = ("_budget", "_draws", "_place", "_scope")

    def __init__(self, scope: Scope, budget: Budget, place: str) -> None:
        self._scope = scope
        self._budget = budget
        self._place = place
        self._draws = 0

    def value(self, text: str, depth: int) -> Any:
        """The typed value of ``text``."""
        result: Any = text
        for _ in range(MAX_DEPTH + 1):
            rewritten = self._pass(text, depth)
            result = literal(text if rewritten is None else rewritten)
            if rewritten is None or not isinstance(result, str) or result == text:
                break
            text = result
        else:
            raise refused(f"not settled after {MAX_DEPTH} passes (does a parameter refer to itself?)")
        return self._contents(result, depth)

    def _contents(self, value: Any, depth: int) -> Any:
        """Expand within a list or object that a text spelled, its keys too."""
        if isinstance(value, list):
            return [self._content(item, depth - 1) for item in value]
        if isinstance(value, dict):
            return {self._key(key, depth - 1): self._content(item, depth - 1) for key, item in value.items()}
        return value

    def _content(self, item: Any, depth: int) -> Any:
        if depth < 1:
            return item
        return self.value(item, depth) if isinstance(item, str) else self._contents(item, depth)

    def _key(self, key: str, depth: int) -> Any:
        expanded = self._content(key, depth)
        return key if isinstance(expanded, list | dict) else expanded

    def _text(self, text: str, depth: int) -> str:
        """``text`` after as many passes as it needs, without giving it a type."""
        if depth < 1:
            raise refused(f"phrases nested more than {MAX_DEPTH} deep (does a parameter refer to itself?)")
        for _ in range(MAX_DEPTH + 1):
            rewritten = self._pass(text, depth)
            if rewritten is None or rewritten == text:
                return text
            text = rewritten
        raise refused(f"not settled after {MAX_DEPTH} passes (does a parameter refer to itself?)")

    def _pass(self, text: str, depth: int) -> str | None:
        if not is_open(text):
            self._budget.spend(len(text) + _READING)
            return text  # without a phrase or an escape, nothing is rewritten
        self._budget.spend(_READING * len(text))

        def phrase(name: str, argument: str) -> str:
            return self._spent(self._phrase(name, argument, depth))

        def index(container: str, key: str) -> str:
            return self._spent(self._index(container, key, depth))

        return rewrite(text, phrase=phrase, index=index)

    def _spent(self, text: str) -> str:
        self._budget.spend(_PHRASE + len(text))
        return text

    def _phrase(self, name: str, argument: str, depth: int) -> str:
        try:
            if not name:
                return self._scope.name(argument)
            if name in FUNCTIONS:
                return call(name, argument, resolve=lambda text: self._text(text, depth - 1), draw=self._draw)
            return self._scope.keyword(name, argument)
        except Unresolvable:
            return f"${name}({argument})"
        except FormatError as exc:
            if "phrase" not in exc.detail:
                exc.detail["phrase"] = f"${name}({argument})"[:200]
            raise

    def _draw(self) -> str:
        self._draws += 1
        return f"{self._scope.place}{self._place}\0{self._draws}"

    def _index(self, container: str, key: str, depth: int) -> str:
        """``container[key]``, where the key may itself be the name of something."""
        index = self._text(key, depth - 1) if key.endswith("]") else key
        with suppress(Unresolvable):
            index = self._scope.name(index)
        try:
            return _element(literal(container)[literal(index)])
        except (TypeError, LookupError, ValueError):
            return f"{container}[{index}]"


def _element(value: Any) -> str:
    """The text of an element: Python's, as it always was, unless that cannot be read back."""
    text = str(value)
    return spelled(value) if isinstance(value, list | dict) and literal(text) != value else text
