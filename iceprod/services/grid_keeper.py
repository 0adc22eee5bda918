"""One grid and the pilots that were submitted to it: how they are, and how they have done."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from iceprod.errors import IceProdError
from iceprod.grids.base import (
    FINAL,
    Grid,
    GridDescription,
    GridJobId,
    GridReport,
    GridSettings,
    GridSpec,
    GridState,
)
from iceprod.model.pilot import Pilot, PilotStatus
from iceprod.model.resources import Offer, fits
from iceprod.services.provisioning import Demand, GridLimits, GridView

START_S = 120.0
"""How long a pilot may run on its grid before it must have reported."""
STRAY_S = 30.0
"""How long a grid job may outlast its pilot's record before it is cancelled."""
LIST_S = 60.0
"""How often a grid is asked for jobs that nobody here remembers."""
HOPELESS = 5
"""As many failed tasks, without one that did not fail, speak against the host."""

logger = structlog.get_logger(__name__)


class PilotBook(Protocol):
    """What this module needs of `iceprod.services.pilots.PilotService`."""

    async def create(self, *, grid: str, offer: Offer) -> tuple[str, str]:
        """Record a queued pilot; its id and secret."""

    async def submitted(self, pilot_id: str, grid_job_id: str) -> None:
        """Record what the grid calls it."""

    async def gone(self, pilot_id: str, reason: str) -> object:
        """Record its end, and give its tasks to others."""


@dataclass(slots=True)
class Backoff:
    """How long to leave something alone that fails: twice as long with each failure.

    A success takes back half a failure, so that what fails in one case of two or more is
    left alone in the end, and what fails rarely is not.
    """

    base_s: float
    longest_s: float
    tolerated: int = 0
    score: float = 0.0
    until: float = 0.0
    reason: str = ""

    def failed(self, now: float, reason: str, *, retryable: bool = True) -> None:
        """Count a failure; one that is no use to try again counts as many."""
        cap = self.tolerated + 1 + math.log2(self.longest_s / self.base_s)
        self.score = min(self.score + 1, cap) if retryable else cap
        self.reason = reason
        excess = self.score - self.tolerated
        if excess > 0:
            self.until = now + min(self.longest_s, self.base_s * 2 ** (excess - 1))

    def worked(self) -> None:
        """Count a success."""
        self.score = max(0.0, self.score - 0.5)
        if not self.is_doubtful:
            self.reason = ""

    def clear(self) -> None:
        """Forget all failures."""
        self.score = self.until = 0.0
        self.reason = ""

    @property
    def is_doubtful(self) -> bool:
        """Whether it has failed more than is tolerated, so that one trial must do."""
        return self.score > self.tolerated


@dataclass(frozen=True, slots=True)
class GridStatus:
    """How a grid is, for pages and for "why is this task not running?".

    It is given no pilots until ``backed_off_until``, for ``reason``.
    """

    name: str
    kind: str
    description: GridDescription | None
    pilots: int
    backed_off_until: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class _Tracked:
    """A grid job that has not ended, as far as was last heard."""

    job_id: GridJobId
    running_since: float | None = None
    stray_since: float | None = None
    has_worked: bool = False
    is_asked_to_end: bool = False


