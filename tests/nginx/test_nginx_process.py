"""nginx as a process: reloaded without a failed request, started again when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pycurl
import pytest

from iceprod.cli.main import main
from iceprod.errors import ConfigError, Unavailable
from iceprod.server import nginx as frontend
from iceprod.server.nginx import NginxProcess
from iceprod.server.nginx.control import left_over
from tests.nginx_harness import Front, children, front_settings, kill, needs_nginx, until
from tests.servers import Ran

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

ENOUGH = 300


class Load:
    """Clients that ask without a pause, each on a connection of its own, from entering to leaving."""

    def __init__(self, front: Front, *, clients: int = 4) -> None:
        self._front = front
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self._stop = threading.Event()
        self.statuses: list[object] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        curl = pycurl.Curl()
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                # Every fifth request on a new connection.
                options = {pycurl.FRESH_CONNECT: 1} if number % 5 == 0 else {}
                status: object = self._front.ask("/loaded", curl=curl, options=options).status
            except pycurl.error as exc:
                status = str(exc)
            self.statuses.append(status)

    def more(self, count: int = ENOUGH) -> None:
        """Wait for that many further answers."""
        wanted = len(self.statuses) + count
        until(lambda: len(self.statuses) >= wanted)


def test_reloading_under_load_drops_no_request(echo_with):
    front = echo_with()
    workers = until(lambda: set(children(front.process.pid)))

    with Load(front) as load:
        for _ in range(3):
            load.more(100)
            front.process.send_signal(signal.SIGHUP)
            known = workers
            workers = until(lambda known=known: set(children(front.process.pid)) - known)
        load.more(100)

    assert set(load.statuses) == {200}


def test_a_worker_that_is_killed_is_replaced_by_nginx(echo_with):
    front = echo_with()
    (worker,) = until(lambda: children(front.process.pid))

    kill(worker)

    until(lambda: children(front.process.pid) not in ([], [worker]))
    assert front.ask("/x").status == 200


def test_logs_are_opened_anew_after_they_were_moved(echo_with):
    front = echo_with()
    front.ask("/before")
    log = front.directory / "logs" / "access.log"
    moved = log.with_name("access.log.1")
    until(lambda: "/before" in log.read_text())
    log.rename(moved)

    frontend.send(front.settings, signal.SIGUSR1)

    until(log.exists)
    # Until a worker has the new file it may still write to the old one.
    until(lambda: front.ask("/after").status == 200 and "/after" in log.read_text())
    assert "/before" in moved.read_text()


@pytest.fixture
def settings(authority, upstream, tmp_path):
    return front_settings(tmp_path, authority, nginx={"upstreams": (upstream.address,)})


@asynccontextmanager
async def kept(settings):
    """nginx kept by the class that the server uses."""
    nginx = NginxProcess(settings)
    await nginx.start()
    try:
        yield nginx
    finally:
        await nginx.stop()


async def eventually(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def ask(settings, authority, path="/x"):
    return await asyncio.to_thread(Front(settings, authority).ask, path)


async def test_it_listens_when_it_has_started_and_not_after_it_has_stopped(settings, authority):
    async with kept(settings) as nginx:
        assert (await ask(settings, authority)).status == 200
        pid = nginx.pid
    assert nginx.pid is None
    assert left_over(pid) == []
    with pytest.raises(pycurl.error):
        await ask(settings, authority)


@pytest.mark.expects_logs
async def test_a_killed_nginx_is_started_again(settings, authority):
    async with kept(settings) as nginx:
        for count in (1, 2):
            former = nginx.pid
            kill(former)

            await eventually(lambda count=count: nginx.restarts == count and nginx.pid)
            await eventually(lambda: Front(settings, authority).has_pid(nginx.pid))
            assert nginx.pid != former
            assert (await ask(settings, authority)).status == 200


@pytest.mark.expects_logs
async def test_requests_under_way_survive_the_death_of_the_master(settings, authority, upstream):
    async with kept(settings) as nginx:
        with Front(settings, authority).connect() as connection:
            connection.sendall(
                b"POST /under-way HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\na"
            )
            await eventually(lambda: len(left_over(nginx.pid)) == 2)
            kill(nginx.pid)
            await eventually(lambda: nginx.restarts == 1 and nginx.pid)
            connection.sendall(b"b")
            assert await asyncio.to_thread(connection.recv, 15) == b"HTTP/1.1 200 OK"
    assert upstream.requests("/under-way")[-1].body == b"ab"


@pytest.mark.expects_logs
async def test_what_a_killed_server_has_left_makes_room(settings, authority):
    first = NginxProcess(settings)
    await first.start()
    former = first.pid
    # As if the process that kept it had been killed: nobody starts it again.
    first._keeper.cancel()

    async with kept(settings) as nginx:
        assert nginx.pid != former
        assert (await ask(settings, authority)).status == 200
    await eventually(lambda: left_over(former) == [])
    await first.stop()


async def test_settings_that_changed_are_taken_on_reload(settings, authority):
    async with kept(settings) as nginx:
        changed = settings.model_copy(update={"nginx": settings.nginx.model_copy(update={"hsts_s": 77})})
        pid = nginx.pid
        await nginx.reload(changed)

        async with asyncio.timeout(30):
            while (await ask(settings, authority)).headers["strict-transport-security"] != "max-age=77":
                await asyncio.sleep(0.01)
        assert nginx.pid == pid


async def test_a_configuration_that_nginx_refuses_changes_nothing(settings, authority, tmp_path):
    async with kept(settings) as nginx:
        broken = settings.model_copy(
            update={"nginx": settings.nginx.model_copy(update={"certificate": tmp_path / "nothing.pem"})}
        )
        with pytest.raises(ConfigError, match=r"nothing\.pem"):
            await nginx.reload(broken)
        assert (await ask(settings, authority)).status == 200


async def test_a_taken_port_is_told(settings, authority):
    async with kept(settings):
        other = settings.model_copy(
            update={"nginx": settings.nginx.model_copy(update={"directory": settings.data_dir / "other"})}
        )
        with pytest.raises(ConfigError, match="Address already in use"):
            await NginxProcess(other).start()
        assert (await ask(settings, authority)).status == 200


def test_nobody_to_send_a_signal_to_is_told(settings):
    with pytest.raises(Unavailable):
        frontend.send(settings, signal.SIGHUP)
    # The pid of another program is nobody either.
    settings.nginx_path.mkdir(parents=True)
    (settings.nginx_path / "nginx.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(Unavailable):
        frontend.send(settings, signal.SIGHUP)


@pytest.fixture
def config_file(settings) -> Iterator[Path]:
    """Those settings as a file for the command line."""
    nginx = settings.nginx
    path = settings.data_dir / "iceprod.toml"
    path.write_text(
        f"""
