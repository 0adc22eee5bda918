"""Files of a GridFTP server pass through the site, by the credential of whoever asks."""

from __future__ import annotations

import asyncio
import random
from urllib.parse import quote

import pytest
from site_harness import ALICE
from web_harness import open_web

from tests.movers.gridftp_server import with_gsi

DATA = random.Random(5).randbytes(3_000_001)


@pytest.fixture
async def far(tmp_path):
    (folder := tmp_path / "far").mkdir()
    (folder / "hits.i3").write_bytes(DATA)
    with with_gsi(folder) as server:
        yield server, folder


@pytest.fixture
async def alice(tmp_path, far):
    server, folder = far
    origin = {
        "url": f"{server.base}{folder}",
        "private": True,
        "write": True,
        "ca_path": str(server.authority.folder),
        "options": {"dcau": "N"},
    }
    async with open_web(tmp_path, files={"origins": {"far": origin}}) as web:
        await web.account("alice")
        yield web.browser(await web.token(ALICE))


def proxied(far, name="hits.i3", *, cache="no"):
    server, folder = far
    return f"/proxy?url={quote(f'{server.base}{folder}/{name}', safe='')}&cache={cache}"


async def test_a_file_comes_by_the_readers_own_proxy(alice, far):
    server, _ = far
    assert (await alice.get(proxied(far))).code == 403

    secret = server.proxy.pem.decode()
    kept = await alice.rpc("credential.put", origin="far", kind="x509", secret=secret)
    assert "result" in kept

    whole = await alice.get(proxied(far))
    part = await alice.get(proxied(far), headers={"Range": "bytes=1000-1999"})
    copy = await alice.get(proxied(far, cache="yes"))
    missing = await alice.get(proxied(far, "missing.i3"))
    assert (whole.code, whole.body == DATA) == (200, True)
    assert (part.code, part.body == DATA[1000:2000]) == (206, True)
    assert (copy.code, copy.body == DATA) == (200, True)
    assert missing.code == 404
    assert "PRIVATE" not in missing.body.decode()


async def test_a_file_goes_from_place_to_place_there(alice, far):
    server, folder = far
    await alice.rpc("credential.put", origin="far", kind="x509", secret=server.proxy.pem.decode())
    base = f"{server.base}{folder}"

    listed = await alice.rpc("origin.entries", url=base)

    assert "hits.i3" in [each["name"] for each in listed["result"]["items"]]
    found = await alice.rpc("origin.stat", url=f"{base}/hits.i3")
    assert found["result"]["size_bytes"] == len(DATA)
    copied = await alice.rpc("origin.copy", source=f"{base}/hits.i3", target=f"{base}/new/copy.i3")
    assert "result" in copied
    async with asyncio.timeout(30):
        while not (folder / "new" / "copy.i3").exists():
            await asyncio.sleep(0.01)
    assert (folder / "new" / "copy.i3").read_bytes() == DATA
    await alice.rpc("origin.delete", url=f"{base}/hits.i3")
    assert not (folder / "hits.i3").exists()
