"""Pilots of IceProd 2.3's time run tasks to completion on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import KINDS, site_of_kind
from tests.e2e.old_pilot import Files, OldPilot, Refused, Rpc, Status
from tests.servers import RunningSite, run

pytestmark = pytest.mark.e2e
HERE = Path(__file__).parent
SMALL = {"cpu": 1, "memory": 0.2, "disk": 0.2, "time": 0.2}


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    # A claim without work is answered soon, or each pilot would hang on for long at its end.  Work
    # that one process has just made takes a moment to be known in the other.
    soon = {"ICEPROD_SCHEDULING__LONG_POLL_MAX_S": "0.2" if request.param == "sqlite" else "1"}
    with site_of_kind(request.param, tmp_path_factory.mktemp("site"), **soon) as running:
        yield running


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Executables that a worker node has."""
    folder = tmp_path / "software"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / name).write_text(f"#!/bin/sh\nset -e\n{text}")
        (folder / name).chmod(0o755)
    return folder


SCRIPTS = {
    "generate.sh": 'echo "generating $1 events of job $2"\nseq 1 "$1" > numbers\n',
    "double.sh": "while read -r n; do echo $((2 * n)); done < numbers > doubled\n",
    "sum.sh": "awk '{ s += $1 } END { print s }' doubled > total\necho done >&2\n",
    "once.sh": '[ -e "$1" ] && exit 0\n: > "$1"\necho "not yet" >&2\nexit 3\n',
    "nothing.sh": "exit 0\n",
}


def chain(scripts: Path) -> dict[str, Any]:
    """Three tasks that hand files on: within the job, and to the dataset at the end."""

    def step(name: str, args: str, data: list[dict[str, str]], *depends: str) -> dict[str, Any]:
        module = {"name": name, "src": str(scripts / f"{name}.sh"), "args": args}
        trays = [{"modules": [module]}]
        return {"name": name, "depends": list(depends), "data": data, "trays": trays, "requirements": SMALL}

    def temp(area: str, remote: str, local: str, movement: str) -> dict[str, str]:
        return {"type": area, "remote": remote, "local": local, "movement": movement}

    steering = {"parameters": {"events": 10, "outfile": "total_$sprintf('%06d',$(job)).txt"}}
    numbers, doubled = ("numbers.txt", "numbers"), ("sub/doubled.txt", "doubled")
    return {
        "version": 3,
        "steering": steering,
        "tasks": [
            step("generate", "$steering(events) $(job)", [temp("job_temp", *numbers, "output")]),
            step(
                "double",
                "",
                [temp("job_temp", *numbers, "input"), temp("job_temp", *doubled, "output")],
                "generate",
            ),
            step(
                "sum",
                "",
                [
                    temp("job_temp", *doubled, "input"),
                    temp("dataset_temp", "$steering(outfile)", "total", "output"),
                ],
                "double",
            ),
        ],
    }


def single(scripts: Path, name: str, args: str = "", **requirements: float) -> dict[str, Any]:
    modules = [{"name": name, "src": str(scripts / f"{name}.sh"), "args": args}]
    wanted = {**SMALL, **requirements}
    return {"version": 3, "tasks": [{"name": name, "trays": [{"modules": modules}], "requirements": wanted}]}


def pilot(site: RunningSite, folder: Path, **resources: float) -> OldPilot:
    offer = {"cpu": 1, "gpu": 0, "memory": 2.0, "disk": 10.0, "time": 24.0, **resources}
    made = site.call("pilot.credentials", grid="old", resources=offer)
    return OldPilot(made["url"], made["passkey"], made["pilot_id"], made["config"], folder / made["pilot_id"])


def submit(site: RunningSite, config: dict[str, Any], njobs: int) -> str:
    dataset_id: str = site.call("dataset.submit", config=config, njobs=njobs)["dataset_id"]
    return dataset_id


