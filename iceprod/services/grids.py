"""The controller: keeps as many pilots on the grids as the waiting work justifies.

A step asks the grids how they are, compares that with the pilots' records, and starts what
`iceprod.services.provisioning.plan` says.  It runs every second, and at once when work
appears or a grid job changes.  A grid that answers slowly is left out of a step and taken
into the next, so that it never holds up another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from iceprod.clock import Clock
from iceprod.errors import IceProdError
from iceprod.grids.base import Grid, GridSettings
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.resources import Offer
from iceprod.services.events import Event, EventKind
from iceprod.services.grid_keeper import GridKeeper, GridStatus, PilotBook
from iceprod.services.provisioning import Demand, GridView, plan, unclaimed
from iceprod.services.slots import GridSlot, Slots

PERIOD_S = 1.0
GAP_S = 0.05
"""The least time from one step to the next, however often it is woken."""
PATIENCE_S = 0.5
"""How long a step waits for its slowest grid."""

logger = structlog.get_logger(__name__)


class GridController:
    """All grids of this site.

    ``records`` reads a pilot's record also when it has ended (the store's); ``url`` is where
    pilots reach this server, and may be set until the first step.
    """

    def __init__(
        self,
        grids: Iterable[tuple[Grid, GridSettings]],
        *,
        pilots: PilotBook,
        records: Callable[[str], Awaitable[Pilot | None]],
        slots: Slots,
        demand: Callable[[], Sequence[Demand]],
        clock: Clock,
        url: str = "",
        is_on_duty: Callable[[], bool] = lambda: True,
    ) -> None:
        self.url = url
        self._is_on_duty = is_on_duty
        self._heard: list[GridStatus] | None = None
        self._slots = slots
        self._demand = demand
        self._clock = clock
        self._keepers = [
            GridKeeper(grid, settings, pilots=pilots, records=records, changed=self.wake)
            for grid, settings in grids
        ]
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._lock = asyncio.Lock()
        self._is_ending = False

    def wake(self) -> None:
        """Have the next step taken at once."""
        self._woken.set()

    def on_event(self, event: Event) -> None:
        """Listen to `iceprod.services.events`: new work wakes the controller."""
        if event.kind is EventKind.WORK_READY:
            self.wake()

    def status(self) -> list[GridStatus]:
        """How every grid is, as the process sees it that takes care of them."""
        if self._heard is not None:
            return self._heard
        return [keeper.status() for keeper in self._keepers]

    def unclaimed(self, elsewhere: Mapping[Offer, int]) -> Counter[Offer]:
        """What could be begun with now, here and ``elsewhere``, beyond what waits; known where `run` is."""
        now = self._clock()
        return unclaimed(self._demand(), self._pilots(), self._views(now), elsewhere=elsewhere, now=now)

    def cared_for_elsewhere(self, statuses: list[GridStatus]) -> None:
        """Another process takes care of the grids, which are so."""
        if not self._is_on_duty():
            self._heard = statuses
            self._set_slots()

    async def run(self) -> None:
        """Take steps until cancelled; a duty."""
        self._heard = None
        while True:
            self._woken.clear()
            try:
                await self.step(self._clock())
            except IceProdError as exc:
                logger.warning("no pilots started", reason=str(exc))
            except Exception:  # a mistake in one step must not end all further ones
                logger.exception("grid controller failed")
            await asyncio.sleep(GAP_S)
            # Not by `wait_for`, which swallows a cancellation that comes just as it is woken.
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._woken.wait()

    async def step(self, now: float) -> None:
        """Bring the grids' jobs and the pilots' records together, and start what is missing."""
        async with self._lock:
            await self._refresh(now)
            views = self._views(now)
            if not views or self._is_ending:
                return
            wanted: dict[str, list[Offer]] = {}
            # Not on the loop: with hundreds of kinds of work it takes a tenth of a second.
            for start in await asyncio.to_thread(plan, self._demand(), self._pilots(), views, now=now):
                wanted.setdefault(start.grid, []).append(start.offer)
            if not self._is_on_duty():  # it was taken over meanwhile
                return
            await self._each(
                {
                    keeper: keeper.submit(wanted[keeper.settings.name], url=self.url, now=now)
                    for keeper in self._keepers
                    if keeper.settings.name in wanted
                }
            )

    async def end_pilots(self, *, timeout_s: float) -> int:
        """End every pilot and start no more; how many are left when the time is over."""
        self._is_ending = True
        left = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while left := sum([await keeper.cancel_all() for keeper in self._keepers]):
                    self._woken.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(GAP_S):
                            await self._woken.wait()
                    await self.step(self._clock())
        return left

    async def close(self) -> None:
        """Stop what is under way and let go of the grids, until `run` again; the pilots carry on."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for keeper in self._keepers:
            await keeper.close()

    async def _refresh(self, now: float) -> None:
        live, demand = list(self._slots.pilots.values()), self._demand()
        due = {
            keeper: keeper.refresh(live, demand, now=now)
            for keeper in self._keepers
            if keeper.settings.name not in self._busy and keeper.is_due(now)
        }
        await self._each(due)
        self._set_slots()

    def _set_slots(self) -> None:
        self._slots.set_grids(
            [GridSlot(s.name, s.description.largest) for s in self.status() if s.description]
        )

    def _views(self, now: float) -> list[GridView]:
        free = [keeper for keeper in self._keepers if keeper.settings.name not in self._busy]
        return [view for keeper in free if (view := keeper.view(now))]

    def _pilots(self) -> list[Pilot]:
        """The live pilots as a plan should see them.

        One that an administrator starts by hand, or that runs on a machine that had the
        duties before, serves work once it runs, but takes no place on a grid; before, nobody
        knows whether it will ever come.
        """
        submitting = {pilot_id for keeper in self._keepers for pilot_id in keeper.submitting}
        keepers = {keeper.settings.name: keeper for keeper in self._keepers}
        found = []
        for pilot in self._slots.pilots.values():
            keeper = keepers.get(pilot.grid)
            is_elsewhere = keeper is not None and not keeper.counts(pilot)
            if pilot.pilot_id in submitting or (pilot.grid_job_id and not is_elsewhere):
                found.append(pilot)
            elif pilot.status is not PilotStatus.QUEUED:
                found.append(replace(pilot, grid=""))
        return found

    async def _each(self, work: dict[GridKeeper, Coroutine[Any, Any, None]]) -> None:
        """Do something with several grids side by side; what takes too long goes on by itself."""
        if not work:
            return
        started = []
        for keeper, job in work.items():
            task = asyncio.get_running_loop().create_task(job, name=keeper.settings.name)
            self._busy[keeper.settings.name] = task
            task.add_done_callback(self._done)
            started.append(task)
        done, slow = await asyncio.wait(started, timeout=PATIENCE_S)
        for task in slow:
            task.add_done_callback(self._late)
        for task in done:
            task.result()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._busy[task.get_name()]

    def _late(self, task: asyncio.Task[None]) -> None:
        """What a slow grid has answered is for the next step, which waited for nothing else."""
        if not task.cancelled() and task.exception():
            logger.warning("grid step failed", grid=task.get_name(), exc_info=task.exception())
        self.wake()
