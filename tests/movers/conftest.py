"""Servers of the contract suite: each is started once for all of its tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.movers.globus_server import globus_server
from tests.movers.gridftp_server import ftp_server, gsiftp_server
from tests.movers.local_server import local_server
from tests.movers.nginx_server import http_server, https_server
from tests.movers.place import Place, Server
from tests.movers.sftp_server import sftp_server

SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "file": local_server,
    "http": http_server,
    "https": https_server,
    "sftp": sftp_server,
    "globus": globus_server,
    "ftp": ftp_server,
    "gsiftp": gsiftp_server,
}
_count = itertools.count()


@pytest.fixture(scope="session", params=list(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture
async def place(server: Server) -> AsyncIterator[Place]:
    made = server.place(f"place-{next(_count)}")
    yield made
    await made.mover.close()
