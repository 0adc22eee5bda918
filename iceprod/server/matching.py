"""Making what decides which task goes where, from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from iceprod.clock import Clock
from iceprod.config import SchedulingSettings
from iceprod.model.shares import ShareTree
from iceprod.services.bulletin import Draft
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Events
from iceprod.services.recovering import Recovering
from iceprod.services.scheduling import (
    ClassOrder,
    FairShare,
    ReadyIndex,
    Scheduler,
    Transitions,
    Waiters,
)
from iceprod.store.base import Store


@dataclass(frozen=True, slots=True)
class Matching:
    """What matching and claiming is made of."""

    scheduler: Scheduler
    transitions: Transitions
    waiters: Waiters
    share: FairShare


def make_matching(
    store: Store,
    settings: SchedulingSettings,
    *,
    clock: Clock,
    catalogue: Catalogue,
    events: Events,
    draft: Draft,
    recovering: Recovering,
) -> Matching:
    """All of it, over an open store."""
    tree = ShareTree(groups=settings.shares.groups, users=settings.shares.users)
    share = FairShare(clock, half_life_h=settings.share_half_life_h, tree=tree)
    if store.sharing is not None:
        share.keep_ledger()
    order = ClassOrder(share, clock, ageing_h=settings.ageing_h)
    ready = ReadyIndex(store.tasks, clock, on_new_class=order.invalidate)
    waiters = Waiters()
    transitions = Transitions(
        store,
        clock=clock,
        ready=ready,
        waiters=waiters,
        share=share,
        catalogue=catalogue,
        events=events,
        draft=draft,
    )
    scheduler = Scheduler(
        store,
        clock=clock,
        ready=ready,
        order=order,
        share=share,
        catalogue=catalogue,
        transitions=transitions,
        draft=draft,
        lease_s=settings.lease_s,
        recovering=recovering,
    )
    return Matching(scheduler, transitions, waiters, share)