[server]
data_dir = "{settings.data_dir}"
proxied = true
[nginx]
host = "127.0.0.1"
https_port = {nginx.https_port}
http_port = {nginx.http_port}
certificate = "{nginx.certificate}"
certificate_key = "{nginx.certificate_key}"
upstreams = ["{nginx.upstreams[0]}"]
"""
    )
    return path


@pytest.fixture
def command(config_file, capsys) -> Callable[..., Ran]:
    """Runs a command of ``iceprod nginx`` in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["nginx", *arguments, "--config", str(config_file)])
        shown = capsys.readouterr()
        return Ran(int(ended.value.code or 0), shown.out, shown.err)

    return run


def test_commands_generate_check_run_reload_and_reopen(settings, config_file, authority, command):
    assert command("check").code == 3
    made = command("generate", "--json")
    assert made.json == {
        "config": str(settings.nginx_path / "nginx.conf"),
        "build": made.json["build"],
        "is_new": True,
    }
    assert command("generate", "--json").json["is_new"] is False
    checked = command("check", "--json").json
    assert (checked["valid"], checked["fresh"]) == (True, True)
    assert command("reload").code == 5

    front = Front(settings, authority)
    with running(config_file, front) as pid:
        assert front.ask("/x").status == 200
        for name in ("reload", "reopen"):
            done = command(name)
            assert (done.code, str(pid) in done.err) == (0, True), done.err
        assert front.ask("/x").status == 200


class running:  # noqa: N801 - reads as what it is
    """``iceprod nginx run``; ended by its pid on leaving."""

    def __init__(self, config_file: Path, front: Front) -> None:
        self._config_file = config_file
        self._front = front

    def __enter__(self) -> int:
        arguments = ["nginx", "run", "--config", str(self._config_file)]
        self._process = subprocess.Popen([sys.executable, "-m", "iceprod.cli.main", *arguments])
        until(lambda: self._front.has_pid(self._process.pid) or self._process.poll() is not None)
        assert self._process.poll() is None
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def test_a_configuration_that_is_broken_or_stale_is_told(settings, config_file, command):
    assert command("generate").code == 0
    config_file.write_text(config_file.read_text().replace("[nginx]", "[nginx]\nrate = 7"))
    stale = command("check")
    assert (stale.code, "iceprod nginx generate" in stale.err) == (0, True)

    config_file.write_text(config_file.read_text().replace(str(settings.nginx.certificate), "/nothing.pem"))
    assert command("generate").code == 0
    broken = command("check", "--json")
    assert (broken.code, broken.json["valid"]) == (1, False)
    assert "/nothing.pem" in "".join(broken.json["messages"])
    refused = command("run")
    assert (refused.code, "/nothing.pem" in refused.err) == (78, True)


def test_a_program_that_is_not_there_is_told(settings, config_file, command):
    command("generate")
    config_file.write_text(config_file.read_text().replace("[nginx]", '[nginx]\nprogram = "no-such-nginx"'))
    assert command("check").code == 78


@pytest.mark.expects_logs
async def test_it_is_tried_again_until_it_can_start(settings, authority, tmp_path):
    async with kept(settings) as nginx:
        config, aside = settings.nginx_path / "nginx.conf", tmp_path / "aside"
        config.rename(aside)
        kill(nginx.pid)
        await eventually(lambda: nginx.restarts >= 2)

        aside.rename(config)

        await eventually(lambda: nginx.pid and Front(settings, authority).has_pid(nginx.pid))
        assert (await ask(settings, authority)).status == 200
