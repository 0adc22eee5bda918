"""Logs as they are told to a parent: whole, or the beginning and the end of what is too long."""

from __future__ import annotations

import asyncio
import base64
import zlib
from typing import Any, Final

from iceprod.model.federation import Operation
from iceprod.store.base import Store

MOST_PACKED: Final = 1_000_000
"""Bytes, compressed, of a log that is told whole."""
_KEPT: Final = 250_000
"""Bytes of text at either end of one that is not."""


class LogTexts:
    """Reads the logs that operations are about."""

    def __init__(self, store: Store) -> None:
        self._logs = store.logs

    async def body(self, told: Operation) -> dict[str, Any] | None:
        """What is told of a log, as it is now; None if it is gone."""
        packed = await self._logs.get(*_place(told))
        if packed is None:
            return None
        if len(packed) > MOST_PACKED:
            packed = await asyncio.to_thread(shortened, packed)
        return {"name": told.body["name"], "data": base64.b64encode(packed).decode()}

    async def kept_at(self, told: Operation) -> float:
        """When the log that is there now was kept; 0 if there is none."""
        task_id, attempt, name = _place(told)
        infos = await self._logs.of_task(task_id)
        return max((i.uploaded_at for i in infos if (i.attempt, i.name) == (attempt, name)), default=0.0)


def shortened(packed: bytes) -> bytes:
    """A compressed log without its middle."""
    text = zlib.decompress(packed)
    left_out = len(text) - 2 * _KEPT
    if left_out <= 0:
        return packed
    note = f"\n[{left_out} bytes are left out here; they are kept where the task ran]\n".encode()
    return zlib.compress(text[:_KEPT] + note + text[-_KEPT:])


def _place(told: Operation) -> tuple[str, int, str]:
    return told.body["local"], told.body["attempt"], told.body["name"]
