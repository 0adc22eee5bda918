"""What sites promise one another, under schedules that are as bad as can be.

The product's own code plays four sites over ledgers in memory (`tests.site_play`): what is lost,
repeated, late or out of order, who dies between which two of its steps, or comes back with
an old memory, is drawn.  Then everything is quiet for a while, and all must be well.

``ICEPROD_MACHINE_EXAMPLES`` sets how many stories are told.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iceprod.model.dataset import Dataset
from iceprod.model.federation import ErrandStatus, OperationKind, Peer, PeerRole, PeerStatus, site_of
from iceprod.model.lifecycle import MOVES, JobStatus, TaskEvent, TaskStatus
from iceprod.model.task import Outcome
from iceprod.site_sync.messages import Report, Statement
from tests.site_play import CONFIG, DATASET, LEASE_S, PARENTS, Site
from tests.site_restored import at_once, children_of, done_elsewhere, is_forgotten, term_of, without_waiting
from tests.site_stage import Fate, Stage, Stray

EXAMPLES = int(os.environ.get("ICEPROD_MACHINE_EXAMPLES", "40"))
STEPS = int(os.environ.get("ICEPROD_MACHINE_STEPS", "30"))
ROUNDS = 60
SITES = st.sampled_from(list(PARENTS))
CHILDREN = st.sampled_from([name for name, parent in PARENTS.items() if parent])
SPANS = st.sampled_from([1.0, 130.0, 1000.0, 4000.0])
TROUBLE = st.sampled_from(["kill", "kill", "back up", "restore", "silence"])
PERSONAL = st.sampled_from(
    ["suspended", "resumed", "resumed", "reset", "reset", "hard_reset", "edit", "hand back", "revoke b"]
)
SAID = {
    OperationKind.FINISHED: Outcome.FINISHED,
    OperationKind.FAILED: Outcome.FAILED,
    OperationKind.RETURNED: Outcome.EVICTED,
}
WRITES = ("tasks.move", "outbox.add", "outbox.done", "errands.add", "errands.end", "datasets.materialise")
LENGTHS, SEEDS = st.sampled_from([10, 100, 300]), st.integers(0, 1 << 16)
ENDS = [Outcome.FINISHED, Outcome.FINISHED, Outcome.FINISHED, Outcome.FAILED, Outcome.EVICTED]


class Machine(RuleBasedStateMachine):
    """A parent, two children, and a child of the first of them."""

    @initialize(
        jobs=st.integers(1, 3),
        skews=st.lists(st.sampled_from([0.0, 3600.0, -86400.0]), min_size=4, max_size=4),
    )
    def begin(self, jobs: int, skews: list[float]) -> None:
        without_waiting()
        self.stage = Stage()
        self.world: dict[str, Site] = {}
        self.revoked: set[str] = set()
        for (name, parent), skew_s in zip(PARENTS.items(), skews, strict=True):
            site = self.world[name] = Site(name, parent, self.stage, self.world, skew_s)
            for child, its_parent in PARENTS.items():
                if its_parent == name:
                    peer = Peer(child, PeerRole.CHILD, PeerStatus.JOINED, 1.0, lease_s=LEASE_S)
                    site.ledger.peers[PeerRole.CHILD, child] = peer
            if parent:
                peer = Peer(parent, PeerRole.PARENT, PeerStatus.JOINED, 1.0)
                site.ledger.peers[PeerRole.PARENT, parent] = peer
        self._submit(self.world["top"], jobs)
        for site in self.world.values():
            site.start()
        self.stage.finish()

    def _submit(self, site: Site, jobs: int) -> None:
        dataset = Dataset(
            dataset_id=DATASET,
            number=1,
            owner="alice",
            status=JobStatus.PROCESSING,
            created_at=1.0,
            status_changed_at=1.0,
            jobs_wanted=jobs,
            jobs_made=jobs,
            task_names=("first", "second"),
            depends=((), (0,)),
            external=((), ()),
        )
        site.ledger.datasets[DATASET] = dataset
        site.ledger.configs[DATASET, 1] = CONFIG
        for job in range(jobs):
            site.ledger.make_job(dataset, job, [1, 2], now=1.0)

    # What goes on

    @rule(steps=LENGTHS, seed=SEEDS)
    def work(self, steps: int, seed: int) -> None:
        """Everybody does something all the time, and goes on with it in any order."""
        self._work(steps, Random(seed))

    @rule(steps=LENGTHS, seed=SEEDS)
    def work_badly_connected(self, steps: int, seed: int) -> None:
        """As `work`, but some messages get lost, come late, or come twice."""
        self._work(steps, Random(seed), [*Fate, *[Fate.ARRIVES] * 4])

    @rule(steps=LENGTHS, seed=SEEDS)
    def work_among_deaths(self, steps: int, seed: int) -> None:
        """As `work`, but now and then a process dies before it writes something down."""
        self._work(steps, Random(seed), deadliness=0.15)

    def _work(
        self, steps: int, random: Random, fates: Sequence[Fate] = (Fate.ARRIVES,), *, deadliness: float = 0.0
    ) -> None:
        children = [site for site in self.world.values() if site.parent]
        for _ in range(steps):
            if not self.stage.waiting or random.random() < 0.2:
                self._begin_something(random.choice(children), random)
                continue
            waiting = random.choice(self.stage.waiting)
            if waiting.what in WRITES and random.random() < deadliness:
                waiting.process.site.restart()
            else:
                self.stage.open(waiting, random.choice(fates))

    def _begin_something(self, site: Site, random: Random) -> None:
        process = site.process
        what = random.choice(["pull", "renew", "report", "run", "end"])
        if what == "pull":
            process.pull(random.randint(1, 3))
        elif what == "renew":
            process.renew()
        elif what == "report":
            process.report()
        elif what == "run":
            process.run_task()
        else:
            process.end_run(-random.randint(1, 4), random.choice(ENDS))

    # What goes wrong

    @rule(kind=TROUBLE, name=SITES, span_s=SPANS)
    def trouble(self, kind: str, name: str, span_s: float) -> None:
        """A process dies; a site is backed up, or put back; or nothing is heard for a while."""
        site = self.world[name]
        if kind == "kill":
            site.restart()
        elif kind == "back up":
            site.backup = site.ledger.copy()
        elif kind == "restore":
            site.put_back()
        else:
            self.stage.now += span_s
            site.process.expire()

    @rule(steps=LENGTHS, seed=SEEDS)
    def restore_parent(self, steps: int, seed: int) -> None:
        """Work goes on after a backup of the first parent, which is put back: nothing is done again."""
        top = self.world["top"]
        top.backup = top.ledger.copy()
        self._work(steps, Random(seed))
        if seed % 2:  # so that what was done was taken in, too
            self.stage.finish()
            self._speak()
        self.stage.finish()
        top.put_back()
        self.stage.finish()
        children = children_of(top)  # as it remembers: one that was revoked meanwhile is its child again
        done = list(done_elsewhere(top, [child for child in children if child.name not in self.revoked]))
        for _ in range(ROUNDS):
            for site in children:
                site.process.renew()
            self.stage.finish()
            if not top.process.recovery.state.is_on:
                break
            at_once(top.process.recovery.look())
        assert not term_of(top.ledger).is_recovering
        self._speak()
        again = [errand for errand in done if is_forgotten(top, errand)]
        assert not again, f"these are done once more: {again}"

    @rule(which=st.integers(0, 20), some=st.integers(1, 5))
    def strays(self, which: int, some: int) -> None:
        """Messages come that were sent some time ago, or once more."""
        for _ in range(min(some, len(self.stage.strays))):
            stray = self.stage.strays.pop(which % len(self.stage.strays))
            self.world[stray.parent].process.take(stray)

    @rule(name=CHILDREN, kind=st.sampled_from(list(SAID)), which=st.integers(0, 5))
    def forge(self, name: str, kind: OperationKind, which: int) -> None:
        """A site speaks of a lease that is another's, or a pilot's."""
        parent = PARENTS[name]
        others = [
            task for task in self.world[parent].ledger.tasks.values() if task.pilot_id != f"site:{name}"
        ]
        if not others:
            return
        task = others[which % len(others)]
        body: dict[str, object] = {"error": {"kind": "exit"}} if kind is OperationKind.FAILED else {}
        told = Report([Statement("forged", kind, task.task_id, task.lease_id or "none", body=body)])
        stray = Stray(name, parent, "site.report", msgspec.json.encode(told))
        self.world[parent].process.take(stray)

    # What people do

    @rule(kind=PERSONAL, name=CHILDREN, which=st.integers(0, 5))
    def people(self, kind: str, name: str, which: int) -> None:
        """Somebody steers tasks, edits the dataset, or hands back what a child has."""
        top = self.world["top"]
        if kind == "edit":
            top.process.edit()
        elif kind == "revoke b":
            self.revoked.add("b")
            top.process.revoke("b")
        else:
            site = self.world[name] if kind == "hand back" else top
            task_ids = sorted(site.ledger.tasks)
            event = TaskEvent.SUSPENDED if kind == "hand back" else TaskEvent(kind)
            if task_ids:
                site.process.change(event, task_ids[which % len(task_ids)])

    # What must be true

    @invariant()
    def moves_are_those_of_the_table(self) -> None:
        for site in getattr(self, "world", {}).values():
            for _, before, event, after in site.moves:
                landing = MOVES[before, event]
                assert after is landing or {after, landing} <= {TaskStatus.IDLE, TaskStatus.WAITING}
            site.moves.clear()

    @invariant()
    def leases_have_one_outcome(self) -> None:
        for site in getattr(self, "world", {}).values():
            for attempts in site.ledger.attempts.values():
                leases = [attempt.lease_id for attempt in attempts]
                assert len(leases) == len(set(leases)), attempts

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._calm_down()
            self._nothing_is_held_by_nobody()
            self._complete_all()
            self._all_is_well()
        finally:
            self.stage.close()

    def _calm_down(self) -> None:
        """What is on its way arrives, and everybody says all that there is to say."""
        self.stage.finish()
        while self.stage.strays:
            self.strays(0, 1)
            self.stage.finish()
        if "b" in self.revoked:  # it may have been forgotten with an old memory, or been cut short
            self.world["top"].process.revoke("b")
            self.stage.finish()
        for span_s in (130.0, 1000.0, 130.0):
            self._speak()
            self.stage.now += span_s
            for site in self.world.values():
                site.process.expire()
            self.stage.finish()
        self._speak()

    def _speak(self) -> None:
        for site in reversed(self._joined()):
            for _ in range(2):  # the first time, it may find out that the parent was restored
                site.process.renew()
                self.stage.finish()
            for _ in range(ROUNDS):
                site.process.report()
                self.stage.finish()

    def _joined(self) -> list[Site]:
        return [site for site in self.world.values() if site.parent and site.name not in self.revoked]

    def _nothing_is_held_by_nobody(self) -> None:
        for site in self._joined():
            held = {t.lease_id: t for t in self.world[site.parent].ledger.held(f"site:{site.name}")}
            errands = {e.lease_id: e for e in site.ledger.errands.values() if e.status is ErrandStatus.OPEN}
            assert held.keys() == errands.keys(), f"{site.name}: lent {held}, taken {errands}"
            for errand in errands.values():
                task = site.ledger.tasks[errand.task_id]
                assert task.status in (TaskStatus.WAITING, TaskStatus.PROCESSING), f"{errand} as {task}"
        if "b" in self.revoked:
            assert not self.world["top"].ledger.held("site:b")

    def _complete_all(self) -> None:
        """With no trouble any more, everything gets done, by the children alone."""
        top = self.world["top"]
        for _ in range(ROUNDS):
            if all(task.status is TaskStatus.COMPLETE for task in top.ledger.tasks.values()):
                break
            self._let_go_on(top)
            for site in self._joined():
                site.process.pull(3)
                self.stage.finish()
            for site in self._joined():
                for _ in range(2):
                    site.process.run_task()
                    self.stage.finish()
                for which in range(len(site.runs)):
                    site.process.end_run(which, Outcome.FINISHED)
                    self.stage.finish()
                site.runs.clear()
            self._speak()
            self.stage.now += 1000.0
            for site in self.world.values():
                site.process.expire()
            self.stage.finish()
        assert {task.status for task in top.ledger.tasks.values()} == {TaskStatus.COMPLETE}
        self._calm_down()

    def _let_go_on(self, top: Site) -> None:
        for task in list(top.ledger.tasks.values()):
            if task.status is TaskStatus.SUSPENDED:
                top.process.change(TaskEvent.RESUMED, task.task_id)
            elif task.status is TaskStatus.FAILED:
                top.process.change(TaskEvent.RESET, task.task_id)
        self.stage.finish()

    def _all_is_well(self) -> None:
        for site in self._joined():
            ledger = site.ledger
            assert not ledger.outbox, f"{site.name} has not said all"
            assert not ledger.letters, f"{site.name} was refused: {ledger.letters}"
            assert all(e.status is not ErrandStatus.OPEN for e in ledger.errands.values())
            parent = self.world[site.parent]
            ends = {a.lease_id: a for each in parent.ledger.attempts.values() for a in each}
            for lease_id in site.finished - parent.excused:
                assert ends[lease_id].outcome in self._fair(site, lease_id), f"{site.name}: {ends[lease_id]}"
        for site in self.world.values():
            if site.name not in self.revoked:
                assert all(t.status is not TaskStatus.PROCESSING for t in site.ledger.tasks.values())
            for task_id, attempts in site.ledger.attempts.items():
                assert site_of(attempts[-1].pilot_id) != site.name, task_id

    def _fair(self, site: Site, lease_id: str) -> set[Outcome]:
        """How an attempt may have ended whose task was finished at the child: as that has said first."""
        said = {kind for lease, kind in site.said if lease == lease_id}
        return {outcome for kind, outcome in SAID.items() if kind in said}


TestProtocol = Machine.TestCase
TestProtocol.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    suppress_health_check=list(HealthCheck),
)
