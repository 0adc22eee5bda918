"""What this process does of itself: its own duties, and those that one process of all has.

Those run while this process holds their lease (`iceprod.services.duty`), and are cancelled
as soon as it does not.  What they write is guarded by what it changes, or by the fence of
the lease, so that one that comes too late changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from iceprod import clock as clocks
from iceprod.config import Settings
from iceprod.errors import IceProdError
from iceprod.server.context import Services
from iceprod.server.duties import Duty, Supervisor
from iceprod.server.nginx.values import SENT_LOG
from iceprod.services.flow_history import SPACING_S
from iceprod.services.sent_log import SentLog
from iceprod.site_sync.seen.history import SPACING_S as HISTORY_S
from iceprod.store.base import Store

logger = structlog.get_logger(__name__)

_PATIENCE_S = 10.0
"""How long the last words to the store may take."""
_UPLOAD_SILENCE_S = 6 * 3600.0
"""After how long without a byte an upload is given up, and what came of it deleted."""
_ARRIVAL_S = 120.0
"""After how long a file that is in its place, and in no catalogue yet, is put into that by somebody else."""


def own_duties(services: Services) -> tuple[Duty, ...]:
    """What every process does now and then, and how often."""
    clock = clocks.now
    return (
        Duty("save pilots", 10.0, services.pilots.save_seen),
        Duty("write down refusals", 60.0, services.federation.refusals.save),
        Duty("account bytes", 5.0, services.transfers.accounting.save),
        Duty("sample rates of transfers", SPACING_S, services.flow_history.sample),
        Duty("reconcile ready tasks", 60.0, services.scheduler.reconcile),
        Duty("see what children have said", 1.0, services.federation.recovery.look),
        Duty("look after uploads", 10.0, services.uploads.keeper.look_after),
        Duty("forget uploads", 600.0, services.uploads.keeper.forget),
        Duty("recheck ready tasks", 2.0, services.scheduler.recheck),
        Duty("clean uploads", 600.0, lambda: services.files.clean(before=clock() - _UPLOAD_SILENCE_S)),
    )


def duties_beside_others(services: Services) -> tuple[Duty, ...]:
    """What every process does that shares its store, and how often."""
    return (
        Duty("tell of pilots", 1.0, services.pilots.tell_seen),
        Duty("tell of sites", 1.0, services.hearing.peers.tell),
    )


def shared_duties(services: Services, store: Store, settings: Settings) -> tuple[Duty, ...]:
    """What one process does for all, and how often."""
    clock, duty = clocks.now, services.duty
    sent = SentLog(settings.nginx_path / "logs" / SENT_LOG, store.values, services.transfers.accounting)
    return (
        Duty("expire leases", min(5.0, settings.scheduling.lease_s / 4), services.leases.expire),
        Duty("release due tasks", 1.0, services.tasks.release_due),
        Duty("end silent pilots", 15.0, services.pilots.end_silent),
        Duty("save usage", 30.0, lambda: services.scheduler.save_usage(fence=duty.fence)),
        Duty("find jobs to make", 60.0, services.materialiser.look),
        Duty("audit counters", 10.0, services.audit.step),
        # Reads the whole catalogue, so not often.
        Duty("audit what is kept", 3600.0, services.audit.recount_files),
        Duty("clean the copies of origins' files", 3600.0, services.proxying.cache.clean),
        Duty("look after credentials", 300.0, services.vault.look_after),
        Duty("sample reports", 60.0, lambda: services.reports.sample(fence=duty.fence)),
        Duty("sample other sites", HISTORY_S, lambda: services.sites.history.sample(fence=duty.fence)),
        Duty("read nginx's log", 5.0, lambda: sent.read(fence=duty.fence)),
        Duty("register files", 60.0, lambda: services.files.catch_up(before=clock() - _ARRIVAL_S)),
        Duty("clean temp areas", settings.files.temp.every_s, services.temp_areas.clean),
        Duty("save how sites were seen", 15.0, lambda: services.hearing.peers.save(fence=duty.fence)),
        Duty("renew certificates", 600.0, services.federation.renewal.look),
        Duty("take tasks back from revoked sites", 60.0, services.federation.registry.take_back),
        Duty("tell how things stand", 5.0, services.hearing.tell_state),
        Duty("hand back what waits", 60.0, services.federation.returning.look),
        Duty("forget old tasks of other sites", 600.0, services.federation.tidying.look),
        Duty("forget expired tokens", 3600.0, lambda: store.accounts.drop_expired_tokens(clock())),
        Duty("forget processes that are gone", 600.0, services.news.forget_gone),
    )


class Shift:
    """Everything that runs in the background of one process."""

    def __init__(
        self, services: Services, store: Store, settings: Settings, *, supervisor: Supervisor
    ) -> None:
        self._services = services
        self._store = store
        self._settings = settings
        self._supervisor = supervisor
        self._on_duty = Supervisor(clocks.now, records=supervisor.records)

    async def begin(self) -> None:
        """Start what this process does, and take or await the duties."""
        services, supervisor = self._services, self._supervisor
        for duty in own_duties(services):
            supervisor.start_duty(duty)
        if self._store.sharing is None:
            await self.gained()
            return
        for duty in duties_beside_others(services):
            supervisor.start_duty(duty)
        supervisor.start_loop("tell news", services.news.keep_telling)
        supervisor.start_loop("hear news", services.news.keep_hearing)
        supervisor.start_loop(
            "hold the duties", lambda: services.duty.run(gained=self.gained, lost=self.lost)
        )

    async def gained(self) -> None:
        """Start the duties."""
        services = self._services
        await self._on_duty.stop()  # whatever an attempt that failed has left
        await self._attempt("graphs not read", services.reports.load)
        if self._store.sharing is not None:  # who had them may have been interrupted in making jobs
            await self._attempt("waiting tasks not counted", services.scheduler.reconcile)
        self._on_duty.start_loop("make jobs", services.materialiser.run)
        self._on_duty.start_loop("grids", services.grids.run)
        self._on_duty.start_loop("share with parents", services.federation.parents.run)
        for duty in shared_duties(services, self._store, self._settings):
            self._on_duty.start_duty(Duty(duty.name, duty.every_s, self._if_holding(duty.run)))

    async def lost(self) -> None:
        """Cancel the duties: another process has them, or soon will."""
        await self._on_duty.stop()
        await self._services.grids.close()

    async def end(self) -> None:
        """Write down what is only in memory, and let the next process have the duties at once."""
        services = self._services
        was_holding = services.duty.is_holding()
        await self.lost()
        if was_holding:
            await self._attempt("usage not saved", self._save_usage)
        await self._attempt("pilots not saved", services.pilots.save_seen)
        await self._attempt("refusals not written down", services.federation.refusals.save)
        await self._attempt("bytes not accounted", services.transfers.accounting.save)
        await self._attempt("duties not released", services.duty.release)
        await self._attempt("last news not told", services.news.leave)

    async def _save_usage(self) -> None:
        await self._services.scheduler.save_usage(fence=self._services.duty.fence)

    def _if_holding(self, run: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        async def attempt() -> object:
            return await run() if self._services.duty.is_holding() else None

        return attempt

    @staticmethod
    async def _attempt(trouble: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await work()
        except (IceProdError, TimeoutError) as exc:
            logger.warning(trouble, reason=str(exc))
