"""A site with a child of its own moves to another parent, in the midst of work and of trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from iceprod.model.federation import ErrandStatus, holder_of
from iceprod.model.lifecycle import UNFINISHED
from iceprod.model.paging import Page
from iceprod.server.assembly import make_store
from iceprod.store.base import DatasetFilter, Store
from tests.servers import Ran, RunningPilot, RunningSite, run, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

QUICK = {
    "ICEPROD_SCHEDULING__LEASE_S": "10",
    "ICEPROD_SCHEDULING__HEARTBEAT_S": "0.5",
    "ICEPROD_FEDERATION__POLL_S": "2",
    "ICEPROD_FEDERATION__RENEW_S": "1",
    "ICEPROD_FEDERATION__LEASE_S": "300",
    "ICEPROD_LOG__ACCESS": "false",
}
PILOTS = {"mid": 3, "deep": 1}
MEMORY = {"mid": 2, "deep": 3}
"""In GB; what asks for 2.5 runs at ``deep`` alone."""
JOBS = 8


@dataclass
class Family:
    """``mid`` is the child of ``old``, has a child ``deep``, and moves to ``new``."""

    folder: Path
    sites: dict[str, RunningSite]
    frozen: list[psutil.Process] = field(default_factory=list)

    def __getattr__(self, name: str) -> RunningSite:
        return self.sites[name]

    def join(self, parent: str, child: str) -> None:
        made = self.command(child, "join", self.sites[parent].url, "--code", self.code(parent, child))
        assert made.code == 0, made.err

    def code(self, parent: str, child: str) -> str:
        above = self.sites[parent]
        return run("site", "invite", child, "--json", env=above.environment).json["code"]

    def command(self, name: str, *arguments: str) -> Ran:
        """``iceprod site`` on the machine of a site."""
        site = self.sites[name]
        return run("site", *arguments, "--data", str(site.folder), env=site.settings)

    def submit(self, at: str, name: str, *, jobs: int, memory: float = 0.5) -> str:
        """Tasks that write down that they began, and end when their gate, or that of all, is open."""
        gate = self.folder / "gate"
        begun = f'echo begun > "$(mktemp {self.folder}/{name}-$0-XXXXXX)"'
        wait = f"until [ -e {gate}-{name}-$0 ] || [ -e {gate}-all ]; do sleep 0.05; done; echo $0 > out"
        task = {
            "name": name,
            "requirements": {"cpu": 1, "memory": memory, "disk": 0.1, "time": 0.1},
            "data": [
                {"type": "job_temp", "remote": "out", "local": "out", "movement": "output"},
            ],
            "trays": [{"modules": [{"src": "/bin/sh", "args": ["-c", f"{begun}; {wait}", "$(job)"]}]}],
        }
        config = json.dumps({"version": 3.1, "tasks": [task]})
        return self.sites[at].call("dataset.submit", config=config, njobs=jobs)["dataset_id"]

    def begun(self, name: str) -> Counter[str]:
        """How often each job of a dataset has begun."""
        return Counter(path.name.split("-")[1] for path in self.folder.glob(f"{name}-*-*"))

    def freeze_one(self, name: str) -> str:
        """Stop a pilot of a site in the midst of a task; which job that is of."""
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if "iceprod.pilot.main" in line and f"{self.sites[name].folder}/" in line:
                shells = [each.cmdline() for each in process.children(recursive=True)]
                (job,) = {each[-1] for each in shells if each[-1:] and each[-1].isdigit()}
                process.suspend()
                self.frozen.append(process)
                return job
        raise AssertionError(f"there is no pilot at {name}")

    def waits(self, name: str) -> int:
        """How many tasks of other sites wait at one for a pilot."""
        items = self.sites[name].call("dataset.list")["items"]
        found = [self.sites[name].call("dataset.progress", dataset_id=each["dataset_id"]) for each in items]
        return sum(progress["tasks"].get("waiting", 0) for progress in found)

    def open(self, what: str) -> None:
        (self.folder / f"gate-{what}").touch()

    def parent(self, child: str, name: str) -> Any:
        return self.sites[child].call("site.get", name=name, role="parent")


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    """All of them; the parents have no grids of their own."""
    with contextlib.ExitStack() as stack:
        made = Family(tmp_path, {})
        for name in ("old", "new", "mid", "deep"):
            settings = {**QUICK, "ICEPROD_FEDERATION__NAME": name}
            site = RunningSite(tmp_path / name, settings=settings)
            if name in MEMORY:
                offer = {"cpu": 1, "memory": MEMORY[name], "disk": 2, "max_pilots": 1}
                site.grids = json.dumps({f"local{number}": offer for number in range(PILOTS[name])})
            made.sites[name] = stack.enter_context(site)
        made.join("old", "mid")
        made.join("mid", "deep")
        yield made
        made.open("all")
        for process in made.frozen:
            with contextlib.suppress(psutil.Error):
                process.kill()


def is_complete(site: RunningSite, dataset_id: str) -> bool:
    return site.call("dataset.get", dataset_id=dataset_id)["status"] == "complete"


def test_a_site_moves_and_every_task_is_done_once(family: Family, tmp_path: Path):
    below = family.submit("old", "below", jobs=1, memory=2.5)
    until(lambda: family.begun("below"), within_s=90)
    work = family.submit("old", "work", jobs=JOBS)
    until(lambda: len(family.begun("work")) >= PILOTS["mid"], within_s=90)
    begun = dict(family.begun("work"))

    # A pilot is heard of no more, so that its task waits; and the old parent dies.
    frozen = family.freeze_one("mid")
    until(lambda: family.waits("mid"), within_s=60)
    family.old.stop(kill=True)

    moved = family.command(
        "mid", "move", "old", family.new.url, "--code", family.code("new", "mid"), "--no-wait"
    )
    assert moved.code == 0, moved.err
    until(lambda: family.parent("mid", "old")["status"] == "leaving")
    until(lambda: family.waits("mid") == 0, within_s=30)
    first = next(job for job in begun if job != frozen)
    family.open(f"work-{first}")  # of whose end nobody can be told
    until(lambda: family.parent("mid", "old")["waiting"] >= 2, within_s=30)
    more = family.submit("new", "more", jobs=2)
    family.mid.stop(kill=True)
    family.mid.start_again()
    assert family.parent("mid", "old")["status"] == "leaving"

    family.old.start_again()
    until(lambda: family.parent("mid", "old")["waiting"] == 0, within_s=90)
    expected = {"complete": 1, "processing": 1, "waiting": JOBS - 2}
    until(lambda: family.old.call("dataset.progress", dataset_id=work)["tasks"] == expected, within_s=30)
    assert family.parent("mid", "old")["status"] == "leaving", "what runs was not waited for"

    family.open("all")
    watched = family.command("mid", "watch", "old", "--json")
    assert (watched.code, watched.json["status"], watched.json["tasks"]) == (0, "left", 0), watched.err
    assert is_complete(family.old, below)
    until(lambda: is_complete(family.new, more), within_s=90)

    # What was given back runs elsewhere.
    assert not is_complete(family.old, work)
    offer = {"cpu": 1, "memory": 2, "disk": 5, "time": 1}
    with RunningPilot(family.old, tmp_path / "pilot", offer):
        until(lambda: is_complete(family.old, work), within_s=90)

    assert family.begun("work") == {str(job): 1 + (str(job) == frozen) for job in range(JOBS)}
    assert family.begun("below") == {"0": 1}
    assert family.begun("more") == {"0": 1, "1": 1}
    for dataset_id in (work, below):
        check_done_once(family.old, dataset_id)
    check_nothing_is_left(family)


def check_done_once(site: RunningSite, dataset_id: str) -> None:
    for each in site.call("task.list", dataset_id=dataset_id, limit=100)["items"]:
        attempts = site.call("task.get", task_id=each["task_id"])["attempts"]
        assert [attempt["outcome"] for attempt in attempts].count("finished") == 1, attempts


def check_nothing_is_left(family: Family) -> None:
    (mid,) = family.old.call("site.list")["items"]
    assert (mid["status"], mid["tasks"]) == ("left", 0)
    assert {each["name"]: each["status"] for each in family.mid.call("site.list")["items"]} == {
        "old": "left",
        "new": "joined",
        "deep": "joined",
    }
    assert not (family.mid.folder / "federation" / "old").exists()
    for site in family.sites.values():
        site.stop()
    asyncio.run(check_stores(family))


async def check_stores(family: Family) -> None:
    for name, site in family.sites.items():
        store = make_store(site.loaded())
        await store.open()
        try:
            await check_counters(store)
            if name == "mid":
                assert (await store.outbox.backlog("old")).waiting == 0
                assert (await store.errands.counts("old")).get(ErrandStatus.OPEN, 0) == 0
            if name == "old":
                assert await store.tasks.count_held(holder_of("mid")) == 0
        finally:
            await store.close()


async def check_counters(store: Store) -> None:
    for dataset in (await store.datasets.select(DatasetFilter(), Page(100))).items:
        assert await store.datasets.recount(dataset.dataset_id) == []
        tasks = (await store.datasets.progress(dataset.dataset_id)).all_tasks
        assert not any(tasks.get(status, 0) for status in UNFINISHED), (dataset, tasks)


def test_a_site_leaves_at_once_and_takes_that_back(family: Family):
    work = family.submit("old", "work", jobs=JOBS)
    until(lambda: len(family.begun("work")) == sum(PILOTS.values()), within_s=90)
    family.freeze_one("mid")
    until(lambda: family.waits("mid"), within_s=60)

    begun = family.command("mid", "leave", "old", "--no-wait")
    assert begun.code == 0, begun.err
    # What waits goes back, unless a new pilot has begun with it meanwhile.
    until(lambda: family.parent("mid", "old")["status"] == "leaving", within_s=90)
    resumed = run("site", "resume", "old", env=family.mid.environment)
    assert resumed.code == 0, resumed.err
    assert family.command("mid", "watch", "old").code == 1

    left = family.command("mid", "leave", "old", "--now", "--json")
    assert (left.code, left.json["status"]) == (0, "left"), left.err
    tasks = family.old.call("dataset.progress", dataset_id=work)["tasks"]
    assert tasks == {"waiting": JOBS}
    assert family.command("mid", "leave", "old").code == 3
