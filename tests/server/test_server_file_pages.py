"""Pages about files: the catalogue, origins, transfers and copies."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import pytest
from html_lint import lint
from site_harness import ADMIN

from iceprod.model.file import Direction, FileRecord, Flow, Replica
from iceprod.server.handlers.pages import files

HOSTILE = "<script>alert(1)<.script>\"'&amp;{{7*7}}"
SUMS = {"sha256": "ab" * 32}


@pytest.fixture
async def web(web_with, tmp_path):
    disk = tmp_path / "disk"
    (disk / "deep").mkdir(parents=True)
    (disk / HOSTILE).write_bytes(b"12345")
    return await web_with(files={"origins": {"disk": {"url": f"file:{disk}"}}})


async def record(web, dataset_id, name, *places, **more):
    """Put a file into the catalogue."""
    replicas = tuple(Replica(place, "", 1.0) for place in places)
    known = {"owner": "alice", "group": "users", "created_at": 1.0, **more}
    await web.site.store.files.put([FileRecord(dataset_id, name, 1500, SUMS, replicas=replicas, **known)])


async def test_files_of_a_dataset_are_listed_with_where_they_can_be_had(web):
    dataset = await web.site.submit(njobs=1, description=HOSTILE)
    await record(web, dataset.dataset_id, "job_temp/0/hits", "/files/job_temp/x/0/hits", job_index=0)
    await record(web, dataset.dataset_id, f"out/{HOSTILE}", "gsiftp://a.org/x?y=1&z", "file:///node/x")
    await record(web, dataset.dataset_id, "kept/on-a-node", "file:///node/y")
    browser = await web.signed_in("alice")

    html = await browser.text(f"/datasets/{dataset.dataset_id}/files")
    narrowed = await browser.text(f"/datasets/{dataset.dataset_id}/files?prefix=job_temp/0/")

    assert lint(html) == []
    assert "<script>alert" not in html
    assert '<a href="/files/job_temp/x/0/hits" download>job_temp/0/hits</a>' in html
    assert 'href="/proxy?url=gsiftp%3A%2F%2Fa.org%2Fx%3Fy%3D1%26z"' in html
    assert '<th scope="row">kept/on-a-node</th>' in html
    assert "kept/on-a-node" not in narrowed
    assert f'<a href="/datasets/{dataset.dataset_id}/files?prefix=job_temp%2F0%2F">0</a>' in narrowed


async def test_the_catalogue_is_searched_by_name_and_contents(web):
    dataset = await web.site.submit(njobs=1)
    await record(web, dataset.dataset_id, "out/a", "http://a.org/a")
    await record(web, dataset.dataset_id, "other", "http://a.org/b", group="strangers", owner="bob")
    browser = await web.signed_in("alice")

    by_name = await browser.text("/files?prefix=out/")
    by_sum = await browser.text(f"/files?sha256={'AB' * 32}")
    none = await browser.text("/files?prefix=nothing")
    wrong = await browser.get("/files?sha256=12")

    assert "out/a" in by_name
    assert "out/a" in by_sum
    assert ">other<" not in by_sum
    assert "No file matches." in none
    assert wrong.code in (400, 422)


async def test_origins_are_browsed(web, tmp_path):
    browser = await web.signed_in("alice")

    home = await browser.text("/files")
    root = await browser.text(f"/origins?url={quote(f'file://{tmp_path}/disk', safe='')}")
    deep = await browser.text(f"/origins?url={quote(f'file://{tmp_path}/disk/deep', safe='')}")
    outside = await browser.get(f"/origins?url={quote('file:///etc', safe='')}")

    assert lint(root) == []
    assert f"/origins?url={quote(f'file://{tmp_path}/disk', safe='')}" in home.replace("%2f", "%2F")
    assert "<script>alert" not in root
    assert "&lt;script&gt;alert(1)&lt;.script&gt;" in root
    assert f"/origins?url={quote(f'file://{tmp_path}/disk/deep', safe='')}" in root
    assert "Nothing lies here." in deep
    assert outside.code == 404


async def test_transfers_show_what_goes_on_to_those_whom_it_concerns(web):
    transfers = web.site.services.transfers
    with transfers.begin(Flow("alice", Direction.OUT, "proxy"), label=HOSTILE, size_bytes=1000) as transfer:
        transfer.note(250)
        alice = await web.signed_in("alice")
        bob = await web.signed_in("bob")
        hers, his = await alice.text("/transfers"), await bob.text("/transfers")
    after = await alice.text("/transfers")

    assert lint(hers) == []
    assert "<script>alert" not in hers
    assert '<progress max="1000" value="250" aria-label="25.0\u202f%">' in hers
    assert "alert(1)" not in his
    assert "Nothing is being moved by this process." in after
    assert "alert(1)" in after


async def test_only_administrators_see_copies_and_remove_them(web):
    await web.account("root", roles=("admin",))
    alice = await web.signed_in("alice")
    admin = web.browser(await web.token(ADMIN))
    page = await admin.text("/transfers")
    hers = await alice.text("/transfers")
    refused = await alice.post(f"/cache/{'0' * 64}/evict", via="/transfers")
    done = await (await web.signed_in("chief", roles=("admin",))).post(
        f"/cache/{'0' * 64}/evict", via="/transfers"
    )

    assert "No copy is kept." in page
    assert "No copy is kept." not in hers
    assert (refused.code, done.code) == (403, 303)


async def test_a_dataset_links_to_its_files(web):
    dataset = await web.site.submit(njobs=1)
    browser = await web.signed_in("alice")

    html = await browser.text(f"/datasets/{dataset.dataset_id}")

    assert f'href="/datasets/{dataset.dataset_id}/files"' in html


async def test_files_are_sent_from_where_one_may_put_them(web, tmp_path):
    dataset = await web.site.submit(njobs=1)
    address = f"/datasets/{dataset.dataset_id}/files"
    owner, chief = await web.signed_in("alice"), await web.signed_in("chief", roles=("admin",))
    root = f"/origins?url={quote(f'file://{tmp_path}/disk', safe='')}"

    pages = [await owner.text(address), await owner.text("/files"), await chief.text(root)]
    mine = await chief.text(address)
    deep = await chief.text(f"{address}?prefix=dataset_temp/in/a/fi")
    job = await chief.text(f"{address}?prefix=job_temp/0/out/")
    shared = await chief.text("/files")

    assert ["data-upload" in page for page in pages] == [False, False, False]
    assert lint(mine) == []
    assert f'data-upload="dataset_temp/{dataset.dataset_id}/"' in mine
    assert 'name="folder" value="in/a"' in deep
    assert f'data-upload="job_temp/{dataset.dataset_id}/0/"' in job
    assert 'name="folder" value="out"' in job
    assert 'data-upload="site_temp/"' in shared


async def test_nothing_is_sent_to_what_other_sites_have_made(web):
    dataset = await web.site.submit(njobs=1)
    mirror = replace(dataset, source="north/D")

    assert files.upload_place(ADMIN, dataset, "") is not None
    assert files.upload_place(ADMIN, mirror, "") is None


async def test_who_may_deletes_files_and_is_led_back(web):
    chief, owner = await web.signed_in("chief", roles=("admin",)), await web.signed_in("alice")
    token = web.browser(await web.token(ADMIN))
    await web.account("root", roles=("admin",))
    await token.send("PUT", "/files/site_temp/a%20b", body=b"12345")
    page, hers = await chief.text("/files"), await owner.text("/files")

    refused = await owner.post("/delete-file", via="/files", path="site_temp/a b", back="/files")
    forged = await chief.send("POST", "/delete-file", body="path=site_temp/a%20b")
    done = await chief.post("/delete-file", via="/files", path="site_temp/a b", back="//evil.example")
    after = await chief.text("/files")

    assert 'data-confirm="Delete site_temp/a b?"' in page
    assert lint(page) == []
    assert "/delete-file" not in hers
    assert (refused.code, forged.code) == (403, 403)
    assert (done.code, done.headers["Location"]) == (303, "/files")
    assert "site_temp/a b</a>" not in after


async def test_files_of_an_origin_are_sent_and_deleted_by_its_users(web_with, tmp_path):
    (disk := tmp_path / "there").mkdir()
    (disk / "old").write_bytes(b"12345")
    url = f"file://{disk}"
    web = await web_with(files={"origins": {"there": {"url": url, "write": True}}})
    alice = await web.signed_in("alice")
    here = f"/origins?url={quote(url, safe='')}"
    page = await alice.text(here)

    done = await alice.post("/delete-file", via=here, path=f"{url}/old", back=here)

    assert lint(page) == []
    assert f'data-upload="{url}/"' in page
    assert (done.code, done.headers["Location"]) == (303, here)
    assert not (disk / "old").exists()
