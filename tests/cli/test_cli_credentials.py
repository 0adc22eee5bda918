"""``iceprod credential`` and ``iceprod quota``."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from x509_harness import holder

from iceprod.services.ca import SiteCA
from tests.servers import RunningSite

ORIGINS = {"tape": {"url": "https://tape.example.org/data"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site that has an origin."""
    settings = {"ICEPROD_FILES__ORIGINS": json.dumps(ORIGINS)}
    with RunningSite(tmp_path_factory.mktemp("site"), settings=settings) as running:
        yield running


def listed(command: Any, *more: str) -> list[dict[str, Any]]:
    return json.loads(command("credential", "list", "--json", *more).out)["items"]


def test_a_token_goes_in_and_is_forgotten(command: Any, tmp_path: Path, site: RunningSite):
    secret = tmp_path / "token"
    secret.write_text("abc-123-secret\nrest\n")

    added = command("credential", "add", "tape", str(secret), "--kind", "token", "--note", "for muons")

    assert (added.code, added.out) == (0, "")
    assert "kept" in added.err
    (item,) = listed(command)
    assert (item["origin"], item["user"], item["kind"], item["note"]) == (
        "tape",
        "admin",
        "token",
        "for muons",
    )
    assert "abc-123" not in added.err + command("credential", "list").out + site.log()
    table = command("credential", "list").out.splitlines()
    assert table[1].split("\t")[:4] == ["tape", "token", "never", "no"]
    key = site.folder / "credentials.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert command("credential", "remove", "tape").code == 0
    assert listed(command) == []
    assert command("credential", "remove", "tape").code == 3


def test_a_secret_comes_from_standard_input(command: Any, monkeypatch: pytest.MonkeyPatch):
    class Stdin:
        buffer = io.BytesIO(b"pass word\n")

    monkeypatch.setattr("sys.stdin", Stdin())

    added = command(
        "credential", "add", "tape", "-", "--kind", "password", "--login", "ada", "--site", "--json"
    )

    made = json.loads(added.out)
    assert (made["kind"], made["user"], made["renewal"]) == ("password", "", "")
    assert "pass word" not in added.out
    assert listed(command) == []
    assert [item["origin"] for item in listed(command, "--site")] == ["tape"]
    assert command("credential", "remove", "tape", "--site").code == 0


def test_a_grid_proxy_is_found_where_it_lies(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    proxy = holder(SiteCA.create(tmp_path / "ca"), "ada").proxy(days=0.5)
    monkeypatch.setenv("X509_USER_PROXY", str(proxy.file(tmp_path / "proxy")))

    added = command("credential", "add", "tape", "--kind", "x509")

    ends = proxy.certificate.not_valid_after_utc
    assert ends.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") in added.err
    (item,) = listed(command)
    assert datetime.fromtimestamp(item["expires_at"], UTC) == ends


def test_what_is_wrong_is_told(command: Any, tmp_path: Path):
    odd = tmp_path / "odd"
    odd.write_bytes(b"\xff")
    long = tmp_path / "long"
    long.write_text("x" * 70_000)
    for arguments, code, text in (
        (("tape", "--kind", "token"), 2, "standard input"),
        (("tape", str(odd), "--kind", "token"), 2, "no text"),
        (("tape", str(long), "--kind", "ssh"), 2, "too long"),
        (("none", os.devnull, "--kind", "token"), 3, "none"),
        (("tape", os.devnull, "--kind", "token"), 2, "visible ASCII"),
        (("tape", os.devnull, "--kind", "token", "--site", "--user", "a"), 2, "not both"),
    ):
        told = command("credential", "add", *arguments)
        assert (told.code, text in told.err) == (code, True), told


def test_a_new_key_seals_from_now_on(command: Any, tmp_path: Path, site: RunningSite):
    secret = tmp_path / "token"
    secret.write_text("one")
    command("credential", "add", "tape", str(secret), "--kind", "token")

    told = command("credential", "new-key", "--data", str(site.folder))

    assert told.code == 0
    assert "has 2 keys" in told.err
    assert [item["renewal"] for item in listed(command)] == [""]
    command("credential", "add", "tape", str(secret), "--kind", "token")
    assert [item["renewal"] for item in listed(command)] == [""]


def shown(command: Any, *arguments: str) -> Any:
    return json.loads(command("quota", "show", *arguments, "--json").out)


def test_limits_are_set_shown_and_forgotten(command: Any):
    assert command("quota", "set", "user", "--bytes", "1.5TB").err == (
        "every user that has no own limit may keep 1.5 TB\n"
    )
    assert command("quota", "set", "group", "ice", "--bytes", "10 GB", "--files", "100").code == 0

    found = shown(command, "group", "ice")
    assert (found["bytes_most"], found["files_most"], found["bytes_kept"]) == (10**10, 100, 0)
    assert [(one["kind"], one["holder"]) for one in shown(command)["items"]] == [
        ("dataset", ""),
        ("group", ""),
        ("group", "ice"),
        ("user", ""),
    ]
    table = command("quota", "show").out.splitlines()
    assert table[3].split("\t") == ["group", "ice", "0 B", "10 GB", "0", "100", "0 %", "own"]
    assert table[2].split("\t") == ["group", "(others)", "0 B", "any", "0", "any", "", "settings"]
    assert command("quota", "set", "group", "ice", "--forget").code == 0
    assert shown(command, "group", "ice")["bytes_most"] is None
    for arguments, code in (
        (("set", "user"), 2),
        (("set", "user", "--forget", "--files", "1"), 2),
        (("set", "user", "--bytes", "much"), 2),
        (("set", "user", "nobody", "--bytes", "1"), 3),
        (("show", "user"), 2),
        (("show", "user", "nobody"), 3),
    ):
        assert command("quota", *arguments).code == code, arguments
