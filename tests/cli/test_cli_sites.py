"""``iceprod site`` against a real site."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Ran, RunningSite

Command = Callable[..., Ran]


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """Another site, which joins."""
    with RunningSite(tmp_path_factory.mktemp("child")) as running:
        yield running


def test_a_site_is_invited_joins_and_is_steered(
    command: Command, site: RunningSite, child: RunningSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    invited = command("site", "invite", "kid", "--hours", "2")
    assert f"iceprod site join {site.url}" in invited.err
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\n{invited.out}\n"))

    joined = command("site", "join", site.url, "--code", "-", "--as", "top", "--data", str(child.folder))

    assert joined.code == 0, joined.err
    assert joined.err == f"joined top at {site.url} as kid\n"
    assert invited.out.strip() not in joined.out + joined.err
    (listed,) = command("site", "list", "--json").json["items"]
    assert (listed["name"], listed["role"], listed["status"]) == ("kid", "child", "joined")
    changed = command(
        "site", "set", "kid", "--share", "2", "--most-tasks", "7", "--lease", "60", "--json"
    ).json
    assert (changed["share"], changed["most_tasks"], changed["lease_s"]) == (2.0, 7, 60.0)
    assert "ours" in command("site", "set", "kid", "--note", "ours").out
    assert command("site", "pause", "kid").code == 0
    assert command("site", "show", "kid", "--role", "child", "--json").json["status"] == "paused"
    assert command("site", "resume", "kid").code == 0
    assert "joined" in command("site", "list").out
    assert "tasks taken back: 0" in command("site", "revoke", "kid", "--yes").err
    assert "revoked" in command("site", "show", "kid").out
    left = command("site", "leave", "top", "--data", str(child.folder))
    assert left.code == 0, left.err


def test_what_goes_wrong_is_told(
    command: Command, site: RunningSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    nobody = command("site", "show", "nobody")
    itself = command("site", "invite", "a b")
    unsure = command("site", "revoke", "kid")
    half = command("site", "join", site.url, "--code", "ij1_x", "--data", str(site.folder))
    nowhere = command("site", "join", site.url, "--code", "ij1_x", "--data", str(tmp_path / "none"))
    silent = command("site", "join", site.url, "--data", str(site.folder))

    assert "no site 'nobody'" in nobody.err
    assert "name a site" in itself.err
    assert "--yes" in unsure.err
    assert "no code of an invitation" in half.err
    assert "no site database" in nowhere.err
    assert "--code" in silent.err
    assert all(done.code for done in (nobody, itself, unsure, half, nowhere, silent))
