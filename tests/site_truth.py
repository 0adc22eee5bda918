"""What must be true of sites that share work once a dataset is complete, whatever went wrong meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from iceprod.errors import IceProdError
from iceprod.model.federation import ErrandStatus, site_of
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page
from iceprod.model.task import Attempt, Outcome
from iceprod.store.base import AuditEntry, Store
from tests import aftermath, havoc
from tests.servers import until
from tests.site_tree import Tree

STALL_S = 90.0
"""For how long nothing may be done once nothing is wrong any more."""
SETTLE_S = 60.0
"""How long sites may take to tell each other all."""
SLEEP_S = 0.4
"""How long a task takes."""
_KILLED = '"event":"a worker has died"'
"""What a site says of a process of its own that a test has killed."""


@dataclass
class Watch:
    """Looks on while a dataset runs: how many tasks are complete must never fall."""

    tree: Tree
    dataset_id: str
    best: int = 0
    falls: list[str] = field(default_factory=list)

    def look(self) -> None:
        try:
            tasks = self.tree.top.call("dataset.progress", dataset_id=self.dataset_id)["tasks"]
        except (IceProdError, OSError):
            return  # it has just been killed
        now = int(tasks.get("complete", 0))
        if now < self.best:
            self.falls.append(f"from {self.best} to {now}")
        self.best = max(self.best, now)

    def forget(self) -> None:
        """What was seen may have been undone."""
        self.best = 0
        self.falls.clear()


@dataclass
class Work:
    """A dataset that runs."""

    tree: Tree
    dataset_id: str
    runs: Path
    jobs: int
    watch: Watch
    began: float
    submitted_at: float
    mistakes: dict[str, int]  # how many each site had logged before

    @property
    def tasks(self) -> int:
        return self.jobs * len(havoc.STEPS)

    def wait(self, share: float) -> None:
        """Wait until that share of the tasks is complete."""
        aftermath.wait_for(lambda: self.watch.best, share * self.tasks, stall_s=STALL_S, tell=self.told)

    def told(self) -> str:
        """What all sites are doing, for the message of a test that fails."""
        logs = [site.folder / "server.log" for site in self.tree.sites.values()]
        said = aftermath.account(self.tree.top, self.dataset_id, pilots=(), logs=logs)
        return f"{said}\n== sites\n{_standing(self.tree)}"


def submit(tree: Tree, name: str, *, jobs: int, sleep_s: float = SLEEP_S, never: Sequence[str] = ()) -> Work:
    """Submit a dataset whose tasks hand files on, and write down each run of theirs; at some sites never."""
    runs = tree.folder / f"runs-{name}"
    runs.mkdir()
    script = tree.folder / "payload.sh"
    script.write_text(havoc.PAYLOAD.replace("sleep 0.15", f"sleep {sleep_s}"))
    script.chmod(0o755)
    config = havoc.configuration(script, runs)
    given = {"config": config, "njobs": jobs, "description": name, "never": [*never] or None}
    dataset_id = tree.top.call("dataset.submit", **given)["dataset_id"]
    return Work(
        tree,
        dataset_id,
        runs,
        jobs,
        Watch(tree, dataset_id),
        began=time.monotonic(),
        submitted_at=time.time(),
        mistakes={label: len(_mistakes(site.folder)) for label, site in tree.sites.items()},
    )


@contextmanager
def watched(work: Work) -> Iterator[None]:
    """Look on from a thread."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.3):
            work.watch.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(30)


def play(
    tree: Tree,
    name: str,
    trouble: Callable[[Work], None],
    *,
    jobs: int,
    sleep_s: float = SLEEP_S,
    never: Sequence[str] = (),
) -> str:
    """Run a dataset in spite of some trouble, and check everything; what there was to see, in a line."""
    work = submit(tree, name, jobs=jobs, sleep_s=sleep_s, never=never)
    with watched(work):
        try:
            trouble(work)
        finally:
            tree.net.mend()
        aftermath.wait_for_end(tree.top, work.dataset_id, stall_s=STALL_S, tell=work.told)
    took_s = time.monotonic() - work.began
    settle(tree)
    said = (
        f"{name}: {check(work)}; {took_s:.1f} s, settled {time.monotonic() - work.began - took_s:.1f} s later"
    )
    sys.stdout.write(f"\n{said}\n")
    return said


def settle(tree: Tree) -> None:
    """Wait until no site holds a task of another one, or has anything to tell."""
    try:
        until(lambda: not any(_unsettled(tree)), within_s=SETTLE_S)
    except AssertionError:
        raise AssertionError(f"sites did not settle\n{_standing(tree)}") from None


def _unsettled(tree: Tree) -> list[str]:
    """What there still is to do between sites."""
    found = []
    for label, parent in tree.parents.items():
        if not parent:
            continue
        with tree.sites[label].opened() as (runner, store):
            waiting = runner.run(store.outbox.backlog(parent)).waiting
        if waiting or held(tree, label):
            found.append(f"{label}: {waiting} to tell, {held(tree, label)} held")
    return found


