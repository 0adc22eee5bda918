"""News between the processes that share a store: told, heard, and found missing.

Every process numbers its messages and appends them to the store; every other reads what is
new some ten times a second.  A number that is missing, or a message that cannot be read,
means that something was missed: then the store is looked at instead.  So a message need not
arrive, and what waits to be told while the store is away is bounded.

Each process tells something at least once a second, which also shows that it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import structlog

from iceprod.clock import Clock
from iceprod.errors import IceProdError
from iceprod.services.bulletin import Bulletin, Draft, decode, encode, together
from iceprod.services.scheduling.order import FairShare
from iceprod.store.base import Message, Sharing

HEARTBEAT_S = 1.0
ALIVE_S = 5.0
"""After how long without a word a process counts as gone."""
GAP_S = 0.05
"""The least time between two messages: what happens within it is told together."""
POLL_S = 0.1
BUSY_POLL_S = 0.05
"""How long until the next look after one that found something."""
OUTAGE_S = 10.0
"""After how long without a look nothing that is kept in memory is believed."""
FORGET_S = 3600.0
"""After how long the messages of a process that is gone are dropped."""
LIMIT = 500

logger = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who does what the news are about: `iceprod.services.hearing.Hearing`."""

    async def hear(self, bulletin: Bulletin) -> None:
        """Another process has told this."""

    async def look(self, *, after_outage: bool) -> None:
        """Something was missed: take everything from the store."""

    def processes_changed(self, rank: int, of: int) -> None:
        """This process is now the ``rank``-th of so many."""


class News:
    """Tells and hears for one process; without ``sharing`` there is nobody to tell.

    `open` comes before anything else is read from the store, so that nothing is missed.
    """

    def __init__(
        self,
        sharing: Sharing | None,
        draft: Draft,
        share: FairShare,
        *,
        process_id: str,
        monotonic: Clock,
    ) -> None:
        self.process_id = process_id
        self.heard = self.told = self.looks = 0
        self._sharing = sharing
        self._draft = draft
        self._share = share
        self._monotonic = monotonic
        self._listener: Listener | None = None
        self._number = 0
        self._unsent: Message | None = None
        self._told_at = self._polled_at = self._opened_at = float("-inf")
        self._seen: dict[str, int] = {}
        self._heard_at: dict[str, float] = {}
        self._alive: tuple[str, ...] = (process_id,)
        self._is_behind = self._was_away = False
        self._troubles: set[str] = set()
        self._telling = asyncio.Lock()

    @property
    def processes(self) -> int:
        """How many processes share the store now."""
        return len(self._alive)

    async def open(self, listener: Listener) -> None:
        """Begin to listen: to what is told from now on."""
        self._listener = listener
        if self._sharing is not None:
            self._seen = await self._sharing.heads()
            self._polled_at = self._opened_at = self._monotonic()

    async def tell(self) -> int:
        """Tell what there is, or, after a second of silence, that this process lives."""
        if self._sharing is None:
            return 0
        async with self._telling:
            is_due = self._monotonic() - self._told_at >= HEARTBEAT_S
            if self._unsent is None and (is_due or self._draft.filled.is_set()):
                self._unsent = self._next_message()
            if self._unsent is None:
                return 0
            # The store may have kept it already and only its answer got lost: the same again.
            await self._sharing.publish([self._unsent])
            self._unsent = None
            self._told_at = self._monotonic()
            self.told += 1
            return 1

    def _next_message(self) -> Message:
        self._number += 1
        self._seen[self.process_id] = self._number
        bulletin = self._draft.take(self._share.take_ledger())
        return Message(self.process_id, self._number, encode(bulletin))

    async def poll(self) -> int:
        """Hear what others have told; how many messages that were."""
        if self._sharing is None or self._listener is None:
            return 0
        found = await self._sharing.since(self._seen, LIMIT)
        now = self._monotonic()
        self._was_away |= now - self._polled_at > OUTAGE_S
        self._polled_at = now
        told = [(m.sender, bulletin) for m in found if (bulletin := self._take_in(m, now)) is not None]
        try:
            if told:
                await self._listener.hear(together(told))
        except BaseException:
            self._is_behind = True  # heard in part: the store knows the rest
            raise
        self._count_processes(self._listener, now)
        if self._is_behind or self._was_away:
            self.looks += 1
            await self._listener.look(after_outage=self._was_away)
            self._is_behind = self._was_away = False
        return len(found)

    def _take_in(self, message: Message, now: float) -> Bulletin | None:
        """What a message tells; None if it was heard before or is not understood."""
        expected = self._seen.get(message.sender, 0) + 1
        if message.number < expected:
            return None
        self._is_behind |= message.number > expected
        self._seen[message.sender] = message.number
        self._heard_at[message.sender] = now
        self.heard += 1
        bulletin = decode(message.body)
        if bulletin is None or bulletin.is_incomplete:
            self._is_behind = True
        if bulletin is not None and bulletin.is_leaving:
            del self._heard_at[message.sender]
        return bulletin

    def _count_processes(self, listener: Listener, now: float) -> None:
        others = [name for name, at in self._heard_at.items() if now - at < ALIVE_S]
        alive = tuple(sorted([*others, self.process_id]))
        if alive != self._alive:
            logger.info("processes share the store", processes=len(alive))
            # Who was killed may have changed something and not told it any more.
            self._is_behind |= any(name in self._heard_at for name in set(self._alive) - set(alive))
            self._alive = alive
            listener.processes_changed(alive.index(self.process_id), len(alive))

    async def forget_gone(self) -> None:
        """Drop what is kept of processes that have been silent for long; a duty."""
        if self._sharing is None:
            return
        now = self._monotonic()
        gone = []
        for sender in await self._sharing.heads():
            since = self._heard_at.get(sender, self._opened_at)
            if sender != self.process_id and now - since > FORGET_S:
                gone.append(sender)
        if gone:
            await self._sharing.forget(gone)
            for sender in gone:
                self._seen.pop(sender, None)
                self._heard_at.pop(sender, None)

    async def leave(self) -> None:
        """Tell what is left, and that this process ends."""
        self._draft.leaves()
        await self.tell()  # which may have been a message that was under way
        if self._draft.filled.is_set():
            await self.tell()

    async def keep_telling(self) -> None:
        """Tell until cancelled: at once what comes after a pause, together what comes together."""
        while True:
            await self._attempt(self.tell, "news cannot be told")
            await asyncio.sleep(GAP_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S - GAP_S):
                    await self._draft.filled.wait()

    async def keep_hearing(self) -> None:
        """Listen until cancelled."""
        while True:
            found = await self._attempt(self.poll, "news cannot be heard")
            await asyncio.sleep(BUSY_POLL_S if found else POLL_S)

    async def _attempt(self, work: Callable[[], Awaitable[int]], trouble: str) -> int:
        """What ``work`` gives, or 0; its trouble is logged when it begins and when it is over."""
        try:
            done = await work()
        except IceProdError as exc:
            if trouble not in self._troubles:
                logger.warning(trouble, reason=exc.message)
            self._troubles.add(trouble)
            return 0
        except Exception:  # a mistake about one message must not end all further ones
            logger.exception(trouble)
            return 0
        if trouble in self._troubles:
            self._troubles.discard(trouble)
            logger.info("news go on", after=trouble)
        return done
