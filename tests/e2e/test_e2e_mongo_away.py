"""A database that goes away under a running server, or that is not there yet when it starts."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iceprod.errors import Unavailable
from tests.servers import RunningSite, run, until
from tests.store import mongo_server
from tests.store.mongo_server import MongoServer

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.mongo,
    pytest.mark.skipif(mongo_server.ferretdb() is None, reason=mongo_server.ABSENT),
]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo", durable=True) as server:
        yield server


def site_on(database: MongoServer, folder: Path, **settings: str) -> RunningSite:
    return RunningSite(folder, settings={"ICEPROD_STORE__URL": database.url("site"), **settings})


def get(url: str, token: str = "") -> tuple[int, dict[str, str], str]:
    """Status, headers in lower case and text of an answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, headers, body = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, headers, body = error.code, error.headers, error.read()
    return status, {name.lower(): value for name, value in headers.items()}, body.decode()


def raw_call(url: str, token: str, method: str) -> dict[str, Any]:
    """The answer to a JSON-RPC call, without a client's retries."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/jsonrpc", data=body, headers=headers)
    ) as answer:
        return dict(json.load(answer))


def works(site: RunningSite) -> bool:
    try:
        site.call("dataset.list")
    except Unavailable:
        return False
    return True


def test_a_server_outlives_its_database_and_recovers_by_itself(database: MongoServer, tmp_path: Path):
    config = {"version": 3.1, "tasks": [{"name": "a", "trays": [{"modules": [{"src": "a.py"}]}]}]}
    with site_on(database, tmp_path / "site") as site:
        made = site.call("dataset.submit", config=config, njobs=3)
        assert get(f"{site.url}/readyz")[0] == 200
        assert site.process

        database.kill()

        until(lambda: get(f"{site.url}/readyz")[0] == 503)
        assert get(f"{site.url}/healthz")[0] == 200
        for url in (site.url, site.rpc_url):
            answer = raw_call(url, site.token, "dataset.list")
            assert answer["error"]["data"]["code"] == "unavailable"
            assert answer["error"]["data"]["retryable"] is True
        # A token that is in no cache has to be looked up.
        status, headers, _ = get(f"{site.url}/files/dataset_temp/{made['dataset_id']}/x", "iu_unknown")
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert site.process.poll() is None

        database.start()

        until(lambda: works(site))
        until(lambda: get(f"{site.url}/readyz")[0] == 200)
        until(lambda: site.call("dataset.progress", dataset_id=made["dataset_id"])["jobs_made"] == 3)
        site.call("dataset.suspend", dataset_id=made["dataset_id"])
        assert site.call("dataset.get", dataset_id=made["dataset_id"])["suspended"] is True
        assert "Traceback" not in site.log()


def test_a_server_waits_at_its_start_for_its_database(database: MongoServer, tmp_path: Path):
    with site_on(database, tmp_path / "site") as site:
        site.stop()
        database.stop()
        starting = threading.Thread(target=site.start)
        starting.start()
        until(lambda: "waiting for the store" in site.log())

        database.start()

        starting.join()
        assert works(site)


def test_a_server_whose_database_does_not_come_says_so_and_ends(database: MongoServer, tmp_path: Path):
    url = database.url("site")
    database.stop()
    environment = {"ICEPROD_STORE__URL": url, "ICEPROD_STORE__WAIT_S": "0"}

    ended = run("serve", "--data", str(tmp_path / "site"), "--port", "0", "--rpc-port", "0", env=environment)

    assert ended.code == 5
    assert f"no database answers at 127.0.0.1:{database.port}" in ended.err
    assert "Traceback" not in ended.err


def test_a_wrong_user_ends_it_with_what_to_do_and_without_the_password(database: MongoServer, tmp_path: Path):
    url = database.url("site").replace("://", "://ada:secret@")

    ended = run("serve", "--data", str(tmp_path / "site"), env={"ICEPROD_STORE__URL": url})

    assert ended.code == 78
    assert "authSource" in ended.err
    assert "secret" not in ended.err + ended.out
