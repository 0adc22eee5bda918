"""The direct TLS port as part of a server."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from site_harness import ADMIN, settings
from x509_harness import Holder, client_context, holder

from iceprod.config import Settings
from iceprod.errors import ConfigError
from iceprod.model.principal import PrincipalKind
from iceprod.server.process import Server
from iceprod.server.processes import sockets
from iceprod.server.processes.leaving import Leave
from iceprod.services.ca import CertificateUse, SiteCA

LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "certificate.list"}).encode()
HEAD = f"POST /jsonrpc HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(LIST)}\r\n\r\n".encode()


@pytest.fixture
def ca(tmp_path: Path) -> SiteCA:
    made = SiteCA.create(tmp_path / "ca", name="Test")
    made.issue("localhost", use=CertificateUse.SERVER, hosts=["localhost", "127.0.0.1"])
    return made


def given(folder: Path, ca: SiteCA, **tls: Any) -> Settings:
    server = {"data_dir": folder / "data", "port": 0, "rpc_port": 0, "drain_s": 2.0}
    files = {
        "certificate": ca.certificate_of("localhost", CertificateUse.SERVER),
        "key": ca.key_of("localhost", CertificateUse.SERVER),
        "ca_path": ca.certificate,
        "crl_path": ca.crl,
    }
    return settings(folder, server=server, tls={"port": 0, **files, **tls})


async def alice(server: Server, ca: SiteCA) -> Holder:
    services = server.context.services
    await services.accounts.create_user(ADMIN, "alice", "correct horse battery")
    who = holder(ca, "alice")
    await services.certificates.add(ADMIN, kind=PrincipalKind.USER, name="alice", pem=who.pem().decode())
    return who


async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, dict[str, Any]]:
    """The head of the answer, and what it says."""
    writer.write(HEAD + LIST)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    (length,) = (line for line in head.lower().splitlines() if line.startswith("content-length:"))
    return head, json.loads(await reader.readexactly(int(length.partition(":")[2])))


async def test_a_server_listens_for_grid_proxies(tmp_path: Path, ca: SiteCA) -> None:
    server = Server(given(tmp_path, ca))
    await server.start()
    try:
        shown = (await alice(server, ca)).proxy().file(tmp_path / "proxy.pem")
        port = server.ports["tls.port"]
        told = json.loads((tmp_path / "data" / "ports.json").read_text())
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(ca, shown))
        _, answer = await call(reader, writer)
        writer.close()
    finally:
        await server.stop()

    assert answer["result"]["items"][0]["name"] == "alice"
    assert told["tls.port"] == port
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port, ssl=client_context(ca, shown))


async def test_who_is_connected_hears_that_the_server_leaves(tmp_path: Path, ca: SiteCA) -> None:
    server = Server(given(tmp_path, ca))
    await server.start()
    try:
        shown = (await alice(server, ca)).file(tmp_path / "alice.pem")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.ports["tls.port"], ssl=client_context(ca, shown)
        )
        await call(reader, writer)
        stopping = asyncio.create_task(server.stop(Leave(linger_s=5.0, finish_s=5.0)))
        await asyncio.sleep(0)
        head, answer = await call(reader, writer)
        async with asyncio.timeout(5.0):
            await stopping
        writer.close()
    finally:
        await server.stop()

    assert answer["result"]["items"][0]["name"] == "alice"
    assert "connection: close" in head.lower()


async def test_a_socket_may_be_given(tmp_path: Path, ca: SiteCA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        bound.setblocking(False)
        port = bound.getsockname()[1]
        server = Server(given(tmp_path, ca), given={"tls": bound})
        await server.start()
        try:
            assert server.ports["tls.port"] == port
        finally:
            await server.stop()


async def test_a_server_without_the_files_does_not_start(tmp_path: Path, ca: SiteCA) -> None:
    with pytest.raises(ConfigError, match=r"tls\.key"):
        await Server(given(tmp_path, ca, key=None)).start()
    with pytest.raises(ConfigError, match=r"tls\.port"), socket.create_server(("127.0.0.1", 0)) as taken:
        await Server(given(tmp_path, ca, port=taken.getsockname()[1])).start()


def test_the_port_is_wanted_only_if_it_is_set(tmp_path: Path, ca: SiteCA) -> None:
    assert sockets.wanted(given(tmp_path, ca, host="127.0.0.2"))["tls"] == ("127.0.0.2", 0)
    assert "tls" not in sockets.wanted(given(tmp_path, ca, port=None))
