"""Servers that are broken or mean: everything ends, soon and without harm."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from iceprod.errors import (
    AccessDenied,
    IceProdError,
    InputError,
    NotFoundError,
    TooLarge,
    TransferFailed,
    Unavailable,
)
from iceprod.model.location import Location
from iceprod.movers.base import WHOLE, Access, Credential, Outgoing, Span
from iceprod.movers.gridftp.mode_e import BlockError
from iceprod.movers.gridftp.mover import GridFtpMover
from iceprod.movers.gridftp.parallel import Window
from tests.movers.fake_ftp import FakeFtp, fake_ftp
from tests.movers.gridftp_server import Authority
from tests.movers.place import reaching

DONE = "226 done\r\n"


@pytest.fixture
async def mover() -> AsyncIterator[GridFtpMover]:
    made = GridFtpMover()
    yield made
    await made.close()


def hits(fake: FakeFtp) -> Location:
    return Location("ftp", "127.0.0.1", fake.port, "/hits.i3")


def access(*, stall_s: float = 20.0, connect_s: float = 5.0, **options: str) -> Access:
    return reaching(stall_timeout_s=stall_s, connect_timeout_s=connect_s, options=options)


async def fetched(mover: GridFtpMover, fake: FakeFtp, reach: Access, span: Span = WHOLE) -> bytes:
    async with mover.fetch(hits(fake), reach, span=span) as incoming:
        return b"".join([piece async for piece in reading(incoming)])


async def fetch_into(got: bytearray, mover: GridFtpMover, fake: FakeFtp, reach: Access) -> None:
    async with mover.fetch(hits(fake), reach) as incoming:
        async for piece in reading(incoming):
            got += piece


async def reading(incoming) -> AsyncIterator[bytes]:
    while piece := await incoming.read():
        yield piece


def sending(*parts: bytes, then: str = DONE):
    async def send(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return then

    return send


@pytest.mark.parametrize(
    "greeting",
    [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\1\2\3\r\n",
        "220",
        "220-" + "x" * 300_000,
        "220-again\r\n" * 2500,
        "220-" + "\r\n".join("y" * 60_000 for _ in range(30)),
        "421 too many\r\n",
        "999 what\r\n",
        "",
    ],
    ids=["ssh", "binary", "no-end", "long-line", "many-lines", "huge", "busy", "no-code", "silent"],
)
async def test_what_is_no_greeting_ends_the_try(mover: GridFtpMover, greeting: str) -> None:
    async with fake_ftp(greeting=greeting) as fake:
        with pytest.raises(TransferFailed):
            await mover.stat(hits(fake), access(connect_s=0.5))


async def test_a_server_that_hangs_is_given_up(mover: GridFtpMover) -> None:
    async def hang(fake: FakeFtp, argument: str) -> str:
        return await asyncio.get_running_loop().create_future()

    async with fake_ftp(answers={"MLST": hang}) as fake:
        with pytest.raises(TransferFailed, match="too long"):
            await mover.stat(hits(fake), access(stall_s=0.3))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("530 no\r\n", AccessDenied),
        ("550 No such file or directory\r\n", NotFoundError),
        ("550-GlobusError: v=1 c=PATH_NOT_FOUND\r\n550 End.\r\n", NotFoundError),
        ("550-GridFTP-Errno: 13\r\n550 End.\r\n", AccessDenied),
        ("452 Insufficient storage\r\n", Unavailable),
        ("426 aborted\r\n", TransferFailed),
        (
            "500-Command failed. : System error in open: No such file or directory\r\n500 End.\r\n",
            NotFoundError,
        ),
        ("504 not for that\r\n", InputError),
    ],
)
async def test_refusals_have_their_errors(mover: GridFtpMover, reply: str, error: type[Exception]) -> None:
    async with fake_ftp(answers={"RETR": reply}) as fake:
        with pytest.raises(error) as raised:
            await fetched(mover, fake, access())
    assert type(raised.value) is error


async def test_a_password_is_in_no_error(mover: GridFtpMover) -> None:
    async def echo(fake: FakeFtp, argument: str) -> str:
        return f"530 PASS {argument} is wrong\r\n"

    async with fake_ftp(answers={"PASS": echo}) as fake:
        reach = reaching(credential=Credential("password", b"geheim", "alice"))
        with pytest.raises(AccessDenied) as raised:
            await mover.stat(hits(fake), reach)
    assert fake.commands[:2] == ["USER alice", "PASS geheim"]
    assert "geheim" not in f"{raised.value!r} {raised.value.detail}"


@pytest.mark.parametrize("name", ["a\r\nDELE /b", "a\nb", "a\0b"])
async def test_a_name_is_never_a_command(mover: GridFtpMover, name: str) -> None:
    async with fake_ftp() as fake:
        with pytest.raises(InputError):
            await mover.delete(Location("ftp", "127.0.0.1", fake.port, f"/{name}"), access())
    assert not any(each.startswith("DELE") for each in fake.commands)


async def test_data_at_another_host_is_refused(mover: GridFtpMover) -> None:
    async def elsewhere(fake: FakeFtp, argument: str) -> str:
        return f"227 there (127,0,0,2,{fake.port >> 8},{fake.port & 255})\r\n"

    async with fake_ftp(answers={"EPSV": "502 no\r\n", "PASV": elsewhere}) as fake:
        with pytest.raises(AccessDenied, match=r"127\.0\.0\.2"):
            await fetched(mover, fake, access())
    assert not any(each.startswith("RETR") for each in fake.commands)


@pytest.mark.parametrize("hosts", ["any", "127.0.0.0/30", "192.0.2.0/24,127.0.0.2/32"])
async def test_data_at_another_host_is_taken_where_that_is_said(mover: GridFtpMover, hosts: str) -> None:
    async def elsewhere(fake: FakeFtp, argument: str) -> str:
        port = await fake.listen("127.0.0.2")
        return f"227 there (127,0,0,2,{port >> 8},{port & 255})\r\n"

    async with fake_ftp(answers={"PASV": elsewhere}, data=sending(b"0123456789")) as fake:
        assert await fetched(mover, fake, access(data_hosts=hosts)) == b"0123456789"


async def test_data_at_a_forbidden_address_is_refused_whatever_the_option(mover: GridFtpMover) -> None:
    async with fake_ftp(answers={"PASV": "227 there (169,254,169,254,0,80)\r\n"}) as fake:
        with pytest.raises(AccessDenied, match="not allowed"):
            await fetched(mover, fake, access(data_hosts="any"))


@pytest.mark.parametrize(
    "reply",
    [
        "229 (|||0|)\r\n",
        "229 (|||99999|)\r\n",
        "229 (|1|10.0.0.1|80|)\r\n",
        "229 nothing\r\n",
        "229 (!!!x!)\r\n",
    ],
)
async def test_a_port_that_is_none_is_a_fault(mover: GridFtpMover, reply: str) -> None:
    async with fake_ftp(answers={"EPSV": reply}) as fake:
        with pytest.raises(TransferFailed):
            await fetched(mover, fake, access())


@pytest.mark.parametrize(
    ("parts", "then", "done"),
    [
        ((b"01234",), DONE, 5),
        ((b"01234",), "426 aborted\r\n", 5),
        ((), "451 disk\r\n", 0),
        ((b"0123456789",), "451 read error\r\n", 0),
        ((b"0123456789",), "500 reset\r\n", 0),
        ((b"0123456789ab",), DONE, 0),
    ],
    ids=["short", "short-426", "none-451", "whole-451", "whole-500", "long"],
)
async def test_a_body_is_whole_or_an_error(mover: GridFtpMover, parts, then: str, done: int) -> None:
    got = bytearray()
    async with fake_ftp(data=sending(*parts, then=then)) as fake:
        with pytest.raises(TransferFailed) as raised:
            await fetch_into(got, mover, fake, access())

    assert raised.value.detail["done_bytes"] == len(got) == done
    assert len(got) < 10


async def test_the_servers_reason_is_told(mover: GridFtpMover) -> None:
    async with fake_ftp(data=sending(b"01", then="451 the tape is broken\r\n")) as fake:
        with pytest.raises(TransferFailed, match="the tape is broken"):
            await fetched(mover, fake, access())


async def test_a_body_that_stalls_is_an_error(mover: GridFtpMover) -> None:
    async def stall(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(b"0123")
        await writer.drain()
        return await asyncio.get_running_loop().create_future()

    async with fake_ftp(data=stall) as fake:
        with pytest.raises(TransferFailed, match="too long") as raised:
            await fetched(mover, fake, access(stall_s=0.3))
    assert raised.value.detail["done_bytes"] == 4


async def test_a_transfer_is_not_begun_by_every_reply(mover: GridFtpMover) -> None:
    async with fake_ftp(answers={"RETR": "226 done before it began\r\n"}) as fake:
        with pytest.raises(TransferFailed):
            await fetched(mover, fake, access())


async def test_a_part_without_eret_is_cut_off(mover: GridFtpMover) -> None:
    async with fake_ftp(data=sending(b"3456789"), features=" SIZE\r\n") as fake:
        assert await fetched(mover, fake, access(), Span(3, 4)) == b"3456"
    assert "REST 3" in fake.commands


async def test_facts_come_of_size_and_time_where_there_is_no_mlst(mover: GridFtpMover) -> None:
    answers = {"MLST": "500 unknown\r\n", "SIZE": "213 77\r\n", "MDTM": "213 20260102030405\r\n"}
    async with fake_ftp(answers=answers) as fake:
        facts = await mover.stat(hits(fake), access())
    assert (facts.size_bytes, facts.modified_at) == (77, 1767323045.0)


@pytest.mark.parametrize(
    "listing",
    [
        b"nothing like facts\r\n",
        b"Type=file;Size=1; ../../etc/..\r\n",
        b"x" * 40_000,
        b"Type=file; a\x01b\r\n",
    ],
    ids=["garbage", "dots", "long-line", "control"],
)
async def test_a_listing_that_is_none_is_a_fault(mover: GridFtpMover, listing: bytes) -> None:
    async with fake_ftp(data=sending(listing)) as fake:
        with pytest.raises(TransferFailed):
            assert [each async for each in mover.list(hits(fake), access(), limit=5)]


async def test_an_endless_listing_ends_at_its_limit(mover: GridFtpMover) -> None:
    async def endless(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        number = 0
        while True:
            writer.write(b"".join(b"Type=file;Size=1; %d\r\n" % (number + each) for each in range(1000)))
            await writer.drain()
            number += 1000

    async with fake_ftp(data=endless) as fake:
        with pytest.raises(TooLarge):
            assert [each async for each in mover.list(hits(fake), access(), limit=5000)]


@pytest.mark.parametrize("line", [b"Type=cdir; .\r\n", b"\r\n"], ids=["itself", "empty"])
async def test_an_endless_listing_of_nothing_ends(mover: GridFtpMover, line: bytes) -> None:
    async def endless(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        while True:
            writer.write(line * 5000)
            await writer.drain()

    async with fake_ftp(data=endless) as fake, asyncio.timeout(20):
        with pytest.raises(TransferFailed):
            assert [each async for each in mover.list(hits(fake), access(), limit=5)]


def test_blocks_of_a_byte_take_no_more_memory_than_others() -> None:
    window = Window(1 << 30)

    def fill() -> None:
        for offset in range(1, 1 << 20):
            window.put(offset, b"x")

    with pytest.raises(BlockError):
        fill()


def block(offset: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BQQ", flags, len(data), offset) + data


END = struct.pack(">BQQ", 0x48, 0, 1)


def in_blocks(*streams: bytes, then: str = DONE):
    """Connects to where PORT said, once for each of ``streams``."""

    async def send(fake: FakeFtp, argument: str) -> str:
        assert fake.writer is not None
        fake.writer.write(b"150 now\r\n")
        command = next(each for each in reversed(fake.commands) if each.startswith("PORT"))
        numbers = [int(each) for each in command.removeprefix("PORT ").split(",")]
        writers = []
        for data in streams:
            writer = await fake.connect("127.0.0.1", numbers[4] * 256 + numbers[5])
            writer.write(data)
            writers.append(writer)
        for writer in writers:
            if writer.can_write_eof():
                writer.write_eof()
        return then

    return {"RETR": send}


async def test_blocks_come_in_any_order(mover: GridFtpMover) -> None:
    first = block(5, b"56789") + struct.pack(">BQQ", 0x08, 0, 0)
    second = block(2, b"234") + block(0, b"01") + struct.pack(">BQQ", 0x48, 0, 2)
    async with fake_ftp(answers=in_blocks(first, second)) as fake:
        assert await fetched(mover, fake, access(streams="2", stall_s=5.0)) == b"0123456789"


@pytest.mark.parametrize(
    "stream",
    [
        block(0, b"012345") + block(4, b"456789") + END,
        block(0, b"0123456789") + block(0, b"0") + END,
        block(5, b"56789abc") + END,
        block(2**62, b"x") + END,
        block(2**64 - 1, b"x") + END,
        block(0, b"0123456789", 0x10) + END,
        block(0, b"01234") + END,
        block(0, b"0123456789"),
        block(0, b"0123456789") + struct.pack(">BQQ", 0x48, 0, 2),
        block(0, b"0123456789") + struct.pack(">BQQ", 0x48, 0, 2**40),
        struct.pack(">BQQ", 0, 10, 0) + b"01",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"",
    ],
    ids=[
        "overlap", "twice", "behind-the-end", "wild", "wilder", "unknown-kind", "gap", "no-end",
        "one-connection-of-two", "a-trillion-connections", "cut", "garbage", "empty",
    ],
)  # fmt: skip
async def test_blocks_that_make_no_file_are_an_error(mover: GridFtpMover, stream: bytes) -> None:
    got = bytearray()
    async with fake_ftp(answers=in_blocks(stream)) as fake:
        with pytest.raises(TransferFailed) as raised:
            await fetch_into(got, mover, fake, access(streams="2", stall_s=1.0))

    assert b"0123456789".startswith(got)
    assert len(got) < 10
    assert raised.value.detail["done_bytes"] == len(got)


async def test_blocks_far_ahead_are_not_read(mover: GridFtpMover) -> None:
    size = 1 << 40
    async with fake_ftp(size=size, answers=in_blocks(block(size - 10, b"0123456789") + END)) as fake:
        with pytest.raises(TransferFailed):
            await fetched(mover, fake, access(streams="2", stall_s=1.0))


async def test_blocks_that_end_in_an_error_are_one(mover: GridFtpMover) -> None:
    stream = block(0, b"0123456789") + END
    async with fake_ftp(answers=in_blocks(stream, then="451 no\r\n")) as fake:
        with pytest.raises(TransferFailed):
            await fetched(mover, fake, access(streams="2"))


async def body_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


def taking(then: str, *, limit: int = 1 << 30):
    async def take(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        taken = 0
        while taken < limit and (data := await reader.read(65536)):
            taken += len(data)
        return then

    return take


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("552 No space left on device\r\n", Unavailable),
        ("426 reset\r\n", TransferFailed),
        ("553 Permission denied\r\n", AccessDenied),
    ],
)
async def test_a_put_that_is_ended_early_is_an_error(mover: GridFtpMover, then: str, error) -> None:
    async with fake_ftp(data=taking(then, limit=1)) as fake:
        body = Outgoing(30_000_000, body_of(bytes(30_000_000)))
        with pytest.raises(error) as raised:
            await mover.put(hits(fake), access(stall_s=5.0), body)
        await mover.close()
    assert type(raised.value) is error
    assert any(each.startswith("DELE /.hits.i3.") for each in fake.commands)
    assert not any(each.startswith("RNTO") for each in fake.commands)


async def test_a_put_that_is_never_confirmed_is_given_up(mover: GridFtpMover) -> None:
    async def silent(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        while await reader.read(65536):
            pass
        return await asyncio.get_running_loop().create_future()

    async with fake_ftp(data=silent) as fake:
        with pytest.raises(TransferFailed, match="too long"):
            await mover.put(hits(fake), access(stall_s=0.5), Outgoing(10, body_of(b"0123456789")))


async def test_a_put_of_which_another_size_is_stored_is_an_error(mover: GridFtpMover) -> None:
    async with fake_ftp(size=9, data=taking(DONE)) as fake:
        with pytest.raises(TransferFailed, match="9 bytes were stored of 10"):
            await mover.put(hits(fake), access(), Outgoing(10, body_of(b"0123456789")))
        await mover.close()
    assert not any(each.startswith("RNTO") for each in fake.commands)


async def test_a_put_whose_checksum_is_another_is_an_error(mover: GridFtpMover) -> None:
    answers = {"CKSM": "213 deadbeef\r\n"}
    async with fake_ftp(features=" CKSM ADLER32:10;\r\n", answers=answers, data=taking(DONE)) as fake:
        body = Outgoing(10, body_of(b"0123456789"), {"adler32": "0aff020e"})
        with pytest.raises(TransferFailed, match="deadbeef"):
            await mover.put(hits(fake), access(), body)
        await mover.close()
    assert not any(each.startswith("RNTO") for each in fake.commands)


async def test_restart_markers_tell_how_far_a_put_has_come(mover: GridFtpMover) -> None:
    async def mark(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        while await reader.read(65536):
            pass
        return "111 Range Marker 0-3000\r\n111 Range Marker 3000-4000,6000-7000\r\n426 broken\r\n"

    async with fake_ftp(data=mark) as fake:
        with pytest.raises(TransferFailed) as raised:
            await mover.put(hits(fake), access(), Outgoing(9000, body_of(bytes(9000))))
    assert raised.value.detail["done_bytes"] == 4000


async def test_logins_are_kept_and_not_when_the_server_ended_them(mover: GridFtpMover) -> None:
    async with fake_ftp() as fake:
        await mover.stat(hits(fake), access())
        await mover.stat(hits(fake), access())
        assert [each for each in fake.commands if each.startswith("USER")] == ["USER anonymous"]
        assert fake.writer is not None
        fake.writer.write(b"421 you were idle\r\n")
        await fake.writer.drain()
        fake.writer.close()
        await asyncio.sleep(0)
        await mover.stat(hits(fake), access())
    assert len([each for each in fake.commands if each.startswith("USER")]) == 2


async def test_a_login_is_only_used_with_the_same_access(mover: GridFtpMover) -> None:
    async with fake_ftp() as fake:
        for user in ("alice", "bob"):
            reach = reaching(credential=Credential("password", b"x", user))
            await mover.stat(hits(fake), reach)
    assert [each for each in fake.commands if each.startswith("USER")] == ["USER alice", "USER bob"]


async def test_gsi_is_not_skipped_by_a_server_that_says_so(mover: GridFtpMover, tmp_path) -> None:
    authority = Authority.create(tmp_path / "authorities")
    credential = Credential("x509", authority.user("alice").proxy().pem)
    for answers in (
        {"AUTH": "334 ok\r\n", "ADAT": "235 welcome\r\n"},
        {"AUTH": "234 ok\r\n", "ADAT": "335 ADAT=%%\r\n"},
    ):
        async with fake_ftp(answers=answers) as fake:
            location = Location("gsiftp", "127.0.0.1", fake.port, "/hits.i3")
            with pytest.raises(IceProdError):
                await mover.stat(location, reaching(credential=credential, ca_path=str(authority.folder)))
        assert not any(each.startswith(("USER", "MLST")) for each in fake.commands)


async def test_a_file_that_was_not_touched_is_not_deleted(mover: GridFtpMover) -> None:
    async with fake_ftp(answers={"STOR": "550 permission denied\r\n"}) as fake:
        with pytest.raises(AccessDenied):
            await mover.put(hits(fake), access(atomic="no"), Outgoing(10, body_of(b"0123456789")))
        await mover.close()
    assert not any(each.startswith("DELE") for each in fake.commands)


@pytest.mark.parametrize(("reply", "deleted"), [("553 file exists\r\n", True), ("553 bad name\r\n", False)])
async def test_a_file_is_deleted_only_where_it_is_in_the_way(
    mover: GridFtpMover, reply: str, deleted: bool
) -> None:
    async def rename(fake: FakeFtp, argument: str) -> str:
        return "250 ok\r\n" if "DELE /hits.i3" in fake.commands else reply

    async with fake_ftp(answers={"RNTO": rename}, data=taking(DONE)) as fake:
        put = mover.put(hits(fake), access(), Outgoing(10, body_of(b"0123456789")))
        if deleted:
            await put
        else:
            with pytest.raises(TransferFailed):
                await put
    assert ("DELE /hits.i3" in fake.commands) is deleted


async def test_performance_markers_tell_how_far_a_put_has_come(mover: GridFtpMover) -> None:
    async def mark(fake: FakeFtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        while await reader.read(65536):
            pass
        marker = "112-Perf Marker\r\n Stripe Index: 0\r\n Stripe Bytes Transferred: 700\r\n112 End.\r\n"
        return f"{marker}426 broken\r\n"

    async with fake_ftp(data=mark) as fake:
        with pytest.raises(TransferFailed) as raised:
            await mover.put(hits(fake), access(), Outgoing(9000, body_of(bytes(9000))))
    assert raised.value.detail["done_bytes"] == 700
