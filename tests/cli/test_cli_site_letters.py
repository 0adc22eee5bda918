"""Commands about what parents have refused, and about where tasks ran."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from iceprod.model.federation import Operation, OperationKind
from iceprod.model.paging import Page
from iceprod.server.assembly import make_store
from tests.servers import Ran, RunningSite

Command = Callable[..., Ran]


@pytest.fixture
def letters(site: RunningSite) -> list[int]:
    """Three dead letters: two of north, the last of west; newest first."""

    async def bury() -> list[int]:
        store = make_store(site.loaded())
        await store.open()
        try:
            for number, peer in enumerate(("north", "north", "west")):
                body = {"reason": "lost"}
                operation = Operation(f"o{number}", peer, OperationKind.RETURNED, "r-0-0", "l", 1.0, body)
                await store.outbox.add([operation])
                for queued in await store.outbox.next(peer, 0, 10):
                    await store.outbox.bury(peer, queued.number, f"no {number}", now=2.0)
            dead = [
                each for peer in ("west", "north") for each in (await store.outbox.dead(peer, Page())).items
            ]
            return [each.number for each in dead]
        finally:
            await store.close()

    return asyncio.run(bury())


def test_letters_are_listed_sent_again_and_dropped(command: Command, letters: list[int]) -> None:
    west, later, sooner = letters

    listed = command("site", "dead-letters")
    of_north = command("site", "dead-letters", "--peer", "north", "--json").json
    sent = command("site", "retry", str(sooner), "999999")
    dropped = command("site", "discard", "--all-of", "north", "--yes")
    left = command("site", "dead-letters", "--json").json

    assert listed.out.splitlines()[1].split("\t")[:4] == [str(west), "west", "returned", "r-0-0"]
    assert [each["number"] for each in of_north["items"]] == [later, sooner]
    assert of_north["items"][0]["body"] == {"reason": "lost"}
    assert "1 queued again" in sent.err
    assert "1 dropped" in dropped.err
    assert [each["number"] for each in left["items"]] == [west]
    assert command("site", "discard", str(west), "--yes").code == 0


def test_letters_must_be_named(command: Command) -> None:
    assert command("site", "retry").code == 2
    assert command("site", "retry", "1", "--all-of", "north").code == 2


def test_where_tells_where_tasks_ran(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    task = {"name": "one", "trays": [{"modules": [{"src": "one.py"}]}]}
    file.write_text(json.dumps({"version": 3.1, "tasks": [task]}))
    made = command("dataset", "submit", str(file), "--jobs", "2", "--json").json

    told = command("dataset", "where", made["dataset_id"])

    assert told.out.splitlines() == [
        "site\trunning\tfinished\tfailed\treturned",
        "(this site)\t0\t0\t0\t",
    ]
    assert command("dataset", "where", "nope").code == 3
