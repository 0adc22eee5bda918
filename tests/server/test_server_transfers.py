"""Transfers and usage by RPC and in the metrics, over a running server."""

from __future__ import annotations

import pytest
from site_harness import ADMIN, ALICE, BOB

from iceprod.model.file import Direction, Flow

TEXT = b"0123456789" * 1000


@pytest.fixture
async def admin(web):
    await web.account("root", roles=("admin",))
    return web.browser(await web.token(ADMIN))


async def result(browser, method, **params):
    return (await browser.rpc(method, **params))["result"]


async def test_a_file_that_came_and_left_is_accounted(web, admin):
    await admin.send("PUT", "/files/site_temp/x", body=TEXT)
    await admin.get("/files/site_temp/x", headers={"Range": "bytes=0-99"})
    await admin.send("HEAD", "/files/site_temp/x")

    used = await result(admin, "usage.list")
    shown = {(row["user"], row["service"], row["direction"]): row for row in used["items"]}

    assert {key: (row["bytes_moved"], row["transfers"]) for key, row in shown.items()} == {
        ("root", "files", "in"): (len(TEXT), 1),
        ("root", "files", "out"): (100, 1),
    }


async def test_the_answer_names_the_transfer_which_is_remembered(web, admin):
    await admin.send("PUT", "/files/site_temp/x", body=TEXT)
    answer = await admin.get("/files/site_temp/x")

    found = await result(admin, "transfer.get", transfer_id=answer.headers["X-Transfer-Id"])
    ended = await result(admin, "transfer.list", ended=True)

    assert (found["label"], found["moved_bytes"], found["error"]) == ("/files/site_temp/x", len(TEXT), "")
    assert [each["direction"] for each in ended["items"]] == ["out", "in"]


async def test_an_upload_that_was_refused_says_why(web, admin):
    await admin.send("PUT", "/files/site_temp/x", body=TEXT, headers={"Digest": "sha-256=" + "A" * 43 + "="})

    ended = await result(admin, "transfer.list", ended=True)

    assert [each["error"] for each in ended["items"]] == ["the digest is not that of what came"]


async def test_users_see_their_own_transfers_and_usage_alone(web, admin):
    await web.account("alice")
    await web.account("bob")
    alice, bob = [web.browser(await web.token(principal)) for principal in (ALICE, BOB)]
    transfers = web.site.services.transfers
    with transfers.begin(Flow("alice", Direction.OUT, "proxy", origin="grid"), label="x") as transfer:
        transfer.note(5)
        live = await result(alice, "transfer.list")
        strange = await bob.rpc("transfer.get", transfer_id=transfer.transfer_id)
        hers, his = [await result(who, "usage.list") for who in (alice, bob)]
        of_her = await bob.rpc("usage.list", user="alice")

    assert [(each["label"], each["ended_at"]) for each in live["items"]] == [("x", None)]
    assert strange["error"]["data"]["code"] == "not_found"
    assert [row["bytes_moved"] for row in hers["items"]] == [5]
    assert his["items"] == []
    assert of_her["error"]["data"]["code"] == "not_found"


async def test_metrics_tell_bytes_and_transfers(web, admin):
    await admin.send("PUT", "/files/site_temp/x", body=TEXT)

    text = await admin.text("/metrics")

    assert f'iceprod_moved_bytes_total{{direction="in"}} {len(TEXT)}' in text.splitlines()
    assert "iceprod_transfers 0" in text.splitlines()
