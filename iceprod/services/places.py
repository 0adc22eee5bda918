"""Looking at and changing files at origins: what a person does there beside reading and sending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from iceprod.errors import ConflictError, InputError, TransferFailed
from iceprod.model.file import Direction
from iceprod.model.location import Location, parse_location
from iceprod.model.principal import Principal
from iceprod.movers.base import Entry, Facts, Incoming, Outgoing
from iceprod.services import authorization
from iceprod.services.origins import Origin, OriginRule, Origins
from iceprod.services.transfers import Transfer, Transfers

MAX_ENTRIES: Final = 10_000
"""Most names of a directory that are listed."""

Spawn = Callable[[str, Coroutine[Any, Any, object]], None]


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a copy."""

    location: Location
    origin: Origin


class Places:
    """Origins and the files there, for callers who may."""

    def __init__(self, origins: Origins, transfers: Transfers) -> None:
        self._origins = origins
        self._transfers = transfers
        self._copying: set[asyncio.Task[None]] = set()

    def origins(self, principal: Principal) -> list[OriginRule]:
        """The origins that the caller may use, by name."""
        authorization.check(principal, "origin.list")
        seen = (rule for rule in self._origins.rules if self._origins.may_see(rule, principal))
        return sorted(seen, key=lambda rule: rule.name)

    async def stat(self, principal: Principal, url: str) -> Facts:
        """What the origin tells of a file.

        Raises:
            IceProdError: as of `Origins.find` and `Mover.stat`.
        """
        end = await self._end(principal, url)
        async with self._origins.turn(end.origin):
            return await end.origin.mover.stat(end.location, end.origin.access)

    async def entries(self, principal: Principal, url: str, *, limit: int = MAX_ENTRIES) -> list[Entry]:
        """What lies in a directory, by name.

        Raises:
            TooLarge: there is more than ``limit``.
            IceProdError: as of `Origins.find` and `Mover.list`.
        """
        end = await self._end(principal, url)
        async with self._origins.turn(end.origin):
            found = end.origin.mover.list(end.location, end.origin.access, limit=limit)
            return sorted([entry async for entry in found], key=lambda entry: entry.name)

    async def delete(self, principal: Principal, url: str) -> None:
        """Delete a file at an origin that may be written.

        Raises:
            IceProdError: as of `Origins.find` and `Mover.delete`.
        """
        end = await self._end(principal, url, writing=True)
        async with self._origins.turn(end.origin):
            await end.origin.mover.delete(end.location, end.origin.access)

    async def copy(self, principal: Principal, source: str, target: str) -> str:
        """Begin to copy a file from one origin to another; the id of the transfer, which says how it ends.

        Servers of the same protocol do so among themselves where they can; otherwise the bytes
        pass through this site.

        Raises:
            ConflictError: nobody says how long the file is.
            IceProdError: as of `Origins.find` and `Mover.stat`.
        """
        begin = await self._end(principal, source)
        end = await self._end(principal, target, writing=True)
        facts = await self.stat(principal, source)
        if facts.is_directory:
            raise InputError("only files are copied, one at a time")
        if facts.size_bytes is None:
            raise ConflictError("the origin does not tell the size of this file")
        flow = end.origin.flow(Direction.OUT, "proxy")
        label = f"{begin.location.shown} to {end.location.shown}"
        transfer = self._transfers.begin(flow, label=label, size_bytes=facts.size_bytes)
        task = asyncio.create_task(self._copied(begin, end, transfer, facts), name="copy a file")
        self._copying.add(task)
        task.add_done_callback(self._ended)
        return transfer.transfer_id

    async def stop(self) -> None:
        """Break off what is being copied."""
        for task in list(self._copying):
            task.cancel()
        await asyncio.gather(*self._copying, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._copying.discard(task)
        if not task.cancelled():
            task.exception()  # it was told to the transfer

    async def _end(self, principal: Principal, url: str, *, writing: bool = False) -> _End:
        location = parse_location(url)
        return _End(location, await self._origins.find(location, principal, writing=writing))

    async def _copied(self, source: _End, target: _End, transfer: Transfer, facts: Facts) -> None:
        with transfer:
            if not await self._copied_by_servers(source, target, transfer, facts):
                await self._copied_through(source, target, transfer, facts)

    async def _copied_by_servers(self, source: _End, target: _End, transfer: Transfer, facts: Facts) -> bool:
        """Whether the servers have copied it among themselves."""
        mover = source.origin.mover
        if mover is not target.origin.mover:
            return False
        try:
            async with self._origins.turn(source.origin):
                await mover.copy(
                    source.location, target.location, source.origin.access, to=target.origin.access
                )
        except InputError:  # their protocol has no such operation
            return False
        transfer.note(facts.size_bytes or 0)
        return True

    async def _copied_through(self, source: _End, target: _End, transfer: Transfer, facts: Facts) -> None:
        both = {end.origin.name: end.origin for end in (source, target)}
        async with AsyncExitStack() as stack:
            # One turn at each, and everybody in the same order: else two copies could wait for each
            # other's, for ever.
            for name in sorted(both):
                await stack.enter_async_context(self._origins.turn(both[name]))
            fetching = source.origin.mover.fetch(source.location, source.origin.access)
            incoming = await stack.enter_async_context(fetching)
            body = Outgoing(facts.size_bytes or 0, _pieces(incoming, transfer), checksums=facts.checksums)
            await target.origin.mover.put(target.location, target.origin.access, body)


async def _pieces(incoming: Incoming, transfer: Transfer) -> AsyncIterator[bytes]:
    done = 0
    while piece := await incoming.read():
        yield piece
        done += len(piece)
        await transfer.moved(len(piece))
    if incoming.length not in (None, done):
        raise TransferFailed("the origin sent too little", done_bytes=done)
