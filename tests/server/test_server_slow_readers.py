"""Who takes nothing any more holds no file and no transfer for ever."""

from __future__ import annotations

import asyncio

import pytest
from site_harness import ADMIN

SIZE = 40_000_000


@pytest.fixture
async def browser(web):
    await web.account("root", roles=("admin",))
    browser = web.browser(await web.token(ADMIN))
    assert (await browser.send("PUT", "/files/site_temp/big", body=bytes(SIZE))).code == 201
    return browser


async def test_a_stored_file_is_not_held_for_a_client_that_takes_nothing(web, browser, monkeypatch):
    monkeypatch.setattr("iceprod.server.handlers.files.STALL_S", 0.2)
    host, port = web.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = ("GET /files/site_temp/big HTTP/1.1", "Host: x", f"Authorization: Bearer {browser.token}", "", "")
    writer.write("\r\n".join(lines).encode())
    transfers = web.site.services.transfers
    before = len(transfers.ended())

    async with asyncio.timeout(10):
        while len(transfers.ended()) == before:
            await asyncio.sleep(0.01)

    (ended, *_) = transfers.ended()
    assert ended.error
    assert ended.moved_bytes < SIZE
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(SIZE)
    writer.close()
