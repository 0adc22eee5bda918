"""The ready index: per class, how many tasks may be claimed and the oldest of them.

It makes a claim cost the same however many tasks wait.  The store stays the only truth:
what the index hands out is still claimed by a guarded update, and may turn out to be
gone.  Only a window of each class is held, so memory does not grow with the backlog.

Where several processes share the store, the jobs are divided among them into stripes, so
that two of them seldom try the same task: each takes those of its own stripe first, and of
the others' the newest, to which their owner comes last.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from zlib import crc32

from iceprod.clock import Clock
from iceprod.model.resources import Requirements
from iceprod.store.base import TaskClass, TaskRepository

WINDOW = 1000
"""Ids held per class; a window is refilled in the background when a quarter is left."""
MOST_PASSED_OVER = 20
"""After so many tasks that were preferred for where they run, it is the oldest one's turn."""
_FEW = 64
MAX_STRAYS = 1000
"""Classes of which tasks arrived before they were known, as other processes had made them."""


@dataclass(frozen=True, slots=True)
class Stripe:
    """The part of all jobs that a process prefers: that of its ``rank`` among ``of`` processes."""

    rank: int
    of: int

    def has(self, task_id: str) -> bool:
        """Whether the task's job is in it; all tasks of a job are in the same."""
        return crc32(task_id[: task_id.rfind("-")].encode()) % self.of == self.rank


class ReadyClass:
    """The waiting tasks of one class; without a ``stripe`` all of them are ours."""

    __slots__ = (
        "_is_divided",
        "_members",
        "_others",
        "_passed_over",
        "_stripe",
        "_window",
        "count",
        "is_doubtful",
        "refilling",
        "served_at",
        "taken",
        "task_class",
    )

    def __init__(self, task_class: TaskClass, *, now: float, stripe: Stripe | None = None) -> None:
        self.task_class = task_class
        self.count = 0  # waiting and not taken, in the window or beyond it
        self.served_at = now  # last claim, or when it began to wait
        self.taken: set[str] = set()  # handed to a claim that is not committed yet
        self.is_doubtful = False  # it may seem empty by news that came late, or by a count of before
        self.refilling: asyncio.Task[None] | None = None
        self._window: deque[str] = deque()
        self._others: deque[str] = deque()  # of other processes' stripes
        self._members: set[str] = set()
        self._stripe = stripe
        self._is_divided = True
        self._passed_over = 0  # preferred tasks since the oldest one was taken

    @property
    def requirements(self) -> Requirements:
        """What a slot must have."""
        return self.task_class.requirements

    @property
    def wants_refill(self) -> bool:
        """Whether the window runs low while more is waiting beyond it."""
        held = len(self._members)
        return held < self.count and held < WINDOW // 4

    def add(self, task_id: str) -> None:
        """A task began to wait."""
        if task_id in self._members:
            return
        has_rest = self.count > len(self._members)
        self.count += 1
        # What is being read from the store now may not know of it yet.
        if (not has_rest and len(self._members) < WINDOW) or self.refilling is not None:
            self._append(task_id)

    def remove(self, task_id: str) -> bool:
        """A task stopped waiting otherwise than by a claim from this index.

        True if only the store can tell whether anything is left beyond the window: news may
        come after the store was read, so that what it tells of was not counted any more.
        """
        if task_id in self.taken:
            return False
        if task_id in self._members:
            self._members.discard(task_id)
            self.count -= 1
            self.is_doubtful = True
            return False
        beyond = self.count - len(self._members)
        if beyond > 1:
            self.count -= 1
        return beyond == 1

    def take(self) -> str | None:
        """The oldest task of the window, or None if the window is empty."""
        while True:
            while self._window:
                task_id = self._window.popleft()
                if task_id in self._members:
                    self._take(task_id)
                    self._passed_over = 0
                    return task_id
            if not self._others:
                return None
            if self._is_divided:
                self._window.append(self._others.pop())
            else:
                self._divide()

    def take_one(self, preferred: Iterator[str]) -> str | None:
        """The next of the preferred tasks that the window has, unless the oldest was passed over for long."""
        if self._passed_over < MOST_PASSED_OVER:
            for task_id in preferred:
                if task_id in self._members:
                    self._take(task_id)
                    self._passed_over += 1
                    self._tidy()
                    return task_id
        return None

    def _take(self, task_id: str) -> None:
        self._members.discard(task_id)
        self.count -= 1
        self.taken.add(task_id)

    def _tidy(self) -> None:
        """Drop what was taken out of its turn, once that is more than what is left."""
        if len(self._window) + len(self._others) > 2 * len(self._members) + _FEW:
            self._window = deque(dict.fromkeys(one for one in self._window if one in self._members))
            self._others = deque(dict.fromkeys(one for one in self._others if one in self._members))

    def share(self, stripe: Stripe | None) -> None:
        """Prefer another stripe from now on; the window is divided when it is next needed."""
        self._stripe = stripe
        self._others.extendleft(reversed(self._window))
        self._window.clear()
        self._is_divided = False

    def forget_window(self) -> None:
        """Believe nothing that is held of the class."""
        self._members.clear()
        self._window.clear()
        self._others.clear()

    def settle(self, task_id: str) -> None:
        """A taken task was claimed, or was found to be gone."""
        self.taken.discard(task_id)

    def give_back(self, task_id: str) -> None:
        """A taken task is still waiting: its claim could not be carried out."""
        self.taken.discard(task_id)
        self._members.add(task_id)
        self._window.appendleft(task_id)
        self.count += 1

    def refill(self, task_ids: Iterable[str], *, is_all: bool) -> None:
        """Put what the store says is waiting behind what the window holds.

        Unless that is all of it, there may be more, whatever was counted before.
        """
        for task_id in task_ids:
            if task_id not in self._members and task_id not in self.taken:
                self._append(task_id)
        held = len(self._members)
        self.count = held if is_all else max(self.count, held + 1)

    def expect(self, count: int) -> None:
        """The store had so many, those that are taken among them.

        While that was read, some may have begun to wait, or be taken: whether a class that had
        some is empty, only another look can tell.
        """
        before = self.count or len(self.taken)
        self.count = max(len(self._members), count - len(self.taken))
        self.is_doubtful |= bool(before and not self.count)

    def _append(self, task_id: str) -> None:
        self._members.add(task_id)
        is_ours = self._stripe is None or self._stripe.has(task_id)
        (self._window if is_ours else self._others).append(task_id)

    def _divide(self) -> None:
        """Put what is held where it belongs since the stripe is another."""
        held, self._others = self._others, deque()
        self._is_divided = True
        for task_id in held:
            if task_id in self._members:
                self._append(task_id)


