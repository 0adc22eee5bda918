"""What Globus says of a collection is believed only as far as no token gets lost by it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from iceprod.errors import AccessDenied, TransferFailed
from iceprod.movers.base import Credential
from iceprod.movers.globus import GlobusMover
from tests.movers.globus_server import COLLECTION, TOKENS, GlobusServer, globus_server
from tests.movers.place import reaching
from tests.movers.raw_server import raw_server

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def globus(tmp_path) -> Iterator[GlobusServer]:
    with globus_server(tmp_path) as server:
        yield server


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "gsiftp://127.0.0.1:{port}", "x", ""])
async def test_no_token_goes_in_the_clear_to_where_a_collection_says_it_is(globus, address) -> None:
    place = globus.place("folder")
    async with raw_server(HELLO) as server:
        globus.service.https_server = address.format(port=server.port)
        with pytest.raises(AccessDenied if address else Exception, match="https"):
            async with place.mover.fetch(place.at("x"), place.access) as incoming:
                await incoming.read()
        assert not server.requests
    await place.mover.close()


@pytest.mark.expects_logs
async def test_the_transfer_service_sends_nobody_elsewhere() -> None:
    mover = GlobusMover()
    async with raw_server(HELLO) as elsewhere:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.location}\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(moved.encode()) as service:
            access = reaching(
                credential=Credential("token", json.dumps(TOKENS).encode()),
                options={"base_url": f"http://127.0.0.1:{service.port}/"},
            )
            with pytest.raises(TransferFailed):
                await mover.stat(service.location.__class__("globus", COLLECTION, 443, "/x"), access)
        assert not elsewhere.requests
    await mover.close()
