"""What processes share, kept in memory: for several sites of one test over one store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from iceprod.errors import StoreUnavailable
from iceprod.store.base import Hold, Message, Sharing

KEPT = 1000


class MemorySharing(Sharing):
    """As a store's own, and every call lets others run; ``is_away`` makes all calls fail."""

    def __init__(self) -> None:
        self.is_away = False
        self.holds: dict[str, Hold] = {}
        self.messages: dict[str, dict[int, Message]] = {}
        self.numbers: dict[str, int] = {}

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("the store is away")

    async def hold(self, name: str) -> Hold | None:
        await self._reach()
        return self.holds.get(name)

    async def take(self, name: str, holder: str, *, expected: Hold | None) -> Hold | None:
        await self._reach()
        if self.holds.get(name) != expected:
            return None
        fence = expected.fence + 1 if expected else 1
        self.holds[name] = Hold(name, holder, fence, 1)
        return self.holds[name]

    async def beat(self, hold: Hold) -> Hold | None:
        await self._reach()
        now = self.holds.get(hold.name)
        if now is None or (now.holder, now.fence) != (hold.holder, hold.fence):
            return None
        self.holds[hold.name] = Hold(now.name, now.holder, now.fence, now.beat + 1)
        return self.holds[hold.name]

    async def release(self, hold: Hold) -> None:
        await self._reach()
        now = self.holds.get(hold.name)
        if now is not None and (now.holder, now.fence) == (hold.holder, hold.fence):
            self.holds[hold.name] = Hold(now.name, "", now.fence, now.beat + 1)

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._reach()
        for message in messages:
            kept = self.messages.setdefault(message.sender, {})
            kept.setdefault(message.number, message)
            self.numbers[message.sender] = max(message.number, self.numbers.get(message.sender, 0))
            while len(kept) > KEPT:
                del kept[min(kept)]

    async def heads(self) -> dict[str, int]:
        await self._reach()
        return dict(self.numbers)

    async def since(self, seen: Mapping[str, int], limit: int) -> list[Message]:
        await self._reach()
        found = [
            message
            for sender, kept in self.messages.items()
            for number, message in sorted(kept.items())
            if number > seen.get(sender, 0)
        ]
        return found[:limit]

    async def forget(self, senders: Sequence[str]) -> None:
        await self._reach()
        for sender in senders:
            self.messages.pop(sender, None)
            self.numbers.pop(sender, None)
