"""The methods about files, limits and credentials, over the real services on SQLite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from site_harness import ADMIN, ALICE, BOB, START, Site, open_site, task

from iceprod.model.principal import Principal, PrincipalKind

SHA = "ab" * 32
FILE = {"name": "out/hits.i3", "size_bytes": 7, "checksums": {"sha256": SHA}, "url": "gsiftp://x.org/hits.i3"}
ORIGINS = {"tape": {"url": "https://tape.example.org/data"}}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, files={"origins": ORIGINS}) as made:
        await made.services.files.open()
        yield made


async def _answer(site: Site, method: str, /, *, caller: Principal = ALICE, **params: Any) -> dict[str, Any]:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    answer = await site.dispatcher().handle(body, principal=caller)
    assert answer is not None
    return json.loads(answer)


async def _call(site: Site, method: str, /, **given: Any) -> Any:
    answer = await _answer(site, method, **given)
    assert "error" not in answer, answer
    return answer["result"]


async def _slug(site: Site, method: str, /, **given: Any) -> str:
    return (await _answer(site, method, **given))["error"]["data"]["code"]


async def test_a_file_is_registered_found_and_forgotten(site: Site):
    dataset = await site.submit(task("only"))
    running = await site.one(await site.pilot())
    payload = Principal(PrincipalKind.TASK, running.task_id, lease_id=running.lease_id)
    known = {"dataset_id": dataset.dataset_id, "name": "out/hits.i3"}

    registered = await _call(site, "file.register", caller=payload, files=[FILE])
    found = await _call(site, "file.find", sha256=SHA.upper())

    assert registered == found
    assert found == {
        "items": [
            {
                **known,
                "size_bytes": 7,
                "checksums": {"sha256": SHA},
                "owner": "alice",
                "group": "users",
                "created_at": START,
                "job_index": 0,
                "task_index": 0,
                "replicas": [{"url": "gsiftp://x.org/hits.i3", "site": "", "seen_at": START}],
                "is_here": False,
            }
        ],
        "next": None,
    }
    assert await _call(site, "file.get", **known) == found["items"][0]
    more = await _call(site, "file.add_replica", **known, url="https://b.org/hits", site="desy")
    assert [one["site"] for one in more["replicas"]] == ["", "desy"]
    assert (await _call(site, "file.replicas", caller=BOB, **known))["items"] == more["replicas"]
    assert await _call(site, "file.drop_replica", **known, url="https://b.org/hits") is None
    assert await _slug(site, "file.drop_replica", **known, url="https://b.org/hits") == "not_found"
    assert await _slug(site, "file.forget", caller=BOB, dataset_id=dataset.dataset_id, names=["a"]) == (
        "access_denied"
    )
    assert await _call(site, "file.forget", dataset_id=dataset.dataset_id, names=["out/hits.i3", "x"]) == {
        "forgotten": 1
    }
    assert await _slug(site, "file.get", **known) == "not_found"


async def test_what_is_uploaded_comes_page_by_page(site: Site):
    dataset = await site.submit(task("only"))
    running = await site.one(await site.pilot())
    payload = Principal(PrincipalKind.TASK, running.task_id, lease_id=running.lease_id)
    for name in "abc":
        upload = await site.services.files.upload(payload, f"job_temp/{dataset.dataset_id}/0/{name}", size=1)
        await upload.write(b"x")
        await upload.commit()

    first = await _call(site, "file.find", dataset_id=dataset.dataset_id, prefix="job_temp/0/", limit=2)
    rest = await _call(site, "file.find", dataset_id=dataset.dataset_id, limit=2, cursor=first["next"])

    names = [item["name"] for item in (*first["items"], *rest["items"])]
    assert names == ["job_temp/0/a", "job_temp/0/b", "job_temp/0/c"]
    assert rest["next"] is None
    assert all(item["is_here"] for item in first["items"])
    assert await _slug(site, "file.forget", dataset_id=dataset.dataset_id, names=names) == "conflict"
    assert await _slug(site, "file.find", cursor="nonsense") == "invalid_query"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("file.find", {"job_index": -1}),
        ("file.find", {"prefix": "x" * 5000}),
        ("file.register", {"files": []}),
        ("file.register", {"files": [{**FILE, "size_bytes": -1}]}),
        ("file.register", {"files": [{**FILE, "size_bytes": 1 << 63}]}),
        ("file.register", {"files": [{**FILE, "more": 1}]}),
        ("file.register", {"files": [{**FILE, "name": "a\u0000b"}]}),
        ("file.register", {"files": [{**FILE, "url": "javascript:alert(1)"}]}),
        ("file.register", {"files": [FILE]}),
        ("file.forget", {"dataset_id": "", "names": ["a\u0000"]}),
        ("quota.set", {"kind": "site"}),
        ("quota.set", {"kind": "group", "holder": "a\nb", "bytes_most": 1}),
        ("quota.set", {"kind": "user", "bytes_most": -1}),
        ("quota.set", {"kind": "user", "bytes_most": 1 << 63}),
        ("credential.put", {"origin": "tape", "kind": "cookie"}),
        ("credential.put", {"origin": "tape", "kind": "token", "secret": "a\r\nHost: b"}),
        ("credential.put", {"origin": "tape", "kind": "token", "secret": "a", "expires_at": 1e300}),
        ("credential.put", {"origin": "tape", "kind": "token", "secret": "x" * 70_000}),
    ],
)
async def test_wrong_parameters_are_refused(site: Site, method: str, params: dict[str, Any]):
    dataset = await site.submit(task("only"))
    if method == "file.register" and params["files"] != [FILE]:
        params = {**params, "dataset_id": dataset.dataset_id}

    slug = await _slug(site, method, caller=ADMIN, **params)

    assert slug in ("invalid_input", "not_found"), slug
    assert (slug == "not_found") == (params.get("files") == [FILE]) or slug == "invalid_input"


async def test_limits_are_for_administrators_to_set(site: Site):
    assert await _slug(site, "quota.set", kind="user", bytes_most=1) == "access_denied"
    assert await _call(site, "quota.set", caller=ADMIN, kind="user", bytes_most=5) is None

    (own, group) = (await _call(site, "quota.list"))["items"]

    assert own == {
        "kind": "user",
        "holder": "alice",
        "bytes_most": 5,
        "files_most": None,
        "bytes_kept": 0,
        "files_kept": 0,
        "bytes_reserved": 0,
        "source": "default",
    }
    assert (group["holder"], group["source"]) == ("users", "settings")
    assert await _call(site, "quota.get", kind="user", holder="alice") == own
    assert await _slug(site, "quota.get", caller=BOB, kind="user", holder="alice") == "not_found"


async def test_a_secret_goes_in_and_never_comes_out(site: Site):
    made = await _call(site, "credential.put", origin="tape", kind="token", secret="s3cret-token")

    assert made == {
        "origin": "tape",
        "user": "alice",
        "kind": "token",
        "created_at": START,
        "expires_at": None,
        "note": "",
        "renewal": "",
    }
    assert (await _call(site, "credential.list"))["items"] == [made]
    assert (await _call(site, "credential.list", caller=BOB))["items"] == []
    assert await _slug(site, "credential.list", caller=BOB, user="alice") == "not_found"
    assert await _slug(site, "credential.put", origin="none", kind="token", secret="x") == "not_found"
    assert (
        await _slug(site, "credential.put", caller=BOB, origin="tape", kind="token", user="") == "not_found"
    )
    found = await site.services.vault.credential("tape", "alice")
    assert found
    assert found.secret == b"s3cret-token"
    assert await _call(site, "credential.delete", origin="tape") is None
    assert await _slug(site, "credential.delete", origin="tape") == "not_found"
