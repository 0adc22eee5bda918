"""Many at once: readers of one file, connections that wait, and a server that is killed meanwhile.

Scaled down for every day.  In full::

    ICEPROD_TEST_READERS=1000 ICEPROD_TEST_FILE_MB=100 ICEPROD_TEST_IDLE=10000 \\
        bin/test tests/e2e/test_e2e_downloads.py

(10 000 connections need ``ulimit -n 12000``.)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from http_origin import HttpOrigin, open_origin

from tests.servers import RunningSite, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

READERS = int(os.environ.get("ICEPROD_TEST_READERS", "100"))
FILE_BYTES = int(os.environ.get("ICEPROD_TEST_FILE_MB", "10")) * 1_000_000
IDLE = int(os.environ.get("ICEPROD_TEST_IDLE", "400"))
TRANSFERS = int(os.environ.get("ICEPROD_TEST_TRANSFERS", "100"))
_MIB = 1 << 20


@contextmanager
def site_for(origin: HttpOrigin, folder: Path, **more: str) -> Iterator[RunningSite]:
    origins = {"far": {"url": f"{origin.url}/d", "private": True, "connections": 200}}
    settings = {
        "ICEPROD_FILES__ORIGINS": json.dumps(origins),
        "ICEPROD_LOG__ACCESS": "false",
        "ICEPROD_FILES__CACHE__FRESH_S": "0",
        **more,
    }
    with RunningSite(folder, settings=settings) as running:
        yield running


async def in_thread(work, *arguments):
    """The origin answers meanwhile."""
    return await asyncio.to_thread(work, *arguments)


class Reader(asyncio.BufferedProtocol):
    """Asks for a file and hashes it as it comes; ``hold_at`` bytes it stops reading for a while."""

    def __init__(self, site: RunningSite, path: str, *, hold_at: int | None = None) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n\r\n".encode()
        )
        self._buffer = bytearray(_MIB if hold_at is None else 4096)
        self._head = b""
        self._hold_at = hold_at
        self._left = -1
        self.size = 0
        self.digest = hashlib.sha256()
        self.status = 0
        self.done = asyncio.get_running_loop().create_future()
        self.held = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self._request)

    def get_buffer(self, sizehint):
        return self._buffer

    def buffer_updated(self, nbytes):
        data = memoryview(self._buffer)[:nbytes]
        if self._left < 0:
            self._head += bytes(data)
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head.split()[1])
            told = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self._left = int(told[b"content-length"])
            data = memoryview(rest)
        self.size += len(data)
        self._left -= len(data)
        self.digest.update(data)
        if self._hold_at is not None and self.size >= self._hold_at:
            self._hold_at = None
            self.transport.pause_reading()
            self.held.set_result(None)
        if self._left == 0 and not self.done.done():
            self.done.set_result(True)

    def connection_lost(self, exc):
        for each in (self.done, self.held):
            if not each.done():
                each.set_result(False)


async def read(site: RunningSite, path: str, **more) -> Reader:
    port = int(site.url.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    for _ in range(50):
        try:
            _, reader = await loop.create_connection(lambda: Reader(site, path, **more), "127.0.0.1", port)
        except ConnectionError:  # the queue of those who want to connect is full
            await asyncio.sleep(0.1)
        else:
            return reader
    raise AssertionError("no connection")


def proxy(origin: HttpOrigin, name: str) -> str:
    return f"/proxy?url={quote(f'{origin.url}/d/{name}', safe='')}"


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_thousand_readers_of_one_file_cause_one_fetch(tmp_path):
    data = random.Random(3).randbytes(FILE_BYTES)
    expected = hashlib.sha256(data).hexdigest()
    async with open_origin() as origin:
        origin.files["/d/a"] = data
        origin.gate.clear()
        with await in_thread(lambda: Entered(site_for(origin, tmp_path))) as site:
            pid = site.process.pid
            before = resident(pid)
            readers = await asyncio.gather(*(read(site, proxy(origin, "a")) for _ in range(READERS)))
            await asyncio.sleep(0.5)
            origin.gate.set()
            most = before
            waiting = asyncio.gather(*(reader.done for reader in readers))
            while not waiting.done():
                most = max(most, resident(pid))
                await asyncio.sleep(0.05)

    assert {(reader.status, reader.digest.hexdigest()) for reader in readers} == {(200, expected)}
    assert origin.gets == ["/d/a"]
    # A connection of the web server's own takes some 60 KiB; nothing grows with the file.
    assert most - before < 40 * _MIB + READERS * 100_000
    for reader in readers:
        reader.transport.close()


async def test_connections_that_wait_leave_calls_fast(tmp_path):
    _allow_files(IDLE + 2000)
    async with open_origin() as origin:
        origin.files["/d/a"] = bytes(20_000_000)
        with await in_thread(lambda: Entered(site_for(origin, tmp_path))) as site:
            first = await read(site, proxy(origin, "a"))
            assert await first.done
            before = resident(site.process.pid)
            alone = await call_times(site)
            slow = [await read(site, proxy(origin, "a"), hold_at=10_000) for _ in range(IDLE // 2)]
            port = int(site.url.rpartition(":")[2])
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE - len(slow))]
            await asyncio.gather(*(reader.held for reader in slow))

            beside = await call_times(site)
            grown = resident(site.process.pid) - before
            last = await read(site, proxy(origin, "a"))
            assert await last.done

            for reader in [first, last, *slow]:
                reader.transport.close()
            for _, writer in idle:
                writer.close()

    assert {reader.status for reader in slow} == {200}
    assert grown < 30 * _MIB + IDLE * 100_000
    assert statistics.median(beside) < max(0.05, 5 * statistics.median(alone))


@pytest.mark.expects_logs
async def test_a_server_killed_in_the_middle_serves_nothing_broken_afterwards(tmp_path):
    dice = random.Random(4)
    names = [f"f{number}" for number in range(TRANSFERS)]
    async with open_origin() as origin:
        for name in names:
            origin.files[f"/d/{name}"] = dice.randbytes(dice.randrange(1, 1_000_000))
        with await in_thread(lambda: Entered(site_for(origin, tmp_path))) as site:
            for _ in range(2):
                readers = [await read(site, proxy(origin, name)) for name in names]
                done, _ = await asyncio.wait(
                    [reader.done for reader in readers], return_when=asyncio.FIRST_COMPLETED
                )
                assert done
                await asyncio.sleep(dice.uniform(0, 0.3))
                await in_thread(lambda: site.stop(kill=True))
                for name, reader in zip(names, readers, strict=True):
                    if await reader.done:
                        assert reader.digest.digest() == hashlib.sha256(origin.files[f"/d/{name}"]).digest()
                await in_thread(site.start_again)
                for name, reader in zip(
                    names, [await read(site, proxy(origin, n)) for n in names], strict=True
                ):
                    assert await reader.done, name
                    assert reader.digest.digest() == hashlib.sha256(origin.files[f"/d/{name}"]).digest()
                    reader.transport.close()
                # What was kept by then has gone, so that the next round fetches again.
                for name in names:
                    origin.files[f"/d/{name}"] = dice.randbytes(dice.randrange(1, 1_000_000))
                origin.version = f'"{dice.random()}"'
            # Readers have a file a moment before its copy is in its place.
            coming = tmp_path / "cache" / "coming"
            await in_thread(until, lambda: not list(coming.glob("*.part")))


class Entered:
    """A context that was entered in a thread, to be left there."""

    def __init__(self, context) -> None:
        self._context = context
        self._inner = context.__enter__()

    def __enter__(self) -> RunningSite:
        return self._inner

    def __exit__(self, *exc) -> None:
        self._context.__exit__(*exc)


async def call_times(site: RunningSite) -> list[float]:
    """How long some calls take."""

    def call() -> list[float]:
        took = []
        with site.client() as client:
            for _ in range(50):
                began = time.perf_counter()
                client.call("echo", value=1)
                took.append(time.perf_counter() - began)
        return took

    return await in_thread(call)


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if number > hard:
        pytest.skip(f"needs ulimit -n {number}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))


CLIENTS = {
    "curl": ["curl", "-sSf", "-H", "{auth}", "-o", "got", "{url}"],
    "curl on": ["curl", "-sSf", "-H", "{auth}", "-C", "-", "-o", "got", "{url}"],
    "wget on": ["wget", "-q", "-c", "--header={auth}", "-O", "got", "{url}"],
    "aria2c": ["aria2c", "-q", "-x4", "-s4", "-k1M", "--header={auth}", "-o", "got", "{url}"],
}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("cache", ["yes", "no"])
async def test_programs_that_people_have_download_and_go_on(tmp_path, name, cache):
    command = CLIENTS[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    data = random.Random(5).randbytes(5_000_000)
    if name.endswith(" on"):
        (tmp_path / "got").write_bytes(data[:1_234_567])
    async with open_origin() as origin:
        origin.files["/d/a"] = data
        with await in_thread(lambda: Entered(site_for(origin, tmp_path / "site"))) as site:
            given = {
                "auth": f"Authorization: Bearer {site.token}",
                "url": f"{site.url}{proxy(origin, 'a')}&cache={cache}",
            }
            done = await in_thread(
                lambda: subprocess.run(
                    [each.format(**given) for each in command], cwd=tmp_path, timeout=60, check=False
                )
            )

    assert done.returncode == 0
    assert (tmp_path / "got").read_bytes() == data
