"""Whose turn it is: the order of the classes, by fair share, priority and age.

Between owners the fair-share score decides, between the datasets of one owner their
priority.  To both is added how long nothing of the owner, or of the class, was served, so
that nothing starves: after ``ageing_h`` hours of waiting, the last have become first.
Within a dataset later steps come first: finishing jobs frees their temporary files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from iceprod.clock import Clock
from iceprod.model.dataset import Dataset
from iceprod.model.resources import Offer, fits
from iceprod.model.shares import Leaf, ShareTree, decayed, scores
from iceprod.services.scheduling.ready import ReadyClass

LOOKAHEAD_H = 1.0
"""Running cores count as if they had been used this many hours more."""


class FairShare:
    """Who has used how much, in core hours that decay."""

    def __init__(self, clock: Clock, *, half_life_h: float, tree: ShareTree) -> None:
        self._clock = clock
        self._half_life_s = half_life_h * 3600
        self._usage: dict[Leaf, float] = {}
        self._as_of = clock()
        self._running: dict[Leaf, float] = {}
        self._ledger: dict[Leaf, tuple[float, float]] | None = None
        self.tree = tree

    def started(self, leaf: Leaf, cores: float) -> None:
        """Attempts on so many cores began to run."""
        self._running[leaf] = self._running.get(leaf, 0.0) + cores
        if self._ledger is not None:
            self._note(leaf, cores, 0.0)

    def ended(self, leaf: Leaf, cores: float, core_hours: float) -> None:
        """Attempts on so many cores ended, and have used so much."""
        self._running[leaf] = max(0.0, self._running.get(leaf, 0.0) - cores)
        self._usage[leaf] = self._usage.get(leaf, 0.0) + core_hours
        if self._ledger is not None:
            self._note(leaf, -cores, core_hours)

    def keep_ledger(self) -> None:
        """From now on, remember what is charged here until `take_ledger` tells others of it."""
        self._ledger = {}

    def take_ledger(self) -> list[tuple[Leaf, float, float]]:
        """What was charged here since the last call: cores that more are running, core hours."""
        taken = self._ledger or {}
        if taken:
            self._ledger = {}
        return [(leaf, cores, hours) for leaf, (cores, hours) in taken.items()]

    def charged_elsewhere(self, leaf: Leaf, cores: float, hours: float) -> None:
        """What another process has in its ledger."""
        self._running[leaf] = max(0.0, self._running.get(leaf, 0.0) + cores)
        self._usage[leaf] = self._usage.get(leaf, 0.0) + hours

    def _note(self, leaf: Leaf, cores: float, hours: float) -> None:
        if self._ledger is not None:
            before = self._ledger.get(leaf, (0.0, 0.0))
            self._ledger[leaf] = before[0] + cores, before[1] + hours

    def usage(self) -> dict[Leaf, float]:
        """Core hours as they count now."""
        now = self._clock()
        self._usage = decayed(self._usage, now - self._as_of, self._half_life_s)
        self._as_of = now
        return dict(self._usage)

    def running(self) -> dict[Leaf, float]:
        """Cores in use now."""
        return dict(self._running)

    def restore(
        self, usage: Mapping[Leaf, float], as_of: float, *, running: Mapping[Leaf, float] | None = None
    ) -> None:
        """Take over what an earlier process, or the holder of the duties, had recorded at that instant."""
        self._usage, self._as_of = dict(usage), as_of
        if running is not None:
            self._running = dict(running)

    def scores(self, leaves: Iterable[Leaf]) -> dict[Leaf, float]:
        """The score of each of ``leaves``."""
        usage = self.usage()
        for leaf, cores in self._running.items():
            usage[leaf] = usage.get(leaf, 0.0) + cores * LOOKAHEAD_H
        return scores(self.tree, usage, leaves)


Ranked = tuple[ReadyClass, Dataset]


class ClassOrder:
    """The classes in the order of their turn, and which of them fit an offer.

    The order is made anew a few times a second, not at every claim; which classes fit is
    remembered per offer until then, because pilots are many and kinds of slots few.
    """

    def __init__(self, share: FairShare, clock: Clock, *, ageing_h: float, max_age_s: float = 0.25) -> None:
        self._share = share
        self._clock = clock
        self._ageing_s = ageing_h * 3600
        self._max_age_s = max_age_s
        self._made_at = float("-inf")
        self._order: list[Ranked] = []
        self._fitting: defaultdict[str, dict[Offer, list[Ranked]]] = defaultdict(dict)

    def invalidate(self) -> None:
        """A class, dataset or share has changed."""
        self._made_at = float("-inf")

    def candidates(
        self, offer: Offer, classes: Callable[[], list[Ranked]], *, site: str = ""
    ) -> list[Ranked]:
        """The classes that fit ``offer`` and may run at ``site``, whose turn comes first in front."""
        order = self.ranking(classes)
        of_site = self._fitting[site]
        fitting = of_site.get(offer)
        if fitting is None:
            fitting = [
                ranked
                for ranked in order
                if fits(ranked[0].requirements, offer) and ranked[1].may_run_at(site)
            ]
            if offer.resources.gpu:
                # A slot with a GPU is rare: it first runs what nothing else can.
                fitting.sort(key=lambda ranked: not ranked[0].requirements.resources.gpu)
            if len(of_site) < 10_000:
                of_site[offer] = fitting
        return fitting

    def ranking(self, classes: Callable[[], list[Ranked]]) -> list[Ranked]:
        """All classes, whose turn comes first in front."""
        now = self._clock()
        if not 0 <= now - self._made_at < self._max_age_s:
            self._order = self._sorted(classes(), now)
            self._fitting.clear()
            self._made_at = now
        return self._order

    def _sorted(self, classes: list[Ranked], now: float) -> list[Ranked]:
        age: dict[int, float] = {}
        owner_age: dict[Leaf, float] = {}
        for ready, dataset in classes:
            waited = max(0.0, now - ready.served_at) / self._ageing_s if ready.count else 0.0
            # In steps of a hundredth, so that moments do not outweigh what comes after it.
            waited = round(waited, 2)
            age[id(ready)] = waited
            leaf = (dataset.group, dataset.owner)
            owner_age[leaf] = max(owner_age.get(leaf, 0.0), waited)
        share = self._share.scores(owner_age)

        def key(ranked: Ranked) -> tuple[float, float, int, int]:
            ready, dataset = ranked
            leaf = (dataset.group, dataset.owner)
            return (
                -(share[leaf] + owner_age[leaf]),
                -(dataset.priority + age[id(ready)]),
                dataset.number,
                -ready.task_class.task_index,
            )

        return sorted(classes, key=key)
