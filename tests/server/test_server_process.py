"""The process: it starts, keeps its duties, says how it is, and stops in order."""

from __future__ import annotations

import asyncio
import json
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from site_harness import ADMIN, settings, task
from web_harness import Browser

from iceprod.config import Settings
from iceprod.errors import AlreadyExists, ConfigError, IceProdError, Unavailable
from iceprod.model.paging import Page
from iceprod.model.resources import Offer
from iceprod.rpc.registry import Call
from iceprod.server import duties, process
from iceprod.server.app import make_application
from iceprod.server.duties import Duty, Supervisor
from iceprod.server.errors import HTTP_STATUS
from iceprod.server.metrics import Histogram
from iceprod.server.process import ADMIN_FILE, Server

ROLES = frozenset({"admin"})


def local(folder: Path, **sections) -> Settings:
    server = {"data_dir": folder, "port": 0, "rpc_port": 0, "drain_s": 2.0}
    return settings(folder, server=server, **sections)


async def test_server_starts_answers_and_stops(tmp_path):
    server = Server(local(tmp_path))
    await server.start()
    try:
        addresses = server.context.services.addresses
        assert addresses.url != addresses.rpc_url
        for url in (addresses.url, addresses.rpc_url):
            answer = await Browser(url).rpc("rpc.discover")
            assert answer["result"]["openrpc"]
        assert (await Browser(addresses.url).get("/readyz")).code == 200
    finally:
        await server.stop()

    with pytest.raises(ConnectionRefusedError):
        await Browser(addresses.url).get("/readyz")


async def test_first_start_makes_an_administrator_whose_password_only_the_owner_reads(tmp_path):
    server = Server(local(tmp_path))
    await server.start()
    await server.stop()

    file = tmp_path / ADMIN_FILE
    for found in filter(Path.is_file, tmp_path.iterdir()):
        assert stat.S_IMODE(found.stat().st_mode) == 0o600, found
    written = file.read_text()
    again = Server(local(tmp_path))
    await again.start()
    await again.stop()
    assert file.read_text() == written


async def test_processes_that_start_together_make_one_administrator(tmp_path):
    server = Server(local(tmp_path))
    await server.start()
    try:
        accounts, store = server.context.services.accounts, server.context.store
        new = {"roles": ROLES, "groups": ROLES}
        attempts = (accounts._new_user("root", "correct horse battery", **new) for _ in range(3))
        made = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(one, AlreadyExists) for one in made) == 2

        # Nor does one that finds somebody there, or that comes a moment too late.
        await process._open_services(server.context.services, server.settings)
        assert len((await store.accounts.users(Page(10))).items) == 2
    finally:
        await server.stop()


async def test_a_data_directory_is_for_one_server(tmp_path):
    server = Server(local(tmp_path))
    await server.start()
    try:
        with pytest.raises(ConfigError, match="another server"):
            await Server(local(tmp_path)).start()
    finally:
        await server.stop()


async def test_a_taken_port_is_told_by_its_setting(tmp_path):
    first = Server(local(tmp_path / "a"))
    await first.start()
    port = int(first.context.services.addresses.url.rpartition(":")[2])
    try:
        given = local(
            tmp_path / "b",
        )
        taken = given.model_copy(update={"server": given.server.model_copy(update={"port": port})})
        with pytest.raises(ConfigError, match=r"server\.port"):
            await Server(taken).start()
    finally:
        await first.stop()


async def test_a_waiting_pilot_is_sent_away_when_the_server_stops(tmp_path):
    server = Server(local(tmp_path))
    await server.start()
    services = server.context.services
    pilot_id, secret = await services.pilots.create(grid="", offer=Offer())
    browser = Browser(services.addresses.rpc_url, token=secret)
    polling = asyncio.create_task(browser.rpc("pilot.claim", offer={"cpu": 1}, wait_s=30))
    async with asyncio.timeout(60):
        while not len(services.waiters):
            await asyncio.sleep(0.01)

    loop = asyncio.get_running_loop()
    began = loop.time()
    await server.stop()

    assert (await polling)["result"]["tasks"] == []
    assert loop.time() - began < 1.5
    assert pilot_id


async def test_health_needs_no_credential_and_tells_of_trouble(web, monkeypatch):
    browser = web.browser()
    assert json.loads((await browser.get("/healthz")).body) == {"status": "ok"}
    assert (await browser.get("/readyz")).code == 200

    async def down() -> None:
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(web.site.store, "ping", down)
    answer = await browser.get("/readyz")

    assert answer.code == 503
    assert json.loads(answer.body)["problems"] == ["store: the disk is gone"]


