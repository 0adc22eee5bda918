"""Pages about the site: its pilots and grids, and its health."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from iceprod._version import __version__
from iceprod.errors import IceProdError
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.server.duties import DutyRecord
from iceprod.server.handlers.pages.base import PageHandler
from iceprod.services.grid_keeper import GridStatus

_LIVE = frozenset(PilotStatus) - {PilotStatus.ENDED}
_PING_S = 5.0


@dataclass(frozen=True, slots=True)
class PilotsView:
    """Pilots and grids."""

    rows: tuple[Pilot, ...]
    grids: tuple[GridStatus, ...]
    ended: bool
    next: str


class PilotsPage(PageHandler):
    """``/pilots``."""

    section = "pilots"

    async def get(self) -> None:
        """Show those that live, or those that have ended."""
        ended = bool(self.argument("ended"))
        statuses = frozenset({PilotStatus.ENDED}) if ended else _LIVE
        found = await self.services.pilots.select(self.principal, statuses, self.page())
        view = PilotsView(
            rows=found.items,
            grids=tuple(self.services.grids.status()),
            ended=ended,
            next=self.next_address(found.next),
        )
        self.show("pilots", view, title="Pilots and grids")


class PilotAct(PageHandler):
    """``/pilots/ID/end``."""

    async def post(self, pilot_id: str) -> None:
        """Have a pilot finish what it has and go."""
        await self.services.pilots.end(self.principal, pilot_id)
        self.done("The pilot gets no more tasks.", "/pilots")


@dataclass(frozen=True, slots=True)
class HealthView:
    """How the server is."""

    is_well: bool
    store: str
    version: str
    pilots: tuple[tuple[str, int], ...]
    ready_tasks: int
    waiting_claims: int
    loop_lag_ms: float
    rpc_calls: int
    drifts: int
    site_alerts: int
    duties: tuple[tuple[str, DutyRecord], ...]


class HealthPage(PageHandler):
    """``/health``."""

    section = "health"

    async def get(self) -> None:
        """Show it."""
        context, services = self.context, self.services
        store = await self._ask_store()
        records = tuple(sorted(context.supervisor.records.items()))
        lag = context.metrics.loop_lag
        view = HealthView(
            is_well=not store and not any(record.error for _, record in records),
            store=store,
            version=__version__,
            pilots=tuple(sorted(Counter(str(p.status) for p in services.slots.pilots.values()).items())),
            ready_tasks=sum(demand.waiting for demand in services.scheduler.demand()),
            waiting_claims=len(services.waiters),
            loop_lag_ms=1000 * lag.sum_s / lag.count if lag.count else 0.0,
            rpc_calls=sum(context.dispatcher.calls.values()),
            drifts=services.audit.drifts,
            site_alerts=sum([len(each.alerts) for each in await services.sites.overview.measured()]),
            duties=records,
        )
        self.show("health", view, title="Health")

    async def _ask_store(self) -> str:
        """What is wrong with the store; empty if it works."""
        try:
            async with asyncio.timeout(_PING_S):
                await self.context.store.ping()
        except IceProdError as exc:
            return exc.message
        except TimeoutError:
            return "no answer"
        return ""
