"""No way to this machine, its neighbours or a cloud's secrets, in whatever spelling."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from iceprod.errors import AccessDenied, TransferFailed
from iceprod.model.location import Location
from iceprod.movers.addresses import Addresses
from iceprod.movers.base import Access, Credential
from iceprod.movers.dialing import checked_addresses, dial
from iceprod.movers.http import HttpMover
from iceprod.movers.sftp import SftpMover
from tests.movers.place import reaching

PUBLIC = ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
    "::7f00:1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.1.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "64:ff9b:1::7f00:1",
    "2001::7f00:1",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "localhost",
    "0x7f000001",
    "2130706433",
    "127.1",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    Addresses().check(address, 443)
    Addresses(allow_private=True).check(address, 443)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_allowed_where_they_are_said_to_be(address: str) -> None:
    with pytest.raises(AccessDenied):
        Addresses().check(address, 443)
    Addresses(allow_private=True).check(address, 443)


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_allowed(address: str) -> None:
    for policy in (Addresses(), Addresses(allow_private=True)):
        with pytest.raises(AccessDenied):
            policy.check(address, 443)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_is_one(port: int) -> None:
    with pytest.raises(AccessDenied):
        Addresses().check("8.8.8.8", port)


class Names:
    """A resolver that gives other answers each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        return self.answers.pop(0)


async def test_one_bad_address_of_a_name_is_one_too_many() -> None:
    with pytest.raises(AccessDenied):
        await checked_addresses("x.example", 80, Addresses(), resolve=Names(["8.8.8.8", "10.0.0.1"]))


async def test_both_families_have_their_turn() -> None:
    names = Names(["2001:4860:4860::8888", "2001:4860:4860::8844", "8.8.8.8"])

    found = await checked_addresses("x.example", 80, Addresses(), resolve=names)

    assert found == ["2001:4860:4860::8888", "8.8.8.8", "2001:4860:4860::8844"]


async def test_a_name_that_leads_elsewhere_later_gains_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        names = Names(["127.0.0.1"], ["169.254.169.254"])

        with await dial("x.example", port, reaching(), resolve=names) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)
        # It was asked once, and what it said then was both checked and connected to.
        assert len(names.answers) == 1
        with pytest.raises(AccessDenied):
            await dial("x.example", port, reaching(), resolve=names)


async def test_an_address_that_is_away_is_no_hindrance(unused_tcp_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        with await dial("x.example", port, reaching(), resolve=Names(["::1", "127.0.0.1"])) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
    with pytest.raises(TransferFailed):
        await dial("localhost", unused_tcp_port, reaching())


async def test_a_host_that_does_not_answer_is_given_up() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        return await asyncio.get_running_loop().create_future()

    with pytest.raises(TransferFailed, match="did not answer"):
        await dial("x.example", 80, reaching(connect_timeout_s=0.05), resolve=never)


async def test_a_name_that_is_unknown_is_told() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(TransferFailed, match="not known"):
        await dial("x.example", 80, reaching(), resolve=unknown)


@pytest.mark.parametrize("scheme", ["http", "https", "sftp"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_no_protocol_reaches_this_machine(scheme: str, host: str, unused_tcp_port: int) -> None:
    mover = SftpMover() if scheme == "sftp" else HttpMover()
    access = Access(
        policy=Addresses(),
        credential=Credential("password", b"secret", "user"),
        options={"host_key_sha256": "x" * 43},
    )

    with pytest.raises(AccessDenied, match="not allowed"):
        await mover.stat(Location(scheme, host, unused_tcp_port, "/x"), access)
    await mover.close()
