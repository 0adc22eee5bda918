"""What people send through nginx: from the page of files, and on to an origin."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.chromium import PROGRAM, chromium
from tests.nginx_harness import Front, front_settings, needs_nginx
from tests.servers import RunningSite
from tests.web_harness import PASSWORD

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]
DATA = os.urandom(5_000_000)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (made := tmp_path / "disk" / "fixed").mkdir(parents=True)
    return made.parent


@pytest.fixture
def site(tmp_path: Path, disk: Path) -> Iterator[RunningSite]:
    origins = {"disk": {"url": f"file://{disk}", "write": True}, "fixed": {"url": f"file://{disk}/fixed"}}
    settings = {"ICEPROD_SERVER__PROXIED": "true", "ICEPROD_FILES__ORIGINS": json.dumps(origins)}
    with RunningSite(tmp_path / "site", settings=settings) as running:
        running.call("user.create", name="chief", password=PASSWORD, roles=["admin"], groups=["users"])
        yield running


@pytest.fixture
def front(site: RunningSite, authority) -> Iterator[Front]:
    server = {"port": int(site.url.rpartition(":")[2]), "rpc_port": int(site.rpc_url.rpartition(":")[2])}
    with Front(front_settings(site.folder, authority, server=server), authority, token=site.token) as made:
        yield made


def put(front: Front, place: Path, data: bytes = DATA):
    return front.ask(f"/proxy?url={quote(f'file://{place}', safe='')}", method="PUT", body=data)


def test_a_file_is_sent_on_to_an_origin(front, disk):
    answer = put(front, disk / "hits.npz")

    assert answer.status == 201, answer.body
    assert json.loads(answer.body)["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert (disk / "hits.npz").read_bytes() == DATA


def test_what_may_not_be_sent_is_refused_before_it_is_read(front, disk, site):
    answer = put(front, disk / "fixed" / "hits.npz")

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "access_denied")
    assert "path=/proxy" not in site.log()  # nobody but nginx had to do with the body
    assert list((disk / "fixed").iterdir()) == []


def test_the_page_of_files_is_no_directory(front):
    answer = front.ask("/files")

    assert (answer.status, b"<h1>Files</h1>" in answer.body) == (200, True)


@pytest.mark.browser
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
async def test_the_page_of_files_sends_through_nginx(front, site, tmp_path):
    (file := tmp_path / "hits.npz").write_bytes(DATA)
    async with chromium(tmp_path) as tab:
        await tab.command("Security.setIgnoreCertificateErrors", ignore=True)
        await tab.open(f"{front.url}/sign-in")
        await tab.run(
            f"document.getElementById('name').value = 'chief';"
            f"document.getElementById('password').value = '{PASSWORD}';"
            "document.querySelector('main form').requestSubmit()"
        )
        await tab.until("location.pathname === '/datasets' && document.readyState === 'complete'")
        await tab.open(f"{front.url}/files")
        await tab.pick("#upload-files", file)
        await tab.until("document.querySelector('.uploads li')?.dataset.state === 'done'")
        await tab.until("document.querySelector('[data-refresh=files]').textContent.includes('hits.npz')")
        assert tab.complaints == []

    stored = site.folder / "files" / "site_temp" / "hits.npz"
    assert await asyncio.to_thread(stored.read_bytes) == DATA