class GridKeeper:
    """Submits pilots to one grid, and keeps their records and the grid's jobs in step."""

    def __init__(
        self,
        grid: Grid,
        settings: GridSettings,
        *,
        pilots: PilotBook,
        records: Callable[[str], Awaitable[Pilot | None]],
        changed: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.description: GridDescription | None = None
        self.submitting: set[str] = set()
        self._grid = grid
        self._pilots = pilots
        self._records = records
        self._changed = changed
        self._jobs: dict[str, _Tracked] = {}
        self._is_open = False
        self._listed_at = self._refreshed_at = -math.inf
        self._outage = Backoff(base_s=2.0, longest_s=300.0)
        self._misfortune = Backoff(base_s=10.0, longest_s=900.0, tolerated=2)

    def view(self, now: float) -> GridView | None:
        """The grid for a plan; None while it is to be left alone."""
        if self.description is None or now < max(self._outage.until, self._misfortune.until):
            return None
        limits = GridLimits(max_pilots=self.settings.max_pilots, max_queued=self.settings.max_queued)
        return GridView(self.description, limits, probing=self._misfortune.is_doubtful)

    def status(self) -> GridStatus:
        """How the grid is."""
        worst = max(self._outage, self._misfortune, key=lambda backoff: backoff.until)
        return GridStatus(
            name=self.settings.name,
            kind=self.settings.kind,
            description=self.description,
            pilots=len(self._jobs),
            backed_off_until=worst.until,
            reason=worst.reason,
        )

    def is_due(self, now: float) -> bool:
        """Whether what is known of the grid is too old, and it may be asked again."""
        return now >= self._outage.until and now - self._refreshed_at >= self._grid.poll_s

    def expire(self) -> None:
        """Something has changed on the grid: ask it at the next opportunity."""
        self._refreshed_at = -math.inf

    async def refresh(self, live: Sequence[Pilot], demand: Sequence[Demand], *, now: float) -> None:
        """Ask the grid how it is, and act on what has become of its pilots."""
        try:
            await self._refresh(live, demand, now=now)
        except IceProdError as exc:
            self._note_outage(exc, now=now)
        except Exception as exc:  # an adapter's mistake must not stop the other grids
            logger.exception("grid adapter failed", grid=self.settings.name)
            self._note_outage(exc, now=now)
        else:
            self._refreshed_at = now
            self._outage.clear()

    async def submit(self, offers: Sequence[Offer], *, url: str, now: float) -> None:
        """Start pilots, until one is refused."""
        self.expire()
        for offer in offers:
            pilot_id, secret = await self._pilots.create(grid=self.settings.name, offer=offer)
            self.submitting.add(pilot_id)
            spec = GridSpec(
                pilot_id=pilot_id, secret=secret, url=url, offer=offer, idle_s=self.settings.idle_s
            )
            try:
                await self._submit(spec)
            except IceProdError as exc:
                self._note_outage(exc, now=now)
                await self._pilots.gone(pilot_id, f"not submitted: {exc}")
                return
            finally:
                self.submitting.discard(pilot_id)

    async def cancel_all(self) -> int:
        """Ask for the end of every pilot; how many there are."""
        for tracked in list(self._jobs.values()):
            tracked.is_asked_to_end = True
            try:
                await self._grid.cancel(tracked.job_id)
            except IceProdError as exc:
                logger.warning("grid job not cancelled", grid=self.settings.name, reason=str(exc))
        return len(self._jobs)

    async def close(self) -> None:
        """Let go of the grid, whose pilots carry on, until it is refreshed again."""
        await self._grid.close()
        self._is_open = False
        self._jobs.clear()
        self._listed_at = self._refreshed_at = -math.inf

    def counts(self, pilot: Pilot) -> bool:
        """Whether the pilot takes a place of what this process sees of the grid."""
        return not self._grid.is_machine_bound or pilot.pilot_id in self._jobs

    async def _submit(self, spec: GridSpec) -> None:
        job_id = await self._grid.submit(spec)
        self._jobs[spec.pilot_id] = _Tracked(job_id)
        await self._pilots.submitted(spec.pilot_id, job_id)
        logger.info("pilot submitted", grid=self.settings.name, pilot_id=spec.pilot_id, grid_job_id=job_id)

    def _note_outage(self, exc: Exception, *, now: float) -> None:
        retryable = exc.retryable if isinstance(exc, IceProdError) else True
        self._outage.failed(now, str(exc), retryable=retryable)
        logger.warning("grid left alone", grid=self.settings.name, until=self._outage.until, reason=str(exc))

    async def _refresh(self, live: Sequence[Pilot], demand: Sequence[Demand], *, now: float) -> None:
        if not self._is_open:
            await self._grid.open(self._on_change)
            self._is_open = True
        own = {pilot.pilot_id: pilot for pilot in live if pilot.grid == self.settings.name}
        await self._adopt(own, now=now)
        jobs = dict(self._jobs)
        reports = await self._grid.poll([tracked.job_id for tracked in jobs.values()])
        for pilot_id, tracked in jobs.items():
            report = reports.get(tracked.job_id, GridReport(GridState.ENDED, "no longer known to its grid"))
            if report.state in FINAL:
                await self._settle(pilot_id, report, demand, is_live=pilot_id in own, now=now)
            else:
                await self._watch(tracked, report, own.get(pilot_id), now=now)
        self.description = await self._grid.describe()

    def _on_change(self) -> None:
        self.expire()
        self._changed()

    async def _adopt(self, own: Mapping[str, Pilot], *, now: float) -> None:
        """Take over the jobs that an earlier process submitted, whether it recorded them or not."""
        recorded = {p: GridJobId(own[p].grid_job_id) for p in own.keys() - self._jobs if own[p].grid_job_id}
        if recorded and self._grid.is_machine_bound:
            # What is not known here may run on another machine, under a former holder of the duties.
            known = await self._grid.poll(list(recorded.values()))
            recorded = {pilot_id: job_id for pilot_id, job_id in recorded.items() if job_id in known}
        self._jobs |= {pilot_id: _Tracked(job_id) for pilot_id, job_id in recorded.items()}
        if now - self._listed_at < LIST_S:
            return
        for job_id, pilot_id in (await self._grid.jobs()).items():
            self._jobs.setdefault(pilot_id, _Tracked(job_id))
            if pilot_id in own and not own[pilot_id].grid_job_id and pilot_id not in self.submitting:
                await self._pilots.submitted(pilot_id, job_id)
        self._listed_at = now

    async def _settle(
        self, pilot_id: str, report: GridReport, demand: Sequence[Demand], *, is_live: bool, now: float
    ) -> None:
        """A grid job has ended: end its pilot too, and judge it."""
        tracked = self._jobs.pop(pilot_id)
        if is_live:
            await self._pilots.gone(pilot_id, report.reason or f"its grid job has {report.state}")
        record = await self._records(pilot_id)
        if record is None or tracked.is_asked_to_end:
            return
        fault = _fault(record, report, demand)
        if fault:
            self._misfortune.failed(now, fault)
            logger.warning(
                "pilot did no work",
                grid=self.settings.name,
                pilot_id=pilot_id,
                hostname=record.hostname,
                reason=fault,
                left_alone_until=self._misfortune.until,
            )

    async def _watch(self, tracked: _Tracked, report: GridReport, pilot: Pilot | None, *, now: float) -> None:
        """A grid job has not ended: see that its pilot is in order."""
        if pilot is None:
            tracked.stray_since = tracked.stray_since or now
            if now - tracked.stray_since >= STRAY_S:
                logger.warning(
                    "stray grid job cancelled", grid=self.settings.name, grid_job_id=tracked.job_id
                )
                await self._grid.cancel(tracked.job_id)
            return
        tracked.stray_since = None
        if pilot.finished and not tracked.has_worked:
            tracked.has_worked = True
            self._misfortune.worked()
        if report.state is GridState.RUNNING:
            tracked.running_since = tracked.running_since or now
            if pilot.status is PilotStatus.QUEUED and now - tracked.running_since >= START_S:
                logger.warning("silent pilot cancelled", grid=self.settings.name, pilot_id=pilot.pilot_id)
                await self._grid.cancel(tracked.job_id)


def _fault(pilot: Pilot, report: GridReport, demand: Collection[Demand]) -> str:
    """Why starting more pilots like this one is no use for now; empty if it did well enough."""
    if pilot.finished or pilot.claimed.cpu > 0 or pilot.claimed.gpu > 0:
        return ""
    where = pilot.hostname or "an unknown host"
    why = f": {report.reason}" if report.reason else ""
    if not pilot.hostname:
        return f"pilot {pilot.pilot_id} ended before it reported{why}"
    if report.state is GridState.FAILED:
        return f"pilot {pilot.pilot_id} on {where} failed before it finished a task{why}"
    if pilot.failed >= HOPELESS:
        return f"all {pilot.failed} tasks of pilot {pilot.pilot_id} on {where} failed"
    if any(fits(item.requirements, pilot.offer) for item in demand if item.waiting):
        return f"pilot {pilot.pilot_id} on {where} ended without a task though some wait that fit it"
    return ""
