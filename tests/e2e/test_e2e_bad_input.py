"""What is far too large, sent to a real server."""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.cluster import KINDS, site_of_kind
from tests.servers import RunningSite

pytestmark = pytest.mark.e2e

GIGABYTE = 1 << 30
ENOUGH = 1 << 27
"""Bytes after which a sender listens whether it has been answered already."""
MEMORY_KB = 300_000


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    with site_of_kind(request.param, tmp_path_factory.mktemp("site")) as running:
        yield running


def is_behind_nginx(site: RunningSite) -> bool:
    return "--nginx" in site.arguments


def send_log(site: RunningSite, url: str, size: int) -> tuple[int, bytes]:
    """Upload a log of that many bytes, as it is; status and body of the answer."""
    begin = b'{"jsonrpc":"2.0","id":1,"method":"upload_logfile","params":{"name":"stdout","data":"'
    head = f"POST /jsonrpc HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
    address = urlsplit(url)
    with ExitStack() as stack:
        line = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=60))
        if address.scheme == "https":
            context = ssl.create_default_context(cafile=site.ca_file)
            line = stack.enter_context(context.wrap_socket(line, server_hostname=address.hostname))
        with suppress(ConnectionError, ssl.SSLError):  # it may be told before all is sent
            line.sendall(
                f"{head}Content-Type: application/json-rpc\r\nConnection: close\r\n\r\n".encode() + begin
            )
            piece, left = b"A" * (1 << 20), size - len(begin)
            while left > 0:
                line.sendall(piece[:left])
                left -= len(piece)
                # nginx reads on for half a minute only.
                if is_behind_nginx(site) and size - left > ENOUGH and select.select([line], [], [], 0)[0]:
                    break
        answer = b""
        with suppress(ConnectionError, ssl.SSLError):
            while data := line.recv(65536):
                answer += data
    status, _, body = answer.partition(b"\r\n\r\n")
    return int(status.split()[1]), body


def peak_memory_kb(site: RunningSite) -> int:
    """The most that any process of the site has ever had."""
    assert site.process is not None
    root = psutil.Process(site.process.pid)
    peaks = []
    for process in [root, *root.children(recursive=True)]:
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        peaks.append(int(found[1]))
    return max(peaks)


def test_a_log_of_a_gigabyte_gets_a_clear_answer_and_little_memory(site: RunningSite):
    status, body = send_log(site, site.url, GIGABYTE)
    error = json.loads(body)["error"]
    if is_behind_nginx(site):
        assert (status, error["code"]) == (413, "too_large")
        assert error["message"] == "the body is longer than is taken here"
    else:
        assert (status, error["data"]["code"]) == (200, "too_large")
        assert error["message"] == f"the message is over {16 * 1024 * 1024} bytes"
    assert peak_memory_kb(site) < MEMORY_KB
    assert site.call("dataset.list")["items"] == []


def test_the_fast_lane_hangs_up_on_a_log_of_a_gigabyte(site: RunningSite):
    status, body = send_log(site, site.rpc_url, GIGABYTE)
    if is_behind_nginx(site):
        assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    else:
        assert (status, body) == (413, b"the body is too large\n")
    assert peak_memory_kb(site) < MEMORY_KB
