"""nginx as the supervisor runs it."""

from __future__ import annotations

import asyncio

from iceprod.config import Settings
from iceprod.server.nginx import NginxProcess, is_fresh


class NginxFront(NginxProcess):
    """An nginx that is told to reload only if there is something new.

    For when it reloads it closes connections that are idle, and a client may be about to
    send its next request on one of them.
    """

    async def renew(self, settings: Settings) -> None:
        """Have nginx take ``settings`` if its configuration is not what they make.

        Raises:
            ConfigError: nginx does not take it, and goes on with what it has.
        """
        if not await asyncio.to_thread(is_fresh, settings):
            await self.reload(settings)
