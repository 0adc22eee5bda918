"""What a site remembers, in memory: the part of a store that sharing work needs.

Every call of a repository first passes a gate, where somebody else decides when it goes on, or that
its process has died.  What is done behind the gate is done at once, as in a transaction, and
is what a process that is begun later finds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from iceprod.errors import AlreadyExists
from iceprod.model.dataset import Dataset
from iceprod.model.federation import (
    Backlog,
    DeadLetter,
    Errand,
    ErrandStatus,
    Operation,
    Peer,
    PeerRole,
    PeerStatus,
    Queued,
)
from iceprod.model.lifecycle import MOVES, TaskEvent, TaskStatus
from iceprod.model.task import Attempt, Ended, Move, Moved, Outcome, Task, task_id
from iceprod.store.base import AuditEntry, DatasetConfig, DatasetPatch, Materialised, TaskClass
from iceprod.store.federation import PeerPatch

Gate = Callable[[str], Awaitable[None]]
Watch = Callable[[Task, Move, Task], None]

_LANDINGS = (TaskStatus.IDLE, TaskStatus.WAITING)
_ERRORS = (TaskEvent.RETRIED, TaskEvent.DEFERRED, TaskEvent.FAILED)
_RESETS = (TaskEvent.RESET, TaskEvent.HARD_RESET)
_STOPPED = Ended(Outcome.STOPPED)


@dataclass
class Ledger:
    """All that is durable."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    configs: dict[tuple[str, int], str] = field(default_factory=dict)
    classes: dict[int, TaskClass] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[str, tuple[Attempt, ...]] = field(default_factory=dict)
    peers: dict[tuple[PeerRole, str], Peer] = field(default_factory=dict)
    errands: dict[str, Errand] = field(default_factory=dict)
    outbox: dict[int, Operation] = field(default_factory=dict)
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    audit: list[AuditEntry] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    numbers: int = 0

    def copy(self) -> Ledger:
        """A backup."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Ledger(
            **{name: each if isinstance(each, int) else each.copy() for name, each in found.items()}
        )

    def move(self, move: Move, *, now: float) -> Moved | None:
        """What `iceprod.store.base.TaskRepository.move` promises of one move, counters aside."""
        task = self.tasks.get(move.task_id)
        if task is None or (task.status, move.event) not in MOVES:
            return None
        if move.lease_id is not None and (task.status, task.lease_id) != (
            TaskStatus.PROCESSING,
            move.lease_id,
        ):
            return None
        if move.holder is not None and task.pilot_id != move.holder:
            return None
        if move.event is TaskEvent.RELEASED and not self._may_run(replace(task, release_at=None), now):
            return None
        before, task = task, _changed(task, move)
        if before.status is TaskStatus.PROCESSING:
            self._end(before, move, now)
        self._place(task, MOVES[before.status, move.event], now)
        self._settle_dependents(task, now)
        return Moved(self.tasks[task.task_id], before.status)

    def held(self, holder: str) -> list[Task]:
        """The tasks that somebody is processing, in order."""
        found = [t for t in self.tasks.values() if t.status is TaskStatus.PROCESSING and t.pilot_id == holder]
        return sorted(found, key=lambda task: task.task_id)

    def waiting(self) -> list[Task]:
        """What may be claimed."""
        return [task for task in self.tasks.values() if task.status is TaskStatus.WAITING]

    def make_job(self, dataset: Dataset, job: int, class_ids: Sequence[int], *, now: float) -> list[Task]:
        """A job's tasks, as they are at first."""
        made = []
        for index, class_id in enumerate(class_ids):
            status = TaskStatus.IDLE if dataset.depends[index] else TaskStatus.WAITING
            name = task_id(dataset.dataset_id, job, index)
            made.append(Task(name, dataset.dataset_id, job, index, status, now, class_id))
        self.tasks |= {task.task_id: task for task in made}
        return made

    def _end(self, task: Task, move: Move, now: float) -> None:
        ended = move.ended or (
            _STOPPED if move.event in (*_RESETS, TaskEvent.SUSPENDED) else Ended(Outcome.EVICTED)
        )
        attempt = Attempt(
            task_id=task.task_id,
            attempt=task.attempt,
            lease_id=task.lease_id,
            pilot_id=task.pilot_id,
            hostname=ended.hostname,
            started_at=task.status_changed_at,
            ended_at=now,
            outcome=ended.outcome,
            failure_class=ended.failure_class,
            summary=ended.summary,
        )
        self.attempts[task.task_id] = (*self.attempts.get(task.task_id, ()), attempt)

    def _place(self, task: Task, status: TaskStatus, now: float) -> None:
        if status in _LANDINGS:
            status = TaskStatus.WAITING if self._may_run(task, now) else TaskStatus.IDLE
        self.tasks[task.task_id] = replace(task, status=status, status_changed_at=now)

    def _settle_dependents(self, task: Task, now: float) -> None:
        for index in self.datasets[task.dataset_id].dependents(task.task_index):
            other = self.tasks[task_id(task.dataset_id, task.job_index, index)]
            if other.status in _LANDINGS:
                self._place(other, other.status, now)

    def _may_run(self, task: Task, now: float) -> bool:
        needs = self.datasets[task.dataset_id].depends[task.task_index]
        needed = [self.tasks[task_id(task.dataset_id, task.job_index, index)] for index in needs]
        is_due = task.release_at is None or task.release_at <= now
        return is_due and all(each.status is TaskStatus.COMPLETE for each in needed)


