"""What must follow a change of a job, kept in the job's document until it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from iceprod.model.federation import site_of
from iceprod.model.lifecycle import UNFINISHED
from iceprod.model.task import Outcome
from iceprod.store.mongo.client import Document


class Owed(msgspec.Struct, frozen=True):
    """The effects of one batch of moves on one job.

    ``epoch`` is that of the dataset as the batch knew it; ``tasks`` are numbers of tasks to
    add for (task index, status), ``job`` the job's status before and after, ``ready`` numbers of
    waiting tasks to add for a class; ``attempts`` are documents; ``flips`` are the tasks that
    are complete now and were not, or the other way round.
    """

    epoch: int
    at: float
    tasks: list[tuple[int, str, int]] = []
    ready: list[tuple[int, int]] = []
    job: tuple[str, str] | None = None
    attempts: list[dict[str, Any]] = []
    flips: list[int] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing follows."""
        return not (self.tasks or self.ready or self.job or self.attempts or self.flips)

    def text(self) -> str:
        """As it is stored."""
        return msgspec.json.encode(self).decode()


_decoder: Final = msgspec.json.Decoder(Owed)


def read_owed(text: str) -> Owed:
    """What `Owed.text` made."""
    return _decoder.decode(text)


def at_site(site: str, outcome: str) -> str:
    """What the counter of attempts that ended so at a site is called; a dot would begin a part."""
    return f"at_sites.{site.replace('.', '/')}.{outcome}"


def at_sites(document: Mapping[str, Any]) -> dict[str, dict[Outcome, int]]:
    """How many attempts ended how at which site, from a dataset's ``at_sites``."""
    return {
        site.replace("/", "."): {Outcome(outcome): int(n) for outcome, n in counts.items()}
        for site, counts in sorted(document.get("at_sites", {}).items())
    }


def increments(found: Iterable[Owed]) -> Document:
    """What to add to the counters of a dataset, by their names in its document."""
    total: Counter[str] = Counter()
    for owed in found:
        for index, status, number in owed.tasks:
            total[f"tasks.{index}.{status}"] += number
            if status in UNFINISHED:
                total["unfinished"] += number
        for class_id, number in owed.ready:
            total[f"ready.{class_id}"] += number
        if owed.job is not None:
            before, after = owed.job
            total[f"jobs.{before}"] -= 1
            total[f"jobs.{after}"] += 1
        for attempt in owed.attempts:
            if site := site_of(attempt["pilot_id"]):
                total[at_site(site, attempt["outcome"])] += 1
    return {name: number for name, number in total.items() if number}
