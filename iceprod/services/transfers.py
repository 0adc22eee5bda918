"""The transfers under way: kept within their limits, accounted, and shown.

Whoever moves bytes says so here, piece by piece.  A transfer that has ended is remembered for a
while, so that a client whose download broke off can ask why.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import IceProdError, NotFoundError, RateLimited
from iceprod.model.file import Direction, Flow
from iceprod.services.accounting import Accounting
from iceprod.services.bandwidth import Lane, Limit, Sleep

REMEMBERED: Final = 1000
"""How many transfers that have ended are remembered."""
_IDLE_LIMITS: Final = 5000
_HALF_LIFE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Bytes per second, 0 for any speed; ``connections`` is the most transfers at a time.

    ``origins`` and ``services`` go by the name of the origin and the class of use.
    """

    connections: int
    user: float = 0
    dataset: float = 0
    peer: float = 0
    origins: Mapping[str, float] = field(default_factory=dict)
    services: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TransferView:
    """How a transfer is doing; ``error`` is empty if it is well, ``ended_at`` None while it lasts."""

    transfer_id: str
    flow: Flow
    label: str
    size_bytes: int | None
    moved_bytes: int
    bytes_per_s: float
    started_at: float
    ended_at: float | None
    error: str


class Transfer:
    """One of them; ends with `end`, or as a context."""

    def __init__(
        self, transfers: Transfers, flow: Flow, *, label: str, size_bytes: int | None, lane: Lane
    ) -> None:
        self._transfers = transfers
        self._lane = lane
        self._rate = _Rate(transfers.monotonic)
        self._ended_at: float | None = None
        self._error = ""
        self._started_at = transfers.clock()
        self.transfer_id = ids.new_id()
        self.flow = flow
        self.label = label
        self.size_bytes = size_bytes
        self.moved_bytes = 0

    @property
    def bytes_per_s_allowed(self) -> float | None:
        """The speed of the tightest limit, for a program that keeps it by itself; None if there is none."""
        return self._lane.bytes_per_s

    async def moved(self, size_bytes: int) -> None:
        """Take note that so many bytes went; returns when more may follow."""
        self.note(size_bytes)
        await self._lane.passed(size_bytes)

    def note(self, size_bytes: int) -> None:
        """Take note of bytes that another program has kept within the limits."""
        self.moved_bytes += size_bytes
        self._rate.add(size_bytes)
        self._transfers.accounting.count(self.flow, bytes_moved=size_bytes)

    def end(self, error: str = "") -> None:
        """It is over; ``error`` says why too early.  Only the first call counts."""
        if self._ended_at is None:
            self._ended_at = self._transfers.clock()
            self._error = error
            self._transfers.forget(self)

    def view(self) -> TransferView:
        """How it is doing."""
        return TransferView(
            transfer_id=self.transfer_id,
            flow=self.flow,
            label=self.label,
            size_bytes=self.size_bytes,
            moved_bytes=self.moved_bytes,
            bytes_per_s=self._rate.now() if self._ended_at is None else 0.0,
            started_at=self._started_at,
            ended_at=self._ended_at,
            error=self._error,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end("" if exc is None else _reason(exc))


class Transfers:
    """All transfers of this process."""

    def __init__(
        self,
        accounting: Accounting,
        limits: TransferLimits,
        *,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.accounting = accounting
        self.clock = clock
        self.monotonic = monotonic
        self._most = limits.connections
        self._lanes = _Lanes(limits, clock=monotonic, sleep=sleep)
        self._live: dict[str, Transfer] = {}
        self._ended: OrderedDict[str, Transfer] = OrderedDict()

    def begin(self, flow: Flow, *, label: str, size_bytes: int | None = None) -> Transfer:
        """Begin a transfer; ``label`` says what it is to people, without secrets.

        Raises:
            RateLimited: there are too many already.
        """
        if len(self._live) >= self._most:
            raise RateLimited(f"{self._most} transfers are under way; try again", retry_after_s=2.0)
        transfer = Transfer(self, flow, label=label, size_bytes=size_bytes, lane=self._lanes.of(flow))
        self._live[transfer.transfer_id] = transfer
        return transfer

    def speed_of(self, flow: Flow) -> float | None:
        """The speed of the tightest limit of a flow, for a program that keeps it by itself; None without."""
        return self._lanes.of(flow).bytes_per_s

    def forget(self, transfer: Transfer) -> None:
        """Move a transfer to those that have ended; called by itself."""
        del self._live[transfer.transfer_id]
        self.accounting.count(transfer.flow, transfers=1)
        self._ended[transfer.transfer_id] = transfer
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def get(self, transfer_id: str) -> TransferView:
        """One transfer, under way or lately ended.

        Raises:
            NotFoundError: there is none.
        """
        found = self._live.get(transfer_id) or self._ended.get(transfer_id)
        if found is None:
            raise NotFoundError("transfer", transfer_id)
        return found.view()

    def live(self) -> list[TransferView]:
        """Those under way, in the order in which they began."""
        return [transfer.view() for transfer in self._live.values()]

    def ended(self) -> list[TransferView]:
        """Those that have ended, the latest first."""
        return [transfer.view() for transfer in reversed(self._ended.values())]

    def bytes_per_s(self) -> dict[Direction, float]:
        """How fast bytes go each way, all transfers together."""
        found = dict.fromkeys(Direction, 0.0)
        for transfer in self.live():
            found[transfer.flow.direction] += transfer.bytes_per_s
        return found


class _Lanes:
    """The limits by whom they are for; those that nobody has used for longest are made anew."""

    def __init__(self, limits: TransferLimits, *, clock: Clock, sleep: Sleep) -> None:
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._kept: OrderedDict[tuple[str, str], Limit] = OrderedDict()

    def of(self, flow: Flow) -> Lane:
        """What a flow has to keep to."""
        limits = self._limits
        wanted = (
            ("user", flow.user, limits.user),
            ("dataset", flow.dataset_id, limits.dataset),
            ("peer", flow.peer, limits.peer),
            ("origin", flow.origin, limits.origins.get(flow.origin, 0)),
            ("service", flow.service, limits.services.get(flow.service, 0)),
        )
        found = tuple(self._limit(kind, name, speed) for kind, name, speed in wanted if name and speed)
        return Lane(found, clock=self._clock, sleep=self._sleep)

    def _limit(self, kind: str, name: str, speed: float) -> Limit:
        limit = self._kept.setdefault((kind, name), Limit(speed))
        self._kept.move_to_end((kind, name))
        if len(self._kept) > _IDLE_LIMITS:
            self._kept.popitem(last=False)
        return limit


class _Rate:
    """Bytes per second lately, what is older counting less and less."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = self._at = clock()
        self._weight = 0.0

    def add(self, size_bytes: int) -> None:
        now = self._clock()
        self._weight = self._faded(now) + size_bytes
        self._at = now

    def now(self) -> float:
        now = self._clock()
        lasted = now - self._began_at
        # What a steady flow would have gathered by now is known; the first moment says nothing.
        full = _HALF_LIFE_S / math.log(2) * (1 - math.exp2(-lasted / _HALF_LIFE_S))
        return self._faded(now) / full if full > 0.05 else 0.0

    def _faded(self, now: float) -> float:
        return self._weight * math.exp2((self._at - now) / _HALF_LIFE_S)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, IceProdError):
        return exc.message
    return "it was given up" if isinstance(exc, asyncio.CancelledError) else "it failed"
