"""Datasets run by pilots in processes of their own, through everything that may happen to a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import RunningPilot, RunningSite, run, until

pytestmark = pytest.mark.e2e

Start = Callable[..., RunningPilot]
SMALL = {"cpu": 1, "memory": 0.2, "disk": 0.1, "time": 0.1}


def shell(script: str) -> list[dict[str, Any]]:
    """The trays of a task that runs a shell script."""
    return [{"modules": [{"src": "/bin/sh", "args": ["-c", script]}]}]


def submit(site: RunningSite, tasks: list[dict[str, Any]], *, jobs: int = 1) -> str:
    config = {"version": 3.1, "tasks": tasks}
    return str(site.call("dataset.submit", config=config, njobs=jobs)["dataset_id"])


def status(site: RunningSite, dataset_id: str) -> str:
    return str(site.call("dataset.get", dataset_id=dataset_id)["status"])


def test_files_go_from_task_to_task_and_logs_come_back(running_site: RunningSite, start_pilot: Start) -> None:
    def temp(kind: str, movement: str, name: str) -> dict[str, str]:
        return {"type": kind, "movement": movement, "remote": name, "local": name}

    dataset_id = submit(
        running_site,
        [
            {
                "name": "write",
                "requirements": SMALL,
                "data": [temp("job_temp", "output", "a")],
                "trays": shell("echo job $(job) > a"),
            },
            {
                "name": "read",
                "depends": ["write"],
                "requirements": SMALL,
                "data": [temp("job_temp", "input", "a")],
                "trays": shell("cat a"),
            },
        ],
        jobs=3,
    )
    start_pilot()

    watched = run("dataset", "watch", dataset_id, env=running_site.environment)
    log = run("task", "log", f"{dataset_id}-2-1", "--name", "stdout", env=running_site.environment)

    assert (watched.code, log.out) == (0, "job 2\n")


def test_a_gpu_task_waits_for_a_pilot_that_has_one(running_site: RunningSite, start_pilot: Start) -> None:
    dataset_id = submit(
        running_site,
        [
            {"name": "plain", "requirements": SMALL, "trays": shell("exit 0")},
            {
                "name": "on-gpu",
                "requirements": {**SMALL, "gpu": 1},
                "trays": shell("echo $CUDA_VISIBLE_DEVICES"),
            },
        ],
    )
    start_pilot()
    until(lambda: running_site.call("dataset.progress", dataset_id=dataset_id)["tasks"].get("complete") == 1)

    told = run("task", "why", f"{dataset_id}-0-1", env=running_site.environment)
    start_pilot(gpu=1)
    until(lambda: status(running_site, dataset_id) == "complete")

    assert "gpu" in told.out.lower()
    attempt = running_site.call("task.get", task_id=f"{dataset_id}-0-1")["attempts"][-1]
    assert attempt["usage"].get("gpu", 0) >= 0
    assert attempt["outcome"] == "finished"


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_pilot_outlives_its_server(running_site: RunningSite, start_pilot: Start, kill: bool) -> None:
    go = running_site.folder / "go"
    script = f"touch {go}.$(job); while [ ! -e {go} ]; do sleep 0.05; done; echo done"
    dataset_id = submit(
        running_site, [{"name": "wait", "requirements": SMALL, "trays": shell(script)}], jobs=2
    )
    start_pilot(cpu=2)
    until(lambda: all((go.parent / f"go.{job}").exists() for job in range(2)))

    running_site.stop(kill=kill)
    go.touch()
    running_site.start_again()
    until(lambda: status(running_site, dataset_id) == "complete")

    for job in range(2):
        attempts = running_site.call("task.get", task_id=f"{dataset_id}-{job}-0")["attempts"]
        assert [attempt["outcome"] for attempt in attempts] == ["finished"]


def test_a_suspended_dataset_is_stopped_and_goes_on(running_site: RunningSite, start_pilot: Start) -> None:
    go = running_site.folder / "go"
    script = f"touch {go}.up; while [ ! -e {go} ]; do sleep 0.05; done"
    dataset_id = submit(running_site, [{"name": "wait", "requirements": SMALL, "trays": shell(script)}])
    start_pilot()
    until((go.parent / "go.up").exists)

    suspended = run("dataset", "suspend", dataset_id, env=running_site.environment)
    go.touch()
    resumed = run("dataset", "resume", dataset_id, env=running_site.environment)
    until(lambda: status(running_site, dataset_id) == "complete", within_s=120)

    assert (suspended.code, resumed.code) == (0, 0)