def _changed(task: Task, move: Move) -> Task:
    """A task with the fields that a move changes, its status aside."""
    event = move.event
    if event is TaskEvent.CLAIMED and move.lease is not None:
        lease = move.lease
        return replace(
            task,
            attempt=task.attempt + 1,
            lease_id=lease.lease_id,
            lease_until=lease.until,
            pilot_id=lease.pilot_id,
        )
    if event in _ERRORS:
        return replace(task, failures=task.failures + 1, release_at=move.release_at)
    if event in _RESETS:
        return replace(task, failures=0, evictions=0, release_at=None)
    return replace(task, release_at=None) if event is TaskEvent.RELEASED else task


class MemoryStore:
    """The repositories over a ledger, as one process has them open."""

    def __init__(self, ledger: Ledger, gate: Gate, watch: Watch) -> None:
        self.ledger = ledger
        self.tasks = _Tasks(ledger, gate, watch)
        self.datasets = _Datasets(ledger, gate)
        self.peers = _Peers(ledger, gate)
        self.errands = _Errands(ledger, gate)
        self.outbox = _Outbox(ledger, gate)
        self.audit = _Audit(ledger, gate)
        self.values = _Values(ledger, gate)
        self.logs = None


class _Repository:
    def __init__(self, ledger: Ledger, gate: Gate) -> None:
        self._ledger = ledger
        self._gate = gate


class _Tasks(_Repository):
    def __init__(self, ledger: Ledger, gate: Gate, watch: Watch) -> None:
        super().__init__(ledger, gate)
        self._watch = watch

    async def get(self, name: str) -> Task | None:
        await self._gate("tasks.get")
        return self._ledger.tasks.get(name)

    async def among(self, names: Sequence[str]) -> dict[str, Task]:
        await self._gate("tasks.among")
        return {name: self._ledger.tasks[name] for name in names if name in self._ledger.tasks}

    async def move(self, moves: Sequence[Move], *, now: float) -> list[Moved | None]:
        await self._gate("tasks.move")
        found = []
        for move in moves:
            before = self._ledger.tasks.get(move.task_id)
            moved = self._ledger.move(move, now=now)
            found.append(moved)
            if before is not None and moved is not None:
                self._watch(before, move, moved.task)
        return found

    async def renew(self, leases: Sequence[tuple[str, str]], *, until: float) -> list[bool]:
        await self._gate("tasks.renew")
        found = []
        for name, lease_id in leases:
            task = self._ledger.tasks.get(name)
            is_held = task is not None and task.status is TaskStatus.PROCESSING and task.lease_id == lease_id
            if task is not None and is_held:
                self._ledger.tasks[name] = replace(task, lease_until=until)
            found.append(is_held)
        return found

    async def held_after(self, holder: str, after: str | None, limit: int) -> list[Task]:
        await self._gate("tasks.held_after")
        return [t for t in self._ledger.held(holder) if after is None or t.task_id > after][:limit]

    async def count_held(self, holder: str, dataset_id: str | None = None) -> int:
        await self._gate("tasks.count_held")
        return sum(dataset_id in (None, task.dataset_id) for task in self._ledger.held(holder))

    async def held_of(self, holder: str, dataset_ids: Sequence[str]) -> set[str]:
        await self._gate("tasks.held_of")
        return {task.dataset_id for task in self._ledger.held(holder)} & set(dataset_ids)

    async def expired(self, before: float, limit: int) -> list[Task]:
        await self._gate("tasks.expired")
        found = [t for t in self._ledger.tasks.values() if t.status is TaskStatus.PROCESSING]
        return [task for task in found if task.lease_until < before][:limit]

    async def due(self, now: float, limit: int) -> list[Task]:
        await self._gate("tasks.due")
        found = [t for t in self._ledger.tasks.values() if t.status is TaskStatus.IDLE]
        return [t for t in found if t.release_at is not None and t.release_at <= now][:limit]

    async def ids_of_jobs(self, job_ids: Sequence[str]) -> list[str]:
        await self._gate("tasks.ids_of_jobs")
        found = [task_id for task_id in self._ledger.tasks if task_id.rpartition("-")[0] in job_ids]
        return sorted(found)

    async def attempts(self, name: str) -> list[Attempt]:
        await self._gate("tasks.attempts")
        return list(self._ledger.attempts.get(name, ()))


