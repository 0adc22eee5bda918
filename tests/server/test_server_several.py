"""Whole servers that share one MongoDB: whichever a client lands on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from site_harness import ADMIN, config, settings
from web_harness import Browser

from iceprod.model.resources import Offer
from iceprod.server.process import Server
from tests.server.test_server_events import Stream
from tests.store import mongo_server

pytestmark = [
    pytest.mark.mongo,
    pytest.mark.slow,
    pytest.mark.skipif(not mongo_server.is_there(), reason=mongo_server.ABSENT),
]
ROLES = frozenset({"admin"})
OFFER = {"cpu": 4, "memory": 16, "disk": 50, "time": 24}


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[list[Server]]:
    """Two, as workers of one machine, of which the first has the duties."""
    with mongo_server.database() as url:
        given = settings(
            tmp_path,
            server={"data_dir": tmp_path, "port": 0, "rpc_port": 0, "drain_s": 1.0, "duty_ttl_s": 1.0},
            store={"url": url},
        )
        async with AsyncExitStack() as stack:
            started = []
            for _ in range(2):
                server = Server(given, is_worker=True)
                await server.start()
                stack.push_async_callback(server.stop)
                started.append(server)
                await until(started[0].context.services.duty.is_holding)
            await until(lambda: all(s.context.services.news.processes == 2 for s in started))
            yield started


async def token_of(server: Server) -> str:
    accounts = server.context.services.accounts
    await accounts._new_user("root", "correct horse battery", roles=ROLES, groups=ROLES)
    return (await accounts.create_token(ADMIN)).secret


@pytest.mark.expects_logs
async def test_pilots_and_people_may_use_whichever_server_they_reach(servers):
    first, second = servers
    token = await token_of(first)
    people = [Browser(server.context.services.addresses.url, token=token) for server in servers]
    pilot_id, secret = await first.context.services.pilots.create(grid="", offer=Offer())
    pilots = [Browser(server.context.services.addresses.rpc_url, token=secret) for server in servers]
    polling = asyncio.create_task(pilots[0].rpc("pilot.claim", offer=OFFER, wait_s=30))
    await until(lambda: len(first.context.services.waiters))

    answer = await people[1].rpc("dataset.submit", config=config(), njobs=2)
    dataset_id = answer["result"]["dataset_id"]
    (claimed,) = (await polling)["result"]["tasks"]
    assert claimed["dataset_id"] == dataset_id

    stream = await Stream.open(people[1], f"/events/datasets/{dataset_id}", Authorization=f"Bearer {token}")
    before = await stream.next()
    done = {"task_id": claimed["task_id"], "lease_id": claimed["lease_id"], "stats": {}}
    assert "error" not in await pilots[0].rpc("pilot.finish", **done)
    while (await stream.next()).get("data") in (None, before["data"]):
        pass
    await stream.close()

    repeated = await pilots[1].rpc("pilot.finish", **done)
    assert "error" not in repeated
    (rest,) = (await pilots[1].rpc("pilot.claim", offer=OFFER))["result"]["tasks"]
    assert rest["task_id"] != claimed["task_id"]
    (again,) = (await pilots[0].rpc("pilot.claim", offer=OFFER, held=[]))["result"]["tasks"]
    assert again["lease_id"] == rest["lease_id"]
    assert pilot_id in second.context.services.slots.pilots


@pytest.mark.expects_logs
async def test_the_duties_move_when_their_holder_stops_or_dies(servers):
    first, second = servers
    assert not second.context.services.duty.is_holding()
    await first.context.supervisor.stop()  # all at once and without a word, as if it were killed
    await until(second.context.services.duty.is_holding)
    assert not first.context.services.duty.is_holding()

    loop = asyncio.get_running_loop()
    third = Server(second.settings, is_worker=True)
    await third.start()
    try:
        await until(lambda: third.context.services.news.processes == 2)
        began = loop.time()
        await second.stop()
        await until(third.context.services.duty.is_holding)
        assert loop.time() - began < 5
    finally:
        await third.stop()


async def test_metrics_tell_which_process_has_answered(servers):
    texts = [
        (await Browser(server.context.services.addresses.url).get("/metrics")).body.decode()
        for server in servers
    ]
    assert ["iceprod_has_duties 1" in text for text in texts] == [True, False]
    assert all("iceprod_processes 2" in text for text in texts)
    names = {line for text in texts for line in text.splitlines() if line.startswith("iceprod_process_info")}
    assert len(names) == 2
