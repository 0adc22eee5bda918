"""Sites that share work, played out in memory: the product's code over ledgers, step by step.

Whatever a process does waits at a gate before each look at its ledger, and at two before each
call to its parent is answered.  Which gate opens next, and whether a message gets through, is
decided from outside; so is when a process dies, which may be before any gate.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec

from iceprod.errors import IceProdError, Unavailable
from iceprod.model.failures import DEFAULT_RULES, Failure, FailureKind
from iceprod.model.federation import Operation, OperationKind, PeerRole, site_of
from iceprod.model.lifecycle import TaskEvent, TaskStatus
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.model.resources import Requirements
from iceprod.model.task import Lease, Move, Moved, Outcome, Task
from iceprod.services.bulletin import Draft
from iceprod.services.catalogue import Catalogue
from iceprod.services.events import Events
from iceprod.services.loans import Loans
from iceprod.services.logs import LogService
from iceprod.services.mirrors import Mirrors
from iceprod.services.reporting import Report
from iceprod.services.scheduling import Claimed, Scheduler, Transitions
from iceprod.services.slots import Slots
from iceprod.services.tasks import TaskService
from iceprod.site_sync import messages
from iceprod.site_sync.as_child.errands import Errands
from iceprod.site_sync.as_child.outbox import Outbox
from iceprod.site_sync.as_child.parents import Means, Parent, Ways
from iceprod.site_sync.as_child.settling import Settling
from iceprod.site_sync.as_parent.inbox import Inbox
from iceprod.site_sync.as_parent.lending import Lending
from iceprod.site_sync.files.sending import Sent
from iceprod.site_sync.messages import Lent, Pull, Pulled, Shape
from iceprod.site_sync.registry import Registry
from iceprod.store.base import DatasetConfig, Store
from tests.site_ledgers import Ledger, MemoryStore
from tests.site_restored import Looks, at_once, begin_term, make_recovery
from tests.site_stage import Claims, Stage, Stray, Wire

PARENTS: Final = {"top": "", "a": "top", "b": "top", "deep": "a"}
LEASE_S: Final = 3000.0
PILOT_LEASE_S: Final = 900.0
PILOT: Final = Principal(PrincipalKind.PILOT, "pilot")
ADMIN: Final = Principal(PrincipalKind.ADMIN, "root")
CRASH: Final = Failure(FailureKind.EXIT, "the program ended with code 1", exit_code=1)
CONFIG: Final = '{"version": 3, "tasks": [{"name": "first"}, {"name": "second", "depends": ["first"]}]}'
DATASET: Final = "work"
WORTH: Final = Shape(cpu=1, memory=1, disk=1, time=1)

_ANSWERS: Final[dict[str, tuple[type[Any], str]]] = {
    "site.pull": (messages.Pull, "pull"),
    "site.renew": (messages.Renew, "renew"),
    "site.listen": (messages.Listen, "listen"),
    "site.dataset": (messages.About, "about"),
    "site.report": (messages.Report, "report"),
    "site.hello": (messages.Hello, "hello"),
    "site.reclaim": (messages.Reclaim, "reclaim"),
}


class Process:
    """One process of a site: everything that it knows beside its ledger dies with it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.is_alive = True
        self.stage = site.stage
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.calls: set[asyncio.Future[Any]] = set()  # of children, that wait for answers
        self.served = 0
        self.store = MemoryStore(site.ledger, self._gate, site.on_move)
        self._make()

    def _make(self) -> None:
        store, clock, name = cast(Store, self.store), self.site.clock, self.site.name
        events, slots = Events(), Slots()
        self.catalogue = Catalogue(store, clock)
        claims = Claims(self)
        scheduler = cast(Scheduler, claims)
        transitions = cast(Transitions, self)
        self.errands = Errands(store, clock=clock, outbox=Outbox(store, events=events))
        self.work = TaskService(
            store,
            clock=clock,
            catalogue=self.catalogue,
            scheduler=scheduler,
            transitions=transitions,
            slots=slots,
            rules=DEFAULT_RULES,
            foreign=self.errands,
        )
        self.registry = Registry(
            store,
            clock=clock,
            accounts=cast(Any, _NOBODY),
            tasks=self.work,
            events=events,
            states=cast(Any, _NOBODY),
            authority=cast(Any, _NOBODY),
            refusals=cast(Any, _NOBODY),
            name=name,
            version="1",
        )
        logs = LogService(store, clock=clock, tasks=self.work)
        self.inbox = Inbox(store, tasks=self.work, logs=logs, registry=self.registry)
        self.lending = Lending(
            store,
            clock=clock,
            accounts=cast(Any, _NOBODY),
            catalogue=self.catalogue,
            scheduler=scheduler,
            tasks=self.work,
            foreign=self.errands,
            events=events,
            registry=self.registry,
            loans=Loans(Draft(is_alone=True)),
        )
        self.recovery, self.adoption = make_recovery(self, claims)
        mirrors = Mirrors(
            store,
            clock=clock,
            catalogue=self.catalogue,
            scheduler=scheduler,
            transitions=transitions,
            events=events,
        )
        settling = Settling(store, tasks=self.work, clock=clock)
        means = Means(
            store=store,
            clock=clock,
            tasks=self.work,
            mirrors=mirrors,
            outbox=self.errands.outbox,
            settling=settling,
            events=events,
            room=Counter,
            send_file=_no_file,
            seal=_as_given,
            has_files=_no_files,
            forget=_forget_nothing,
            ways=Ways(name, "1", True, 0.0, 20.0),
        )
        self.parent: Parent | None = None
        self.is_repaired = not self.site.parent
        if self.site.parent:
            peer = self.site.ledger.peers[PeerRole.PARENT, self.site.parent]
            self.parent = Parent(peer, cast(Any, Wire(self)), means)
            self.parent.reclaiming._steady = Looks()
            self.repair()

    async def _gate(self, what: str) -> None:
        await self.stage.gate(self, what)

    def repair(self) -> bool:
        """Begin as a child, or begin anew with a parent that was restored; whether that is done."""
        if self.parent is None:
            return False
        if self.parent.link.is_stale.is_set() and "repair" not in self.tasks:
            self.is_repaired = False
            self.parent.listening.is_renewed.clear()
            for name in ("pull", "renew", "report"):
                if name in self.tasks:
                    self.tasks[name].cancel()
            self.stage.settle()
        if not self.is_repaired:
            self.do("repair", self._repair)
        return self.is_repaired

    async def _repair(self) -> None:
        parent = self._its()
        await parent.taking.repair()
        await parent.greet()
        self.is_repaired = True

    def do(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        """Begin with something, unless the like of it is being done."""
        if not self.is_alive or name in self.tasks:
            return False
        self.tasks[name] = self.stage.loop.create_task(self._survive(name, work))
        if not self.stage.loop.is_running():
            self.stage.settle()
        return True

    async def _survive(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """What fails is tried again some other time, as the loops of the product do."""
        try:
            with suppress(IceProdError):
                await work()
        except Exception as error:  # noqa: BLE001 - raised by the stage
            self.stage.wrong.append(error)
        finally:
            self.tasks.pop(name, None)

    def kill(self) -> None:
        """End it where it stands."""
        self.is_alive = False
        self.stage.waiting = [each for each in self.stage.waiting if each.process is not self]
        for task in list(self.tasks.values()):
            task.cancel()
        for call in self.calls:
            if not call.done():
                call.set_exception(Unavailable("the connection is gone"))
        self.stage.settle()

    # What a child does with its parent; each is one step of a loop of the product

    def pull(self, tasks: int) -> None:
        """Ask for work, and take it."""
        if self.repair() and self._its().listening.is_renewed.is_set():
            self.do("pull", lambda: self._pull(tasks))

    async def _pull(self, tasks: int) -> None:
        parent = self._its()
        shapes = [msgspec.structs.replace(WORTH, tasks=tasks)]
        pulled = await parent.link.call("site.pull", Pull(shapes), Pulled)
        await parent.taking.keep(pulled.tasks)

    def renew(self) -> None:
        """Say what is held."""
        if self.repair():
            self.do("renew", self._its().listening.renew)

    def report(self) -> None:
        """Send a message of what is in the outbox."""
        if self.repair() and self.site.ledger.outbox and self._its().listening.is_renewed.is_set():
            self.do("report", self._its().sender.step)

    def _its(self) -> Parent:
        assert self.parent is not None
        return self.parent

    # What is done to tasks here; this stands for `Transitions`

    async def apply(self, moves: Sequence[Move]) -> list[Moved | None]:
        return await self.store.tasks.move(moves, now=self.site.clock())

    def materialised(self, released: Sequence[tuple[str, int]], dataset_id: str) -> None:
        """Nobody waits for that."""

    async def claim(self, holder: str, most: int, lease_s: float, site: str = "") -> list[Claimed]:
        """Claim what waits and may run there."""
        if self.recovery.state.is_on:
            return []
        ledger = self.store.ledger
        picked = [t for t in ledger.waiting() if ledger.datasets[t.dataset_id].may_run_at(site)][:most]
        until = self.site.clock() + lease_s
        moves = [
            Move(t.task_id, TaskEvent.CLAIMED, lease=Lease(self.site.new_lease(), holder, until))
            for t in picked
        ]
        moved = await self.apply(moves)
        return [
            Claimed(one.task, ledger.datasets[one.task.dataset_id], Requirements()) for one in moved if one
        ]

    async def adopt(self, holder: str, leases: Sequence[tuple[str, str]], lease_s: float) -> list[bool]:
        """Claim just these."""
        until = self.site.clock() + lease_s
        moves = [Move(name, TaskEvent.CLAIMED, lease=Lease(lease, holder, until)) for name, lease in leases]
        return [moved is not None for moved in await self.apply(moves)]

    def run_task(self) -> None:
        """A pilot asks for a task."""
        self.do(f"claim {self.site.leases}", self._run_task)

    async def _run_task(self) -> None:
        for one in await self.work.wanted(await self.claim("pilot", 1, PILOT_LEASE_S)):
            task = one.task
            errand = self.store.ledger.errands.get(task.task_id)
            self.site.runs.append(Run(task.task_id, task.lease_id, errand.lease_id if errand else ""))
            await self.work.processing(PILOT, task.task_id, task.lease_id)

    def end_run(self, which: int, how: Outcome) -> None:
        """A pilot tells of a task that it has, or once had; it may say so again and again."""
        if self.site.runs:
            run = self.site.runs[which % len(self.site.runs)]
            self.do(f"end {run.lease_id} {how}", lambda: self._end_run(run, how))

    async def _end_run(self, run: Run, how: Outcome) -> None:
        self.site.ran[how].add(run.errand)
        if how is Outcome.FINISHED:
            await self.work.finish(PILOT, run.task_id, run.lease_id, Report())
        elif how is Outcome.FAILED:
            await self.work.fail(PILOT, run.task_id, run.lease_id, CRASH, Report())
        else:
            await self.work.release(PILOT, run.task_id, run.lease_id, "preempted")

    def change(self, event: TaskEvent, task_id: str) -> None:
        """Somebody suspends, resumes or resets a task."""
        self.do(f"change {task_id}", lambda: self.work.change(ADMIN, event, [task_id]))

    def edit(self) -> None:
        """Somebody changes the configuration."""
        self.do("edit", self._edit)

    async def _edit(self) -> None:
        dataset = self.store.ledger.datasets[DATASET]
        text = CONFIG.replace("first", f"first{dataset.config_version}")
        new = DatasetConfig(text, dataset.task_names, dataset.depends, dataset.external)
        await self.store.datasets.set_config(
            DATASET, new, expected_version=dataset.config_version, now=self.site.clock()
        )
        self.catalogue.forget(DATASET)

    def revoke(self, child: str) -> None:
        """Share nothing with a child any more."""
        self.do("revoke", lambda: self.registry.revoke(ADMIN, child))

    def expire(self) -> None:
        """Take tasks from whoever has not renewed its leases."""
        self.do("expire", self._expire)

    async def _expire(self) -> None:
        at_once(self.recovery.look())
        if self.recovery.state.is_on:
            return
        expired = await self.store.tasks.expired(self.site.clock(), 1000)
        await self.work.evict([(task.task_id, task.lease_id) for task in expired], "lease ran out")
        await self.work.release_due()

    async def answer(self, sent: Stray) -> bytes:
        """What this process answers to a message, if it lives that long."""
        if not self.is_alive:
            raise Unavailable("there is nobody")
        reply: asyncio.Future[bytes] = self.stage.loop.create_future()
        self.calls.add(reply)
        self.served += 1
        self.do(f"serve {self.served}", lambda: self._serve(sent, reply))
        try:
            return await reply
        finally:
            self.calls.discard(reply)

    async def _serve(self, sent: Stray, reply: asyncio.Future[bytes]) -> None:
        kind, name = _ANSWERS[sent.method]
        message = msgspec.json.decode(sent.body, type=kind)
        caller = Principal(PrincipalKind.SITE, sent.child)
        known = {"report": self.inbox, "hello": self.registry, "reclaim": self.adoption}
        do = getattr(known.get(name, self.lending), name)
        try:
            found = msgspec.json.encode(await do(caller, message))
        except IceProdError as error:
            if not reply.done():
                reply.set_exception(error)
            return
        if not reply.done():
            reply.set_result(found)

    def take(self, stray: Stray) -> None:
        """A message comes whose answer nobody waits for."""
        self.do(f"stray {self.served}", lambda: self.answer(stray))


@dataclass(frozen=True)
class Run:
    """An attempt that a pilot has begun, and the parent's lease under which it did."""

    task_id: str
    lease_id: str
    errand: str


@dataclass
class Site:
    """A site: what stays when its process dies, and what really happened there.

    ``ran`` are the leases of its parent under which a pilot of its own ended so, ``finished`` those
    whose tasks were complete here, ``under`` those under which it has lent tasks on, by its own
    leases.  ``excused`` are leases that it took from children itself, ``said`` is what it has stated
    of those of its parent.
    """

    name: str
    parent: str
    stage: Stage
    world: dict[str, Site]
    skew_s: float
    ledger: Ledger = field(default_factory=Ledger)
    backup: Ledger | None = None
    leases: int = 0
    runs: list[Run] = field(default_factory=list)
    ran: dict[Outcome, set[str]] = field(default_factory=lambda: {each: set() for each in Outcome})
    finished: set[str] = field(default_factory=set)
    under: dict[str, str] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)
    said: set[tuple[str, OperationKind]] = field(default_factory=set)
    complete: set[str] = field(default_factory=set)
    moves: list[tuple[str, TaskStatus, TaskEvent, TaskStatus]] = field(default_factory=list)
    process: Process = field(init=False)

    def clock(self) -> float:
        return self.stage.now + self.skew_s

    def new_lease(self) -> str:
        self.leases += 1
        return f"{self.name}.{self.leases}"

    def start(self) -> None:
        self.process = Process(self)

    def restart(self) -> None:
        self.process.kill()
        self.start()

    def put_back(self) -> None:
        """Begin again with the backup; nothing is asked about leases that it had or gave till now."""
        if self.backup is None:
            return
        self.process.kill()
        former, self.ledger = self.ledger, self.backup.copy()
        begin_term(self.ledger, former)
        self.complete = {t.task_id for t in self.ledger.tasks.values() if t.status is TaskStatus.COMPLETE}
        for site in (self, self.world.get(self.parent)):
            if site is not None:
                site.excused |= {f"{site.name}.{number + 1}" for number in range(site.leases)}
        self.start()

    def on_move(self, before: Task, move: Move, after: Task) -> None:
        """Note a move, and compare it with what has happened."""
        self.moves.append((before.task_id, before.status, move.event, after.status))
        errand = self.ledger.errands.get(after.task_id)
        if move.event is TaskEvent.HARD_RESET:
            self.complete.discard(after.task_id)
        if after.status is TaskStatus.COMPLETE:
            self.stage.check(after.task_id not in self.complete, f"{after.task_id} is complete once more")
            self.complete.add(after.task_id)
            if errand is not None:
                self.finished.add(errand.lease_id)
        if move.event is TaskEvent.CLAIMED and errand is not None:
            self.under[after.lease_id] = errand.lease_id
        child = site_of(before.pilot_id)
        if before.status is not TaskStatus.PROCESSING or not child:
            return
        outcome = move.ended.outcome if move.ended else Outcome.STOPPED
        if outcome in (Outcome.FINISHED, Outcome.FAILED):
            was_so = self.world[child].has_run(before.lease_id, outcome)
            self.stage.check(
                was_so, f"{before.lease_id} never {outcome} at {child}, but its task is {after.status}"
            )
        elif move.event in _BY_OTHERS or (move.ended and move.ended.summary in _taken_back(child)):
            self.excused.add(before.lease_id)

    def has_run(self, lease_id: str, how: Outcome) -> bool:
        """Whether an attempt ended so under a lease of the parent, here or where it was lent on."""
        if lease_id in self.ran[how]:
            return True
        lent = [mine for mine, given in self.under.items() if given == lease_id]
        children = [site for site in self.world.values() if site.parent == self.name]
        return any(child.has_run(mine, how) for mine in lent for child in children)


def _taken_back(child: str) -> tuple[str, ...]:
    """Why a parent takes tasks from a child that has not asked for it."""
    return ("lease ran out", f"the site {child} has gone", f"the site {child} does not know of it")


_BY_OTHERS: Final = (TaskEvent.SUSPENDED, TaskEvent.RESET, TaskEvent.HARD_RESET)


async def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _no_file(_: Operation) -> Sent:
    raise Unavailable("there are no files here")


async def _as_given(lent: Sequence[Lent]) -> list[str]:
    return [one.token for one in lent]


async def _no_files(_: Sequence[str]) -> set[str]:
    return set()


def _forget_nothing(_: str) -> None:
    """Nobody is known by anything here."""


_NOBODY: Final = SimpleNamespace(
    saw=lambda *_, **__: None,
    note_call=lambda *_, **__: None,
    waiting=lambda _: [],
    revoke=lambda *_: None,
    revoke_site=_nothing,
    make_task_token=lambda *_: "token",
)