class _Datasets(_Repository):
    async def add(self, dataset: Dataset, config: str) -> Dataset:
        await self._gate("datasets.add")
        if dataset.dataset_id in self._ledger.datasets:
            raise AlreadyExists("dataset", dataset.dataset_id)
        made = replace(dataset, number=len(self._ledger.datasets) + 1)
        self._ledger.datasets[made.dataset_id] = made
        self._ledger.configs[made.dataset_id, 1] = config
        return made

    async def get(self, dataset_id: str) -> Dataset | None:
        await self._gate("datasets.get")
        return self._ledger.datasets.get(dataset_id)

    async def config(self, dataset_id: str, version: int) -> str | None:
        await self._gate("datasets.config")
        return self._ledger.configs.get((dataset_id, version))

    async def set_config(
        self, dataset_id: str, config: DatasetConfig, *, expected_version: int, now: float
    ) -> Dataset | None:
        await self._gate("datasets.set_config")
        dataset = self._ledger.datasets[dataset_id]
        if dataset.config_version != expected_version:
            return None
        changed = self._ledger.datasets[dataset_id] = replace(dataset, config_version=expected_version + 1)
        self._ledger.configs[dataset_id, changed.config_version] = config.text
        return changed

    async def update(self, dataset_id: str, patch: DatasetPatch, *, now: float) -> Dataset | None:
        await self._gate("datasets.update")
        given = {name: getattr(patch, name) for name in patch.__dataclass_fields__}
        changes = {name: value for name, value in given.items() if value is not None}
        changed = self._ledger.datasets[dataset_id] = replace(self._ledger.datasets[dataset_id], **changes)
        return changed

    async def add_classes(self, classes: Sequence[TaskClass]) -> None:
        await self._gate("datasets.add_classes")
        self._ledger.classes = {each.class_id: each for each in classes} | self._ledger.classes

    async def classes(self, dataset_id: str | None = None) -> list[TaskClass]:
        await self._gate("datasets.classes")
        return [each for each in self._ledger.classes.values() if dataset_id in (None, each.dataset_id)]

    async def materialise(
        self, dataset_id: str, first_job: int, class_ids: Sequence[Sequence[int]], *, now: float
    ) -> Materialised | None:
        await self._gate("datasets.materialise")
        dataset = self._ledger.datasets[dataset_id]
        if dataset.jobs_made != first_job:
            return None
        made = [
            task
            for place, each in enumerate(class_ids)
            for task in self._ledger.make_job(dataset, first_job + place, each, now=now)
        ]
        changed = replace(dataset, jobs_made=first_job + len(class_ids))
        self._ledger.datasets[dataset_id] = changed
        released = [(t.task_id, t.class_id) for t in made if t.status is TaskStatus.WAITING]
        return Materialised(changed, tuple(released))


class _Peers(_Repository):
    async def put(self, peer: Peer) -> None:
        await self._gate("peers.put")
        self._ledger.peers[peer.role, peer.name] = peer

    async def update(
        self, role: PeerRole, name: str, patch: PeerPatch, *, expected: PeerStatus | None = None
    ) -> Peer | None:
        await self._gate("peers.update")
        peer = self._ledger.peers.get((role, name))
        if peer is None or (expected is not None and peer.status is not expected):
            return None
        changed = self._ledger.peers[role, name] = replace(peer, **patch.changes())
        return changed

    async def get(self, role: PeerRole, name: str) -> Peer | None:
        await self._gate("peers.get")
        return self._ledger.peers.get((role, name))

    async def all(self) -> list[Peer]:
        await self._gate("peers.all")
        return [self._ledger.peers[key] for key in sorted(self._ledger.peers)]


