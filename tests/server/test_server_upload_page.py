"""Files that are sent from a page: what a person is told, in a real browser."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest
from chromium import PROGRAM, chromium
from site_harness import ADMIN
from web_harness import PASSWORD

from iceprod.model.file import Quota

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed"),
]
PICKER = "#upload-files"
ROW = "document.querySelector('.uploads li')"
TEXT = f"{ROW}.querySelector('[data-part=text]').textContent"


async def sign_in(tab, web, path="/files", **account):
    await web.account("chief", **{"roles": ("admin",), **account})
    await tab.open(f"{web.url}/sign-in")
    await tab.run(
        "document.getElementById('name').value = 'chief';"
        f"document.getElementById('password').value = '{PASSWORD}';"
        "document.querySelector('main form').requestSubmit()"
    )
    await tab.until("location.pathname === '/datasets' && document.readyState === 'complete'")
    await tab.open(f"{web.url}{path}")


def made(folder, name="hits.npz", size=2_500_000):
    (file := folder / name).write_bytes(random.Random(size).randbytes(size))
    return file


def becomes(state):
    return f"{ROW}?.dataset.state === '{state}'"


def press(part):
    return f"{ROW}.querySelector('[data-part={part}]').click()"


async def test_what_is_there_is_replaced_and_deleted_only_when_one_is_sure(web, tmp_path):
    file = made(tmp_path)
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.pick(PICKER, file)
        await tab.until(becomes("done"))
        assert hashlib.sha256(file.read_bytes()).hexdigest()[:12] in await tab.run(TEXT)
        await tab.open(f"{web.url}/files")
        file = made(tmp_path, size=1_000_000)
        await tab.pick(PICKER, file)
        await tab.until("document.getElementById('confirm').open")
        assert "hits.npz is there already" in await tab.run("document.getElementById('confirm').textContent")
        await tab.run("document.querySelector('#confirm button[value=yes]').click()")
        await tab.until(becomes("done"))
        stored = await web.site.services.file_catalogue.get(ADMIN, "", "site_temp/hits.npz")
        assert stored.size_bytes == 1_000_000

        # The list was written anew meanwhile: its buttons ask as those of the first one.
        await tab.until("document.querySelector('[data-refresh=files]').textContent.includes('1\u202fMB')")
        await tab.run("document.querySelector('form[action=\"/delete-file\"] button').click()")
        await tab.until("document.getElementById('confirm').open")
        await tab.run("document.querySelector('#confirm button[value=yes]').click()")
        await tab.until("document.querySelector('.notice')?.textContent === 'hits.npz is deleted.'")
        assert tab.complaints == []


async def test_what_is_wrong_is_told_and_can_be_tried_again(web, tmp_path):
    file = made(tmp_path)
    await web.site.services.quotas.set(ADMIN, Quota("user", "", 1_000_000))
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.pick(PICKER, file)
        await tab.until(becomes("failed"))
        said = await tab.run(TEXT)
        await web.site.services.quotas.set(ADMIN, Quota("user", ""))
        await tab.run(press("go"))
        await tab.until(becomes("done"))

    assert said.startswith("User chief may keep 1000000 bytes and keeps 0;")


async def test_a_file_that_is_too_large_and_a_session_that_is_over(web_with, tmp_path):
    web = await web_with(files={"max_bytes": 1_000_000})
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.pick(PICKER, made(tmp_path))
        await tab.until(becomes("failed"))
        too_large = await tab.run(TEXT)
        await tab.run(press("drop"))
        await tab.until("document.getElementById('confirm').open")
        await tab.run("document.querySelector('#confirm button[value=yes]').click()")
        await tab.until(f"{ROW} === null")
        await tab.command("Network.deleteCookies", name="iceprod_session", url=web.url)
        await tab.pick(PICKER, made(tmp_path, "small", 100))
        await tab.until(becomes("failed"))
        over = await tab.run(TEXT)

    assert too_large == "A file may have 1000000 bytes."
    assert over == "Your session is over: sign in again, then go on."


async def test_an_upload_rests_goes_on_and_is_given_up(web, tmp_path):
    file = made(tmp_path, size=20_000_000)
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.network(bytes_per_s=10_000_000)
        await tab.pick(PICKER, file)
        await tab.until(f"{ROW}?.querySelector('progress').value > 4e6")
        assert "left" in await tab.until(f"{TEXT}.includes('left') && {TEXT}")
        await tab.run(press("pause"))
        await tab.until(becomes("paused"))
        [view] = await web.site.services.uploads.service.list(ADMIN, limit=10)
        await tab.run(press("go"))
        await tab.until(f"{ROW}?.querySelector('progress').value > {view.offset + 1e6}")
        await tab.run(press("drop"))
        await tab.until("document.getElementById('confirm').open")
        await tab.run("document.querySelector('#confirm button[value=yes]').click()")
        await tab.until(f"{ROW} === null")
        async with asyncio.timeout(30):
            while await web.site.services.uploads.service.list(ADMIN, limit=10):
                await tab.run("0")

    assert not (tmp_path / "files" / "site_temp").exists()


async def test_an_empty_file_and_a_dropped_one(web, tmp_path):
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.pick(PICKER, made(tmp_path, "empty", 0))
        await tab.until(becomes("done"))
        await tab.run(
            "(() => { const data = new DataTransfer(); data.items.add(new File(['dropped'], 'drop.txt'));"
            "for (const kind of ['dragenter', 'dragover', 'drop'])"
            " document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true })); })()"
        )
        await tab.until("document.querySelector('.uploads li:nth-child(2)')?.dataset.state === 'done'")

    for name, size in (("empty", 0), ("drop.txt", 7)):
        found = await web.site.services.file_catalogue.get(ADMIN, "", f"site_temp/{name}")
        assert found.size_bytes == size


async def test_a_user_sends_a_file_on_to_an_origin(web_with, tmp_path):
    (disk := tmp_path / "disk").mkdir()
    web = await web_with(files={"origins": {"disk": {"url": f"file://{disk}", "write": True}}})
    file = made(tmp_path, "a+b %ü.npz")
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web, f"/origins?url=file://{disk}", roles=())
        await tab.pick(PICKER, file)
        await tab.until(becomes("done"))
        await tab.until("document.querySelector('[data-refresh=files] a')?.textContent === 'a+b %ü.npz'")
        assert tab.complaints == []

    assert (disk / file.name).read_bytes() == file.read_bytes()


async def test_no_page_with_uploads_scrolls_sideways(web, tmp_path):
    dataset = await web.site.submit(njobs=1)
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web, f"/datasets/{dataset.dataset_id}/files")
        await tab.picture(width=320, height=800)
        await tab.pick(PICKER, made(tmp_path, "a-file-of-a-long-name-" * 5, 100))
        await tab.until(becomes("done"))

        assert await tab.run("document.documentElement.scrollWidth - window.innerWidth") <= 0
