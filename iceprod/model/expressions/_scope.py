"""What names mean at one place of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from iceprod.model.expressions._budget import Unresolvable
from iceprod.model.expressions._typing import spelled
from iceprod.model.values import value

_NOTHING: Mapping[str, Any] = {}


@value
class Scope:
    """Where an expression looks names up.

    ``parameters`` are those of the scopes around it, innermost first merged; ``top`` the
    configuration's top-level values that are not objects; ``steering`` the steering parameters
    as written; ``metadata`` the dif and plus records; ``environ`` the environment variables, or
    None where there are none to see (on the server).  ``place`` names the expression for the
    random draws of ``$choice``.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    steering: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    metadata: tuple[Mapping[str, Any], ...] = ()
    environ: Mapping[str, str] | None = None
    place: str = ""

    def with_parameters(self, parameters: Mapping[str, Any]) -> Scope:
        """The same with other parameters; for the many scopes of each task, faster than `replace`."""
        return self._like(parameters, self.options, self.place)

    def with_options(self, options: Mapping[str, Any], place: str | None = None) -> Scope:
        """The same with other options, and perhaps at another place."""
        return self._like(self.parameters, options, self.place if place is None else place)

    def _like(self, parameters: Mapping[str, Any], options: Mapping[str, Any], place: str) -> Scope:
        return Scope(
            parameters,
            self.top,
            options,
            self.steering,
            self.system,
            self.metadata,
            self.environ,
            place,
        )

    def name(self, key: str) -> str:
        """The text of ``$(key)``; raises Unresolvable if no scope has it."""
        for table in (self.parameters, self.top, self.options, self.steering):
            if key in table:
                if table[key] is None:
                    break
                return spelled(table[key])
        raise Unresolvable(key)

    def keyword(self, keyword: str, key: str) -> str:
        """The text of ``$keyword(key)`` for a keyword that looks something up."""
        for table in self._tables(keyword):
            if key in table:
                return spelled(table[key])
        raise Unresolvable(key)

    def _tables(self, keyword: str) -> tuple[Mapping[str, Any], ...]:
        if keyword == "metadata":
            return self.metadata
        table = {
            "steering": self.steering,
            "system": self.system,
            "args": self.options,
            "options": self.options,
            "environ": self.environ or _NOTHING,
        }
        return (table.get(keyword, _NOTHING),)
