"""Progress of datasets for those who watch it, computed once for all of them.

However many pages show a dataset and however fast its tasks move, its progress is read at
most twice per second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from iceprod.errors import IceProdError
from iceprod.services.events import Events

logger = structlog.get_logger(__name__)

_QUICKEST_S: Final = 0.5
_AGAIN_S: Final = 5.0

Render = Callable[[str], Awaitable[bytes]]
"""The progress of a dataset as one line of JSON."""


@dataclass(frozen=True, slots=True)
class News:
    """One state of a dataset; ``number`` grows with each."""

    number: int
    data: bytes


class Viewer:
    """One page that follows a dataset; holds no more than the newest state."""

    def __init__(self) -> None:
        self._newest: News | None = None
        self._flag = asyncio.Event()
        self.is_closed = False

    def tell(self, news: News) -> None:
        """There is something new; what was not fetched yet is dropped."""
        self._newest = news
        self._flag.set()

    def close(self) -> None:
        """Nothing more will come."""
        self.is_closed = True
        self._flag.set()

    async def next(self, timeout_s: float) -> News | None:
        """What is new, or None if that is nothing for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._flag.wait()
        except TimeoutError:
            return None
        self._flag.clear()
        news, self._newest = self._newest, None
        return news


class _Channel:
    """All viewers of one dataset and the task that looks for them."""

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self.newest: News | None = None
        self.task: asyncio.Task[None] | None = None


class LiveProgress:
    """Who watches which dataset."""

    def __init__(self, events: Events, render: Render) -> None:
        self._events = events
        self._render = render
        self._channels: dict[str, _Channel] = {}
        self.viewers = 0
        self.is_closed = False

    @contextmanager
    def watch(self, dataset_id: str) -> Iterator[Viewer]:
        """A viewer of a dataset, which hears of its present state first."""
        channel = self._channels.setdefault(dataset_id, _Channel())
        viewer = Viewer()
        if self.is_closed:
            viewer.close()
        channel.viewers.add(viewer)
        self.viewers += 1
        if channel.task is None:
            channel.task = asyncio.create_task(self._follow(dataset_id, channel), name=f"live {dataset_id}")
        elif channel.newest is not None:
            viewer.tell(channel.newest)
        try:
            yield viewer
        finally:
            self.viewers -= 1
            channel.viewers.discard(viewer)
            if not channel.viewers:
                channel.task.cancel()
                self._channels.pop(dataset_id, None)

    def close(self) -> None:
        """Tell every viewer that nothing more will come: the server stops."""
        self.is_closed = True
        self.send_away()

    def send_away(self) -> None:
        """End what everybody watches now; who comes again may stay."""
        for channel in self._channels.values():
            for viewer in channel.viewers:
                viewer.close()

    async def _follow(self, dataset_id: str, channel: _Channel) -> None:
        number = 0
        with self._events.watch(dataset_id) as changed:
            while True:
                changed.clear()
                data = await self._read(dataset_id)
                if data is not None and (channel.newest is None or channel.newest.data != data):
                    number += 1
                    channel.newest = News(number, data)
                    for viewer in channel.viewers:
                        viewer.tell(channel.newest)
                await asyncio.sleep(_QUICKEST_S)
                # Rate and time left change even when nothing happens.
                try:
                    async with asyncio.timeout(_AGAIN_S):
                        await changed.wait()
                except TimeoutError:
                    pass

    async def _read(self, dataset_id: str) -> bytes | None:
        try:
            return await self._render(dataset_id)
        except IceProdError as exc:
            logger.info("live progress not read", dataset_id=dataset_id, error=exc.message)
            return None
