"""Changes of many tasks and jobs at once ask the store for all of them together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from site_harness import ALICE, BOB, Site, open_sites, task

from iceprod.errors import AccessDenied, NotFoundError
from iceprod.model.lifecycle import TaskEvent
from iceprod.store.mongo import MongoStore
from tests.store import mongo_server

JOBS = 40
FEW = 12  # commands


class Counter(CommandListener):
    """How many commands were sent to the database."""

    def __init__(self) -> None:
        self.commands = 0

    def started(self, event: CommandStartedEvent) -> None:
        self.commands += event.command_name in ("find", "insert", "update", "findAndModify", "getMore")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def passed(self) -> int:
        """How many since this was last asked."""
        passed, self.commands = self.commands, 0
        return passed


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
async def on_mongo(counter: Counter, tmp_path: Path) -> AsyncIterator[Site]:
    """A site whose commands to MongoDB are counted."""
    if not mongo_server.is_there():
        pytest.skip(mongo_server.ABSENT)
    with mongo_server.database() as url:
        store = MongoStore(url, listeners=[counter])
        await store.open()
        try:
            async with open_sites([store], tmp_path) as (site,):
                yield site
        finally:
            await store.close()


@pytest.mark.mongo
async def test_many_jobs_take_few_commands(on_mongo: Site, counter: Counter):
    counter.passed()
    dataset = await on_mongo.submit(task("a"), task("b", "a"), njobs=JOBS)
    assert counter.passed() < 2 * FEW  # to submit it, and to make its jobs
    job_ids = [f"{dataset.dataset_id}-{job}" for job in range(JOBS)]

    changed = await on_mongo.services.datasets.change_jobs(ALICE, TaskEvent.SUSPENDED, job_ids)
    assert (changed, counter.passed() < FEW) == (2 * JOBS, True)

    task_ids = [f"{job_id}-0" for job_id in job_ids]
    changed = await on_mongo.services.tasks.change(ALICE, TaskEvent.RESUMED, task_ids)
    assert (changed, counter.passed() < FEW) == (JOBS, True)


async def test_one_task_that_is_not_there_keeps_all_from_changing(site: Site):
    dataset = await site.submit(njobs=3)
    wanted = [f"{dataset.dataset_id}-{job}-0" for job in range(4)]
    for names in (wanted, [*wanted[:3], f"{dataset.dataset_id}-0-1"], [*wanted[:3], "garbage"]):
        with pytest.raises(NotFoundError):
            await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, names)
    with pytest.raises((AccessDenied, NotFoundError)):
        await site.services.tasks.change(BOB, TaskEvent.SUSPENDED, wanted[:3])
    assert await site.services.tasks.change(ALICE, TaskEvent.SUSPENDED, wanted[:3]) == 3
