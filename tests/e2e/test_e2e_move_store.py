"""A site that moves from SQLite to MongoDB in the midst of its work, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers import RunningPilot, RunningSite, run, until
from tests.store import mongo_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.mongo,
    pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
]

SMALL = {"cpu": 1, "memory": 0.2, "disk": 0.1, "time": 0.1}
OFFER = {"cpu": 1, "gpu": 0, "memory": 1, "disk": 1, "time": 1}
TASKS = [
    {"name": "one", "requirements": SMALL, "trays": [{"modules": [{"src": "/bin/true"}]}]},
    {
        "name": "two",
        "depends": ["one"],
        "requirements": SMALL,
        "trays": [{"modules": [{"src": "/bin/echo", "args": ["moved"]}]}],
    },
]


@pytest.fixture
def mongo_url() -> Iterator[str]:
    """The URL of a database that there is not yet."""
    with mongo_server.database() as url:
        yield url


def test_a_site_moves_to_mongodb_and_back_and_ends_its_work(mongo_url: str, tmp_path: Path) -> None:
    data = str(tmp_path / "site")
    with RunningSite(tmp_path / "site") as site:
        config = {"version": 3.1, "tasks": TASKS}
        dataset_id = site.call("dataset.submit", config=config, njobs=2)["dataset_id"]
        until(lambda: site.call("dataset.get", dataset_id=dataset_id)["jobs_made"] == 2)
        refused = run("store", "copy", "settings", "env:TO", "--data", data, env={"TO": mongo_url})
    there = run("store", "copy", "settings", "env:TO", "--data", data, "--json", env={"TO": mongo_url})

    on_mongo = replace(site, settings={"ICEPROD_STORE__URL": mongo_url}, process=None)
    with on_mongo, RunningPilot(on_mongo, tmp_path / "pilot", OFFER):
        until(
            lambda: on_mongo.call("dataset.progress", dataset_id=dataset_id)["tasks"].get("complete", 0) > 0
        )
        in_use = run("store", "check", env={"ICEPROD_STORE__URL": mongo_url})
        until(lambda: on_mongo.call("dataset.get", dataset_id=dataset_id)["status"] == "complete")
    new = f"sqlite:///{tmp_path}/new.db"
    back = run("store", "copy", mongo_url, new, "--json")
    checked = run("store", "check", env={"ICEPROD_STORE__URL": new})
    with replace(site, settings={"ICEPROD_STORE__URL": new}, process=None) as again:
        found = again.call("dataset.get", dataset_id=dataset_id)
        log = run("task", "log", f"{dataset_id}-1-1", "--name", "stdout", env=again.environment)

    assert (refused.code, in_use.code) == (1, 1)
    assert "a server uses" in refused.err
    assert "a server uses" in in_use.err
    assert (there.code, back.code) == (0, 0), there.err + back.err
    assert checked.code == 0, checked.err
    assert there.json["kinds"]["job"]["count"] == back.json["kinds"]["job"]["count"] == 2
    assert back.json["kinds"]["attempt"]["count"] >= 4
    assert (found["status"], found["number"]) == ("complete", 1)
    assert log.out == "moved\n"
