"""Children of a site under test, who say by themselves what real ones would."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from site_harness import Site

from iceprod.model.federation import OperationKind, Peer, PeerRole, PeerStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.site_sync.messages import (
    About,
    Heard,
    Lent,
    Listen,
    Outcome,
    Pull,
    Pulled,
    Renew,
    Report,
    Shape,
    Statement,
    Told,
)

SLOT = Shape(cpu=8, memory=32.0, disk=100.0, time=48.0, tasks=1)


def slots(tasks: int, **other: Any) -> Shape:
    """Room for so many tasks."""
    given = {"cpu": 8, "memory": 32.0, "disk": 100.0, "time": 48.0, "tasks": tasks, **other}
    return Shape(**given)


@dataclass
class Child:
    """A site that has joined; ``near`` are jobs of which it says that it has files."""

    site: Site
    name: str
    near: list[tuple[str, int]] = field(default_factory=list)

    @property
    def principal(self) -> Principal:
        return Principal(PrincipalKind.SITE, self.name)

    async def ask(self, *shapes: Shape, wait_s: float = 0.0) -> Pulled:
        """The answer to a pull."""
        message = Pull(list(shapes) or [SLOT], wait_s, near=self.near)
        return await self.site.services.federation.lending.pull(self.principal, message)

    async def pull(self, tasks: int = 1, **shape: Any) -> list[Lent]:
        """What is lent for so many slots."""
        return (await self.ask(slots(tasks, **shape))).tasks

    async def waits(self, *shapes: Shape, wait_s: float = 30.0) -> asyncio.Task[Pulled]:
        """A pull that waits for work."""
        pull = asyncio.create_task(self.ask(*shapes, wait_s=wait_s))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not pull.done()
        return pull

    async def say(self, *statements: Statement, **more: Any) -> list[Outcome]:
        """What becomes of a report."""
        report = Report(list(statements), **more)
        return (await self.site.services.federation.inbox.report(self.principal, report)).outcomes

    async def results(self, *statements: Statement) -> list[str]:
        """The same, in one word each."""
        return [outcome.result for outcome in await self.say(*statements)]

    async def renew(self, *leases: tuple[str, str], is_all: bool = False) -> list[str]:
        """The leases that are lost."""
        message = Renew(list(leases), is_all)
        return (await self.site.services.federation.lending.renew(self.principal, message)).lost

    async def listen(self, wait_s: float = 0.0) -> Heard:
        """What concerns its tasks."""
        return await self.site.services.federation.lending.listen(self.principal, Listen(wait_s))

    async def about(self, dataset_id: str, version: int | None = None) -> Told:
        """What it may know of a dataset."""
        return await self.site.services.federation.lending.about(self.principal, About(dataset_id, version))


async def join(site: Site, name: str = "west", **fields: Any) -> Child:
    """A child that has joined; ``fields`` are those of `Peer`."""
    given = {"status": PeerStatus.JOINED, "joined_at": site.clock(), **fields}
    await site.services.federation.registry.put(Peer(name, PeerRole.CHILD, **given))
    return Child(site, name)


def leases(lent: Sequence[Lent]) -> list[tuple[str, str]]:
    """Tasks and leases, as they are renewed."""
    return [(one.task_id, one.lease_id) for one in lent]


def said(kind: str, lent: Lent, **body: Any) -> Statement:
    """A statement about a task that was lent."""
    return Statement(f"{lent.lease_id}/{kind}", OperationKind(kind), lent.task_id, lent.lease_id, body=body)


def finished(lent: Lent, **stats: Any) -> Statement:
    """That it is complete."""
    return said("finished", lent, stats={"hostname": "node1", "time_used": 60.0, **stats})


def failed(lent: Lent, **error: Any) -> Statement:
    """That it failed."""
    given = {"kind": "exit", "summary": "the program ended with code 1", "exit_code": 1, **error}
    return said("failed", lent, error={"hostname": "node1", "time_used": 1000.0, **given})


def returned(lent: Lent, reason: str = "no slot") -> Statement:
    """That it was not run."""
    return said("returned", lent, reason=reason)


def logged(lent: Lent, text: str, name: str = "stdout") -> Statement:
    """What it printed."""
    return said("log", lent, name=name, data=base64.b64encode(zlib.compress(text.encode())).decode())
