"""The port to what processes need that share a store; a part of `iceprod.store.base`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """Who has a duty that only one process may have.

    ``fence`` is one higher for every new holder and marks what the holder writes; ``beat``
    grows for as long as the holder lives.
    """

    name: str
    holder: str
    fence: int
    beat: int


@dataclass(frozen=True, slots=True)
class Message:
    """News of one process for the others; ``number`` counts its messages from 1 without a gap."""

    sender: str
    number: int
    body: bytes


class Sharing(ABC):
    """What processes need that share a store: leases on duties, and news of one another.

    No clock is compared between machines: who wants a lease that another has watches
    whether its beat goes on.
    """

    @abstractmethod
    async def hold(self, name: str) -> Hold | None:
        """Who has a duty now, or had it last; None if nobody ever had."""

    @abstractmethod
    async def take(self, name: str, holder: str, *, expected: Hold | None) -> Hold | None:
        """Take a duty over, under the next fence; None unless it still stands as ``expected``."""

    @abstractmethod
    async def beat(self, hold: Hold) -> Hold | None:
        """Show that the holder lives; None if the duty has been taken over."""

    @abstractmethod
    async def release(self, hold: Hold) -> None:
        """Give a duty up, so that the next may take it at once: its holder is then empty."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> None:
        """Tell the other processes; messages of one sender come in order, one call at a time.

        Messages are kept for a while (the last thousand of a sender at least).
        """

    @abstractmethod
    async def heads(self) -> dict[str, int]:
        """The number of the newest message of each sender that is known."""

    @abstractmethod
    async def since(self, seen: Mapping[str, int], limit: int) -> list[Message]:
        """Messages after those numbers (0 for senders not named), in order for each sender.

        Cheap when there is none, for it is asked many times a second.
        """

    @abstractmethod
    async def forget(self, senders: Sequence[str]) -> None:
        """Drop what is kept of processes that are gone."""
