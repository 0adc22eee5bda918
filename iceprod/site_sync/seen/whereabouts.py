"""Where the tasks of a dataset run and ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iceprod.model.dataset import Dataset
from iceprod.model.federation import PeerRole, holder_of
from iceprod.model.lifecycle import TaskStatus
from iceprod.model.task import Outcome
from iceprod.store.base import Store


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a dataset's tasks at one site; this site's own name is empty.

    Of other sites attempts are counted: ``finished``, ``failed``, and ``returned`` before they had
    an end.  Of this one the tasks that are left: complete here, and failed for good.
    """

    site: str
    running: int
    finished: int
    failed: int
    returned: int = 0


class Whereabouts:
    """Reads counters alone, so it takes as long for a million tasks as for ten."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, dataset: Dataset) -> tuple[Ran, ...]:
        """This site first, then those that have or had tasks of the dataset."""
        name = dataset.dataset_id
        ended = await self._store.tasks.ended_at_sites(name)
        peers = await self._store.peers.all()
        children = {peer.name for peer in peers if peer.role is PeerRole.CHILD}
        others = [
            _ran(site, await self._store.tasks.count_held(holder_of(site), name), ended.get(site, {}))
            for site in sorted(children | ended.keys())
        ]
        counts = (await self._store.datasets.progress(name)).all_tasks
        here = Ran(
            "",
            running=_rest(counts, TaskStatus.PROCESSING, sum(other.running for other in others)),
            finished=_rest(counts, TaskStatus.COMPLETE, sum(other.finished for other in others)),
            failed=counts.get(TaskStatus.FAILED, 0),
        )
        return (here, *(other for other in others if other.running or other.site in ended))


def _ran(site: str, running: int, ended: Mapping[Outcome, int]) -> Ran:
    return Ran(
        site,
        running,
        finished=ended.get(Outcome.FINISHED, 0),
        failed=ended.get(Outcome.FAILED, 0),
        returned=ended.get(Outcome.EVICTED, 0) + ended.get(Outcome.STOPPED, 0),
    )


def _rest(counts: Mapping[TaskStatus, int], status: TaskStatus, elsewhere: int) -> int:
    return max(0, counts.get(status, 0) - elsewhere)
