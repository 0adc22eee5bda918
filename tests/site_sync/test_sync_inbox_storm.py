"""Reports in any order, often, from the wrong site, and while tasks are taken away."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict

import pytest
from lending_harness import Child, failed, finished, join, logged, returned, said
from site_harness import ALICE, Site, task

from iceprod.model.federation import ENDINGS, holder_of
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.task import Outcome
from iceprod.site_sync.messages import Lent, Statement

TINY = {"cpu": 1, "memory": 0.1, "disk": 0.1, "time": 0.1}
ENDS = {"finished": Outcome.FINISHED, "failed": Outcome.FAILED, "returned": Outcome.EVICTED}


class Storm:
    """Children that say everything several times, and of which one lies."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.applied: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by lease: kinds
        self.owner: dict[str, str] = {}  # of leases
        self.unsaid: list[tuple[Child, Statement]] = []

    def note(self, child: Child, lent: list[Lent]) -> None:
        """What a child will say, some of it several times, and what others will say of it."""
        for one in lent:
            self.owner[one.lease_id] = child.name
            end = self.random.choice([finished, finished, failed, returned])(one)
            true = [said("started", one), logged(one, one.lease_id), end]
            for statement in true:
                self.unsaid += [(child, statement)] * self.random.randint(1, 3)

    async def say(self, children: list[Child]) -> None:
        """Send some of it, in messages at the same time, and look at the answers."""
        self.random.shuffle(self.unsaid)
        now, self.unsaid = self.unsaid[:60], self.unsaid[60:]
        liar = children[-1]
        messages: list[tuple[Child, list[Statement]]] = []
        for child in children:
            own = [statement for speaker, statement in now if speaker is child]
            cut = self.random.randint(0, len(own))
            messages += [(child, own[:cut]), (child, own[cut:])]
        stolen = [statement for speaker, statement in now if speaker is not liar]
        messages.append((liar, self.random.sample(stolen, min(5, len(stolen)))))
        answers = await asyncio.gather(*(child.say(*statements) for child, statements in messages))
        for (child, statements), outcomes in zip(messages, answers, strict=True):
            for statement, outcome in zip(statements, outcomes, strict=True):
                self.judge(child, statement, outcome.result)

    def judge(self, child: Child, statement: Statement, result: str) -> None:
        if self.owner[statement.lease_id] != child.name:
            assert result == "refused"
        elif statement.kind in ENDINGS:
            self.applied[statement.lease_id][statement.kind] += result == "applied"
            assert result != "refused"

    async def disturb(self, dataset_id: str) -> None:
        """Something that takes tasks away, or lets them go on."""
        services = self.site.services
        running = await self.site.store.tasks.ids(dataset_id, frozenset({TaskStatus.PROCESSING}), None, 1000)
        some = self.random.sample(running, min(3, len(running)))
        event = self.random.choice([TaskEvent.SUSPENDED, TaskEvent.HARD_RESET, TaskEvent.RESET])
        await services.tasks.change(ALICE, event, some)
        await services.datasets.reset(ALICE, dataset_id)
        if self.random.random() < 0.2:
            self.site.advance(4 * 3600.0)
            await services.leases.expire()  # settles after the jump
            self.site.advance(self.site.settings.scheduling.lease_s + 1)
            await services.leases.expire()


@pytest.mark.parametrize("seed", range(6))
async def test_every_lease_ends_once_and_by_its_own_holder(site: Site, seed: int):
    storm = Storm(site, seed)
    dataset = await site.submit(task("a", **TINY), task("b", "a", **TINY), njobs=20)
    children = [await join(site, name) for name in ("west", "east", "liar")]
    for turn in range(25):
        for child in children:
            storm.note(child, await child.pull(storm.random.randint(0, 8)))
        await asyncio.gather(storm.say(children), *([storm.disturb(dataset.dataset_id)] if turn % 3 else []))
        await site.services.tasks.release_due()
        site.advance(storm.random.choice([0.0, 60.0, 3600.0]))
    while storm.unsaid:
        await storm.say(children)

    ended: dict[str, Outcome] = {}
    found = await site.store.tasks.ids(dataset.dataset_id, frozenset(TaskStatus), None, 1000)
    for task_id in found:
        for attempt in await site.store.tasks.attempts(task_id):
            assert attempt.lease_id not in ended
            ended[attempt.lease_id] = attempt.outcome
            assert attempt.pilot_id == holder_of(storm.owner[attempt.lease_id])
    for lease_id, kinds in storm.applied.items():
        assert kinds.total() <= 1
        for kind in +kinds:
            assert ended[lease_id] is ENDS[kind]
    said_to_be_complete = sum(kinds["finished"] for kinds in storm.applied.values())
    assert said_to_be_complete == list(ended.values()).count(Outcome.FINISHED) > 0
    await site.counts(dataset)  # which compares them with a recount
    results = site.services.federation.inbox.results
    assert results["liar", "refused"] > 0
    assert results["west", "refused"] == 0
