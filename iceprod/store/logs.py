"""The part of the datastore's port that is about what tasks printed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogInfo:
    """A stored log without its text; ``size_bytes`` is that of the text."""

    task_id: str
    attempt: int
    name: str
    size_bytes: int
    uploaded_at: float


class LogRepository(ABC):
    """What tasks printed, compressed (zlib)."""

    @abstractmethod
    async def put(self, info: LogInfo, data: bytes) -> None:
        """Keep a log in place of what was kept of the same task, attempt and name."""

    @abstractmethod
    async def get(self, task_id: str, attempt: int, name: str) -> bytes | None:
        """One log, compressed."""

    @abstractmethod
    async def of_task(self, task_id: str) -> list[LogInfo]:
        """The logs of a task, by attempt and name."""
