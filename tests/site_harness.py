"""A whole site without a process around it: every service over a real SQLite file.

The services are put together as the server does it; only the clock is the test's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iceprod.config import Settings
from iceprod.model.dataset import Dataset
from iceprod.model.failures import Failure, FailureKind
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.resources import Offer, Resources
from iceprod.model.task import Task
from iceprod.rpc.dispatch import Dispatcher
from iceprod.server.assembly import make_services
from iceprod.server.context import Services
from iceprod.server.process import make_context
from iceprod.services.datasets import Submission
from iceprod.services.reporting import Report
from iceprod.services.scheduling import Claimed
from iceprod.store.base import Store, TaskFilter
from iceprod.store.sqlite.store import SqliteStore

START = 1_700_000_000.0
LARGE = Offer(Resources(cpu=8, gpu=0, memory=32.0, disk=100.0, time_h=48.0))
SMALL = Offer(Resources(cpu=1, gpu=0, memory=4.0, disk=10.0, time_h=24.0))
CRASH = Failure(FailureKind.EXIT, "the program ended with code 1", exit_code=1)


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def user(name: str, *groups: str) -> Principal:
    return Principal(PrincipalKind.USER, name, frozenset(groups or ("users",)))


ALICE, BOB = user("alice"), user("bob")
ADMIN = Principal(PrincipalKind.ADMIN, "root", frozenset({"users"}))


def task(name: str, *depends: str, **requirements: Any) -> dict[str, Any]:
    """One task of a configuration, which runs nothing."""
    return {
        "name": name,
        "depends": list(depends),
        "requirements": requirements,
        "trays": [{"modules": [{"name": "run", "src": "run.sh"}]}],
    }


def config(*tasks: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration of these tasks, of one alone if none is given."""
    return {"version": 3, "tasks": list(tasks) or [task("only")], **more}


def settings(folder: Path, **sections: Mapping[str, Any]) -> Settings:
    """Settings for tests: everything in ``folder``, no grid, passwords hashed quickly."""
    quick = {"hash_memory_kib": 8, "hash_rounds": 1}
    given: dict[str, Any] = {"server": {"data_dir": folder}, "accounts": quick, "grids": {}, **sections}
    return Settings(**given)


