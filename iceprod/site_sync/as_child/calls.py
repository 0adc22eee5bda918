"""How a child calls its parent, as the loops that do so see it."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

Answer = TypeVar("Answer", bound=msgspec.Struct)


class Calls(Protocol):
    """The way to one parent (`iceprod.site_sync.as_child.link.ParentLink`)."""

    async def call(self, method: str, message: msgspec.Struct, answer: type[Answer]) -> Answer:
        """The answer to ``message``; raises what the parent answered with, or Unavailable."""
        ...

    async def pause(self) -> None:
        """Wait until it is worth calling again: not at all unless the last call failed."""
        ...

    def distrust(self, reason: str) -> None:
        """Count an answer as a failure: it was not given by whom it should have been."""
        ...

    def close(self) -> None:
        """Close the connections that are kept."""
        ...