class ReadyIndex:
    """All classes that have, or lately had, tasks to claim."""

    def __init__(self, tasks: TaskRepository, clock: Clock, on_new_class: Callable[[], None]) -> None:
        self._tasks = tasks
        self._clock = clock
        self._on_new_class = on_new_class
        self._known: dict[int, TaskClass] = {}
        self._strays: dict[int, dict[str, None]] = {}
        self._stripe: Stripe | None = None
        self.is_stale = False  # tasks may have begun to wait of which nothing was heard here
        self.classes: dict[int, ReadyClass] = {}

    def learn(self, classes: Iterable[TaskClass]) -> Counter[int]:
        """Get to know classes; how many tasks of each have arrived before, and may be claimed now."""
        arrived: Counter[int] = Counter()
        for task_class in classes:
            class_id = task_class.class_id
            self._known[class_id] = task_class
            for task_id in self._strays.pop(class_id, ()):
                self.add(task_id, class_id)
                arrived[class_id] += 1
        return arrived

    def known(self, class_id: int) -> TaskClass | None:
        """A class by its id."""
        return self._known.get(class_id)

    def load(self, counts: Mapping[int, int]) -> None:
        """Take over the store's counts: at the start, and now and then against drift."""
        for class_id, count in counts.items():
            ready = self._class(class_id)
            if ready is not None:
                ready.expect(count)
        for class_id in self.classes.keys() - counts.keys():
            self.classes[class_id].expect(0)

    def reload(self, counts: Mapping[int, int]) -> None:
        """Take over the store's counts, and believe nothing that was held before."""
        self._strays.clear()
        for ready in self.classes.values():
            ready.forget_window()
        self.load(counts)

    def share(self, rank: int, of: int) -> None:
        """Prefer the tasks of one of ``of`` stripes, as so many processes share the store now."""
        stripe = Stripe(rank, of) if of > 1 else None
        if stripe != self._stripe:
            self._stripe = stripe
            for ready in self.classes.values():
                ready.share(stripe)

    def add(self, task_id: str, class_id: int) -> ReadyClass | None:
        """A task began to wait; its class, unless that is not known here yet."""
        ready = self._class(class_id)
        if ready is None:
            if len(self._strays) < MAX_STRAYS:
                self._strays.setdefault(class_id, {})[task_id] = None
        else:
            if ready.count == 0:
                ready.served_at = self._clock()
            ready.add(task_id)
        return ready

    def remove(self, task_id: str, class_id: int) -> None:
        """A task stopped waiting."""
        ready = self.classes.get(class_id)
        if ready is None:
            self._strays.get(class_id, {}).pop(task_id, None)
        elif ready.remove(task_id):
            self.start_refill(ready)

    def doubtful(self) -> list[ReadyClass]:
        """The classes that seem empty by the word of other processes, or by a count, which may be late."""
        found = [ready for ready in self.classes.values() if ready.is_doubtful and not ready.count]
        for ready in found:
            ready.is_doubtful = False
        return found

    def forget_idle(self, before: float) -> None:
        """Drop classes that have had nothing to claim since that instant."""
        for class_id in [c for c, r in self.classes.items() if not r.count and r.served_at < before]:
            del self.classes[class_id]

    def start_refill(self, ready: ReadyClass) -> asyncio.Task[None]:
        """Read the next window of a class; one reading at a time."""
        if ready.refilling is None:
            ready.refilling = asyncio.create_task(self._refill(ready), name="refill ready window")
            ready.refilling.add_done_callback(_noticed)
        return ready.refilling

    async def _refill(self, ready: ReadyClass) -> None:
        try:
            limit = WINDOW + len(ready.taken)
            found = await self._tasks.ready(ready.task_class.class_id, None, limit)
            ready.refill(found, is_all=len(found) < limit)
        finally:
            ready.refilling = None

    def _class(self, class_id: int) -> ReadyClass | None:
        ready = self.classes.get(class_id)
        if ready is None and class_id in self._known:
            ready = self.classes[class_id] = ReadyClass(
                self._known[class_id], now=self._clock(), stripe=self._stripe
            )
            self._on_new_class()
        return ready


def _noticed(refill: asyncio.Task[None]) -> None:
    """A window that could not be read is read when it is needed; who waits for that hears of it."""
    if not refill.cancelled():
        refill.exception()
