"""Pilots: they register, claim tasks, say that they live, and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from iceprod import ids
from iceprod.clock import Clock
from iceprod.errors import AccessDenied, NotFoundError
from iceprod.model.failures import Failure
from iceprod.model.paging import Page, Slice
from iceprod.model.pilot import Pilot, PilotPatch, PilotStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.resources import Offer, Resources
from iceprod.model.task import Task
from iceprod.model.values import value
from iceprod.services.accounts import Accounts
from iceprod.services.authorization import check, check_object
from iceprod.services.catalogue import Catalogue
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.events import Event, EventKind, Events
from iceprod.services.reporting import Report
from iceprod.services.scheduling import Claimed, Scheduler, Waiters
from iceprod.services.sightings import Sightings
from iceprod.services.slots import Slots
from iceprod.services.tasks import TaskService
from iceprod.store.base import Store

BAD_LUCK = 5
"""Attempts that a pilot may fail in a row, each within `QUICK_S`, before it is drained."""
QUICK_S = 60.0
IDLE_BACKOFF_S = 20.0
"""How long a pilot is told to wait when nothing fits it, give or take a half."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PilotLimits:
    """Times that pilots are held to, in seconds."""

    heartbeat_s: float = 60.0
    long_poll_max_s: float = 60.0
    silence_s: float = 600.0  # a pilot not heard of for so long has gone


@value
class Claims:
    """The answer to a claim; with no task, when to ask again, or that the pilot gets no more."""

    tasks: tuple[Claimed, ...]
    retry_after_s: float = 0.0
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Pulse:
    """The answer to a heartbeat: tasks that are the pilot's no longer, and whether to drain."""

    lost: tuple[str, ...]
    drain: bool


