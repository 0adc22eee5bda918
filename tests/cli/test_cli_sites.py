"""``iceprod site`` against a real site."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iceprod.model.federation import Operation, OperationKind
from iceprod.server.assembly import make_store
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
    assert left.err.endswith("top is no parent of this site any more\n")
    assert command("site", "leave", "top", "--data", str(child.folder)).code == 3


def test_a_site_whose_server_does_not_run_leaves_all_the_same(
    command: Command, site: RunningSite, child: RunningSite
) -> None:
    data = ("--data", str(child.folder))
    for name in ("top", "other"):
        code = command("site", "invite", name, "--again", "--json").json["code"]
        assert command("site", "join", site.url, "--code", code, "--as", name, *data).code == 0
    child.stop()
    try:
        begun = command("site", "leave", "top", "--no-wait", *data)
        left = command("site", "watch", "top", "--json", *data)
        asyncio.run(owe(child, "other"))
        stuck = command("site", "leave", "other", *data)
        anyway = command("site", "leave", "other", "--anyway", "--json", *data)
    finally:
        child.start()

    assert begun.err == "this site leaves top; watch it with: iceprod site watch top\n"
    assert (left.code, left.json["status"]) == (0, "left")
    assert (stuck.code, "does not run" in stuck.err) == (5, True)
    assert (anyway.code, anyway.json["status"]) == (0, "left")
    assert not (child.folder / "federation" / "other").exists()
    statuses = {each["name"]: each["status"] for each in command("site", "list", "--json").json["items"]}
    assert (statuses["top"], statuses["other"]) == ("left", "left")


async def owe(site: RunningSite, parent: str) -> None:
    """Have something that is to be told to a parent."""
    store = make_store(site.loaded())
    await store.open()
    try:
        told = Operation("L/finished", parent, OperationKind.FINISHED, "d-0-0", "L", 1.0)
        await store.outbox.add([told])
    finally:
        await store.close()


def test_a_site_moves_to_another_parent(command: Command, site: RunningSite, child: RunningSite) -> None:
    data = ("--data", str(child.folder))
    codes = [command("site", "invite", f"kid{n}", "--json").json["code"] for n in range(2)]
    assert command("site", "join", site.url, "--code", codes[0], "--as", "old", *data).code == 0

    same = command("site", "move", "old", site.url, "--code", codes[1], *data)
    nobody = command("site", "move", "nobody", site.url, "--code", codes[1], *data)
    host, port = site.url.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    other = f"http://localhost:{port}"
    moved = command("site", "move", "old", other, "--code", codes[1], "--as", "new", "--json", *data)

    assert "is the parent to move away from" in same.err
    assert nobody.code == 3
    assert moved.code == 0, moved.err
    assert (moved.json["status"], moved.json["joined"]["parent"]) == ("left", "new")
    seen = {each["name"]: each["status"] for each in child.call("site.list")["items"]}
    assert (seen["old"], seen["new"]) == ("left", "joined")


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
