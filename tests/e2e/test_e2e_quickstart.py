"""The README's first command: a site, an example on it, and what comes out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pymongo
import pytest

from iceprod.cli.demo_server import end_pilots
from tests.nginx_harness import needs_nginx
from tests.servers import ROOT, Ran, run, until
from tests.store import mongo_server

pytestmark = pytest.mark.e2e

needs_mongo = pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT)
DEMO = (sys.executable, "-m", "iceprod.cli.main", "demo")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data directory of the demo's site."""
    return tmp_path / "site"


def address(shown: str) -> str:
    """The site's address, from the line that names the dataset's page."""
    found = re.search(r"dataset page +(http://127\.0\.0\.1:\d+)/datasets/\w+", shown)
    assert found is not None, shown
    return found[1]


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that still work in a folder."""
    found = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(words) for words in found if any(str(folder) in word for word in words)]


def demo(folder: Path, *options: str) -> Ran:
    return run("demo", "--data", str(folder), "--output", str(folder.parent / "results"), *options)


def test_the_demo_runs_to_its_end(folder: Path) -> None:
    ran = demo(folder)

    results = folder.parent / "results"
    found = json.loads((results / "result.json").read_text())
    assert ran.code == 0, ran.err
    assert (found["events"]["generated"], len(found["zenith"])) == (200_000, 14)
    # Seeded by the job's number, so that every run gives the same.
    assert found["rate_arriving_hz"][0] == pytest.approx(2593, abs=1)
    assert found["rate_expected_hz"] == pytest.approx(found["rate_arriving_hz"][0], rel=0.1)
    assert (results / "muons.svg").read_text().startswith("<svg")
    assert str(results / "muons.svg") in ran.out
    # Jobs 3, 10 and 17 fail once on purpose.
    assert "failed and were retried\t3" in ran.out
    assert "60 complete" in ran.err
    assert not answers(address(ran.out))
    assert left_over(folder) == []


def test_kept_the_site_goes_on(folder: Path) -> None:
    ran = demo(folder, "--jobs", "2", "--keep")

    url = address(ran.out)
    pid = int(re.search(r"to end it +kill (\d+)", ran.out)[1])  # type: ignore[index]
    try:
        listed = run(
            "dataset",
            "list",
            "--json",
            env={"ICEPROD_URL": url, "ICEPROD_TOKEN_FILE": str(folder / "token.txt")},
        )
        assert ran.code == 0
        assert [item["status"] for item in listed.json["items"]] == ["complete"]
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not any("cli.main serve" in line for line in left_over(folder)))
        end_pilots(folder)
    assert left_over(folder) == []


@needs_nginx
@needs_mongo
def test_the_demo_runs_on_mongodb_behind_nginx(folder: Path) -> None:
    with mongo_server.MongoServer(folder.parent / "mongo") as database:
        ran = demo(folder, "--jobs", "2", "--nginx", "--mongodb", f"mongodb://127.0.0.1:{database.port}")
        with pymongo.MongoClient(f"mongodb://127.0.0.1:{database.port}") as client:
            left = [name for name in client.list_database_names() if "iceprod" in name]

    assert ran.code == 0, ran.err
    assert re.search(r"dataset page +https://127\.0\.0\.1:\d+/datasets/\w+", ran.out)
    assert (folder.parent / "results" / "muons.svg").exists()
    assert left == []
    assert left_over(folder) == []


def test_a_password_may_not_stand_in_the_command_line(folder: Path) -> None:
    ran = demo(folder, "--mongodb", "mongodb://ada:secret@127.0.0.1/site")

    assert ran.code == 2
    assert "ICEPROD_STORE__URL" in ran.err
    assert "secret" not in ran.err


@pytest.fixture
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo that has just submitted its dataset, and the site's address."""
    with (folder.parent / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*DEMO, "--data", str(folder), "--output", str(folder.parent / "results")],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        yield process, address(process.stdout.readline())
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_the_demo_ends_its_site(
    started: tuple[subprocess.Popen[str], str], number: signal.Signals, folder: Path
) -> None:
    process, url = started

    process.send_signal(number)

    assert process.wait(60) == 130, (folder.parent / "errors").read_text()
    assert not answers(url)
    assert left_over(folder) == []


def test_who_interrupts_it_twice_leaves_nothing_behind_either(
    started: tuple[subprocess.Popen[str], str], folder: Path
) -> None:
    process, url = started

    process.send_signal(signal.SIGINT)
    until(lambda: not answers(url))
    process.send_signal(signal.SIGINT)

    # The second one may reach an interpreter that is past its clean-up, and end it at once.
    assert process.wait(60) in (130, -signal.SIGINT)
    assert left_over(folder) == []


def test_a_full_disk_is_told_at_once(folder: Path) -> None:
    ran = run("demo", "--data", str(folder), env={"ICEPROD_FILES__KEEP_FREE_BYTES": str(10**18)})

    assert ran.code == 1
    assert ran.err.endswith("MB free; name another folder by --data\n")


def test_a_failure_shows_the_log_of_the_task(folder: Path, tmp_path: Path) -> None:
    example = tmp_path / "example"
    example.mkdir()
    (example / "dataset.yaml").write_text(
        "version: 3.1\n"
        "tasks: [{name: broken, requirements: {memory: 0.1, disk: 0.1}, trays: [{modules: [\n"
        "  {src: /bin/sh, args: [-c, echo this went wrong; exit 3]}]}]}]\n"
    )

    ran = demo(folder, "--example", str(example), "--jobs", "1")

    assert ran.code == 1
    assert "task broken of job 0 is failed" in ran.err
    assert "this went wrong" in ran.out


def test_the_script_itself_runs(folder: Path) -> None:
    if not list(Path(sys.prefix).glob(".iceprod-*")):
        pytest.skip("this environment was not made by bin/setup-venv")

    done = subprocess.run(
        [ROOT / "bin" / "quickstart", "--jobs", "2", "--data", folder, "--output", folder.parent / "results"],
        env={**os.environ, "ICEPROD_VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, (folder.parent / "results" / "muons.svg").exists()) == (0, True), done.stderr


def test_an_old_python_is_explained(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("dirname", "cksum", "cut", "tr"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")

    done = subprocess.run(
        ["/bin/sh", ROOT / "bin" / "quickstart"],
        env={"PATH": str(tmp_path), "ICEPROD_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "needs Python 3.11 or later" in done.stderr
    assert "Python 3.8.2" in done.stderr
