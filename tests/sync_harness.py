"""Two sites in one loop: what one says to the other goes by way of its dispatcher, in memory.

What lies between them can be told to lose, repeat and hold up what is said.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from site_harness import LARGE, Site, open_site

from iceprod.errors import Unavailable
from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus, Peer, PeerRole, PeerStatus
from iceprod.model.paging import Page
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.resources import Offer
from iceprod.model.task import Task
from iceprod.rpc.client import error_from
from iceprod.site_sync.as_child.calls import Calls
from iceprod.site_sync.as_child.parents import Means, Parent, Parents
from iceprod.store.base import DatasetFilter

Answer = TypeVar("Answer", bound=msgspec.Struct)


class Fault(Enum):
    """What can happen to a call on its way."""

    LOST = "it never arrives"
    UNANSWERED = "it is carried out, and the answer is lost"
    TWICE = "it arrives twice"
    LATE = "it is carried out only when the next one comes"


class Wire:
    """The way from a child to its parent (`iceprod.site_sync.as_child.calls.Calls`).

    ``plan`` says what happens to the next calls of a method; None lets one through.
    ``said`` are all that arrived.
    """

    def __init__(self, parent: Site, child: str) -> None:
        self.said: list[tuple[str, Any]] = []
        self.plan: dict[str, deque[Fault | None]] = {}
        self.is_down = False
        self.distrusted: list[str] = []
        self.lead_to(parent)
        self._principal = Principal(PrincipalKind.SITE, child)
        self._late: list[tuple[str, bytes]] = []

    def lead_to(self, parent: Site) -> None:
        """Have somebody else answer from now on."""
        self._dispatcher = parent.dispatcher()

    def then(self, method: str, *faults: Fault | None) -> None:
        """Have this happen to the next calls of a method."""
        self.plan.setdefault(method, deque()).extend(faults)

    async def call(self, method: str, message: msgspec.Struct, answer: type[Answer]) -> Answer:
        """See `Calls`."""
        planned = self.plan.get(method)
        fault = planned.popleft() if planned else None
        body = msgspec.json.encode(message)
        if self.is_down or fault is Fault.LOST:
            raise Unavailable("nothing arrives")
        if fault is Fault.LATE:
            self._late.append((method, body))
            raise Unavailable("nothing is heard")
        late, self._late = self._late, []
        for each in (*late, *([(method, body)] if fault is Fault.TWICE else [])):
            await self._arrives(*each)
        result = await self._arrives(method, body)
        if fault is Fault.UNANSWERED:
            raise Unavailable("no answer comes")
        if "error" in result:
            error = result["error"]
            raise error_from(error["code"], error["message"], error.get("data"))
        return msgspec.convert(result["result"], answer)

    async def _arrives(self, method: str, message: bytes) -> Any:
        self.said.append((method, json.loads(message)))
        text = b'{"jsonrpc": "2.0", "id": 1, "method": "%s", "params": {"message": %s}}'
        found = await self._dispatcher.handle(text % (method.encode(), message), principal=self._principal)
        return json.loads(found or b"null")

    async def pause(self) -> None:
        """See `Calls`."""
        await asyncio.sleep(0.001 if self.is_down or self._late else 0)

    def distrust(self, reason: str) -> None:
        """See `Calls`."""
        self.distrusted.append(reason)

    def close(self) -> None:
        """See `Calls`."""


@dataclass
class Pair:
    """A parent ``north`` and its child ``south``, whose steps are taken one by one."""

    north: Site
    south: Site
    wire: Wire
    parent: Parent
    room: Counter[Offer] = field(default_factory=lambda: Counter({LARGE: 1}))

    async def take(self) -> None:
        """One pull."""
        await self.parent.taking.step()

    async def tell(self) -> None:
        """Send until nothing is left."""
        while (await self.south.store.outbox.backlog("north")).waiting:
            await self.parent.sender.step()

    async def renew(self) -> None:
        """Renew everything."""
        await self.parent.listening.renew()

    async def hear(self) -> None:
        """Hear what has changed, and follow it."""
        await self.parent.listening.listen()
        await self.parent.listening._refresh()

    async def restart_south(self) -> None:
        """What the next process of the child makes of its store."""
        self.south = await self.south.restarted()
        self.parent = make_parent(self.south, self.wire, self.room)

    async def errands(self) -> dict[ErrandStatus, int]:
        """How errands stand, without those that there are none of."""
        found = await self.south.store.errands.counts("north")
        return {status: number for status, number in found.items() if number}

    async def mirror(self) -> Dataset:
        """The only dataset of the child that stands for another."""
        found = await self.south.store.datasets.select(DatasetFilter(), Page(100))
        (mirror,) = [dataset for dataset in found.items if dataset.is_mirror]
        return mirror

    async def one_of_north(self) -> Task:
        """The only task of the only dataset there."""
        (dataset,) = [d for d in await self.north.store.datasets.active() if not d.is_mirror]
        return await self.north.task(f"{dataset.dataset_id}-0-0")


def peer_of(role: PeerRole, name: str) -> Peer:
    """A peer that has joined."""
    return Peer(name, role, PeerStatus.JOINED, joined_at=1.0, url="http://127.0.0.1:1")


def make_means(site: Site, room: Counter[Offer], **other: Any) -> Means:
    """What the child's side is made of, with ``room`` in the place of grids, and ``other`` parts."""
    means = site.services.federation.parents.means
    ways = replace(means.ways, poll_s=0.001, renew_s=0.01)
    return replace(means, room=lambda: Counter(room), ways=ways, **other)


def make_parent(
    site: Site, wire: Calls, room: Counter[Offer], *, parent: str = "north", **other: Any
) -> Parent:
    """What runs at ``site`` for its parent."""
    return Parent(peer_of(PeerRole.PARENT, parent), wire, make_means(site, room, **other))


def make_parents(site: Site, wire: Wire, room: Counter[Offer]) -> Parents:
    """The same, running by itself."""
    return Parents(make_means(site, room), connect=lambda _: wire)


async def join(parent: Site, child: Site, *, parent_name: str = "north", name: str = "south") -> Wire:
    """Make a site the child of another, without a word between them."""
    await parent.store.peers.put(peer_of(PeerRole.CHILD, name))
    await child.store.peers.put(peer_of(PeerRole.PARENT, parent_name))
    return Wire(parent, name)


@asynccontextmanager
async def open_pair(folder: Path) -> AsyncIterator[Pair]:
    """A parent and its child; each has its own store and its own clock."""
    for name in ("north", "south"):
        (folder / name).mkdir()
    async with open_site(folder / "north") as north, open_site(folder / "south") as south:
        wire = await join(north, south)
        room = Counter({LARGE: 1})
        yield Pair(north, south, wire, make_parent(south, wire, room), room)
