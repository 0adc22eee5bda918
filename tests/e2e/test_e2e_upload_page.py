"""Files that a person sends by the page of files, in a real browser, to a server that is killed meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import PROGRAM, Tab, chromium
from tests.servers import RunningSite
from tests.web_harness import PASSWORD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed"),
]
PICKER = "#upload-files"
LARGE = 50_000_000
SMALL = 300_001


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RunningSite]:
    with RunningSite(tmp_path / "site") as running:
        running.call("user.create", name="chief", password=PASSWORD, roles=["admin"], groups=["users"])
        yield running


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A large file and a small one."""
    large, small = tmp_path / "large.npz", tmp_path / "small +%ü.txt"
    large.write_bytes(random.Random(1).randbytes(LARGE))
    small.write_bytes(random.Random(2).randbytes(SMALL))
    return large, small


async def open_files(tab: Tab, site: RunningSite) -> None:
    await tab.open(f"{site.url}/sign-in")
    await tab.run(
        f"document.getElementById('name').value = 'chief';"
        f"document.getElementById('password').value = '{PASSWORD}';"
        "document.querySelector('main form').requestSubmit()"
    )
    await tab.until("location.pathname === '/datasets' && document.readyState === 'complete'")
    await tab.open(f"{site.url}/files")


def row(name: str) -> str:
    return f"[...document.querySelectorAll('.uploads li')].find((li) => li.textContent.includes({name!r}))"


def bar(name: str) -> str:
    return f"{row(name)}?.querySelector('progress').value"


def state(name: str, *wanted: str) -> str:
    return f"{list(wanted)}.includes({row(name)}?.dataset.state)"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_stored(site: RunningSite, *files: Path) -> None:
    for file in files:
        assert digest_of(site.folder / "files" / "site_temp" / file.name) == digest_of(file)
        known = site.call("file.get", dataset_id="", name=f"site_temp/{file.name}")
        assert known["checksums"]["sha256"] == digest_of(file)


def uploads(site: RunningSite) -> list[str]:
    return [each["upload_id"] for each in site.call("upload.list")["items"]]


async def test_files_go_on_after_the_server_was_killed(
    site: RunningSite, files: tuple[Path, Path], tmp_path: Path
) -> None:
    large, small = files
    async with chromium(tmp_path) as tab:
        await open_files(tab, site)
        await tab.network(bytes_per_s=15_000_000)
        await tab.pick(PICKER, large, small)
        await tab.until(f"{bar('large')} > {LARGE / 4}")
        await asyncio.to_thread(site.stop, kill=True)
        await tab.until(state("large", "stuck"))
        assert 0 < await tab.run(bar("large")) < LARGE
        await asyncio.to_thread(site.start_again)
        await tab.until(state("large", "done"))
        await tab.until(state("small", "done"))
        await tab.until("document.querySelector('[data-refresh=files]').textContent.includes('large.npz')")

        await asyncio.to_thread(check_stored, site, large, small)
        said = await tab.run("document.querySelector('[data-announce]').textContent")
        assert "large.npz: Complete." in said
        assert [text for text in tab.complaints if "Failed to load resource" not in text] == []


async def test_the_same_file_picked_again_after_a_reload_goes_on_where_it_was(
    site: RunningSite, files: tuple[Path, Path], tmp_path: Path
) -> None:
    large, _ = files
    async with chromium(tmp_path) as tab:
        await open_files(tab, site)
        await tab.network(bytes_per_s=15_000_000)
        await tab.pick(PICKER, large)
        await tab.until(f"{bar('large')} > {LARGE / 4}")
        await tab.run(f"{row('large')}.querySelector('[data-part=pause]').click()")
        await tab.until(state("large", "paused"))
        await tab.open(f"{site.url}/files")
        await tab.until(state("large", "begun"))
        there = await tab.run(bar("large"))
        begun = await asyncio.to_thread(uploads, site)
        await tab.network()
        await tab.pick(PICKER, large)
        await tab.until(state("large", "done"))

        assert LARGE / 8 < there < LARGE
        ended = await asyncio.to_thread(uploads, site)
        assert ended == begun
        await asyncio.to_thread(check_stored, site, large)
        assert tab.complaints == []
