"""Is the process alive, can it work, and how is it doing?"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from iceprod.errors import IceProdError
from iceprod.server.handlers.base import BaseHandler

_PING_S = 5.0


class LiveHandler(BaseHandler):
    """``/healthz``: the loop turns."""

    async def get(self) -> None:
        """Say so."""
        self.write_json({"status": "ok"})


class ReadyHandler(BaseHandler):
    """``/readyz``: the store reads and writes, and the server is not about to stop."""

    async def get(self) -> None:
        """Try it."""
        problems = []
        try:
            async with asyncio.timeout(_PING_S):
                await self.context.store.ping()
        except (IceProdError, TimeoutError) as exc:
            problems.append(f"store: {exc or 'no answer'}")
        if getattr(self.application, "is_stopping", False):
            problems.append("the server is stopping")
        if problems:
            self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
        self.write_json({"status": "unavailable" if problems else "ready", "problems": problems})


class MetricsHandler(BaseHandler):
    """``/metrics``: figures in Prometheus' text format."""

    async def get(self) -> None:
        """Gather them."""
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(await self.context.metrics.render())
