"""A parent that was restored, for `tests.site_play`: what it does by itself is done at once."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, Final, cast

from iceprod.model.federation import Errand, ErrandStatus, PeerRole
from iceprod.model.lifecycle import TaskStatus
from iceprod.services.clockwatch import ClockWatch
from iceprod.services.scheduling import Scheduler
from iceprod.site_sync import terms
from iceprod.site_sync.as_child import reclaiming, sender
from iceprod.site_sync.as_parent.adoption import Adoption
from iceprod.site_sync.as_parent.recovery import Recovery
from iceprod.site_sync.terms import Term
from iceprod.store.base import Store
from tests.site_ledgers import Ledger, MemoryStore
from tests.site_stage import Claims

RECOVERY_S: Final = 600.0
_LOOK_S: Final = 10.0
_TO_DO: Final = (TaskStatus.WAITING, TaskStatus.PROCESSING)
_WATCH: Final = cast(ClockWatch, SimpleNamespace(unsettle=lambda: None))


def without_waiting() -> None:
    """Let nobody wait for real time to go by."""
    reclaiming.GAP_S = 0.0  # type: ignore[misc]
    sender.LOOK_S = 0.0  # type: ignore[misc]


class Looks:
    """A clock of which some time has gone by whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += _LOOK_S
        return self.now


def make_recovery(process: Any, claims: Claims) -> tuple[Recovery, Adoption]:
    """What a process of a parent knows of its term, as soon as it has begun."""
    site = process.site
    recovery = Recovery(
        cast(Store, MemoryStore(site.ledger, _passed, site.on_move)),
        registry=process.registry,
        scheduler=cast(Scheduler, claims),
        state=claims.recovering,
        watch=_WATCH,
        monotonic=site.clock,
        longest_s=RECOVERY_S,
    )
    at_once(recovery.load())
    adoption = Adoption(
        cast(Store, process.store),
        clock=site.clock,
        catalogue=process.catalogue,
        scheduler=cast(Scheduler, claims),
        tasks=process.work,
        registry=process.registry,
        recovery=recovery,
    )
    return recovery, adoption


async def _passed(_: str) -> None:
    """A gate that is open."""


def at_once(work: Coroutine[Any, Any, Any]) -> None:
    """Do what waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


def term_of(ledger: Ledger) -> Term:
    """The term of a site."""
    return terms.read(ledger.values.get(terms.NAME))


def begin_term(ledger: Ledger, former: Ledger) -> None:
    """A backup has taken the place of what a site was."""
    at_once(_begin(ledger, term_of(former).number))


async def _begin(ledger: Ledger, above: int) -> None:
    values = MemoryStore(ledger, _passed, lambda *_: None).values
    await terms.begin(cast(Any, values), above=above, now=0.0)


def children_of(parent: Any) -> list[Any]:
    """The sites that a parent shares work with, as it remembers."""
    peers = parent.ledger.peers.values()
    return [parent.world[peer.name] for peer in peers if peer.role is PeerRole.CHILD and not peer.is_gone]


def done_elsewhere(parent: Any, children: list[Any]) -> Iterator[Errand]:
    """What children have completed of a parent, as they know it, and may still say."""
    for child in children:
        for errand in child.ledger.errands.values():
            task = child.ledger.tasks.get(errand.task_id)
            is_said = errand.status is not ErrandStatus.LOST and errand.parent == parent.name
            if is_said and task is not None and task.status is TaskStatus.COMPLETE:
                yield errand


def is_forgotten(parent: Any, errand: Errand) -> bool:
    """Whether a task runs again, or is about to, that a child has completed and said so."""
    task = parent.ledger.tasks.get(errand.parent_task_id)
    attempts = parent.ledger.attempts.get(errand.parent_task_id, ())
    # Of a lease that was over before the backup was made nothing more comes.
    is_known = errand.lease_id in {attempt.lease_id for attempt in attempts}
    return task is not None and task.status in _TO_DO and not is_known
