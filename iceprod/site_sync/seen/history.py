"""How work went at other sites over the last day: for charts, rates and alerts.

One process of all adds a point for every site now and then; all read them from the store.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from iceprod.clock import Clock
from iceprod.model.federation import ErrandStatus, Peer, PeerRole, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.paging import Page
from iceprod.model.task import Outcome
from iceprod.services.peer_states import PeerStates
from iceprod.store.base import DatasetFilter, Store

SPACING_S: Final = 60.0
"""How often a point is added."""
KEPT: Final = 24 * 60
"""How many points of a site are kept: a day's."""
_SUMS: Final = "site-history"
_NEW: Final = 50


class Point(msgspec.Struct, frozen=True, array_like=True):
    """How a site did up to an instant.

    ``done`` and ``failed`` are attempts that ended since the point before; ``waiting`` is how many
    operations the child of the two had to tell, the oldest for ``lag_s``.
    """

    at: float
    done: int
    failed: int
    held: int
    waiting: int
    lag_s: float


class Course(msgspec.Struct, frozen=True):
    """The points of a site, oldest first, and all that it ever finished and failed."""

    points: list[Point] = []
    done: int = 0
    failed: int = 0


Ended = dict[str, dict[str, tuple[int, int]]]
"""By ``ROLE/NAME`` of a site and dataset: attempts that were finished, and that failed."""


class _Sums(msgspec.Struct, frozen=True):
    """What the next point is counted from: the newest dataset, those that were active, their counts."""

    newest: int
    watched: list[str]
    ended: Ended


class SiteHistory:
    """Samples what the store has counted by dataset."""

    def __init__(self, store: Store, *, peers: PeerStates, clock: Clock) -> None:
        self._store = store
        self._peers = peers
        self._clock = clock

    async def course(self, role: PeerRole, name: str) -> Course:
        """What is known of a site."""
        text = await self._store.values.get(_name(f"{role}/{name}"))
        return msgspec.json.decode(text, type=Course) if text else Course()

    async def sample(self, *, fence: int = 0) -> None:
        """Add a point for every site; a duty, every `SPACING_S`."""
        peers = await self._store.peers.all()
        if not peers:
            return
        text = await self._store.values.get(_SUMS)
        before = msgspec.json.decode(text, type=_Sums) if text else None
        active = [dataset.dataset_id for dataset in await self._store.datasets.active()]
        newest, new = await self._newer(before.newest if before else None)
        # What was active or is new may have ended since, and what ended is told once more.
        watched = dict.fromkeys([*active, *new, *(before.watched if before else ())])
        ended = await self._ended(watched)
        for peer in peers:
            key = f"{peer.role}/{peer.name}"
            gained = _gained(before.ended.get(key, {}) if before else {}, ended.get(key, {}))
            await self._add(peer, key, gained, fence=fence)
        kept = _Sums(newest, active, _of(ended, set(active)))
        await self._store.values.put(_SUMS, msgspec.json.encode(kept).decode(), fence=fence)

    async def _newer(self, number: int | None) -> tuple[int, list[str]]:
        """The number of the newest dataset, and the ids of those after ``number``; for None of some."""
        newest, found, cursor = number or 0, list[str](), None
        while True:
            part = await self._store.datasets.select(DatasetFilter(), Page(_NEW, cursor))
            for dataset in part.items:
                newest = max(newest, dataset.number)
                if number is not None and dataset.number <= number:
                    return newest, found
                found.append(dataset.dataset_id)
            cursor = part.next
            if cursor is None or number is None:
                return newest, found

    async def _ended(self, dataset_ids: Iterable[str]) -> Ended:
        found: Ended = defaultdict(dict)
        for name in dataset_ids:
            await asyncio.sleep(0)  # a store that is at hand gives nobody else a turn
            for site, ended in (await self._store.tasks.ended_at_sites(name)).items():
                counts = ended.get(Outcome.FINISHED, 0), ended.get(Outcome.FAILED, 0)
                found[f"{PeerRole.CHILD}/{site}"][name] = counts
            dataset = await self._store.datasets.get(name)
            if dataset is not None and dataset.is_mirror:
                tasks = (await self._store.datasets.progress(name)).all_tasks
                key = f"{PeerRole.PARENT}/{dataset.source.partition('/')[0]}"
                found[key][name] = tasks.get(TaskStatus.COMPLETE, 0), tasks.get(TaskStatus.FAILED, 0)
        return found

    async def _add(self, peer: Peer, key: str, gained: tuple[int, int], *, fence: int) -> None:
        course = await self.course(peer.role, peer.name)
        held, waiting, lag_s = await self._now(peer)
        point = Point(round(self._clock(), 1), *gained, held, waiting, round(lag_s, 1))
        longer = Course([*course.points, point][-KEPT:], course.done + gained[0], course.failed + gained[1])
        await self._store.values.put(_name(key), msgspec.json.encode(longer).decode(), fence=fence)

    async def _now(self, peer: Peer) -> tuple[int, int, float]:
        """Tasks held, operations that wait, and for how long."""
        if peer.role is PeerRole.CHILD:
            state = self._peers.of(peer.role, peer.name)
            return await self._store.tasks.count_held(holder_of(peer.name)), state.waiting, state.lag_s
        held = (await self._store.errands.counts(peer.name)).get(ErrandStatus.OPEN, 0)
        backlog = await self._store.outbox.backlog(peer.name)
        lag_s = 0.0 if backlog.oldest_at is None else max(0.0, self._clock() - backlog.oldest_at)
        return held, backlog.waiting, lag_s


def rates(points: Sequence[Point], *, now: float) -> list[tuple[float, float]]:
    """Seconds ago, and tasks finished per minute until then; oldest first."""
    return [
        (max(0.0, now - later.at), 60 * later.done / (later.at - sooner.at))
        for sooner, later in pairwise(points)
        if later.at > sooner.at
    ]


def _gained(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """What is more than before; a count that fell (tasks were reset) counts for nothing."""
    pairs = [(counts, before.get(name, (0, 0))) for name, counts in now.items()]
    return (
        sum(max(0, counts[0] - former[0]) for counts, former in pairs),
        sum(max(0, counts[1] - former[1]) for counts, former in pairs),
    )


def _of(ended: Ended, dataset_ids: set[str]) -> Ended:
    return {
        key: {name: counts for name, counts in by_dataset.items() if name in dataset_ids}
        for key, by_dataset in ended.items()
    }


def _name(key: str) -> str:
    return f"{_SUMS}/{key}"
