"""Live progress of a dataset as server-sent events."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from iceprod.errors import Unavailable
from iceprod.server.handlers.base import BaseHandler
from iceprod.server.live import Viewer

_HEARTBEAT_S: Final = 15.0
_SLOWEST_S: Final = 30.0
# A page connects again by itself, and its right to look is checked again then.
_LONGEST_S: Final = 1800.0
_RETRY_MS: Final = 2000
# After the farewell of a process that leaves: others are there, or it takes them once more.
_SOON_MS: Final = 250


class EventsHandler(BaseHandler):
    """``/events/datasets/ID``: an event ``progress`` at once, then whenever something has changed.

    Each event tells all there is to know, so that a client that was away needs nothing
    older, whatever ``Last-Event-ID`` it sends.  One that does not read is cut off.
    """

    async def get(self, dataset_id: str) -> None:
        """Send until the client goes or the server stops."""
        await self.services.datasets.progress(self.principal, dataset_id)
        if self.context.live.viewers >= self.context.settings.pages.max_streams:
            raise Unavailable("too many pages are live; reload later", retry_after_s=30)
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("X-Accel-Buffering", "no")
        # A process that leaves ends the stream, and a request that came right after it would be lost.
        self.set_header("Connection", "close")
        with self.context.live.watch(dataset_id) as viewer:
            self.viewer = viewer
            try:
                self.write(f"retry: {_RETRY_MS}\n\n")
                await self._send(viewer)
                if viewer.is_closed:
                    self.write(f"retry: {_SOON_MS}\n\n")
            except StreamClosedError:
                return
            except TimeoutError:
                cast(HTTP1Connection, self.request.connection).close()

    async def _send(self, viewer: Viewer) -> None:
        ends_at = self.context.clock() + _LONGEST_S
        while not viewer.is_closed and self.context.clock() < ends_at:
            news = await viewer.next(_HEARTBEAT_S)
            if news is not None:
                self.write(b"id: %d\nevent: progress\ndata: %s\n\n" % (news.number, news.data))
            else:
                self.write(b": still here\n\n")
            async with asyncio.timeout(_SLOWEST_S):
                await self.flush()

    def on_connection_close(self) -> None:
        """The client has gone; nobody waits for news any more."""
        viewer: Viewer | None = getattr(self, "viewer", None)
        if viewer is not None:
            viewer.close()