async def test_metrics_are_in_the_format_of_prometheus(web):
    await web.site.submit(task("only"), njobs=3)
    await web.browser().rpc("rpc.discover")

    text = (await web.browser().get("/metrics")).body.decode()

    lines = [line for line in text.splitlines() if not line.startswith("#")]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert values['iceprod_tasks{status="waiting"}'] == 3
    assert values["iceprod_ready_tasks"] == 3
    assert values['iceprod_rpc_calls_total{method="rpc.discover"}'] == 1
    assert values["iceprod_store_commits"] > 0
    assert len(values) == len(lines)


def test_histogram_is_cumulative():
    histogram = Histogram()
    for seconds in (0.001, 0.003, 99.0):
        histogram.observe(seconds)

    lines = list(histogram.lines("x"))

    assert lines[0] == 'x_bucket{le="0.001"} 1'
    assert lines[2] == 'x_bucket{le="0.005"} 2'
    assert lines[-3:] == ['x_bucket{le="+Inf"} 3', "x_sum 99.004000", "x_count 3"]


def every_error(kind: type[IceProdError] = IceProdError):
    yield kind
    for inner in kind.__subclasses__():
        yield from every_error(inner)


def test_every_error_has_a_status():
    assert {kind.code for kind in every_error()} == set(HTTP_STATUS)


async def test_duties_go_on_when_one_fails(caplog):
    ticks = asyncio.Event()
    runs: list[str] = []

    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    async def bad() -> None:
        runs.append("bad")
        if runs.count("bad") > 2:
            ticks.set()
            await asyncio.sleep(3600)
        raise (ValueError("a bug") if len(runs) % 2 else Unavailable("away"))

    supervisor = Supervisor(lambda: 7.0, sleep=sleep)
    supervisor.start_duty(Duty("bad", 1.0, bad))
    supervisor.start_loop("loop", bad)
    await asyncio.wait_for(ticks.wait(), 5)
    record = supervisor.records["bad"]
    await supervisor.stop()

    assert record.failures >= 1
    assert record.ended_at == 7.0
    assert "duty failed" in caplog.text


async def test_what_loses_a_cancellation_is_cancelled_again(monkeypatch):
    monkeypatch.setattr(duties, "_CANCEL_AGAIN_S", 0.01)
    began = asyncio.Event()

    async def deaf() -> None:
        for _ in range(3):
            began.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    supervisor = Supervisor(lambda: 7.0)
    supervisor.spawn("deaf", deaf())
    await began.wait()

    async with asyncio.timeout(5):
        await supervisor.stop()


async def test_application_knows_every_template_and_waits_for_what_is_under_way(web):
    application = make_application(web.context)

    await asyncio.wait_for(application.drained(1.0), 2)


async def talk(port: int, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.writelines(parts)
    return reader, writer


async def test_both_ports_believe_a_proxy_about_its_clients(tmp_path):
    given = {"data_dir": tmp_path, "port": 0, "rpc_port": 0, "proxied": True}
    server = Server(settings(tmp_path, server=given))
    await server.start()

    @server.context.dispatcher.registry.method("test.whence", action=None)
    def whence(call: Call) -> str:
        return call.origin.remote

    try:
        addresses = server.context.services.addresses
        for url in (addresses.url, addresses.rpc_url):
            told = {"X-Real-IP": "192.0.2.7", "Content-Type": "application/json"}
            body = b'{"jsonrpc":"2.0","id":1,"method":"test.whence"}'
            answer = await Browser(url).send("POST", "/jsonrpc", headers=told, body=body)
            assert json.loads(answer.body)["result"] == "192.0.2.7"
    finally:
        await server.stop()


@pytest.mark.expects_logs
async def test_a_body_that_does_not_come_is_not_waited_for_but_an_upload_may_take_long(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_BODY_S", 0.05)
    server = Server(local(tmp_path))
    await server.start()
    try:
        services = server.context.services
        token = (await services.accounts.create_token(ADMIN)).secret
        await services.accounts._new_user("root", "correct horse battery", roles=ROLES, groups=ROLES)
        port = int(services.addresses.url.rpartition(":")[2])
        head = f"Host: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\nsome".encode()
        upload, sending = await talk(port, b"PUT /files/site_temp/x HTTP/1.1\r\n", head)
        slow, nothing = await talk(port, b"POST /jsonrpc HTTP/1.1\r\n", head)
        assert await slow.read() == b""
        sending.write(b"bytes")
        assert (await upload.readline()).startswith(b"HTTP/1.1 201")
        sending.close()
        nothing.close()
    finally:
        await server.stop()
