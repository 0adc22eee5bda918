"""When a process is to leave, and how: what signals and its supervisor tell it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leave:
    """How to leave: by default at once, and nobody takes over.

    Idle connections are kept for ``linger_s`` at most, what is being answered then has
    ``finish_s``.  With ``accepts`` new clients are let in as long as old ones linger, because
    nobody else would; with ``keeps_polls`` long polls are not ended before, because they would
    come back at once.
    """

    linger_s: float = 0.0
    finish_s: float = 10.0
    accepts: bool = False
    keeps_polls: bool = False


class Orders:
    """The order to leave, made in the process's main task.

    A second one, or one before the process was ready, ends that task at once.
    """

    def __init__(self) -> None:
        self._main = asyncio.current_task()
        self._order: asyncio.Future[Leave] = asyncio.get_running_loop().create_future()
        self.is_ready = False

    def give(self, leave: Leave) -> None:
        """Order to leave."""
        if self._order.done() or not self.is_ready:
            if self._main is not None:
                self._main.cancel()
        else:
            self._order.set_result(leave)

    async def given(self) -> Leave:
        """The order, once it has come."""
        return await self._order
