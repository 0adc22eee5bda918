"""A production whose files lie on grid storage: pilots, people and programs reach it through the site."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.movers import gridftp_server
from tests.movers.gridftp_server import GridFtpServer
from tests.servers import RunningPilot, RunningSite, run, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL = {"cpu": 1, "memory": 0.2, "disk": 0.1, "time": 0.1}
JOBS = 3
OFFER = {"cpu": 2, "gpu": 0, "memory": 2, "disk": 2, "time": 1}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that serves a directory and says nothing."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Note who asks."""
        self.asked.append(self.headers.get("User-Agent", ""))
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridFtpServer]:
    """Grid storage that wants a proxy certificate."""
    folder = tmp_path_factory.mktemp("storage")
    (folder / "data").mkdir()
    with gridftp_server.with_gsi(folder, "-rp", f"RW{folder / 'data'}") as server:
        yield server


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server with inputs, and its directory."""
    folder = tmp_path_factory.mktemp("library")
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, storage: GridFtpServer, library: tuple[str, Path]
) -> Iterator[RunningSite]:
    """A site that has both as origins, and a proxy for the storage."""
    origins = {
        "storage": {
            "url": f"{storage.base}{storage.log.parent / 'data'}",
            "write": True,
            "private": True,
            "ca_path": str(storage.authority.folder) if storage.authority else "",
        },
        "library": {"url": library[0], "private": True},
    }
    settings = {
        "ICEPROD_FILES__ORIGINS": json.dumps(origins),
        "ICEPROD_FILES__PILOTS_USE": "proxy",
    }
    with RunningSite(tmp_path_factory.mktemp("site"), settings=settings) as running:
        assert storage.proxy is not None
        proxy = running.folder / "proxy.pem"
        proxy.touch(0o600)
        proxy.write_bytes(storage.proxy.pem)
        kept = run(
            "credential", "add", "storage", str(proxy), "--kind", "x509", "--site", env=running.environment
        )
        assert kept.code == 0, kept.err
        yield running


def ask(site: RunningSite, token: str, url: str, *options: str) -> bytes:
    """What curl prints of a file that it asks the site for."""
    head = ("-H", f"Authorization: Bearer {token}", "-G", "--data-urlencode", f"url={url}")
    command = ["curl", "-s", *head, *options, f"{site.url}/proxy"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def config(library: str, storage: str) -> dict[str, Any]:
    """Two tasks: one takes an input from the library and leaves a file at the storage for the other."""

    def shell(script: str) -> list[dict[str, Any]]:
        return [{"modules": [{"src": "/bin/sh", "args": ["-c", script]}]}]

    def data(movement: str, remote: str, local: str) -> dict[str, str]:
        return {"type": "permanent", "movement": movement, "remote": remote, "local": local}

    return {
        "version": 3.1,
        "tasks": [
            {
                "name": "simulate",
                "requirements": SMALL,
                "data": [
                    data("input", f"{library}/geometry.txt", "geometry"),
                    data("output", f"{storage}/level1/$(job).txt", "out"),
                ],
                "trays": shell("(cat geometry; echo job $(job)) > out"),
            },
            {
                "name": "filter",
                "depends": ["simulate"],
                "requirements": SMALL,
                "data": [
                    data("input", f"{storage}/level1/$(job).txt", "in"),
                    data("output", f"{storage}/level2/$(job).txt", "out"),
                ],
                "trays": shell("(cat in; echo filtered) > out"),
            },
        ],
    }


def test_a_dataset_is_made_on_grid_storage_through_the_site(
    site: RunningSite, storage: GridFtpServer, library: tuple[str, Path], tmp_path: Path
):
    (library[1] / "geometry.txt").write_text("86 strings\n")
    folder = storage.log.parent / "data"
    base = f"{storage.base}{folder}"
    made = site.call("dataset.submit", config=config(library[0], base), njobs=JOBS)
    dataset_id = made["dataset_id"]

    with RunningPilot(site, tmp_path / "pilot", OFFER):
        until(lambda: site.call("dataset.get", dataset_id=dataset_id)["status"] == "complete")

    found = site.call("file.find", dataset_id=dataset_id)["items"]
    used = site.call("usage.list", dataset_id=dataset_id)["items"]
    moved = {(row["origin"], row["service"], row["direction"]) for row in used}
    for job in range(JOBS):
        text = f"86 strings\njob {job}\n"
        assert (folder / f"level1/{job}.txt").read_text() == text
        assert (folder / f"level2/{job}.txt").read_text() == f"{text}filtered\n"
    assert {item["name"].rpartition("/data/")[2]: item["job_index"] for item in found} == {
        f"level{level}/{job}.txt": job for level in (1, 2) for job in range(JOBS)
    }
    by_name = {item["name"]: item for item in found}
    for name, item in by_name.items():
        digest = hashlib.sha256(Path(f"/{name}").read_bytes()).hexdigest()
        assert item["checksums"]["sha256"] == digest
        assert [place["url"] for place in item["replicas"]] == [f"{storage.base}/{name}"]
    assert {("storage", "forward", "out"), ("storage", "proxy", "out"), ("library", "proxy", "out")} <= moved
    # What the library was asked for came once for all jobs, by the site and not by pilots.
    assert len(Quiet.asked) == 1


def test_people_reach_the_storage_with_commands_and_other_programs(
    site: RunningSite, storage: GridFtpServer, tmp_path: Path
):
    folder = storage.log.parent / "data"
    data = os.urandom(2_000_000)
    (tmp_path / "sent").write_bytes(data)
    place = f"{storage.base}{folder}/by-hand"

    sent = run("file", "put", str(tmp_path / "sent"), place, env=site.environment)
    told = run("file", "stat", place, "--json", env=site.environment)
    fetched = run("file", "get", place, "-o", str(tmp_path / "fetched"), env=site.environment)
    storage.url_copy(place, f"file://{tmp_path}/by-globus")
    by_curl = ask(site, site.token, place, "-r", "100-199")
    gone = run("file", "rm", place, env=site.environment)

    assert (sent.code, fetched.code, gone.code) == (0, 0, 0)
    assert told.json["size_bytes"] == len(data)
    assert (tmp_path / "fetched").read_bytes() == data
    assert (tmp_path / "by-globus").read_bytes() == data
    assert by_curl == data[100:200]
    assert not (folder / "by-hand").exists()


def test_a_task_reaches_only_what_its_configuration_names(
    site: RunningSite, storage: GridFtpServer, library: tuple[str, Path]
):
    (library[1] / "geometry.txt").write_text("86 strings\n")
    (library[1] / "other.txt").write_text("secret\n")
    base = f"{storage.base}{storage.log.parent / 'data'}"
    made = site.call("dataset.submit", config=config(library[0], base), njobs=1)
    passkey = site.call("pilot.credentials", grid="g", resources=OFFER)["passkey"]
    pilot = site.client(passkey)
    pilot.call("pilot.register", hostname="node", version="1", offer=OFFER)
    claim = until(lambda: pilot.call("pilot.claim", offer=OFFER, held=[])["tasks"])
    assert claim[0]["dataset_id"] == made["dataset_id"]
    token = claim[0]["token"]

    def status(url: str) -> str:
        return ask(site, token, url, "-o", "/dev/null", "-w", "%{http_code}").decode()

    named, other, output = (
        status(url)
        for url in (f"{library[0]}/geometry.txt", f"{library[0]}/other.txt", f"{base}/level1/0.txt")
    )

    pilot.call("pilot.release", task_id=claim[0]["task_id"], lease_id=claim[0]["lease_id"], reason="done")
    after = status(f"{library[0]}/geometry.txt")
    assert (named, other, output) == ("200", "404", "404")
    assert after in ("404", "409")