@dataclass
class Site:
    """The services, and what tests do with them all the time."""

    store: Store
    services: Services
    settings: Settings
    clock: Time
    monotonic: Time
    pilots: list[Principal] = field(default_factory=list)

    def advance(self, seconds: float) -> None:
        """Let time go by, on the wall clock and on the steady one."""
        self.clock.advance(seconds)
        self.monotonic.advance(seconds)

    async def submit(
        self,
        *tasks: Mapping[str, Any],
        njobs: int = 1,
        owner: Principal = ALICE,
        fill: bool = True,
        document: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Dataset:
        """A new dataset whose jobs are made (as far as its buffer goes) unless ``fill`` is false."""
        text = json.dumps(document or config(*tasks))
        submission = Submission(text, njobs, **more)
        dataset = (await self.services.datasets.submit(owner, submission)).dataset
        if fill:
            await self.services.materialiser.fill(dataset.dataset_id)
        return await self.dataset(dataset)

    async def dataset(self, dataset: Dataset | str) -> Dataset:
        """A dataset as the store has it."""
        found = await self.store.datasets.get(dataset if isinstance(dataset, str) else dataset.dataset_id)
        assert found is not None
        return found

    async def pilot(self, offer: Offer = LARGE, *, hostname: str = "") -> Principal:
        """A new pilot that has registered."""
        pilot_id, _secret = await self.services.pilots.create(grid="test", offer=offer)
        principal = Principal(PrincipalKind.PILOT, pilot_id)
        self.pilots.append(principal)
        host = hostname or f"node{len(self.pilots)}"
        await self.services.pilots.register(principal, hostname=host, version="1", grid="", offer=offer)
        return principal

    async def claim(
        self, pilot: Principal, offer: Offer = LARGE, *, max_tasks: int = 1, **more: Any
    ) -> tuple[Claimed, ...]:
        """What a claim hands out."""
        claims = await self.services.pilots.claim(pilot, offer, max_tasks=max_tasks, **more)
        return claims.tasks

    async def one(self, pilot: Principal, offer: Offer = LARGE) -> Task:
        """The one task that a claim hands out."""
        (claimed,) = await self.claim(pilot, offer)
        return claimed.task

    async def finish(self, pilot: Principal, held: Task, **report: Any) -> None:
        """The pilot finishes a task that it holds."""
        await self.services.pilots.finish(pilot, held.task_id, held.lease_id, Report(**report))

    async def fail(
        self, pilot: Principal, held: Task, failure: Failure = CRASH, **report: Any
    ) -> tuple[Task, float | None]:
        """The pilot fails with a task that it holds."""
        report = {"walltime_s": 1000.0, **report}
        return await self.services.pilots.fail(pilot, held.task_id, held.lease_id, failure, Report(**report))

    async def run_all(self, pilot: Principal, offer: Offer = LARGE) -> list[str]:
        """Run whatever fits until nothing is left; the ids in the order in which they were claimed."""
        done: list[str] = []
        while True:
            for dataset in await self.store.datasets.active():
                await self.services.materialiser.fill(dataset.dataset_id)
            claimed = await self.claim(pilot, offer, max_tasks=100)
            if not claimed:
                return done
            for one in claimed:
                await self.finish(pilot, one.task)
                done.append(one.task.task_id)

    async def task(self, task_id: str) -> Task:
        """A task as the store has it."""
        found = await self.store.tasks.get(task_id)
        assert found is not None
        return found

    async def statuses(self, dataset: Dataset) -> list[TaskStatus]:
        """The status of each task in the order of job and task index."""
        found = await self.store.tasks.select(dataset.dataset_id, TaskFilter(), Page(500))
        return [task.status for task in found.items]

    async def counts(self, dataset: Dataset) -> dict[TaskStatus, int]:
        """How many tasks stand where, by the counters, which are compared with a recount."""
        assert await self.store.datasets.recount(dataset.dataset_id) == []
        return (await self.store.datasets.progress(dataset.dataset_id)).all_tasks

    def dispatcher(self) -> Dispatcher:
        """All RPC methods over these services, with the site's own rules of who may what."""
        return make_context(self.store, self.settings, services=self.services).dispatcher

    async def restarted(self) -> Site:
        """What the next process makes of the same store."""
        return await _site(self.store, self.settings, self.clock, self.monotonic)


async def _site(store: Store, given: Settings, clock: Time, monotonic: Time) -> Site:
    services = make_services(store, given, clock=clock, monotonic=monotonic, grids=[])
    await services.accounts.open()
    await services.news.open(services.hearing)
    await services.scheduler.load()
    await services.federation.recovery.load()
    await services.pilots.load()
    return Site(store, services, given, clock, monotonic)


@asynccontextmanager
async def open_site(folder: Path, **sections: Mapping[str, Any]) -> AsyncIterator[Site]:
    """A site in ``folder``; ``sections`` are settings."""
    given = settings(folder, **sections)
    store = SqliteStore(given.store_path, synchronous="OFF")
    await store.open()
    site = await _site(store, given, Time(), Time(0.0))
    try:
        yield site
    finally:
        site.services.accounts.close()
        site.services.files.close()
        await site.services.uploads.keeper.stop()
        site.services.uploads.service.close()
        await store.close()


@asynccontextmanager
async def open_sites(
    stores: Sequence[Store], folder: Path, **sections: Mapping[str, Any]
) -> AsyncIterator[list[Site]]:
    """As many processes of one site as there are stores, which must share their content.

    All have the same clocks, and have heard of one another.
    """
    given, clock, monotonic = settings(folder, **sections), Time(), Time(0.0)
    sites = [await _site(store, given, clock, monotonic) for store in stores]
    try:
        await spread(*sites)
        yield sites
    finally:
        for site in sites:
            site.services.accounts.close()
            site.services.files.close()
        await site.services.uploads.keeper.stop()
        site.services.uploads.service.close()


async def spread(*sites: Site) -> None:
    """Let these processes tell what they have to tell, and hear one another."""
    for site in sites:
        await site.services.pilots.tell_seen()
    for _ in range(2):  # what follows from what was heard may be news again
        for site in sites:
            await site.services.news.tell()
        for site in sites:
            await site.services.news.poll()


def ids(claimed: Sequence[Claimed]) -> list[str]:
    """The task ids of a claim."""
    return [one.task.task_id for one in claimed]