def test_jobs_of_several_tasks_run_to_completion(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, chain(scripts), 4)
    runner = pilot(site, tmp_path, cpu=2, disk=2.0, time=2.0)
    done = runner.run()
    assert sorted(done) == [f"{dataset_id}-{job}-{index}" for job in range(4) for index in range(3)]
    progress = site.call("dataset.progress", dataset_id=dataset_id)
    assert (progress["status"], progress["tasks"]) == ("complete", {"complete": 12})
    for job in range(4):
        request = urllib.request.Request(
            f"{site.url}/files/dataset_temp/{dataset_id}/total_{job:06d}.txt",
            headers={"Authorization": f"Bearer {site.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.read() == b"110\n"


def test_its_command_takes_what_the_credentials_give(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, chain(scripts), 1)
    shown = run("pilot", "credentials", "--grid", "old", "--cpu", "1", "--json", env=site.environment)
    assert shown.code == 0, shown.err
    made = shown.json
    (tmp_path / "pilot.json").write_text(json.dumps(made["config"]))
    given = ["-u", made["url"], "-p", made["passkey"], "--pilot_id", made["pilot_id"], "-f", "pilot.json"]
    command = [sys.executable, str(HERE / "old_pilot.py"), *given]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [f"{dataset_id}-0-{index}" for index in range(3)]


def test_logs_and_statistics_that_come_late_are_kept(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, chain(scripts), 1)
    runner = pilot(site, tmp_path)
    runner.run()
    calls = runner.rpc.calls
    assert calls.index("finish_task") < calls.index("upload_logfile")
    logs = {log["name"]: log for log in site.call("task.logs", task_id=f"{dataset_id}-0-2")["items"]}
    assert sorted(logs) == ["stderr", "stdlog", "stdout"]
    assert logs["stdout"]["size_bytes"] == 0
    assert site.call("task.log", task_id=f"{dataset_id}-0-2", name="stderr")["text"] == "done\n"
    printed = site.call("task.log", task_id=f"{dataset_id}-0-0", name="stdout")["text"]
    assert printed == "generating 10 events of job 0\n"
    (attempt,) = site.call("task.get", task_id=f"{dataset_id}-0-1")["attempts"]
    assert attempt["outcome"] == "finished"
    assert attempt["hostname"].endswith(".example.org")
    assert attempt["usage"]["cpu"] == 0.9
    assert len(attempt["stats"]["upload"]) == len(attempt["stats"]["download"]) == 1


def test_a_task_that_fails_is_tried_again(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, single(scripts, "once", str(tmp_path / "marker")), 1)
    pilot(site, tmp_path).run_once()
    found = site.call("task.get", task_id=f"{dataset_id}-0-0")
    assert (found["task"]["status"], found["task"]["failures"]) == ("waiting", 1)
    assert found["attempts"][0]["summary"] == "module failed: once ended with 3"
    text = site.call("task.log", task_id=f"{dataset_id}-0-0", name="stderr", attempt=1)["text"]
    assert text == "not yet\n"
    pilot(site, tmp_path).run()
    assert site.call("dataset.get", dataset_id=dataset_id)["status"] == "complete"


def test_a_pilot_that_is_ended_by_its_batch_system_gives_its_tasks_back(
    site: RunningSite, scripts: Path, tmp_path: Path
):
    dataset_id = submit(site, single(scripts, "nothing"), 1)
    runner = pilot(site, tmp_path)
    (config,) = runner.claim_some()
    task_id = config["options"]["task_id"]
    for name in ("stdlog", "stdout", "stderr"):
        runner.rpc("upload_logfile", task=task_id, name=name, data="")
    info = {"hostname": "n1", "domain": "", "error_summary": "pilot SIGTERM", "time_used": None}
    runner.rpc("task_error", task_id=task_id, error_info=info)
    runner.rpc("update_pilot", pilot_id=runner.pilot_id, tasks=[], available={}, claimed={})
    found = site.call("task.get", task_id=task_id)["task"]
    assert (found["status"], found["failures"], found["evictions"]) == ("waiting", 0, 1)
    assert pilot(site, tmp_path).run() == [f"{dataset_id}-0-0"]


def test_a_task_that_used_too_much_asks_for_more(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, single(scripts, "nothing"), 1)
    runner = pilot(site, tmp_path, memory=8.0)
    (config,) = runner.claim_some()
    info = {
        "hostname": "n1",
        "domain": "",
        "error_summary": "Resource overusage for memory: 1.234",
        "time_used": 0.01,
        "resources": {"cpu": 1, "gpu": 0, "memory": 1.234, "disk": 0.1, "time": 0.01},
    }
    runner.rpc("task_error", task_id=config["options"]["task_id"], error_info=info)
    assert pilot(site, tmp_path, memory=1.0).claim() == []
    (again,) = runner.claim_some()
    assert again["options"]["task_id"] == f"{dataset_id}-0-0"
    assert again["options"]["resources"]["memory"] == pytest.approx(1.851)
    runner.rpc("finish_task", task_id=f"{dataset_id}-0-0", stats={"time_used": None, "task_stats": {}})


def test_a_task_that_is_not_wanted_any_more_is_told_so(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, single(scripts, "nothing"), 1)
    runner = pilot(site, tmp_path)
    (config,) = runner.claim_some()
    task_id = config["options"]["task_id"]
    assert runner.rpc("stillrunning", task_id=task_id) is True
    site.call("dataset.suspend", dataset_id=dataset_id)
    assert runner.rpc("stillrunning", task_id=task_id) is False
    with pytest.raises(Refused, match="lease_lost"):
        runner.rpc("finish_task", task_id=task_id, stats={})
    runner.rpc("upload_logfile", task=task_id, name="stdout", data="")


def test_gpu_slots_get_gpu_tasks_first(site: RunningSite, scripts: Path, tmp_path: Path):
    plain = submit(site, single(scripts, "nothing"), 2)
    light = submit(site, single(scripts, "nothing", gpu=1), 2)
    assert set(pilot(site, tmp_path).run()) == {f"{plain}-0-0", f"{plain}-1-0"}
    plain = submit(site, single(scripts, "nothing"), 1)
    runner = pilot(site, tmp_path, gpu=1, cpu=2)
    ran, expected = runner.run(), [f"{light}-0-0", f"{plain}-0-0", f"{light}-1-0"]
    assert ran[0].startswith(light)
    # Of several processes each has jobs that it hands out first, and one may know the new
    # plain task a moment later than the other.
    assert ran == expected or (site.arguments and sorted(ran) == sorted(expected))


def test_what_is_handed_out_reaches_for_no_other_server(site: RunningSite, scripts: Path, tmp_path: Path):
    dataset_id = submit(site, single(scripts, "nothing"), 1)
    (config,) = pilot(site, tmp_path).claim_some()
    options = config["options"]
    for name in ("site_temp", "dataset_temp", "job_temp", "data_url", "resource_url"):
        assert options[name].startswith(site.url), name
        assert "$" not in options[name]
    assert options["job_temp"].endswith(f"{dataset_id}/0")
    assert {"task_id", "task", "job", "jobs_submitted", "dataset", "dataset_id", "debug"} <= options.keys()
    assert sorted(options["resources"]) == ["cpu", "disk", "gpu", "memory", "time"]
    assert isinstance(config["steering"], dict)
    assert isinstance(config["tasks"], list)


def test_files_of_other_jobs_are_out_of_reach(site: RunningSite, scripts: Path, tmp_path: Path):
    submit(site, single(scripts, "nothing"), 2)
    runner = pilot(site, tmp_path, cpu=2)
    first, second = (config["options"] for config in runner.claim_some())
    files = Files(first["username"], first["password"])
    files.upload(f"{first['job_temp']}/a", b"mine")
    assert files.download(f"{first['job_temp']}/a") == b"mine"
    files.upload(f"{first['job_temp']}/a", b"replaced")
    assert files.download(f"{first['job_temp']}/a") == b"replaced"
    for url in (f"{first['job_temp']}/absent", f"{first['job_temp']}/a.sha512sum", f"{second['job_temp']}/a"):
        with pytest.raises(Status) as refused:
            files.get(url)
        assert refused.value.code == 404
    with pytest.raises(Status) as refused:
        files.upload(f"{second['job_temp']}/a", b"not mine")
    assert refused.value.code == 404
    for options in (first, second):
        runner.rpc("finish_task", task_id=options["task_id"], stats={})
    with pytest.raises(Status) as refused:
        files.upload(f"{first['job_temp']}/late", b"after the end")
    assert refused.value.code == 409


def test_a_wrong_passkey_is_refused(site: RunningSite):
    with pytest.raises(Refused, match="not_authenticated"):
        Rpc(site.url, "ip_wrong")("echo", value="e")
