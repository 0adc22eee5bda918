"""What systemd is told, over a real socket of datagrams."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from iceprod.server.processes import systemd
from tests.servers import QUIET_GRID, until


@contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    """What systemd has at its end."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as end:
        end.bind(str(path))
        end.settimeout(60)
        yield end


def words(end: socket.socket) -> list[str]:
    """The names in the next message."""
    return [line.partition("=")[0] for line in end.recv(4096).decode().splitlines()]


def test_nobody_is_told_where_nobody_listens(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not systemd.notify("READY=1")


def test_messages_arrive_at_a_path_and_at_an_abstract_name(monkeypatch, tmp_path):
    name = f"iceprod-test-{os.getpid()}"
    for address, shown in ((str(tmp_path / "notify"), str(tmp_path / "notify")), (f"\0{name}", f"@{name}")):
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as end:
            end.bind(address)
            monkeypatch.setenv("NOTIFY_SOCKET", shown)

            assert systemd.notify("READY=1", "STATUS=well")

            assert end.recv(100) == b"READY=1\nSTATUS=well"


def test_a_reload_begins_at_a_time(monkeypatch, tmp_path):
    with listener(tmp_path / "notify") as end:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        systemd.reloading()

        assert words(end) == ["RELOADING", "MONOTONIC_USEC"]


@pytest.mark.parametrize(
    ("variables", "every_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_fed_as_often_as_it_wants(monkeypatch, variables, every_s):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert systemd.watchdog_s() == every_s


async def test_the_watchdog_is_fed_again_and_again(monkeypatch, tmp_path):
    with listener(tmp_path / "notify") as end:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        feeding = asyncio.create_task(systemd.feed_watchdog())

        told = [await asyncio.to_thread(words, end) for _ in range(3)]
        feeding.cancel()

        assert told == [["WATCHDOG"]] * 3


@pytest.mark.slow
@pytest.mark.e2e
def test_a_server_tells_of_its_start_restart_and_end_and_keeps_its_sockets(tmp_path):
    http, rpc = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    with closing(http), closing(rpc), listener(tmp_path / "notify") as end:
        process = launch(tmp_path, http, rpc)
        try:
            assert words(end) == ["READY"]
            assert answers(http)
            process.send_signal(signal.SIGHUP)
            assert words(end) == ["RELOADING", "MONOTONIC_USEC"]
            assert words(end) == ["READY"]
            assert answers(http)
            process.terminate()
            assert words(end) == ["STOPPING"]
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        for bound in (http, rpc):  # whoever comes now waits for the next server
            socket.create_connection(bound.getsockname()).close()


def launch(folder: Path, http: socket.socket, rpc: socket.socket) -> subprocess.Popen[bytes]:
    """Start a server as systemd does: descriptors from 3 on, and its own pid in LISTEN_PID."""
    serve = f"-m iceprod.cli.main serve --data '{folder / 'data'}'"
    script = f'exec 3<&{http.fileno()} 4<&{rpc.fileno()}; LISTEN_PID=$$ exec "$0" {serve}'
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
    told = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:rpc", "NOTIFY_SOCKET": str(folder / "notify")}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["bash", "-c", script, sys.executable],
            env={**clean, **told, "ICEPROD_GRIDS": QUIET_GRID, "ICEPROD_SERVER__DRAIN_S": "2"},
            stdout=log,
            stderr=log,
            pass_fds=(http.fileno(), rpc.fileno()),
        )


def answers(bound: socket.socket) -> bool:
    """Whether the server is well, asked on a connection that ends with the answer."""

    def ask() -> bool:
        with socket.create_connection(bound.getsockname(), timeout=60) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return client.makefile("rb").readline().startswith(b"HTTP/1.1 200")

    return until(ask)
