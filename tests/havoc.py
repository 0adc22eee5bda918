"""What the tests of kill -9 are made of: pilots and clerks at work, and what must be true afterwards.

Real pilots run a dataset whose every task writes down each run of its own and hands a file
on, so that a run too many or an output of the wrong run shows in the files themselves.
Beside them clerks submit datasets and report tasks by RPC, and keep a journal of whatever
was answered; the database must know all of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from iceprod.config import Settings
from iceprod.model.lifecycle import JobStatus
from iceprod.model.paging import Page
from iceprod.model.task import Outcome
from iceprod.server.assembly import make_store
from iceprod.store.base import DatasetFilter, Store
from tests import aftermath

CHAOS_S = float(os.environ.get("ICEPROD_CHAOS_S", "20"))
"""For how many seconds things are killed."""
SEED = int(os.environ.get("ICEPROD_CHAOS_SEED", "20180607"))
"""How the dice fall."""
STALL_S = 90.0
"""For how long nothing may be done once nothing is killed any more: pilots may pause for a minute."""
REPORTS = 10
"""How many tasks the clerks report at least."""
AT_LEAST = 2
"""How often each thing is killed, even if that takes longer."""
QUICK = {
    "ICEPROD_SCHEDULING__LEASE_S": "4",
    "ICEPROD_SCHEDULING__HEARTBEAT_S": "0.5",
    "ICEPROD_LOG__ACCESS": "false",
}
"""Settings of a site whose leases run out while one watches."""
CORES = 3
STEPS = ("first", "second", "third")

# Writes down that it runs and in which network, under a name that no other run can have, and passes on
# what it was given.
PAYLOAD = """#!/bin/sh
set -e
run=$(mktemp "$1/$2.XXXXXXXXXX")
readlink /proc/self/ns/net > "$run"
[ -z "$4" ] || cat "$4" > "$3.part"
sleep 0.15
echo "$2 ${run##*.}" >> "$3.part"
mv "$3.part" "$3"
"""


class Site(aftermath.Site, Protocol):
    """A site that may be away now and then, as its users see it."""

    @property
    def rpc_url(self) -> str: ...

    @property
    def token(self) -> str: ...


class Away(Exception):
    """The server was not there, could not reach its store, or went away before it had answered."""


class Refused(Exception):
    """The server said no."""


def call(site: Site, token: str, method: str, **params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{site.rpc_url}/jsonrpc", body, headers), timeout=20
        ) as response:
            answer = json.loads(response.read())
    except (OSError, ValueError, urllib.error.URLError) as exc:
        raise Away(str(exc)) from None
    if "error" in answer:
        code = answer["error"]["data"]["code"]
        raise Away(code) if code == "unavailable" else Refused(answer["error"]["message"])
    return answer["result"]


def insist(site: Site, token: str, method: str, **params: Any) -> Any:
    """As `call`, until there is an answer."""
    while True:
        try:
            return call(site, token, method, **params)
        except Away:
            time.sleep(0.05)


PAPER_OFFER = {"cpu": 1, "gpu": 0, "memory": 0.01, "disk": 1, "time": 1, "site": "paper"}
PAPER_CONFIG = {
    "version": 3,
    "tasks": [
        {
            "name": "paper",
            "requirements": {"cpu": 1, "memory": 0.01, "disk": 0.1, "time": 0.1, "site": "paper"},
            "trays": [{"modules": [{"src": "/bin/true"}]}],
        }
    ],
}


@dataclass
class Clerk:
    """Submits datasets, claims their tasks and reports them as done, all by RPC alone."""

    site: Site
    token: str
    submitted: dict[str, str] = field(default_factory=dict)
    finished: list[tuple[str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    error: str = ""

    def work(self) -> None:
        try:
            while not self.stop.is_set():
                self.submit()
                self.report()
        except Exception as exc:
            self.error = repr(exc)
            raise

    def submit(self) -> None:
        """Submit a dataset; only what was answered is written down."""
        description = uuid.uuid4().hex
        with suppress(Away):
            made = call(
                self.site,
                self.site.token,
                "dataset.submit",
                config=PAPER_CONFIG,
                njobs=3,
                description=description,
            )
            self.submitted[made["dataset_id"]] = description

    def report(self) -> None:
        """Claim a few tasks and report each until that is answered."""
        claim = {"offer": PAPER_OFFER, "max_tasks": 1, "wait_s": 0.3, "held": []}
        for _ in range(3):
            for task in insist(self.site, self.token, "pilot.claim", **claim)["tasks"]:
                lease = {"task_id": task["task_id"], "lease_id": task["lease_id"]}
                with suppress(Refused):  # the lease ran out while the server was away
                    insist(self.site, self.token, "pilot.finish", **lease)
                    self.finished.append((task["task_id"], task["lease_id"]))


@dataclass
class Pilot:
    """A real pilot that may be killed at any moment, and comes back to what it left behind."""

    site: Site
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        token = self.folder / "token"
        if not token.exists():
            offer = {"cpu": CORES, "memory": 1, "disk": 10, "time": 10}
            made = insist(self.site, self.site.token, "pilot.credentials", grid="g", resources=offer)
            token.write_text(made["passkey"])
        where = ["--url", self.site.rpc_url, "--token-file", token, "--work-dir", self.folder / "work"]
        amounts = ["--cpu", str(CORES), "--gpu", "0", "--memory", "1", "--disk", "10", "--time", "10"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "iceprod.pilot.main", *where, *amounts], stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def renew(self) -> None:
        """Go on as another pilot, elsewhere: what this one had is left to its lease."""
        self.folder = self.folder.with_name(f"{self.folder.name}x")


def configuration(script: Path, runs: Path) -> dict[str, Any]:
    tasks = []
    for before, name in zip(("", *STEPS), STEPS, strict=False):
        area, remote = ("dataset_temp", "out/$(job)") if name == STEPS[-1] else ("job_temp", name)
        data = [{"type": area, "remote": remote, "local": name, "movement": "output"}]
        if before:
            data.append({"type": "job_temp", "remote": before, "local": before, "movement": "input"})
        module = {"src": str(script), "args": [str(runs), "$(task_id)", name, before]}
        tasks.append(
            {
                "name": name,
                "depends": [before] if before else [],
                "requirements": {"cpu": 1, "memory": 0.05, "disk": 0.05, "time": 0.1},
                "data": data,
                "trays": [{"modules": [module]}],
            }
        )
    return {"version": 3.1, "tasks": tasks}


async def check_store(
    settings: Settings, dataset_id: str, clerks: list[Clerk], *, jobs: int
) -> dict[str, int]:
    """Compare the database with the journals and with itself; how many attempts each task had."""
    store = make_store(settings)
    await store.open()
    try:
        assert await store.check() == []
        datasets = {d.dataset_id: d for d in await every_dataset(store)}
        for identifier in datasets:
            assert await store.datasets.recount(identifier) == [], "a counter had drifted"
        for clerk in clerks:
            for identifier, description in clerk.submitted.items():
                assert datasets[identifier].description == description, "an accepted submission is gone"
            for task_id, lease_id in clerk.finished:
                done = [a for a in await store.tasks.attempts(task_id) if a.outcome is Outcome.FINISHED]
                assert [a.lease_id for a in done] == [lease_id], "an accepted report is gone or doubled"
        assert datasets[dataset_id].status is JobStatus.COMPLETE
        return await attempts_of(store, dataset_id, jobs)
    finally:
        await store.close()


async def every_dataset(store: Store) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        part = await store.datasets.select(DatasetFilter(), Page(500, cursor))
        found += part.items
        cursor = part.next
        if cursor is None:
            return found


async def attempts_of(store: Store, dataset_id: str, jobs: int) -> dict[str, int]:
    counts = {}
    for job in range(jobs):
        for index in range(len(STEPS)):
            task_id = f"{dataset_id}-{job}-{index}"
            attempts = await store.tasks.attempts(task_id)
            assert sum(a.outcome is Outcome.FINISHED for a in attempts) == 1, "not completed exactly once"
            assert all(a.outcome in (Outcome.FINISHED, Outcome.EVICTED) for a in attempts), attempts
            counts[task_id] = len(attempts)
    return counts


def check_outputs(
    files: Path, runs: Path, dataset_id: str, attempts: dict[str, int], *, jobs: int
) -> dict[str, int]:
    """Compare what lies in the file store with the runs that wrote it; how many runs each task had."""
    seen: dict[str, set[str]] = {}
    for run in runs.iterdir():
        task_id, _, name = run.name.rpartition(".")
        seen.setdefault(task_id, set()).add(name)
    for job in range(jobs):
        kept = [files / "job_temp" / dataset_id / str(job) / name for name in STEPS[:-1]]
        kept.append(files / "dataset_temp" / dataset_id / "out" / str(job))
        lines = kept[-1].read_text().splitlines()
        for index, path in enumerate(kept):
            task_id = f"{dataset_id}-{job}-{index}"
            # Each file is what the next task was given: nothing replaced it after its task was complete.
            assert path.read_text().splitlines() == lines[: index + 1]
            name, _, run = lines[index].partition(" ")
            assert name == task_id
            assert run in seen[task_id]
    assert len(list((files / "dataset_temp" / dataset_id / "out").iterdir())) == jobs
    return {task_id: len(seen[task_id]) for task_id in attempts}


@dataclass
class Played:
    """What was run and what was killed meanwhile."""

    dataset_id: str
    runs: Path
    clerks: list[Clerk]
    killed: Counter[str]
    jobs: int


def play(site: Site, folder: Path, kills: Mapping[str, Callable[[], None]], *, jobs: int) -> Played:
    """Run a dataset of ``jobs`` jobs while things are killed, until it is complete.

    Each of ``kills`` kills one kind of thing and sees to it that it comes back.
    """
    runs = folder / "runs"
    runs.mkdir()
    script = folder / "payload.sh"
    script.write_text(PAYLOAD)
    script.chmod(0o755)
    made = site.call("dataset.submit", config=configuration(script, runs), njobs=jobs)
    dataset_id = made["dataset_id"]
    pilots = [Pilot(site, folder / f"pilot{number}") for number in range(2)]
    with ExitStack() as stack:
        for pilot in pilots:
            stack.callback(pilot.kill)
            pilot.start()
        with _clerks(site) as clerks:
            killed = wreak_havoc(kills, pilots, random.Random(SEED))
            aftermath.wait_for(lambda: sum(len(clerk.finished) for clerk in clerks), REPORTS, stall_s=STALL_S)
        tell = partial(aftermath.account, site, dataset_id, pilots=pilots, logs=_logs(site, folder))
        aftermath.wait_for_end(site, dataset_id, stall_s=STALL_S, tell=tell)
    return Played(dataset_id, runs, clerks, killed, jobs)


def _logs(site: Site, folder: Path) -> list[Path]:
    """The logs of the server, and of all pilots that there were."""
    return [site.folder / "server.log", *sorted(folder.glob("pilot*/log"))]


@contextmanager
def _clerks(site: Site) -> Iterator[list[Clerk]]:
    """Two clerks at work; none of them met anything that it had not been told of."""
    tokens = [
        site.call("pilot.credentials", grid="paper", resources=PAPER_OFFER)["passkey"] for _ in range(2)
    ]
    clerks = [Clerk(site, token) for token in tokens]
    threads = [threading.Thread(target=clerk.work, daemon=True) for clerk in clerks]
    for thread in threads:
        thread.start()
    try:
        yield clerks
    finally:
        for clerk in clerks:
            clerk.stop.set()
    for clerk, thread in zip(clerks, threads, strict=True):
        thread.join(60)
        assert not clerk.error, clerk.error
        assert not thread.is_alive(), "a clerk waits for an answer"


def wreak_havoc(
    kills: Mapping[str, Callable[[], None]], pilots: list[Pilot], dice: random.Random
) -> Counter[str]:
    """Kill now this, now that, for `CHAOS_S` seconds and `AT_LEAST` times each; how often what."""
    killed: Counter[str] = Counter()
    end = time.monotonic() + CHAOS_S
    while time.monotonic() < end or min(killed[name] for name in (*kills, "pilot")) < AT_LEAST:
        time.sleep(dice.uniform(0.0, 1.2))
        if dice.random() < 0.6:
            name = dice.choice(sorted(kills))
            kills[name]()
            killed[name] += 1
        else:
            _kill_pilot(dice.choice(pilots), dice, killed)
    return killed


def _kill_pilot(pilot: Pilot, dice: random.Random, killed: Counter[str]) -> None:
    pilot.kill()
    if dice.random() < 0.5:
        pilot.renew()
    else:
        killed["pilot that came back"] += 1
    pilot.start()
    killed["pilot"] += 1


def check(played: Played, settings: Settings, files: Path) -> None:
    """Every task complete once, every answer kept, counters equal to a recount; see the module."""
    facts = check_store(settings, played.dataset_id, played.clerks, jobs=played.jobs)
    attempts = asyncio.run(facts)
    seen = check_outputs(files, played.runs, played.dataset_id, attempts, jobs=played.jobs)
    # A pilot that comes back under its name is given again what it held, with the same lease.
    again = sum(max(0, number - attempts[task_id]) for task_id, number in seen.items())
    assert again <= CORES * played.killed["pilot that came back"], "a run without a lease of its own"
    sys.stdout.write(
        f"\nkilled {dict(played.killed)}; {len(attempts)} tasks complete once each in"
        f" {sum(seen.values())} runs and {sum(attempts.values())} attempts;"
        f" {sum(len(c.submitted) for c in played.clerks)} submissions and"
        f" {sum(len(c.finished) for c in played.clerks)} reports answered, all kept\n"
    )