def held(tree: Tree, label: str) -> int:
    """How many tasks a site holds for its parent."""
    with tree.sites[label].opened() as (runner, store):
        return runner.run(store.errands.counts(tree.parents[label])).get(ErrandStatus.OPEN, 0)


def _standing(tree: Tree) -> str:
    try:
        return "\n".join([*_unsettled(tree), *(_log(site.folder) for site in tree.sites.values())])
    except Exception as exc:  # noqa: BLE001 - this is told when anything may be wrong
        return repr(exc)


def _log(folder: Path) -> str:
    lines = (folder / "server.log").read_text(errors="replace").splitlines()
    return "\n".join([f"== {folder.name}", *lines[-30:]])


def _mistakes(folder: Path) -> list[str]:
    """What a site complains of in its log that is nobody's fault but its own."""
    lines = (folder / "server.log").read_text(errors="replace").splitlines()
    bad = [line for line in lines if '"level":"error"' in line or '"level":"critical"' in line]
    return [line for line in bad if _KILLED not in line]


def check(work: Work) -> str:
    """Check every promise; what was seen, in words."""
    tree = work.tree
    assert not work.watch.falls, f"tasks went back from complete: {work.watch.falls}"
    for site in tree.sites.values():
        mistakes = _mistakes(site.folder)[work.mistakes[site.label] :]
        assert not mistakes, f"{site.label} logged {mistakes}"
        with site.opened() as (runner, store):
            runner.run(_check_store(store, site.label, since=work.submitted_at))
    with tree.top.opened() as (runner, store):
        attempts = runner.run(_check_tasks(store, work))
    counts = {task_id: len(found) for task_id, found in attempts.items()}
    files = tree.top.folder / "files"
    seen = havoc.check_outputs(files, work.runs, work.dataset_id, counts, jobs=work.jobs)
    ran = tree.ran_at(work.runs)
    ended = Counter(f"{_where(one)} {one.outcome}" for found in attempts.values() for one in found)
    return (
        f"{len(attempts)} tasks complete once each in {sum(seen.values())} runs {ran}"
        f" and {sum(counts.values())} attempts {dict(sorted(ended.items()))};"
        f" reports of lost leases {dropped(work)}"
    )


def _where(attempt: Attempt) -> str:
    return site_of(attempt.pilot_id) or "own"


def run_again(tree: Tree, name: str) -> dict[str, int]:
    """How many runs tasks of a dataset had beyond their attempts: what the site of it has forgotten.

    A lease that ran out on a slow machine is an attempt, and the task runs again by right.
    """
    runs = Counter(path.name.rpartition(".")[0] for path in (tree.folder / f"runs-{name}").iterdir())
    with tree.top.opened() as (runner, store):
        attempts = {task_id: len(runner.run(store.tasks.attempts(task_id))) for task_id in runs}
    return {task_id: more for task_id in runs if (more := runs[task_id] - attempts[task_id]) > 0}


async def _check_store(store: Store, label: str, *, since: float) -> None:
    """Nothing was refused, and counters are as a recount."""
    assert await store.check() == [], label
    for dataset in await havoc.every_dataset(store):
        assert await store.datasets.recount(dataset.dataset_id) == [], f"a counter had drifted at {label}"
    dead = [letter for letter in (await store.outbox.dead(None, Page(100))).items if letter.at >= since]
    assert not dead, f"dead letters of {label}: {dead}"


async def _check_tasks(store: Store, work: Work) -> dict[str, list[Attempt]]:
    """Each task was finished once, and nothing came after that; its attempts."""
    dataset = await store.datasets.get(work.dataset_id)
    assert dataset is not None
    assert dataset.status is JobStatus.COMPLETE
    found: dict[str, list[Attempt]] = {}
    for job in range(work.jobs):
        for index in range(len(havoc.STEPS)):
            task_id = f"{work.dataset_id}-{job}-{index}"
            attempts = sorted(await store.tasks.attempts(task_id), key=lambda one: one.attempt)
            outcomes = [one.outcome for one in attempts]
            assert outcomes.count(Outcome.FINISHED) == 1, f"{task_id} was finished {outcomes}"
            assert outcomes[-1] is Outcome.FINISHED, f"{task_id} went on after it was complete: {outcomes}"
            found[task_id] = attempts
    return found


def audit(tree: Tree, label: str, action: str, *, since: float = 0.0) -> list[AuditEntry]:
    """Entries of a site's audit trail of one kind, newest first."""
    with tree.sites[label].opened() as (runner, store):
        entries = runner.run(store.audit.select(None, Page(500))).items
    return [entry for entry in entries if entry.action == action and entry.at >= since]


def dropped(work: Work) -> dict[str, int]:
    """How many reports came too late, by who took note of that; none but late ones may be turned down."""
    found: Counter[str] = Counter()
    for label in work.tree.lenders:
        for entry in audit(work.tree, label, "site.report", since=work.submitted_at):
            assert entry.detail["refused"] == entry.detail["leases_of_others"] == 0, entry
            found[label] += int(str(entry.detail["lost"]))
    return dict(found)
