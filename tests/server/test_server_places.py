"""Origins by RPC: looked at, changed and copied by those who may; and the copies kept of them."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from http_origin import open_origin
from site_harness import ADMIN, ALICE
from web_harness import open_web


@pytest.fixture
def folder(tmp_path):
    """Two places, of which the second may be written, and a third for one group alone."""
    for name in ("archive/deep", "scratch", "secret"):
        (tmp_path / "disk" / name).mkdir(parents=True)
    (tmp_path / "disk/archive/a.dat").write_bytes(b"12345")
    (tmp_path / "disk/archive/deep/b.dat").write_bytes(b"x" * 3_000_000)
    return tmp_path / "disk"


@pytest.fixture
async def web(tmp_path, folder):
    origins = {
        "archive": {"url": f"file:{folder}/archive"},
        "scratch": {"url": f"file:{folder}/scratch", "write": True},
        "secret": {"url": f"file:{folder}/secret", "groups": ["chosen"]},
    }
    async with open_web(tmp_path, files={"origins": origins}) as made:
        await made.account("alice")
        await made.account("root", roles=("admin",))
        yield made


@pytest.fixture
async def alice(web):
    return web.browser(await web.token(ALICE))


@pytest.fixture
async def admin(web):
    return web.browser(await web.token(ADMIN))


async def result(browser, method, **params):
    return (await browser.rpc(method, **params))["result"]


async def code(browser, method, **params):
    return (await browser.rpc(method, **params))["error"]["data"]["code"]


async def test_a_user_sees_the_origins_that_are_for_all(alice, admin):
    hers, all_ = [await result(who, "origin.list") for who in (alice, admin)]

    assert [(each["name"], each["writable"]) for each in hers["items"]] == [
        ("archive", False),
        ("scratch", True),
    ]
    assert [each["name"] for each in all_["items"]] == ["archive", "scratch", "secret"]


async def test_a_directory_is_listed_with_what_is_known(alice, folder):
    found = await result(alice, "origin.entries", url=f"file:{folder}/archive")

    assert [(each["name"], each["is_directory"], each["size_bytes"]) for each in found["items"]] == [
        ("a.dat", False, 5),
        ("deep", True, None),
    ]


async def test_a_file_is_described(alice, folder):
    found = await result(alice, "origin.stat", url=f"file:{folder}/archive/a.dat")

    assert (found["name"], found["size_bytes"], found["is_directory"]) == ("a.dat", 5, False)


@pytest.mark.parametrize(
    ("method", "where", "slug"),
    [
        ("origin.stat", "archive/none", "not_found"),
        ("origin.stat", "secret/x", "access_denied"),
        ("origin.stat", "elsewhere/x", "access_denied"),
        ("origin.entries", "archive/a.dat", None),
        ("origin.delete", "archive/a.dat", "access_denied"),
        ("origin.delete", "scratch/none", "not_found"),
    ],
)
async def test_what_is_refused_says_why(alice, folder, method, where, slug):
    found = await code(alice, method, url=f"file:{folder}/{where}")

    assert found in ((slug,) if slug else ("invalid_input", "not_found", "conflict"))
    assert (folder / "archive/a.dat").exists()


async def test_a_file_is_deleted_where_that_is_allowed(alice, folder):
    (folder / "scratch/x").write_bytes(b"1")

    await result(alice, "origin.delete", url=f"file:{folder}/scratch/x")

    assert not (folder / "scratch/x").exists()


async def copied(browser, transfer_id):
    while True:
        found = await result(browser, "transfer.get", transfer_id=transfer_id)
        if found["ended_at"] is not None:
            return found
        await asyncio.sleep(0.01)


async def test_a_file_is_copied_from_place_to_place_and_accounted(alice, folder):
    source, target = f"file:{folder}/archive/deep/b.dat", f"file:{folder}/scratch/copy"

    begun = await result(alice, "origin.copy", source=source, target=target)
    ended = await copied(alice, begun["transfer_id"])
    used = await result(alice, "usage.list")

    assert (ended["error"], ended["moved_bytes"]) == ("", 3_000_000)
    assert (folder / "scratch/copy").read_bytes() == b"x" * 3_000_000
    assert [(row["origin"], row["bytes_moved"]) for row in used["items"]] == [("scratch", 3_000_000)]


async def test_a_copy_within_one_origin_needs_no_second_turn(tmp_path, folder):
    origins = {"scratch": {"url": f"file:{folder}/scratch", "write": True, "connections": 1}}
    (folder / "scratch/x").write_bytes(b"12")
    async with open_web(tmp_path, files={"origins": origins}) as web:
        await web.account("alice")
        alice = web.browser(await web.token(ALICE))
        urls = {name: f"file:{folder}/scratch/{name}" for name in "xy"}
        begun = await result(alice, "origin.copy", source=urls["x"], target=urls["y"])
        ended = await copied(alice, begun["transfer_id"])

    assert ended["error"] == ""
    assert (folder / "scratch/y").read_bytes() == b"12"


async def test_a_directory_is_not_copied(alice, folder):
    urls = {"source": f"file:{folder}/archive/deep", "target": f"file:{folder}/scratch/deep"}

    assert await code(alice, "origin.copy", **urls) == "invalid_input"


async def test_copies_are_listed_pinned_and_removed_by_administrators(tmp_path):
    async with (
        open_origin() as origin,
        open_web(tmp_path, files={"origins": {"far": {"url": f"{origin.url}/d", "private": True}}}) as web,
    ):
        origin.files["/d/b.dat"] = b"x" * 3_000_000
        await web.account("alice")
        await web.account("root", roles=("admin",))
        alice, admin = web.browser(await web.token(ALICE)), web.browser(await web.token(ADMIN))
        url = f"{origin.url}/d/b.dat"
        answer = await alice.get(f"/proxy?url={quote(url, safe='')}")
        assert answer.body == b"x" * 3_000_000
        while not (listed := await result(admin, "cache.list"))["items"]:
            await asyncio.sleep(0.01)
        (kept,) = listed["items"]

        await result(admin, "cache.pin", key=kept["key"])
        (pinned,) = (await result(admin, "cache.list"))["items"]
        evicted = await result(admin, "cache.evict", key=kept["key"])
        again = await result(admin, "cache.evict", key=kept["key"])

        assert (kept["url"], kept["origin"], kept["size_bytes"]) == (url, "far", 3_000_000)
        assert (kept["pinned"], pinned["pinned"]) == (False, True)
        assert (evicted["evicted"], again["evicted"]) == (True, False)
        assert await code(alice, "cache.list") == "access_denied"
        assert (await result(admin, "cache.list"))["items"] == []
