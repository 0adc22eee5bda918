"""What this process remembers of datasets while it moves their tasks.

Any of it may be out of date, for other processes change datasets too.  Nothing relies on
it without a guard: a job's document says which graph it has been brought in line with, and
a dataset's ``epoch`` is part of the condition of every quick change of its counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from iceprod.store.mongo.client import Collection
from iceprod.store.mongo.documents import read_graph

_MOST: Final = 2000  # datasets remembered; more than are being worked on at a time
_FIELDS: Final = ("number", "graph", "graph_version", "epoch", "needed_by")

Neighbours = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class State:
    """A dataset's place in the graph of tasks, and its epoch.

    ``needed_by`` are the datasets with tasks that need tasks of this one.  ``settled`` are
    batches whose effects are all done, each with the epoch it was done in: their marks may go.
    """

    dataset_id: str
    number: int
    graph_version: int
    depends: Neighbours
    external: tuple[tuple[tuple[str, int], ...], ...]
    dependents: Neighbours
    epoch: int
    needed_by: tuple[str, ...]
    settled: list[tuple[str, int]] = field(default_factory=list)

    @property
    def needs_others(self) -> bool:
        """Whether a task needs one of another dataset."""
        return any(self.external)

    def dependents_of(self, dataset_id: str, task_indices: Iterable[int]) -> list[int]:
        """The tasks here that need one of those of another dataset."""
        wanted = {(dataset_id, index) for index in task_indices}
        return [index for index, needs in enumerate(self.external) if not wanted.isdisjoint(needs)]

    def needed_jobs(self, job_index: int) -> list[str]:
        """The jobs of other datasets that a job's tasks need."""
        return sorted({f"{other}-{job_index}" for needs in self.external for other, _ in needs})

    def learn(self, document: Mapping[str, Any]) -> None:
        """Take over what the dataset's document says; its graph only if that is there."""
        self.epoch = max(self.epoch, document["epoch"])  # answers may come out of their order
        self.needed_by = tuple(document["needed_by"])
        if document["graph_version"] != self.graph_version and "graph" in document:
            self.graph_version = document["graph_version"]
            _, self.depends, self.external = read_graph(document["graph"])
            self.dependents = _dependents(self.depends)


class States:
    """The datasets that this process has met lately."""

    def __init__(self, datasets: Collection) -> None:
        self._datasets = datasets
        self._known: dict[str, State] = {}

    async def get(self, dataset_id: str) -> State | None:
        """One dataset, or None if there is none of that id."""
        return (await self.load((dataset_id,))).get(dataset_id)

    async def load(self, dataset_ids: Iterable[str]) -> dict[str, State]:
        """Those datasets of ``dataset_ids`` that exist."""
        wanted = set(dataset_ids)
        found = {name: self._known[name] for name in wanted if name in self._known}
        if len(found) < len(wanted):
            found.update(await self.refresh(wanted - found.keys()))
        return found

    async def refresh(self, dataset_ids: Iterable[str]) -> dict[str, State]:
        """Read datasets afresh; those that exist."""
        wanted = list(dataset_ids)
        where = {"_id": wanted[0] if len(wanted) == 1 else {"$in": wanted}}
        return {found["_id"]: self.learn(found) for found in await self._datasets.find(where, _FIELDS)}

    def learn(self, document: Mapping[str, Any]) -> State:
        """Take over what a dataset's document says."""
        state = self._known.get(document["_id"])
        if state is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            state = self._known[document["_id"]] = _state(document)
        else:
            state.learn(document)
        return state


def _state(document: Mapping[str, Any]) -> State:
    _, depends, external = read_graph(document["graph"])
    return State(
        document["_id"],
        document["number"],
        document["graph_version"],
        depends,
        external,
        _dependents(depends),
        document["epoch"],
        tuple(document["needed_by"]),
    )


def _dependents(depends: Neighbours) -> Neighbours:
    found: list[list[int]] = [[] for _ in depends]
    for index, needs in enumerate(depends):
        for needed in needs:
            found[needed].append(index)
    return tuple(map(tuple, found))