class _Errands(_Repository):
    async def add(self, errands: Sequence[Errand]) -> None:
        await self._gate("errands.add")
        for errand in errands:
            self._ledger.errands.setdefault(errand.task_id, errand)

    async def of_tasks(self, names: Sequence[str]) -> dict[str, Errand]:
        await self._gate("errands.of_tasks")
        return {name: self._ledger.errands[name] for name in names if name in self._ledger.errands}

    async def of_leases(self, parent: str, lease_ids: Sequence[str]) -> dict[str, Errand]:
        await self._gate("errands.of_leases")
        wanted = set(lease_ids)
        found = [e for e in self._ledger.errands.values() if e.parent == parent and e.lease_id in wanted]
        return {errand.lease_id: errand for errand in found}

    async def open(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        await self._gate("errands.open")
        return self._standing(ErrandStatus.OPEN, parent, after, limit)

    async def ended(self, parent: str, after: str | None, limit: int) -> list[Errand]:
        await self._gate("errands.ended")
        return self._standing(ErrandStatus.ENDED, parent, after, limit)

    def _standing(self, status: ErrandStatus, parent: str, after: str | None, limit: int) -> list[Errand]:
        found = [e for e in self._ledger.errands.values() if (e.parent, e.status) == (parent, status)]
        found.sort(key=lambda errand: errand.task_id)
        return [errand for errand in found if after is None or errand.task_id > after][:limit]

    async def reopen(self, names: Sequence[str]) -> None:
        await self._gate("errands.reopen")
        for name in names:
            errand = self._ledger.errands[name]
            if errand.status is ErrandStatus.ENDED:
                self._ledger.errands[name] = replace(errand, status=ErrandStatus.OPEN, ended_at=0.0)

    async def end(self, names: Sequence[str], status: ErrandStatus, *, now: float) -> list[bool]:
        await self._gate("errands.end")
        found = []
        for name in names:
            errand = self._ledger.errands.get(name)
            found.append(errand is not None and errand.status is ErrandStatus.OPEN)
            if errand is not None and errand.status is ErrandStatus.OPEN:
                self._ledger.errands[name] = replace(errand, status=status, ended_at=now)
        return found

    async def counts(self, parent: str) -> dict[ErrandStatus, int]:
        await self._gate("errands.counts")
        found = [errand.status for errand in self._ledger.errands.values() if errand.parent == parent]
        return {status: found.count(status) for status in set(found)}


class _Outbox(_Repository):
    async def add(self, operations: Sequence[Operation]) -> None:
        await self._gate("outbox.add")
        for operation in operations:
            known = [
                *self._ledger.outbox.values(),
                *(each.operation for each in self._ledger.letters.values()),
            ]
            key = operation.peer, operation.operation_id
            if key not in [(each.peer, each.operation_id) for each in known]:
                self._ledger.numbers += 1
                self._ledger.outbox[self._ledger.numbers] = operation

    async def next(self, peer: str, after: int, limit: int) -> list[Queued]:
        await self._gate("outbox.next")
        return self._of(peer, after)[:limit]

    async def done(self, peer: str, numbers: Sequence[int]) -> None:
        await self._gate("outbox.done")
        for number in numbers:
            self._ledger.outbox.pop(number, None)

    async def bury(self, peer: str, number: int, reason: str, *, now: float) -> bool:
        await self._gate("outbox.bury")
        operation = self._ledger.outbox.pop(number, None)
        if operation is None:
            return False
        self._ledger.letters[number] = DeadLetter(number, operation, reason, now)
        return True

    async def backlog(self, peer: str) -> Backlog:
        await self._gate("outbox.backlog")
        waiting = self._of(peer)
        dead = sum(letter.operation.peer == peer for letter in self._ledger.letters.values())
        return Backlog(len(waiting), dead, min((each.operation.at for each in waiting), default=None))

    def _of(self, peer: str, after: int = 0) -> list[Queued]:
        found = sorted(self._ledger.outbox.items())
        return [Queued(number, each) for number, each in found if each.peer == peer and number > after]


class _Values(_Repository):
    async def get(self, name: str) -> str | None:
        await self._gate("values.get")
        return self._ledger.values.get(name)

    async def put(self, name: str, text: str, *, fence: int = 0) -> bool:
        await self._gate("values.put")
        self._ledger.values[name] = text
        return True


class _Audit(_Repository):
    async def add(self, entry: AuditEntry) -> None:
        await self._gate("audit.add")
        self._ledger.audit.append(entry)
