"""Commands against a real site: what they print and how they end."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from iceprod.cli.connection import Site
from iceprod.cli.task import follow_log
from tests.servers import Ran, RunningSite

Command = Callable[..., Ran]

CONFIG = {
    "version": 3.1,
    "tasks": [
        {"name": "one", "trays": [{"modules": [{"src": "one.py"}]}], "requirements": {"memory": 1}},
        {"name": "two", "depends": ["one"], "trays": [{"modules": [{"src": "two.py"}]}]},
    ],
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A file with a small configuration."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    return str(file)


@pytest.fixture
def dataset_id(command: Command, config: str) -> str:
    """A dataset of three jobs that nobody runs."""
    return str(command("dataset", "submit", config, "--jobs", "3", "--json").json["dataset_id"])


def test_submit_prints_the_id_alone(command: Command, config: str, site: RunningSite) -> None:
    ran = command("dataset", "submit", config, "--jobs", "2", "--description", "a test")

    found = site.call("dataset.get", dataset_id=ran.out.strip())
    assert ran.code == 0
    assert (found["jobs_wanted"], found["description"]) == (2, "a test")


def test_submit_takes_yaml_and_other_steering_parameters(
    command: Command, tmp_path: Path, site: RunningSite
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("version: 3.1\nsteering: {parameters: {n: 1, name: x}}\ntasks: [{name: a, trays: []}]\n")

    ran = command("dataset", "submit", str(file), "-n", "1", "--set", "n=5", "--set", "name=y=z")

    config = site.call("dataset.config", dataset_id=ran.out.strip())
    assert config["steering"]["parameters"] == {"n": 5, "name": "y=z"}


def test_a_wrong_configuration_is_explained(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**CONFIG, "tasks": [{"name": "a", "depends": ["b"], "trays": []}]}))

    ran = command("dataset", "submit", str(file), "--jobs", "1")

    assert (ran.code, ran.out) == (1, "")
    assert "/tasks/0/depends" in ran.err


def test_what_is_no_json_is_refused_here(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{")

    ran = command("dataset", "submit", str(file), "--jobs", "1")

    assert ran.code == 1
    assert ran.err.startswith(f"error: {file}: not JSON: ")


def test_yaml_is_read_as_config_check_reads_it(command: Command, tmp_path: Path, site: RunningSite) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "version: 3.1\nsteering: {parameters: {a: yes, b: 2026-11-22}}\ntasks: [{name: a, trays: []}]\n"
    )

    ran = command("dataset", "submit", str(file), "-n", "1")

    config = site.call("dataset.config", dataset_id=ran.out.strip())
    assert config["steering"]["parameters"] == {"a": "yes", "b": "2026-11-22"}


@pytest.mark.parametrize("content", [b"\xff", b"a: 1\na: 2\n", b"[1]", b"a: &x {}\nb: *x\n"])
def test_what_is_no_configuration_is_refused_here(command: Command, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)

    ran = command("dataset", "submit", str(file), "--jobs", "1")

    assert ran.code == 1
    assert ran.err.startswith(f"error: {file}: ")


def test_submitting_a_missing_file_ends_with_3(command: Command, tmp_path: Path) -> None:
    assert command("dataset", "submit", str(tmp_path / "none"), "--jobs", "1").code == 3


def test_list_shows_datasets_as_table_and_json(command: Command, dataset_id: str) -> None:
    table = command("dataset", "list")
    found = command("dataset", "list", "--json", "--limit", "1").json

    assert table.out.splitlines()[0].split("\t")[:3] == ["number", "id", "status"]
    assert dataset_id in table.out
    assert [item["dataset_id"] for item in found["items"]] == [dataset_id]


def test_show_tells_progress(command: Command, dataset_id: str) -> None:
    shown = command("dataset", "show", dataset_id)
    found = command("dataset", "show", dataset_id, "--json").json

    assert "status     processing\n" in shown.out
    assert found["progress"]["jobs_wanted"] == 3
    assert [task["name"] for task in found["progress"]["by_task"]] == ["one", "two"]


def test_an_unknown_dataset_ends_with_3(command: Command) -> None:
    ran = command("dataset", "show", "nonesuch")

    assert (ran.code, ran.out) == (3, "")
    assert "nonesuch" in ran.err


@pytest.mark.parametrize(
    ("arguments", "listing"),
    [
        (["dataset", "show", "none"], "iceprod dataset list"),
        (["task", "why", "none-0-0"], "iceprod task list DATASET_ID"),
        (["pilot", "show", "none"], "iceprod pilot list"),
        (["token", "revoke", "0123456789abcdef"], "iceprod token list"),
    ],
)
def test_what_is_not_found_may_be_listed(command: Command, arguments: list[str], listing: str) -> None:
    ran = command(*arguments)

    assert ran.code == 3
    assert ran.err.endswith(f"next: list what there is with: {listing}\n")


def test_suspend_and_resume_change_the_status(command: Command, dataset_id: str, site: RunningSite) -> None:
    assert command("dataset", "suspend", dataset_id).code == 0
    suspended = site.call("dataset.get", dataset_id=dataset_id)["suspended"]
    assert command("dataset", "resume", dataset_id).code == 0

    assert (suspended, site.call("dataset.get", dataset_id=dataset_id)["suspended"]) == (True, False)


def test_hard_reset_asks_first(command: Command, dataset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))

    asked = command("dataset", "hard-reset", dataset_id)
    told = command("dataset", "hard-reset", dataset_id, "--yes")

    assert (asked.code, told.code) == (130, 0)


def test_hard_reset_that_nobody_confirms_names_the_option(
    command: Command, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())

    ran = command("dataset", "hard-reset", dataset_id)

    assert ran.code == 2
    assert "give --yes" in ran.err


def test_extend_and_priority_and_truncate(command: Command, dataset_id: str, site: RunningSite) -> None:
    assert command("dataset", "extend", dataset_id, "--jobs", "5").code == 0
    assert command("dataset", "priority", dataset_id, "0.9").code == 0
    found = site.call("dataset.get", dataset_id=dataset_id)
    assert (found["jobs_wanted"], found["priority"]) == (5, 0.9)

    assert command("dataset", "truncate", dataset_id).code == 0

    assert site.call("dataset.get", dataset_id=dataset_id)["truncated"]
    assert "status     processing, truncated\n" in command("dataset", "show", dataset_id).out


def test_where_tasks_run(command: Command, dataset_id: str, site: RunningSite) -> None:
    ran = command("dataset", "sites", dataset_id, "--only", "here")
    assert (ran.code, ran.err) == (0, f"dataset {dataset_id} runs only at here\n")
    assert site.call("dataset.get", dataset_id=dataset_id)["only_sites"] == [""]
    assert "runs       only at here\n" in command("dataset", "show", dataset_id).out

    assert "there is no site 'west'" in command("dataset", "sites", dataset_id, "--never", "west").err
    assert command("dataset", "sites", dataset_id).code == 2
    assert command("dataset", "sites", dataset_id, "--anywhere").err.endswith("runs anywhere\n")
    assert site.call("dataset.get", dataset_id=dataset_id)["only_sites"] == []


def made_jobs(site: RunningSite, dataset_id: str) -> list[str]:
    """The ids of the jobs, once they are made."""
    for _ in range(200):
        found = site.call("job.list", dataset_id=dataset_id)["items"]
        if len(found) == 3:
            return [job["job_id"] for job in found]
    raise AssertionError("the jobs were not made")


def test_jobs_and_tasks_are_listed_and_shown(command: Command, dataset_id: str, site: RunningSite) -> None:
    jobs = made_jobs(site, dataset_id)

    listed = command("job", "list", dataset_id, "--json").json["items"]
    job = command("job", "show", jobs[0], "--json").json
    tasks = command("task", "list", dataset_id, "--name", "one", "--json").json["items"]
    task = command("task", "show", tasks[0]["task_id"], "--json").json

    assert [item["job_id"] for item in listed] == jobs
    assert [item["name"] for item in job["tasks"]] == ["one", "two"]
    assert [item["job_index"] for item in tasks] == [0, 1, 2]
    assert (task["task"]["name"], task["attempts"]) == ("one", [])
    assert jobs[0] in command("job", "show", jobs[0]).out
    assert tasks[0]["task_id"] in command("task", "show", tasks[0]["task_id"]).out


def test_tasks_are_suspended_by_id(command: Command, dataset_id: str, site: RunningSite) -> None:
    jobs = made_jobs(site, dataset_id)

    ran = command("task", "suspend", f"{jobs[0]}-0", f"{jobs[1]}-0")

    assert (ran.code, ran.err) == (0, "2 tasks changed\n")
    found = command("task", "list", dataset_id, "--status", "suspended", "--json").json["items"]
    assert [task["job_index"] for task in found] == [0, 1]


def test_a_task_without_logs_ends_with_3(command: Command, dataset_id: str, site: RunningSite) -> None:
    job = made_jobs(site, dataset_id)[0]

    assert command("task", "logs-of-it", f"{job}-0").code == 2
    assert command("task", "log", f"{job}-0").code == 3


def test_why_says_that_nothing_could_run_it(command: Command, dataset_id: str, site: RunningSite) -> None:
    job = made_jobs(site, dataset_id)[0]

    told = command("task", "why", f"{job}-0")
    found = command("dataset", "why", dataset_id, "--json").json

    assert told.code == 0
    assert told.out.startswith(f"{job}-0 is waiting.")
    assert found["sentences"]


def test_pilot_credentials_are_made_and_listed(command: Command) -> None:
    made = command("pilot", "credentials", "--grid", "hand", "--memory", "3", "--json").json

    listed = command("pilot", "list", "--json").json["items"]
    assert made["passkey"].startswith("ip_")
    assert made["config"]["options"]["pilot_id"] == made["pilot_id"]
    assert made["pilot_id"] in {pilot["pilot_id"] for pilot in listed}
    assert command("pilot", "show", made["pilot_id"]).code == 0
    assert command("pilot", "end", made["pilot_id"]).code == 0


def test_users_and_their_tokens(command: Command, tmp_path: Path, site: RunningSite) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery\n")

    assert command("user", "create", "ada", "--password-file", str(password)).code == 0
    assert command("user", "create", "ada", "--password-file", str(password)).code == 1
    assert "ada" in command("user", "list").out
    assert command("user", "disable", "ada").code == 0
    made = command("token", "create", "--label", "for a test", "--json").json
    listed = command("token", "list", "--json").json["items"]
    assert "for a test" in {token["label"] for token in listed}
    assert command("token", "revoke", made["token_id"]).code == 0
    denied = command("dataset", "list", "--url", site.url, "--token-file", _file(tmp_path, made["token"]))
    assert denied.code == 4


def _file(folder: Path, text: str) -> str:
    path = folder / "token"
    path.write_text(text)
    return str(path)


def test_a_log_is_followed_while_its_task_runs(site: RunningSite, capsys: pytest.CaptureFixture[str]) -> None:
    offer = {"cpu": 1, "memory": 1, "disk": 1, "time": 1, "site": "followed"}
    config = {
        "version": 3,
        "tasks": [{"requirements": {"site": "followed"}, "trays": [{"modules": [{"src": "/bin/true"}]}]}],
    }
    site.call("dataset.submit", config=config, njobs=1)
    token = site.call("pilot.credentials", grid="hand", resources=offer)["passkey"]
    with site.client(token) as pilot, Site(site.url, site.token) as reader:
        (task,) = pilot.call("pilot.claim", offer=offer, wait_s=20)["tasks"]
        lease = {"task_id": task["task_id"], "lease_id": task["lease_id"]}
        texts = ["one\n", "one\ntwo\n", "one\ntwo\nthree\n"]

        def go_on(_: float) -> None:
            packed = base64.b64encode(zlib.compress(texts.pop(0).encode())).decode()
            pilot.call("pilot.log", name="stdout", data=packed, **lease)
            if not texts:
                pilot.call("pilot.finish", **lease)

        follow_log(reader, task["task_id"], "stdout", pause=go_on)

    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_login_keeps_what_works(
    bare: Command, site: RunningSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = bare("login", "--url", site.url, "--token-file", _file(tmp_path, "iu_wrong"))
    right = bare("login", "--url", site.url, "--token-file", _file(tmp_path, site.token))

    kept = tmp_path / "config" / "iceprod" / "token"
    assert (wrong.code, right.code) == (4, 0)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert bare("dataset", "list").code == 0
    # What was kept for one site is not sent to another.
    monkeypatch.setenv("ICEPROD_URL", site.url.replace("127.0.0.1", "localhost"))
    assert bare("dataset", "list").code == 4


def test_login_on_the_server_needs_no_token(bare: Command, site: RunningSite) -> None:
    ran = bare("login", "--url", site.url, "--data", str(site.folder))

    assert ran.code == 0
    assert bare("user", "list").code == 0