class PilotService:
    """Everything that pilots ask for themselves, and what is done about them."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        accounts: Accounts,
        catalogue: Catalogue,
        scheduler: Scheduler,
        waiters: Waiters,
        tasks: TaskService,
        slots: Slots,
        sightings: Sightings,
        events: Events,
        watch: ClockWatch,
        limits: PilotLimits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._accounts = accounts
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._waiters = waiters
        self._tasks = tasks
        self._slots = slots
        self._sightings = sightings
        self._events = events
        self._watch = watch
        self.limits = limits

    async def load(self) -> None:
        """Take over the pilots that the store knows: at the start, and when news were missed."""
        alive = frozenset(PilotStatus) - {PilotStatus.ENDED}
        before, found_ids = set(self._slots.pilots), set()
        cursor: str | None = None
        while True:
            found = await self._store.pilots.select(alive, Page(limit=500, cursor=cursor))
            for pilot in found.items:
                self._slots.refresh(pilot)
                found_ids.add(pilot.pilot_id)
            cursor = found.next
            if cursor is None:
                break
        for pilot_id in before - found_ids:
            await self.changed_elsewhere(pilot_id)

    async def changed_elsewhere(self, pilot_id: str) -> None:
        """Another process has changed a pilot: one that gets no more tasks waits for none."""
        pilot = await self._store.pilots.get(pilot_id)
        if pilot is not None:
            self._noted(self._slots.refresh(pilot))

    async def seen_elsewhere(self, patch: PilotPatch) -> None:
        """Another process has heard of a pilot."""
        pilot = self._slots.pilots.get(patch.pilot_id)
        if pilot is None:
            await self.changed_elsewhere(patch.pilot_id)
        else:
            self._noted(self._slots.refresh(patch.applied_to(pilot)))

    def _noted(self, pilot: Pilot) -> None:
        if pilot.status in (PilotStatus.DRAINING, PilotStatus.ENDED):
            self._waiters.send_away(pilot.pilot_id)

    async def create(self, *, grid: str, offer: Offer) -> tuple[str, str]:
        """A new pilot that is about to be started: its id and its secret."""
        now = self._clock()
        pilot = Pilot(ids.new_id(), PilotStatus.QUEUED, now, now, grid=grid, offer=offer)
        self._slots.put(pilot)
        await self._store.pilots.put([pilot])
        self._events.publish(Event(EventKind.PILOT_CHANGED, pilot.pilot_id))
        secret = await self._accounts.issue_pilot_token(pilot.pilot_id)
        return pilot.pilot_id, secret

    async def submitted(self, pilot_id: str, grid_job_id: str) -> None:
        """The grid has taken the pilot under that name."""
        await self._patch(PilotPatch(pilot_id, grid_job_id=grid_job_id))

    async def register(
        self, principal: Principal, *, hostname: str, version: str, grid: str, offer: Offer
    ) -> Pilot:
        """A pilot says hello, or hello again."""
        check(principal, "pilot.register")
        patch = PilotPatch(
            principal.id,
            status=PilotStatus.RUNNING,
            seen_at=self._clock(),
            hostname=hostname,
            version=version,
            grid=grid,
            offer=offer,
        )
        return _not_ended(await self._patch(patch))

    async def heard_of(self, principal: Principal, *, hostname: str, offer: Offer) -> None:
        """A pilot that does not register makes itself known by its first claim."""
        pilot = await self._pilot(principal.id)
        if pilot.status is PilotStatus.QUEUED or not pilot.hostname:
            _not_ended(pilot)
            self._sightings.touch(principal.id, hostname=hostname, offer=offer)

    async def claim(
        self,
        principal: Principal,
        offer: Offer,
        *,
        max_tasks: int,
        wait_s: float = 0.0,
        held: Sequence[str] | None = None,
    ) -> Claims:
        """Tasks for a pilot, waiting up to ``wait_s`` for some to become ready.

        ``held`` are the leases that the pilot knows of; a task that it holds without knowing,
        because an answer got lost, is handed out again.  Not so while a restored site asks its
        children: the pilot may have ended that task since the backup, and a child hold the next.
        """
        if held is not None and not self._scheduler.recovering.is_on:
            forgotten = await self._forgotten(principal.id, frozenset(held))
            if forgotten:
                return Claims(tuple(forgotten))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait_s, self.limits.long_poll_max_s)
        while True:
            pilot = _not_ended(await self._pilot(principal.id))
            if pilot.status is PilotStatus.DRAINING:
                self._sightings.touch(principal.id)
                return Claims((), retry_after_s=IDLE_BACKOFF_S, drain=True)
            found = await self._scheduler.claim(principal.id, offer, max_tasks=max_tasks)
            claimed = await self._tasks.wanted(found)
            if found and not claimed:
                continue
            self._sightings.touch(principal.id, offer=offer, claimed=_in_use(pilot, offer, claimed))
            if claimed:
                return Claims(tuple(claimed))
            left = deadline - loop.time()
            if left <= 0 or not await self._waiters.wait(offer, left, name=principal.id):
                is_draining = (await self._pilot(principal.id)).status is PilotStatus.DRAINING
                return Claims((), retry_after_s=0.0 if wait_s else _backoff(), drain=is_draining)

    async def heartbeat(
        self, principal: Principal, leases: Sequence[tuple[str, str]], *, claimed: Resources | None = None
    ) -> Pulse:
        """Renew the leases of tasks, given as (task id, lease id); tell which are lost."""
        pilot = _not_ended(await self._pilot(principal.id))
        self._sightings.touch(principal.id, claimed=claimed)
        until = self._clock() + self._scheduler.lease_s
        kept = await self._store.tasks.renew(leases, until=until) if leases else []
        lost = tuple(task_id for (task_id, _), ok in zip(leases, kept, strict=True) if not ok)
        return Pulse(lost, drain=pilot.status is PilotStatus.DRAINING)

    async def held(self, principal: Principal) -> list[Task]:
        """The tasks that the calling pilot is processing."""
        return await self._store.tasks.held_by(principal.id)

    async def finish(self, principal: Principal, task_id: str, lease_id: str | None, report: Report) -> None:
        """An attempt succeeded; see `TaskService.finish`."""
        await self._tasks.finish(principal, task_id, lease_id, report)
        await self._score(principal.id, ok=True, walltime_s=report.walltime_s)

    async def fail(
        self, principal: Principal, task_id: str, lease_id: str | None, failure: Failure, report: Report
    ) -> tuple[Task, float | None]:
        """An attempt failed; see `TaskService.fail`."""
        done = await self._tasks.fail(principal, task_id, lease_id, failure, report)
        await self._score(principal.id, ok=False, walltime_s=report.walltime_s)
        return done

    async def _score(self, pilot_id: str, *, ok: bool, walltime_s: float) -> None:
        """Keep score; a pilot on which everything fails at once gets no more tasks."""
        is_bad_luck = not ok and walltime_s < QUICK_S
        in_a_row = self._sightings.count(pilot_id, ok=ok, is_bad_luck=is_bad_luck)
        if in_a_row >= BAD_LUCK:
            await self.drain(pilot_id, f"{BAD_LUCK} attempts in a row failed within {QUICK_S:g} s")

    async def drain(self, pilot_id: str, reason: str) -> None:
        """Give a pilot no more tasks."""
        pilot = await self._pilot(pilot_id)
        if pilot.status is not PilotStatus.ENDED:
            logger.warning("pilot drained", pilot_id=pilot_id, hostname=pilot.hostname, reason=reason)
            await self._patch(PilotPatch(pilot_id, status=PilotStatus.DRAINING, reason=reason))

    async def end(self, principal: Principal, pilot_id: str) -> None:
        """Have a pilot finish what it has and go."""
        check(principal, "pilot.end")
        await self.drain(pilot_id, f"ended by {principal.id}")

    async def bye(self, principal: Principal) -> None:
        """The pilot has ended; what it still held goes to others."""
        check(principal, "pilot.bye")
        await self.gone(principal.id, "said good-bye")

    async def gone(self, pilot_id: str, reason: str, *, unless_seen_after: float | None = None) -> bool:
        """A pilot has ended, by whatever means: its tasks go to others at once.

        False, and nothing done, if it was seen after ``unless_seen_after``, by any process.
        """
        patch = PilotPatch(
            pilot_id, status=PilotStatus.ENDED, reason=reason, unless_seen_after=unless_seen_after
        )
        if unless_seen_after is None:
            patch = self._sightings.last_words(patch)
        # First of all it gets nothing more; should this process end here, its leases run out.
        if (await self._patch(patch)).status is not PilotStatus.ENDED:
            return False
        held = await self._store.tasks.held_by(pilot_id)
        if held:
            await self._tasks.evict([(t.task_id, t.lease_id) for t in held], f"pilot gone: {reason}")
        await self._accounts.revoke_pilot_tokens(pilot_id)
        return True

    async def get(self, principal: Principal, pilot_id: str) -> Pilot:
        """One pilot."""
        check_object(
            principal, "pilot.get", kind="pilot", identifier=pilot_id, pilot_id=pilot_id, public=True
        )
        return await self._pilot(pilot_id)

    async def select(
        self, principal: Principal, statuses: frozenset[PilotStatus], page: Page
    ) -> Slice[Pilot]:
        """Pilots in some statuses, newest first."""
        check(principal, "pilot.list")
        return await self._store.pilots.select(statuses, page)

    async def save_seen(self) -> None:
        """Write down what heartbeats and claims have told to this process."""
        for pilot in await self._sightings.save():
            self._noted(pilot)

    async def tell_seen(self) -> None:
        """Tell other processes what is different about pilots."""
        self._sightings.tell()

    async def end_silent(self) -> int:
        """Give up pilots that no process has heard of for long; a duty."""
        if not self._watch.is_settled():
            return 0
        before = self._clock() - self.limits.silence_s
        silent = [
            pilot.pilot_id
            for pilot in self._slots.pilots.values()
            if pilot.seen_at < before and pilot.status is not PilotStatus.QUEUED
        ]
        reason = f"not heard of for {self.limits.silence_s:g} s"
        return sum([await self.gone(pilot_id, reason, unless_seen_after=before) for pilot_id in silent])

    async def config(self, principal: Principal, dataset_id: str, version: int) -> dict[str, Any]:
        """The configuration that a claimed task runs by."""
        check(principal, "pilot.config")
        if principal.kind is PrincipalKind.TASK and not principal.id.startswith(f"{dataset_id}-"):
            raise NotFoundError("dataset", dataset_id)
        await self._tasks.check_attempt(principal)
        return await self._catalogue.config(dataset_id, version)

    async def _forgotten(self, pilot_id: str, known: frozenset[str]) -> list[Claimed]:
        held = await self._store.tasks.held_by(pilot_id)
        again = []
        for task in held:
            if task.lease_id not in known:
                dataset = await self._catalogue.get(task.dataset_id)
                again.append(Claimed(task, dataset, await self._scheduler.requirements_of(task)))
        return await self._tasks.wanted(again)

    async def _pilot(self, pilot_id: str) -> Pilot:
        pilot = self._slots.pilots.get(pilot_id)
        if pilot is None:
            pilot = await self._store.pilots.get(pilot_id)
            if pilot is None:
                raise NotFoundError("pilot", pilot_id)
            self._slots.put(pilot)
        return pilot

    async def _patch(self, patch: PilotPatch) -> Pilot:
        """Change a pilot in the store and here, and tell everybody.

        Raises:
            NotFoundError: there is no such pilot.
        """
        known = self._slots.pilots.get(patch.pilot_id)
        if known is not None and patch.unless_seen_after is None:
            # Memory first: whoever asks while the store writes hears of it.
            counted_later = replace(patch, finished=0, failed=0)
            self._slots.put(counted_later.applied_to(known))
        (pilot,) = await self._store.pilots.update([patch])
        if pilot is None:
            raise NotFoundError("pilot", patch.pilot_id)
        pilot = self._slots.refresh(pilot)
        self._noted(pilot)
        self._events.publish(Event(EventKind.PILOT_CHANGED, pilot.pilot_id))
        return pilot


def _not_ended(pilot: Pilot) -> Pilot:
    if pilot.status is PilotStatus.ENDED:
        raise AccessDenied(f"pilot {pilot.pilot_id} has ended: {pilot.reason}", pilot_id=pilot.pilot_id)
    return pilot


def _in_use(pilot: Pilot, offer: Offer, claimed: Sequence[Claimed]) -> Resources:
    """What a pilot has in use: all that it did not offer, and what it got now."""
    has = pilot.offer if pilot.status is not PilotStatus.QUEUED else offer
    in_use = has.resources.minus(offer.resources)
    for one in claimed:
        in_use = in_use.plus(one.requirements.resources)
    return in_use


def _backoff() -> float:
    """Spread out, so that pilots that were turned away together do not return together."""
    return IDLE_BACKOFF_S * random.uniform(0.5, 1.5)  # noqa: S311 (nothing secret hangs on it)
