"""Large files between real processes of sites that lend, which are killed in the middle."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import RunningPilot, RunningSite, run, until

pytestmark = pytest.mark.e2e

SIZE = 120_000_000
SMALL = {"cpu": 1, "memory": 0.5, "disk": 1, "time": 0.1}
OFFER = {"cpu": 1, "memory": 2, "disk": 5, "time": 1}
NAMES = ("top", "mid", "leaf")
QUICK = {
    "ICEPROD_FEDERATION__POLL_S": "2",
    "ICEPROD_FEDERATION__RENEW_S": "1",
    "ICEPROD_FEDERATION__LEASE_S": "300",
    "ICEPROD_LOG__ACCESS": "false",
}


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[list[RunningSite]]:
    """Three sites, each the child of the one before."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(
                RunningSite(tmp_path / name, settings={**QUICK, "ICEPROD_FEDERATION__NAME": name})
            )
            for name in NAMES
        ]
        for above, below in itertools.pairwise(made):
            code = run("site", "invite", below.folder.name, "--json", env=above.environment).json["code"]
            joined = run(
                *("site", "join", above.url, "--code", code, "--data", str(below.folder)),
                env=below.settings,
            )
            assert joined.code == 0, joined.err
        yield made


def configuration() -> dict[str, Any]:
    """A task that makes a large file, and one that reads it."""

    def step(name: str, command: str, movement: str, *depends: str) -> dict[str, Any]:
        data = [{"type": "job_temp", "remote": "large", "local": "large", "movement": movement}]
        modules = [{"src": "/bin/sh", "args": ["-c", command]}]
        return {
            "name": name,
            "depends": list(depends),
            "data": data,
            "trays": [{"modules": modules}],
            "requirements": SMALL,
        }

    return {
        "version": 3.1,
        "tasks": [
            step("make", f"head -c {SIZE} /dev/urandom > large", "output"),
            step("read", "sha256sum < large", "input", "make"),
        ],
    }


def kept(site: RunningSite, area: str = "job_temp") -> list[Path]:
    """The files in an area of a site."""
    return [path for path in (site.folder / "files" / area).rglob("*") if path.is_file()]


def coming(site: RunningSite) -> bool:
    """Whether a part of a file has come to a site."""
    return any(path.stat().st_size > 1_000_000 for path in (site.folder / "files" / ".incoming").iterdir())


def logs(site: RunningSite, task_id: str) -> list[str]:
    """What a task has written, as far as a site knows."""
    found = site.call("task.logs", task_id=task_id)["items"]
    return [site.call("task.log", task_id=task_id, name=log["name"])["text"] for log in found]


def memory(site: RunningSite) -> int:
    """The most bytes that a site's process has had in memory."""
    assert site.process is not None
    for line in Path(f"/proc/{site.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1000
    raise AssertionError("the kernel does not tell")


@pytest.mark.slow
def test_a_large_file_arrives_whole_however_many_processes_are_killed(
    sites: list[RunningSite], tmp_path: Path
):
    top, mid, leaf = sites
    dataset_id = top.call("dataset.submit", config=json.dumps(configuration()), njobs=1)["dataset_id"]
    with RunningPilot(leaf, tmp_path / "pilot", OFFER):
        until(lambda: coming(mid) or kept(mid))
        for site in (leaf, mid):
            site.stop(kill=True)
            site.start_again()
        until(lambda: coming(top) or kept(top))
        for site in (mid, top):
            site.stop(kill=True)
            site.start_again()
        until(lambda: top.call("dataset.get", dataset_id=dataset_id)["status"] == "complete")

    assert [len(kept(site)) for site in sites] == [1, 2, 2]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for site in sites for path in kept(site)}
    (digest,) = digests
    task_id = f"{dataset_id}-0-1"
    until(lambda: any(digest in text for text in logs(top, task_id)), within_s=30)
    assert [file["size_bytes"] for file in top.call("file.find", dataset_id=dataset_id)["items"]] == [SIZE]
    assert max(map(memory, sites)) < 200e6
