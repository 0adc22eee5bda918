"""Several processes on the same sockets: what dies is replaced, and nobody notices a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from iceprod.config import load
from iceprod.errors import ConfigError
from iceprod.server.processes import roster
from iceprod.server.processes.roster import Roster
from iceprod.server.processes.supervisor import plan_of
from tests.servers import ROOT, until

pytestmark = pytest.mark.slow

HEADERS = {"Content-Type": "application/json"}


class TinySite:
    """A supervisor with small workers, in processes of their own."""

    def __init__(self, folder: Path, *, count: int = 2, silent_s: float = 60.0, **settings: str) -> None:
        self.folder = folder
        self.broken = folder / "broken"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ICEPROD_")}
        self.environment = {
            **clean,
            "ICEPROD_SERVER__DATA_DIR": str(folder),
            "ICEPROD_SERVER__PORT": "0",
            "ICEPROD_SERVER__RPC_PORT": "0",
            "ICEPROD_SERVER__PROCESSES": str(count),
            "ICEPROD_SERVER__DRAIN_S": "5",
            "ICEPROD_STORE__URL": "mongodb://127.0.0.1:1/nowhere",
            "BROKEN": str(self.broken),
            "SILENT_S": str(silent_s),
            **settings,
        }
        self.process: subprocess.Popen[bytes]
        self.port = 0

    def launch(self, **options) -> None:
        command = [sys.executable, "-m", "tests.fakes.tiny_site"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, **options
            )

    def wait_until_ready(self) -> None:
        ready = self.folder / "ready.json"
        until(lambda: ready.exists() or self.process.poll() is not None)
        assert ready.exists(), self.log()
        self.port = int(json.loads(ready.read_text())["rpc_url"].rpartition(":")[2])
        until(lambda: self.pids() and len(self.pids()) == self.roster().wanted)

    def roster(self) -> Roster:
        return until(lambda: roster.read(self.folder))

    def pids(self) -> list[int]:
        return [member.pid for member in self.roster().members]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def restart(self) -> None:
        """Replace all workers and wait until that is done."""
        former = self.roster().restarts
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.roster().restarts > former)

    def call(self, method: str, **params) -> object:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            return ask(connection, method, **params)


def ask(connection: HTTPConnection, method: str, **params) -> object:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    connection.request("POST", "/jsonrpc", body, HEADERS)
    return json.loads(connection.getresponse().read())["result"]


@contextmanager
def tiny_site(folder: Path, **options) -> Iterator[TinySite]:
    site = TinySite(folder, **options)
    site.launch()
    try:
        site.wait_until_ready()
        yield site
    finally:
        site.process.terminate()
        try:
            site.process.wait(60)
        except subprocess.TimeoutExpired:
            site.process.kill()
            raise


@contextmanager
def under_load(site: TinySite, *, clients: int = 4) -> Iterator[Callable[[], int]]:
    """Clients that ask all the time, half of them on connections that they keep; how many were answered.

    Each failure is raised at the end.
    """
    stop, failures, answers = threading.Event(), [], [0] * clients

    def ask_on(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", site.port, timeout=60)
        try:
            while not stop.is_set():
                assert ask(connection, "sleep", seconds=0.002) > 0
                answers[number] += 1
                if number % 2:
                    connection.close()  # it connects again at the next request
        except Exception as exc:  # noqa: BLE001 - raised in the test's own thread
            failures.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(answers))
        yield lambda: sum(answers)
        before = list(answers)
        until(lambda: failures or all(now > then for now, then in zip(answers, before, strict=True)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_several_processes_need_a_store_that_can_be_shared(tmp_path):
    settings = load(overrides={"server": {"data_dir": tmp_path, "processes": 2}})

    with pytest.raises(ConfigError, match="mongodb://") as caught:
        plan_of(settings, (), has_successor=False)

    assert caught.value.detail["fields"][0]["path"] == "server.processes"


def test_all_workers_answer_on_one_port_until_told_to_stop(tmp_path):
    with tiny_site(tmp_path, count=3) as site:
        assert site.roster().pid == site.process.pid
        assert set(site.pids()) <= {child.pid for child in psutil.Process(site.process.pid).children()}
        assert site.call("pid") in site.pids()
        workers = [psutil.Process(pid) for pid in site.pids()]
        slow = socket.create_connection(("127.0.0.1", site.port))
        body = b'{"jsonrpc":"2.0","id":1,"method":"sleep","params":{"seconds":0.5}}'
        slow.sendall(b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        site.call("pid")
        site.process.terminate()
        answer = slow.makefile("rb").read()
        slow.close()
        assert site.process.wait(60) == 0

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nConnection: close\r\n" in answer
    assert not any(worker.is_running() for worker in workers)
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", site.port))


def test_a_worker_that_is_killed_is_replaced_and_no_connection_is_refused(tmp_path):
    with tiny_site(tmp_path) as site:
        killed = site.pids()[0]

        with under_load_on_new_connections(site) as refused:
            os.kill(killed, signal.SIGKILL)
            until(lambda: len(site.pids()) == 2 and killed not in site.pids())

    assert refused == []
    assert "a worker has died" in site.log()


@contextmanager
def under_load_on_new_connections(site: TinySite) -> Iterator[list[OSError]]:
    """Connect again and again; what was refused (not what a dying process cut off)."""
    stop, refused = threading.Event(), []

    def connect() -> None:
        while not stop.is_set():
            try:
                with suppress(ConnectionResetError, BrokenPipeError):
                    socket.create_connection(("127.0.0.1", site.port), timeout=60).close()
            except OSError as exc:
                refused.append(exc)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield refused
    finally:
        stop.set()
        thread.join()


def test_restarts_under_load_fail_no_request(tmp_path):
    with tiny_site(tmp_path) as site:
        former = set(site.pids())
        with under_load(site) as answered:
            for _ in range(2):
                before = answered()
                site.restart()
                until(lambda enough=before + 20: answered() > enough)

        assert not former & set(site.pids())
        assert site.roster().restarts == 2


def test_a_store_for_one_process_has_two_at_no_time(tmp_path):
    settings = {"ICEPROD_STORE__URL": "", "ICEPROD_SERVER__DRAIN_S": "1"}
    with tiny_site(tmp_path, count=1, **settings) as site, under_load(site):
        former = site.pids()
        site.restart()
        log = [json.loads(line) for line in site.log().splitlines() if line.startswith("{")]

    events = [entry["event"] for entry in log]
    assert events.count("worker is ready") == 2
    assert events.index("worker has left") < len(events) - events[::-1].index("worker is ready") - 1
    assert former != []


def test_an_idle_connection_gets_one_last_answer_of_a_worker_that_leaves(tmp_path):
    with tiny_site(tmp_path, count=1) as site, closing(HTTPConnection("127.0.0.1", site.port)) as kept:
        former = ask(kept, "pid")

        site.restart()
        # The word to leave may still be on its way to the former worker.
        until(lambda: [ask(kept, "pid")] == [former] and kept.sock is None)

        assert ask(kept, "pid") == site.pids()[0] != former


def test_an_idle_connection_is_not_closed_because_its_worker_was_replaced(tmp_path):
    site = tiny_site(tmp_path, count=1, ICEPROD_SERVER__DRAIN_S="0")
    with site as site, closing(HTTPConnection("127.0.0.1", site.port)) as kept:
        former = ask(kept, "pid")

        site.restart()
        until(lambda: "worker leaves" in site.log())
        site.call("pid")

        assert ask(kept, "pid") == former
        assert kept.sock is None


def test_workers_that_do_not_start_any_more_leave_the_former_ones_in_place(tmp_path):
    with tiny_site(tmp_path) as site:
        former = site.pids()
        site.broken.touch()

        site.process.send_signal(signal.SIGHUP)
        until(lambda: site.roster().failed_restarts)

        assert site.pids() == former
        assert site.call("pid") in former
        os.kill(former[0], signal.SIGKILL)
        until(lambda: '"again_s":0.2' in site.log())
        site.broken.unlink()
        until(lambda: len(site.pids()) == 2 and former[0] not in site.pids())


def test_workers_that_never_start_end_the_server(tmp_path):
    site = TinySite(tmp_path)
    site.broken.touch()
    site.launch()

    assert site.process.wait(60) != 0
    assert "a worker ended with 1 before it was ready" in site.log()
    assert "it is broken" in site.log()


def test_a_worker_that_takes_long_to_leave_does_not_hang(tmp_path):
    with tiny_site(tmp_path, count=1, silent_s=4.0) as site:
        former = site.pids()
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(site.call, "sleep", seconds=8.0)
            site.restart()

            assert answer.result() in former
        assert "a worker hangs" not in site.log()


def test_a_worker_that_hangs_is_replaced(tmp_path):
    with tiny_site(tmp_path, silent_s=4.0) as site:
        hanging = site.pids()[0]

        os.kill(hanging, signal.SIGSTOP)

        until(lambda: len(site.pids()) == 2 and hanging not in site.pids())
        assert "a worker hangs" in site.log()


def test_workers_end_when_their_supervisor_is_killed_and_the_next_one_waits_for_that(tmp_path):
    with tiny_site(tmp_path) as site:
        workers = [psutil.Process(pid) for pid in site.pids()]
        site.environment["ICEPROD_SERVER__RPC_PORT"] = str(site.port)
        site.process.kill()
        site.process.wait()
        (tmp_path / "ready.json").unlink()

        site.launch()
        site.wait_until_ready()

        psutil.wait_procs(workers, timeout=60)
        assert not any(worker.is_running() for worker in workers)
        assert site.call("pid") in site.pids()


def test_a_second_signal_ends_all_at_once(tmp_path):
    with tiny_site(tmp_path, count=1) as site:
        worker = psutil.Process(site.pids()[0])
        os.kill(worker.pid, signal.SIGSTOP)

        site.process.terminate()
        until(lambda: '"event":"stopping"' in site.log())
        site.process.terminate()

        assert site.process.wait(60) == 0
        psutil.wait_procs([worker], timeout=60)
        assert not worker.is_running()


async def test_sockets_of_systemd_are_taken_by_name_and_stay_open(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as bound:
        site = TinySite(tmp_path, count=1)
        http = socket.create_server(("127.0.0.1", 0))
        descriptors = (http.fileno(), bound.fileno())

        process = await asyncio.to_thread(launch_as_systemd_does, site, descriptors)
        http.close()
        try:
            await asyncio.to_thread(site.wait_until_ready)
            assert site.port == bound.getsockname()[1]
            assert await asyncio.to_thread(site.call, "pid") in site.pids()
        finally:
            process.terminate()
            assert await asyncio.to_thread(process.wait, 60) == 0
        waiting = socket.create_connection(("127.0.0.1", site.port))  # for the next one
        waiting.close()


def launch_as_systemd_does(site: TinySite, descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """A shell moves the descriptors to 3 and following, and knows the pid that LISTEN_PID must have."""
    http, rpc = descriptors
    script = f'exec 3<&{http} 4<&{rpc}; LISTEN_PID=$$ exec "$0" -m tests.fakes.tiny_site'
    # Two digits are more than a plain shell reads in a redirection.
    assert max(descriptors) < 100
    environment = {**site.environment, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:rpc"}
    with (site.folder / "log").open("ab") as log:
        site.process = subprocess.Popen(
            ["bash", "-c", script, sys.executable],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            pass_fds=descriptors,
        )
    return site.process
