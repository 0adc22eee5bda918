"""The stage on which `tests.site_play` is played: a loop, its gates, and the ways between sites."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import msgspec

from iceprod.errors import Unavailable
from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus, holder_of
from iceprod.services.recovering import Recovering
from iceprod.services.scheduling import Claimed, Room
from iceprod.site_sync import messages

TURNS: Final = 8
"""Turns of the loop in which everything comes to its next gate."""


class Actor(Protocol):
    """A process, as the stage sees it: ``site`` is its `tests.site_play.Site`."""

    is_alive: bool
    site: Any


class Fate(Enum):
    """What becomes of a message."""

    ARRIVES = "arrives"
    IS_LOST = "is lost"  # a part of it is as good as nothing: HTTP tells that it is one
    COMES_LATE = "comes late"  # when nobody waits for an answer any more
    COMES_TWICE = "comes twice"


@dataclass(eq=False)
class Waiting:
    """Somebody before a gate."""

    process: Actor
    what: str
    opened: asyncio.Future[Fate]


@dataclass
class Stray:
    """A message that is still on its way, though nobody waits for its answer."""

    child: str
    parent: str
    method: str
    body: bytes


class _Inline(ThreadPoolExecutor):
    """What would be done in a thread is done at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - handed to who waits
            future.set_exception(error)
        return future


class Stage:
    """Where it all happens: the loop, and the gates."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Inline())
        self.waiting: list[Waiting] = []
        self.strays: list[Stray] = []
        self.now = 1_700_000_000.0
        self.wrong: list[BaseException] = []

    async def gate(self, process: Actor, what: str) -> Fate:
        """Wait until one may go on."""
        if not process.is_alive:
            raise asyncio.CancelledError
        waiting = Waiting(process, what, self.loop.create_future())
        self.waiting.append(waiting)
        return await waiting.opened

    def settle(self) -> None:
        """Let everybody come to the next gate.

        Raises:
            BaseException: what must not have happened, but did.
        """
        self.loop.run_until_complete(_turns())
        self.waiting = [each for each in self.waiting if not each.opened.done()]  # others were broken off
        if self.wrong:
            raise self.wrong[0]

    def check(self, holds: bool, what: str) -> None:
        """Note that something is not as it must be: who is to see it may be busy with an answer."""
        if not holds:
            self.wrong.append(AssertionError(what))

    def open(self, waiting: Waiting, fate: Fate = Fate.ARRIVES) -> None:
        """Let one go on, and everybody come to the next gate."""
        self.waiting.remove(waiting)
        waiting.opened.set_result(fate)
        self.settle()

    def finish(self, *, most: int = 20_000) -> None:
        """Open gates in order, with no trouble, until nobody waits."""
        for _ in range(most):
            if not self.waiting:
                return
            self.open(self.waiting[0])
        raise AssertionError("there is no end of it")

    def distrust(self, reason: str) -> None:
        """Nobody counts."""

    def close(self) -> None:
        """Let nothing of it stay."""
        self.waiting.clear()
        try:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.settle()
        finally:
            self.loop.close()


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Wire:
    """The way to a parent, on which anything may happen to a message."""

    def __init__(self, process: Actor) -> None:
        self._process = process
        self._stage: Stage = process.site.stage

    async def call(self, method: str, message: msgspec.Struct, answer: type[Any]) -> Any:
        site = self._process.site
        sent = Stray(site.name, site.parent, method, msgspec.json.encode(message))
        if isinstance(message, messages.Report):
            site.said |= {(each.lease_id, each.kind) for each in message.operations}
        if isinstance(message, messages.Renew) and message.is_all:
            named = {lease_id for _, lease_id in message.leases}
            held = {e.lease_id for e in site.ledger.errands.values() if e.status is ErrandStatus.OPEN}
            self._stage.check(held <= named, f"{site.name} names {named}, and has {held}")
        fate = await self._stage.gate(self._process, f"call {method}")
        if fate in (Fate.COMES_LATE, Fate.COMES_TWICE):
            self._stage.strays.append(sent)
        if fate in (Fate.COMES_LATE, Fate.IS_LOST):
            raise Unavailable("no answer")
        found = await site.world[site.parent].process.answer(sent)
        if await self._stage.gate(self._process, f"answer {method}") is not Fate.ARRIVES:
            raise Unavailable("no answer")
        return msgspec.json.decode(found, type=answer)

    async def pause(self) -> None:
        """There is no time here."""

    def close(self) -> None:
        """There is nothing to close."""


class Claims:
    """Stands for `Scheduler`: everything fits, and nothing is in order."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.recovering = Recovering()

    async def adopt(self, site: str, leases: Sequence[tuple[str, str]], *, lease_s: float) -> list[bool]:
        found: list[bool] = await self._process.adopt(holder_of(site), leases, lease_s)
        return found

    def go_on(self) -> None:
        """Nobody waits."""

    def has_for(self, site: str, rooms: Sequence[Room]) -> bool:
        return bool(rooms) and not self.recovering.is_on

    async def lend(
        self, site: str, rooms: Sequence[Room], *, most: int, lease_s: float, near: object = None
    ) -> list[Claimed]:
        most = min(most, sum(room.tasks for room in rooms))
        found: list[Claimed] = await self._process.claim(holder_of(site), most, lease_s, site)
        return found

    def knows(self, class_id: int) -> bool:
        return class_id in self._process.store.ledger.classes

    def learn(self, classes: Sequence[object]) -> None:
        """They are in the ledger."""

    def dataset_changed(self, dataset: Dataset) -> None:
        self._process.catalogue.put(dataset)
