"""Calls that wait for something to happen: until their time is over, or the server stops."""

from __future__ import annotations

import asyncio


class Polls:
    """The waits that are open now."""

    def __init__(self) -> None:
        self._flags: set[asyncio.Event] = set()
        self.is_closed = False  # nobody shall wait any more

    async def wait(self, flag: asyncio.Event, until: float) -> bool:
        """Wait for ``flag`` until that time of the loop; False if it did not come, or nobody shall wait."""
        if self.is_closed:
            return False
        self._flags.add(flag)
        try:
            async with asyncio.timeout_at(until):
                await flag.wait()
        except TimeoutError:
            return False
        finally:
            self._flags.discard(flag)
        return not self.is_closed

    def close(self) -> None:
        """End every wait, now and from now on: the server is stopping."""
        self.is_closed = True
        for flag in self._flags:
            flag.set()
