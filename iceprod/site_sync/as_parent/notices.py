"""What has changed lately, for readers who follow it each at its own pace.

Only that something changed is kept, not how often, so that memory is bounded by how many things
there are; who has been away for too long is told to look at everything.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from iceprod.services.events import Event

MOST: Final = 10_000


class Notices:
    """Numbered notices; of the same event the last one counts."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._numbers: OrderedDict[Event, int] = OrderedDict()
        self._last = 0
        self._dropped = 0  # the highest number that is not kept any more
        self._read: dict[str, int] = {}
        self._watchers: set[asyncio.Event] = set()

    def note(self, event: Event) -> None:
        """Something has changed."""
        self._last += 1
        self._numbers[event] = self._last
        self._numbers.move_to_end(event)
        if len(self._numbers) > self._most:
            _, self._dropped = self._numbers.popitem(last=False)
        for flag in self._watchers:
            flag.set()

    def take(self, reader: str) -> list[Event] | None:
        """What was noted since the reader took something last, newest first.

        None if only a look at everything can tell: it never did, or that is too long ago.
        """
        before = self._read.get(reader)
        self._read[reader] = self._last
        if before is None or before < self._dropped:
            return None
        found = []
        for event, number in reversed(self._numbers.items()):
            if number <= before:
                break
            found.append(event)
        return found

    def put_back(self, reader: str) -> None:
        """What was taken did not arrive: have the reader look at everything."""
        self._read.pop(reader, None)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event that is set when something is noted; who waits for it clears it."""
        flag = asyncio.Event()
        self._watchers.add(flag)
        try:
            yield flag
        finally:
            self._watchers.discard(flag)
