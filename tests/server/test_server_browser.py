"""What scripts do, in a real browser: without them all of this works too, only not live."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest
from chromium import PROGRAM, chromium
from http_origin import open_origin
from site_harness import ALICE, task
from web_harness import PASSWORD

from iceprod import clock
from iceprod.model.federation import Peer, PeerRole, PeerStatus

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed"),
]


SHARE = "document.querySelector('[data-live=\"tasks.share\"]')"


async def sign_in(tab, web, name="alice", **account):
    await web.account(name, **account)
    await tab.open(f"{web.url}/sign-in")
    await tab.run(
        f"document.getElementById('name').value = '{name}';"
        f"document.getElementById('password').value = '{PASSWORD}';"
        "document.querySelector('main form').requestSubmit()"
    )
    await tab.until("location.pathname === '/datasets' && document.readyState === 'complete'")


async def test_progress_goes_on_before_ones_eyes(web, tmp_path):
    dataset = await web.site.submit(task("generate"), njobs=4, description="Muons")
    pilot = await web.site.pilot()

    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.open(f"{web.url}/datasets/{dataset.dataset_id}")
        assert (
            await tab.run("document.querySelector('[data-live=\"tasks.share\"]').textContent") == "0\u202f%"
        )
        await web.site.finish(pilot, await web.site.one(pilot))
        await tab.until(f"{SHARE}.textContent === '25.0\u202f%'")
        await web.site.run_all(pilot)
        await tab.until("document.querySelector('.sub .status').textContent === 'complete'")

        assert (
            await tab.run("document.querySelector('[data-count=\"kinds.0:complete\"]').firstChild.data")
            == "4"
        )
        assert await tab.run("document.querySelectorAll('[data-bar=\"tasks\"] g rect').length") == 1
        assert await tab.run("document.querySelector('[data-bar=\"tasks\"] title').textContent") == (
            "Tasks: 4 complete"
        )
        assert tab.complaints == []


async def test_grave_actions_are_asked_about(web, tmp_path):
    dataset = await web.site.submit(task("generate"), njobs=2)
    await web.site.run_all(await web.site.pilot())

    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.open(f"{web.url}/datasets/{dataset.dataset_id}")
        press = "document.querySelector('form[action$=hard_reset] button').click()"
        await tab.run(press)
        await tab.until("document.getElementById('confirm').open")
        await tab.run("document.querySelector('#confirm button[value=no]').click()")
        assert not await tab.run("document.getElementById('confirm').open")
        assert (await web.site.dataset(dataset)).status == "complete"

        await tab.run(press)
        await tab.run("document.querySelector('#confirm button[value=yes]').click()")
        await tab.until("document.querySelector('.notice')?.textContent.startsWith('Hard reset: 2 tasks')")

        assert tab.complaints == []


async def test_an_error_leads_to_its_place(web, tmp_path):
    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await tab.open(f"{web.url}/datasets/new")
        await tab.run(
            "document.getElementById('config').value = document.getElementById('config').value"
            '.replace(\'"memory": 0.5\', \'"memory": "much"\');'
            "document.querySelector('main form').requestSubmit()"
        )
        await tab.until("document.activeElement?.id === 'faults'")
        await tab.run("document.querySelector('#faults [data-pointer]').click()")

        chosen = await tab.run(
            "(t => t.value.slice(t.selectionStart, t.selectionEnd))(document.getElementById('config'))"
        )
        assert chosen.startswith('"memory": "much"')
        # The answer 422 itself is the one thing that the browser notes.
        assert [text for text in tab.complaints if "422" not in text] == []


HELPERS = """
async function digest(data) {
  const sum = await crypto.subtle.digest('SHA-256', data);
  return [...new Uint8Array(sum)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
async function download(address, headers = {}) {
  const answer = await fetch(address, { headers });
  return [answer.status, await digest(await answer.arrayBuffer())];
}
async function upload(path, data) {
  const xsrf = document.querySelector('meta[name=xsrf]').content;
  const shared = { 'Tus-Resumable': '1.0.0', 'X-Xsrftoken': xsrf };
  const target = btoa(path);
  const begun = await fetch('/tus', { method: 'POST', headers: {
    ...shared, 'Upload-Length': String(data.length), 'Upload-Metadata': `path ${target}` } });
  const place = begun.headers.get('Location');
  let offset = 0;
  while (offset < data.length) {
    const sent = await fetch(place, { method: 'PATCH', body: data.slice(offset, offset + 400000), headers: {
      ...shared, 'Upload-Offset': String(offset), 'Content-Type': 'application/offset+octet-stream' } });
    if (sent.status !== 204) return sent.status;
    offset = Number(sent.headers.get('Upload-Offset'));
  }
  return begun.status;
}
"""


async def test_files_are_fetched_and_sent_from_a_browser(web_with, tmp_path):
    data = bytes(range(256)) * 4000
    async with open_origin() as origin:
        origin.files["/d/hits.npz"] = data
        web = await web_with(files={"origins": {"far": {"url": f"{origin.url}/d", "private": True}}})
        async with chromium(tmp_path) as tab:
            await sign_in(tab, web, "chief", roles=("admin",))
            place = quote(f"{origin.url}/d/hits.npz", safe="")
            await tab.run(f"{HELPERS}; Object.assign(window, {{ download, upload }}); 0")

            whole = await tab.run(f"download('/proxy?url={place}')")
            part = await tab.run(f"download('/proxy?url={place}', {{ Range: 'bytes=100-199' }})")
            sent = await tab.run(
                "upload('site_temp/from-a-browser', new Uint8Array(1024000).map((_, i) => i % 256))"
            )
            back = await tab.run("download('/files/site_temp/from-a-browser')")

        digest = hashlib.sha256(data).hexdigest()
        assert whole == [200, digest]
        assert part == [206, hashlib.sha256(data[100:200]).hexdigest()]
        assert sent == 201
        assert back == [200, digest]
        assert tab.complaints == []


@pytest.mark.parametrize("width", [320, 1280])
async def test_no_page_scrolls_sideways(web, tmp_path, width):
    dataset = await web.site.submit(task("generate"), task("a-task-with-a-very-long-name" * 3), njobs=3)
    paths = [
        "/datasets",
        f"/datasets/{dataset.dataset_id}",
        f"/datasets/{dataset.dataset_id}/jobs",
        f"/datasets/{dataset.dataset_id}/tasks",
        f"/jobs/{dataset.dataset_id}-0",
        f"/tasks/{dataset.dataset_id}-0-0",
        "/datasets/new",
        "/files",
        f"/datasets/{dataset.dataset_id}/files",
        "/transfers",
        "/pilots",
        "/health",
        "/account",
    ]

    async with chromium(tmp_path) as tab:
        await sign_in(tab, web)
        await web.site.services.accounts.create_token(ALICE, label="laptop")
        await tab.picture(width=width, height=800)
        wide = {}
        for path in paths:
            await tab.open(f"{web.url}{path}")
            wide[path] = await tab.run("document.documentElement.scrollWidth - window.innerWidth")

    assert {path: more for path, more in wide.items() if more > 0} == {}


async def test_sites_are_looked_at_again_and_revoked_only_when_one_is_sure(web, tmp_path):
    peers = web.site.store.peers
    now = clock.now()
    await peers.put(Peer("south", PeerRole.CHILD, PeerStatus.JOINED, now, version="", contact_at=now))

    async with chromium(tmp_path) as tab:
        await sign_in(tab, web, "root", roles=("admin",))
        await tab.open(f"{web.url}/sites")
        assert await tab.run("document.querySelectorAll('.map.on-wide .box').length") == 2
        await peers.put(Peer("west", PeerRole.CHILD, PeerStatus.JOINED, now, contact_at=now))
        await tab.until("document.querySelectorAll('.map.on-wide .box').length === 3")
        await tab.open(f"{web.url}/sites/child/south")
        await tab.run("document.querySelector('.actions button.grave').click()")
        await tab.until("document.querySelector('dialog[open]') !== null")
        assert "Revoke south?" in await tab.run("document.querySelector('dialog').textContent")
        await tab.run("document.querySelector('dialog button.quiet').click()")
        await tab.until("document.querySelector('dialog[open]') === null")
        assert (await peers.get(PeerRole.CHILD, "south")).status is PeerStatus.JOINED
        await tab.run("document.querySelector('.actions button.grave').click()")
        await tab.until("document.querySelector('dialog[open]') !== null")
        await tab.run("document.querySelector('dialog button.grave').click()")
        await tab.until("document.querySelector('.sub .s-revoked') !== null")

        assert (await peers.get(PeerRole.CHILD, "south")).status is PeerStatus.REVOKED
        assert tab.complaints == []
