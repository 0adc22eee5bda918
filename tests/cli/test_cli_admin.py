"""Commands on a site's own files: doctor, backup, restore."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Ran, RunningSite

Command = Callable[..., Ran]


def test_doctor_finds_a_new_site_well(bare: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICEPROD_SERVER__PORT", "0")
    monkeypatch.setenv("ICEPROD_SERVER__RPC_PORT", "0")

    ran = bare("doctor", "--data", str(tmp_path / "new"), "--json")

    assert ran.code == 0
    assert {item["verdict"] for item in ran.json["items"]} == {"ok"}


def test_doctor_finds_the_ports_that_a_running_server_got(bare: Command, site: RunningSite) -> None:
    ran = bare("doctor", "--data", str(site.folder), "--json")

    found = {item["check"]: item for item in ran.json["items"]}
    port = site.url.rpartition(":")[2]
    assert found["server.port"]["message"] == f"the server listens on 127.0.0.1:{port}"
    assert found["server.rpc_port"]["verdict"] == "ok"


def test_doctor_finds_a_damaged_database(bare: Command, tmp_path: Path) -> None:
    (tmp_path / "iceprod.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 8192)

    ran = bare("doctor", "--data", str(tmp_path), "--json")

    store = next(item for item in ran.json["items"] if item["check"] == "store")
    assert (ran.code, store["verdict"]) == (1, "failed")
    assert "restore" in store["advice"]


def test_a_backup_is_taken_while_the_server_runs_and_restored_after(
    bare: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"version": 3.1, "tasks": [{"name": "a", "trays": []}]}))
    copy = tmp_path / "copy.db"
    with RunningSite(tmp_path / "site") as site:
        for name, value in site.environment.items():
            monkeypatch.setenv(name, value)
        kept = bare("dataset", "submit", str(config), "-n", "1").out.strip()
        taken = bare("backup", str(copy), "--data", str(site.folder))
        lost = bare("dataset", "submit", str(config), "-n", "1").out.strip()
        refused = bare("restore", str(copy), "--data", str(site.folder))

        site.stop()
        restored = bare("restore", str(copy), "--data", str(site.folder))
        site.start()

        monkeypatch.setenv("ICEPROD_URL", site.url)
        assert (taken.code, refused.code, restored.code) == (0, 78, 0)
        assert bare("dataset", "show", kept).code == 0
        assert bare("dataset", "show", lost).code == 3


def test_a_standby_copy_is_kept_and_promoted(
    bare: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"version": 3.1, "tasks": [{"name": "a", "trays": []}]}))
    folder = tmp_path / "standby"
    with RunningSite(tmp_path / "site") as site:
        for name, value in site.environment.items():
            monkeypatch.setenv(name, value)
        kept = bare("dataset", "submit", str(config), "-n", "1").out.strip()
        followed = bare("follow", "--to", str(folder), "--once", "--data", str(site.folder))
        refused = bare("promote", str(folder), "--data", str(site.folder))

        site.stop(kill=True)
        promoted = bare("promote", str(folder), "--data", str(site.folder))
        marked = bare("promote", "--data", str(site.folder))
        site.start()

        monkeypatch.setenv("ICEPROD_URL", site.url)
        assert (followed.code, refused.code, promoted.code, marked.code) == (0, 78, 0, 0)
        assert "is current" in followed.err
        assert "begins with term" in marked.err
        assert bare("dataset", "show", kept).code == 0


def test_a_backup_overwrites_nothing(bare: Command, site: RunningSite, tmp_path: Path) -> None:
    target = tmp_path / "here"
    target.write_text("mine")

    ran = bare("backup", str(target), "--data", str(site.folder))

    assert (ran.code, target.read_text()) == (1, "mine")


def test_what_is_no_database_is_not_restored(bare: Command, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    file.write_text("not a database, but long enough to look at" * 20)

    ran = bare("restore", str(file), "--data", str(tmp_path))

    assert ran.code == 2
    assert "no readable copy" in ran.err
