"""Sites that share work: who they are, what one runs for another, and what it reports.

A **parent** lends tasks to its **children**; a site may be both.  A task that was lent is an
**errand** of the child, and what the child has to say about it are **operations**.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

from iceprod.model.resources import Offer
from iceprod.model.values import value

HOLDER_PREFIX: Final = "site:"
"""What the holder of a lease is called begins with it, if that is a site and not a pilot."""


def holder_of(site: str) -> str:
    """What stands in the place of a pilot's id on tasks that were lent to a site."""
    return HOLDER_PREFIX + site


def site_of(holder: str) -> str:
    """The site that holds a task; empty if a pilot does."""
    return holder[len(HOLDER_PREFIX) :] if holder.startswith(HOLDER_PREFIX) else ""


class PeerRole(StrEnum):
    """What another site is to this one."""

    PARENT = "parent"
    CHILD = "child"


class PeerStatus(StrEnum):
    """Whether work is shared with a site."""

    JOINED = "joined"
    PAUSED = "paused"  # it keeps what it has, and gets no more
    LEAVING = "leaving"  # a parent from which nothing more is taken; it is left when nothing of it is left
    LEFT = "left"  # by the child of the two
    REVOKED = "revoked"  # by the parent of the two


@value
class Peer:
    """Another site.

    ``url`` is where it is reached (of a parent, without a slash at its end).  ``protocol`` is
    the version that both speak.  ``share`` weighs it against other children, ``most_tasks``
    bounds what it may hold, ``lease_s`` is for how long it holds a task without a word.
    ``contact_at`` is when it was last heard of, ``expires_at`` when its certificate ends.  With
    ``at_once`` a parent that is left gets back what runs, too.  ``term`` is the parent's of the
    two: the last one in which the child has said all that it holds.
    """

    name: str
    role: PeerRole
    status: PeerStatus
    joined_at: float
    url: str = ""
    version: str = ""
    protocol: int = 1
    share: float = 1.0
    most_tasks: int = 10_000
    lease_s: float = 3 * 3600.0
    contact_at: float = 0.0
    expires_at: float | None = None
    note: str = ""
    at_once: bool = False
    term: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether nothing is shared with it any more, until it joins anew."""
        return self.status in (PeerStatus.LEFT, PeerStatus.REVOKED)


@value
class PeerState:
    """How another site was last seen: what changes all the time, and is written down now and then.

    ``waiting``, ``lag_s`` and ``dead`` are about the operations that a child has for its parent:
    how many wait, for how long the first of them has, and how many were refused.  ``failures``
    counts the calls to a parent in a row that failed, the last one for ``reason``.  ``wants`` are
    the slots, and how many of each, for which a child waits for tasks just now; ``offers`` the kinds
    of slots that it asked for last, at ``offered_at``.
    """

    role: PeerRole
    name: str
    contact_at: float = 0.0
    waiting: int = 0
    lag_s: float = 0.0
    dead: int = 0
    failures: int = 0
    reason: str = ""
    wants: tuple[tuple[Offer, int], ...] = ()
    offers: tuple[Offer, ...] = ()
    offered_at: float = 0.0


class ErrandStatus(StrEnum):
    """How a task that is run for another site stands here."""

    OPEN = "open"  # its lease is held, as far as is known here
    ENDED = "ended"  # the parent was told how it ended, and has taken it in
    LOST = "lost"  # the parent has given it to somebody else, or does not want it any more


@value
class Errand:
    """A task that another site has lent to this one.

    ``task_id`` is that of the task that stands for it here; everything in ``original`` is as
    the site that made the dataset calls it, however many sites lie between.  ``lease_id`` is the
    parent's lease, ``parent_task_id`` the parent's name of the task, ``token`` opens the parent's
    files of its job.
    """

    task_id: str
    parent: str
    parent_task_id: str
    lease_id: str
    token: str
    original: Original
    taken_at: float
    status: ErrandStatus = ErrandStatus.OPEN
    ended_at: float = 0.0


@value
class Original:
    """What a task is called where its dataset was made: what its configuration is evaluated with."""

    dataset_id: str
    dataset: int
    task_id: str
    job: int
    task_index: int
    name: str
    jobs_submitted: int


class OperationKind(StrEnum):
    """What a child may say of a task that it holds."""

    STARTED = "started"  # a pilot of it has begun
    LOG = "log"
    FILE = "file"  # a file of a temp area
    FINISHED = "finished"
    FAILED = "failed"
    RETURNED = "returned"  # not run, or given up by a pilot that has gone


ENDINGS: Final = frozenset({OperationKind.FINISHED, OperationKind.FAILED, OperationKind.RETURNED})
"""After these nothing more is said of a lease."""


@value
class Operation:
    """One thing that a child has to tell its parent.

    Applying it twice, late or after another one of its lease changes nothing.  ``operation_id``
    is the same for the same statement, however often it is made.  ``task_id`` and ``lease_id``
    are the parent's; ``body`` holds JSON values, by kind.
    """

    operation_id: str
    peer: str
    kind: OperationKind
    task_id: str
    lease_id: str
    at: float
    body: Mapping[str, Any] = field(default_factory=dict)


@value
class Queued:
    """An operation in the outbox; of one peer, higher numbers come later."""

    number: int
    operation: Operation


@value
class DeadLetter:
    """An operation that the parent refuses for good, and why."""

    number: int
    operation: Operation
    reason: str
    at: float


@value
class Backlog:
    """What waits to be told to a parent, as far as it is counted; ``oldest_at`` is None if nothing does."""

    waiting: int = 0
    dead: int = 0
    oldest_at: float | None = None


@value
class SiteRules:
    """Where a dataset's tasks may run: only at some sites, or at all but some.

    Sites are meant by the names that this one knows them by, and this one by the empty text.
    """

    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def allow(self, site: str) -> bool:
        """Whether tasks may run at a site."""
        return site not in self.never and (not self.only or site in self.only)


ANYWHERE: Final = SiteRules()
