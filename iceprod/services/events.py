"""The one internal stream of what happens, that several listeners may follow.

Events say *that* something changed, not what it is now: a listener reads the present from
the store.  So events may be merged, and a slow listener never holds anything up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from iceprod.model.values import value


class EventKind(StrEnum):
    """What can happen."""

    DATASET_CREATED = "dataset_created"
    DATASET_CHANGED = "dataset_changed"  # its settings, jobs or status
    TASKS_MOVED = "tasks_moved"
    WORK_READY = "work_ready"  # tasks of a class that had none may be claimed
    PILOT_CHANGED = "pilot_changed"
    PEER_CHANGED = "peer_changed"  # what is kept of another site, not how it was last seen
    CREDENTIALS_REVOKED = "credentials_revoked"  # some of a subject's
    LEASES_TAKEN = "leases_taken"  # tasks that a holder ran are its own no longer, and it was not asked
    OPERATIONS_QUEUED = "operations_queued"  # something waits to be told to a parent


@value
class Event:
    """One thing that happened, and to which dataset, pilot, holder of leases or parent."""

    kind: EventKind
    subject: str = ""


Listener = Callable[[Event], None]


class Events:
    """Publish and listen; everything happens on the loop's thread."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` at every event; it must be quick and must not raise."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Tell every listener, and wake whoever watches the subject."""
        for listener in self._listeners:
            listener(event)
        for flag in self._watchers.get(event.subject, ()):
            flag.set()

    @contextmanager
    def watch(self, *subjects: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of one of ``subjects``; who waits for it clears it."""
        flag = asyncio.Event()
        for subject in subjects:
            self._watchers.setdefault(subject, set()).add(flag)
        try:
            yield flag
        finally:
            for subject in subjects:
                flags = self._watchers[subject]
                flags.discard(flag)
                if not flags:
                    del self._watchers[subject]
