"""Calls to a parent in one of its terms."""

from __future__ import annotations

import asyncio

import msgspec

from iceprod.errors import ConflictError
from iceprod.site_sync.as_child.calls import Answer, Calls


class Termed:
    """The way to a parent, on which every message that has room for it tells the ``term``.

    ``is_stale`` is set when the parent has answered that this is not its present one: then it has
    to be greeted anew.
    """

    def __init__(self, link: Calls) -> None:
        self.term = 0
        self.is_stale = asyncio.Event()
        self._link = link

    async def call(self, method: str, message: msgspec.Struct, answer: type[Answer]) -> Answer:
        """See `Calls`."""
        if "term" in message.__struct_fields__:
            message = msgspec.structs.replace(message, term=self.term)
        try:
            return await self._link.call(method, message, answer)
        except ConflictError as exc:
            if "term" in exc.detail:
                self.is_stale.set()
            raise

    async def pause(self) -> None:
        """See `Calls`."""
        await self._link.pause()

    def distrust(self, reason: str) -> None:
        """See `Calls`."""
        self._link.distrust(reason)

    def close(self) -> None:
        """See `Calls`."""
        self._link.close()
